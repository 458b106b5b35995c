# SPDX-License-Identifier: GPL-2.0-or-later
"""When the UDP half sends, waits and gives up, on a clock that the tests turn by hand."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlmfo.notify import Settings, wire
from nlmfo.notify.client import Client, Stage
from nlmfo.notify.sockets import Peer
from nlmfo.notify.udp import Datagrams
from tests.unit.nsm_client_fake import PROG_UNAVAIL, SUCCESS, accepted

RPCBIND, STATD = 111, 40000
NAMES = ("nfs100", "127.0.0.1")
GETPORT = wire.ask_port(100024, 1, "udp", ipv6=False)
MESSAGES = tuple(wire.sm_notify(name, 7) for name in NAMES)


@dataclass
class Network:
    """The socket: keeps what is sent, hands out what ``reply`` puts in."""

    family: int = socket.AF_INET
    sent: list[tuple[bytes, Peer]] = field(default_factory=list)
    inbox: list[tuple[bytes, Peer]] = field(default_factory=list)
    failure: OSError | None = None

    def sendto(self, data: bytes, peer: Peer) -> None:
        if self.failure:
            raise self.failure
        self.sent.append((data, peer))

    def recvfrom(self, size: int) -> tuple[bytes, Peer]:
        if not self.inbox:
            raise BlockingIOError
        data, sender = self.inbox.pop(0)
        return data[:size], sender

    def bodies(self) -> list[bytes]:
        return [data[4:] for data, _ in self.sent]

    def answer(self, number: int, status: int = SUCCESS, results: bytes = b"") -> None:
        """Answer the ``number``-th datagram that was sent."""
        data, peer = self.sent[number]
        self.inbox.append((accepted(int.from_bytes(data[:4], "big"), status, results), peer))

    def answer_port(self, number: int, port: int = STATD) -> None:
        self.answer(number, results=struct.pack(">I", port))


class Bench:
    """A sender, its network and its clock."""

    def __init__(self, clients: int = 1, window: int = 100, settings: Settings | None = None) -> None:
        self.network = Network()
        self.clients = [Client(f"10.0.0.{n}", IPv4Address(f"10.0.0.{n}"), 0) for n in range(1, clients + 1)]
        self.silent: list[Client] = []
        self.told: list[Client] = []
        self.now = 1000.0
        self.datagrams = Datagrams(
            cast(socket.socket, self.network),
            self.clients,
            MESSAGES,
            window,
            settings or Settings(),
            on_silence=self.silent.append,
            on_told=self.told.append,
        )

    def turn(self, seconds: float = 0.0) -> int:
        """Let time pass, take what has come, send; return how many datagrams went out."""
        self.now += seconds
        before = len(self.network.sent)
        self.datagrams.drain(self.now)
        self.datagrams.expire(self.now)
        self.datagrams.send(self.now)
        return len(self.network.sent) - before

    def pause(self) -> float:
        return self.datagrams.pause(self.now)


def waits(bench: Bench, count: int) -> list[float]:
    """Seconds between the next ``count`` datagrams when nobody answers."""
    seen = []
    for _ in range(count):
        pause = bench.pause()
        assert bench.turn(pause - 0.001) == 0
        assert bench.turn(0.002) == 1
        seen.append(round(pause, 2))
    return seen


def destinations(sent: Sequence[tuple[bytes, Peer]]) -> list[int]:
    return [peer[1] for _, peer in sent]


# --- patience ----------------------------------------------------------------------------------------------


def test_the_wait_doubles_from_a_quarter_of_a_second_to_five_seconds() -> None:
    bench = Bench()
    bench.turn()
    assert waits(bench, 7) == [0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0]


def test_an_unanswered_question_is_repeated_with_the_same_xid_so_that_a_late_answer_still_counts() -> None:
    bench = Bench()
    bench.turn()
    waits(bench, 3)
    assert len({data for data, _ in bench.network.sent}) == 1
    bench.network.answer_port(0)
    bench.turn()
    assert bench.network.sent[-1][1] == ("10.0.0.1", STATD)


def test_progress_makes_the_wait_short_again() -> None:
    bench = Bench()
    bench.turn()
    waits(bench, 4)
    bench.network.answer_port(-1)
    bench.turn()
    assert waits(bench, 2) == [0.25, 0.5]


def test_a_statd_that_stays_silent_has_its_port_asked_for_again_without_starting_the_back_off_anew() -> None:
    bench = Bench()
    bench.turn()
    bench.network.answer_port(0)
    bench.turn()
    assert waits(bench, 3) == [0.25, 0.5, 1.0]
    assert destinations(bench.network.sent) == [RPCBIND, STATD, STATD, STATD, RPCBIND]
    bench.network.answer_port(-1)
    bench.turn()
    assert destinations(bench.network.sent)[-1] == STATD
    assert waits(bench, 1) == [4.0]


def test_a_statd_that_moved_to_another_port_is_found_there() -> None:
    bench = Bench()
    bench.turn()
    bench.network.answer_port(0)
    bench.turn()
    waits(bench, 3)
    bench.network.answer_port(-1, 50000)
    bench.turn()
    assert bench.network.sent[-1][1] == ("10.0.0.1", 50000)


def test_an_acknowledgement_that_comes_after_rpcbind_was_asked_again_counts() -> None:
    bench = Bench()
    bench.turn()
    bench.network.answer_port(0)
    bench.turn()
    waits(bench, 3)
    bench.network.answer(1)
    bench.turn()
    assert bench.clients[0].told == 1


def test_three_silent_tries_and_not_two_are_reported_as_silence() -> None:
    bench = Bench()
    bench.turn()
    waits(bench, 2)
    assert bench.silent == []
    waits(bench, 1)
    assert bench.silent == bench.clients


def test_a_client_that_answers_anything_is_not_silent() -> None:
    bench = Bench()
    bench.turn()
    for _ in range(6):
        bench.network.answer_port(-1, 0)
        bench.turn()
        bench.turn(bench.pause())
    assert len(bench.network.sent) == 7
    assert bench.silent == []


# --- fairness ----------------------------------------------------------------------------------------------


def test_no_more_calls_are_in_flight_than_the_window_holds() -> None:
    bench = Bench(clients=10, window=4)
    assert bench.turn() == 4
    assert bench.turn() == 0
    bench.network.answer_port(0)
    assert bench.turn() == 1


def test_the_dead_hold_their_place_in_the_window_for_one_first_wait_and_not_for_their_back_off() -> None:
    bench = Bench(clients=8, window=4)
    bench.turn()
    while bench.now < 1010.0:
        bench.turn(min(bench.pause() + 0.001, 1010.0 - bench.now))
    assert {client.attempts for client in bench.clients} == {6}  # as if alone: at 0, 0.25, ... 7.75 s


def test_new_clients_come_before_the_second_try_of_those_who_were_silent() -> None:
    bench = Bench(clients=8, window=4)
    bench.turn()
    bench.turn(0.26)
    assert [peer[0] for _, peer in bench.network.sent] == [f"10.0.0.{n}" for n in range(1, 9)]


def test_a_client_that_answers_is_finished_before_new_ones_are_begun() -> None:
    bench = Bench(clients=3, window=1)
    bench.turn()
    bench.network.answer_port(0)
    for number in (1, 2):
        bench.turn()
        bench.network.answer(number)
    bench.turn()
    assert bench.told == bench.clients[:1]
    assert bench.network.bodies()[:3] == [GETPORT, *MESSAGES]


def test_the_rate_is_kept_after_one_burst() -> None:
    bench = Bench(clients=200, window=1000, settings=Settings(rate=100.0))
    assert bench.turn() == 64
    assert bench.turn() == 0
    assert bench.pause() == pytest.approx(0.01)
    assert bench.turn(0.105) == 10


def test_a_full_send_buffer_costs_nobody_an_attempt() -> None:
    bench = Bench(clients=3)
    bench.network.failure = BlockingIOError()
    assert bench.turn() == 0
    assert (bench.datagrams.blocked, bench.clients[0].attempts) == (True, 0)
    bench.network.failure = None
    assert bench.turn() == 0  # only the selector knows when there is room
    bench.datagrams.blocked = False
    assert bench.turn() == 3
    assert [peer[0] for _, peer in bench.network.sent] == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]


def test_a_network_that_refuses_is_tried_again_later() -> None:
    bench = Bench()
    bench.network.failure = OSError(errno.ENETUNREACH, "Network is unreachable")
    bench.turn()
    assert bench.clients[0].detail_udp == "cannot send: Network is unreachable"
    bench.network.failure = None
    assert bench.pause() == pytest.approx(0.25)
    assert bench.turn(0.26) == 1


# --- beside TCP --------------------------------------------------------------------------------------------


def test_no_notice_goes_out_over_udp_while_a_conversation_over_tcp_has_found_statd() -> None:
    bench = Bench()
    bench.turn()
    bench.network.answer_port(0)
    bench.clients[0].talking = True
    assert [bench.turn(bench.pause() + 0.001) for _ in range(4)] == [0, 0, 0, 0]
    assert bench.silent == []
    bench.clients[0].talking = False
    assert bench.turn(bench.pause() + 0.001) == 1
    assert bench.network.bodies() == [GETPORT, MESSAGES[0]]


def test_a_question_may_go_out_over_udp_all_the_same_because_asking_twice_does_no_harm() -> None:
    bench = Bench()
    bench.clients[0].talking = True
    assert bench.turn() == 1
    assert bench.network.bodies() == [GETPORT]


# --- order -------------------------------------------------------------------------------------------------


def test_a_duplicate_of_the_port_does_not_send_the_notice_twice() -> None:
    bench = Bench()
    bench.turn()
    bench.network.answer_port(0)
    bench.network.answer_port(0)
    bench.turn()
    bench.turn()
    assert bench.network.bodies() == [GETPORT, MESSAGES[0]]


def test_a_duplicate_acknowledgement_does_not_stand_for_the_next_name() -> None:
    bench = Bench()
    bench.turn()
    bench.network.answer_port(0)
    bench.turn()
    bench.network.answer(1)
    bench.network.answer(1)
    bench.turn()
    assert (bench.clients[0].told, bench.told) == (1, [])


def test_an_acknowledgement_of_a_name_that_tcp_was_told_before_does_not_stand_for_the_next_name() -> None:
    bench = Bench()
    bench.turn()
    bench.network.answer_port(0)
    bench.turn()
    bench.clients[0].told = 1
    bench.network.answer(1)
    bench.turn()
    assert (bench.clients[0].told, bench.told) == (1, [])


def test_garbage_keeps_its_place_in_the_account_until_the_next_try() -> None:
    bench = Bench()
    bench.turn()
    bench.network.answer(0, results=b"junk!")
    bench.turn()
    bench.turn(bench.pause() + 0.001)
    assert bench.clients[0].detail_udp == "malformed answer from rpcbind (udp port 111): 1 bytes too many"


def test_an_answer_from_another_port_of_the_client_is_no_answer() -> None:
    bench = Bench()
    bench.turn()
    bench.network.answer_port(0)
    bench.turn()
    bench.network.answer(1)
    data, (host, *_) = bench.network.inbox.pop()
    bench.network.inbox.append((data, (host, RPCBIND)))
    bench.turn()
    assert bench.clients[0].told == 0


def test_a_refusal_is_answered_by_asking_for_the_port_after_a_rest() -> None:
    bench = Bench()
    bench.turn()
    bench.network.answer_port(0)
    bench.turn()
    bench.network.answer(1, PROG_UNAVAIL)
    assert bench.turn() == 0
    assert bench.clients[0].detail_udp == "statd (udp port 40000) answered: program unavailable"
    assert bench.turn(bench.pause()) == 1
    assert destinations(bench.network.sent) == [RPCBIND, STATD, RPCBIND]


def test_a_client_that_is_done_is_forgotten() -> None:
    bench = Bench()
    bench.turn()
    bench.datagrams.forget(bench.clients[0])
    bench.network.answer_port(0)
    assert bench.turn(100.0) == 0


# --- strangers ---------------------------------------------------------------------------------------------


def at_step(step: int) -> tuple[Bench, bytes, Peer]:
    """A bench whose client waits for the answer to its question (0) or to its first notice (1): with the answer."""
    bench = Bench()
    bench.turn()
    bench.network.answer_port(0)
    if step == 1:
        bench.turn()
        bench.network.answer(1)
    ((answer, peer),) = bench.network.inbox
    bench.network.inbox.clear()
    return bench, answer, peer


def goes_on(bench: Bench, step: int) -> bool:
    """Whether the client's next turn is the one after this step."""
    bench.turn()
    return bench.clients[0].told == 1 if step else bench.network.bodies()[-1] == MESSAGES[0]


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize("host", ["10.0.0.2", "10.0.0.1"])
@pytest.mark.parametrize("port", [1, RPCBIND, STATD])
def test_the_right_xid_from_the_wrong_place_changes_nothing(step: int, host: str, port: int) -> None:
    bench, answer, peer = at_step(step)
    if (host, port) == peer:
        answer = bytes([answer[0] ^ 1]) + answer[1:]  # the right place, then, with the wrong xid
    bench.network.inbox.append((answer, (host, port)))
    assert not goes_on(bench, step)
    assert (len(bench.network.sent), bench.clients[0].stage) == (step + 1, Stage.WAITING)


@pytest.mark.parametrize("step", [0, 1])
def test_an_answer_that_is_cut_off_anywhere_is_no_answer_and_the_whole_one_counts_afterwards(step: int) -> None:
    bench, answer, peer = at_step(step)
    for length in range(len(answer)):
        bench.network.inbox.append((answer[:length], peer))
        assert not goes_on(bench, step), length
    bench.network.inbox.append((answer, peer))
    bench.turn(bench.pause() + 0.001)
    assert goes_on(bench, step)


@given(
    step=st.sampled_from([0, 1]),
    noise=st.lists(st.tuples(st.binary(max_size=80), st.booleans(), st.booleans()), max_size=20),
)
def test_random_packets_stop_neither_the_sender_nor_its_timers(
    step: int, noise: list[tuple[bytes, bool, bool]]
) -> None:
    bench, answer, peer = at_step(step)
    for data, with_our_xid, from_the_client in noise:
        packet = answer[:4] + data if with_our_xid else data
        bench.network.inbox.append((packet, peer if from_the_client else ("10.9.9.9", 9)))
    bench.turn()
    assert bench.network.inbox == []
    assert bench.pause() <= Settings().retry_cap
    before = bench.clients[0].attempts
    assert bench.told or bench.turn(bench.pause() + 0.001) == 1
    assert bench.told or bench.clients[0].attempts == before + 1


# --- settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["retry", "udp_tries", "window", "rate", "connections"])
def test_a_setting_that_would_stop_the_notifier_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Settings(**{wrong: 0})
