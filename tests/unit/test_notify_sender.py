# SPDX-License-Identifier: GPL-2.0-or-later
"""Every client is told, whatever the others do; and the account of each is true."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from nlmfo.errors import NlmfoError
from nlmfo.notify import Notice, Outcome, Settings, WireError, notify
from tests.unit.nsm_client_fake import Behaviour, FakeClients

SERVER = IPv4Address("127.0.0.1")
NAMES = ("nfs100.example", "nfs100", "127.0.0.1")
STATE = 41
SILENT = Behaviour(udp=False, tcp=False)
PATIENCE = 20.0  # seconds: far more than any of these takes
SHORT = 0.5  # seconds, where a test has to run into the deadline: room for a few retransmissions

#: Quick retransmissions; each test says what else it needs.
QUICK = Settings(retry=0.05, retry_cap=0.2)


def tell(
    clients: FakeClients, *addresses: str, deadline: float = PATIENCE, settings: Settings = QUICK
) -> tuple[Notice, ...]:
    return notify(
        addresses,
        source=SERVER,
        names=NAMES,
        state=STATE,
        deadline=deadline,
        settings=replace(settings, rpcbind_port=clients.rpcbind_port),
    )


def addresses(count: int) -> list[str]:
    return [f"127.1.{number // 250}.{number % 250 + 1}" for number in range(count)]


# --- told --------------------------------------------------------------------------------------------------


def test_a_client_that_answers_is_told_each_name_once_in_order_with_one_state() -> None:
    with FakeClients() as clients:
        (notice,) = tell(clients, "127.1.0.1")
    assert (notice.client, notice.outcome, notice.names) == ("127.1.0.1", Outcome.TOLD, NAMES)
    assert notice.attempts == 1 + len(NAMES)
    assert clients.heard["127.1.0.1"].notices == [(name, STATE) for name in NAMES]


def test_notices_come_from_the_floating_address_because_that_is_how_linux_knows_the_server() -> None:
    with FakeClients() as clients:
        notify(
            ["127.1.0.1"],
            source=IPv4Address("127.9.9.9"),
            names=NAMES,
            state=STATE,
            deadline=PATIENCE,
            settings=Settings(rpcbind_port=clients.rpcbind_port),
        )
    assert clients.heard["127.1.0.1"].callers == {"127.9.9.9"}


def test_a_thousand_clients_are_all_told() -> None:
    with FakeClients() as clients:
        notices = tell(clients, *addresses(1000), settings=Settings())
    assert [notice.client for notice in notices] == addresses(1000)
    assert {notice.outcome for notice in notices} == {Outcome.TOLD}
    assert all({*heard.notices} == {(name, STATE) for name in NAMES} for heard in clients.heard.values())


def test_loss_on_the_way_delays_a_client_but_leaves_nobody_out() -> None:
    with FakeClients(loss=0.2) as clients:
        notices = tell(clients, *addresses(100))
    assert {notice.outcome for notice in notices} == {Outcome.TOLD}
    assert any(notice.attempts > 1 + len(NAMES) for notice in notices)


def test_one_datagram_in_flight_at_a_time_still_reaches_everybody() -> None:
    with FakeClients({"127.1.0.3": SILENT}) as clients:
        notices = tell(clients, *addresses(20), deadline=SHORT, settings=replace(QUICK, window=1))
    assert [notice.client for notice in notices if notice.outcome is not Outcome.TOLD] == ["127.1.0.3"]


def test_an_ipv6_client_is_found_by_getaddr() -> None:
    with FakeClients(ipv6=True) as clients:
        (notice,) = notify(
            ["::1"],
            source=IPv6Address("::1"),
            names=NAMES,
            state=STATE,
            deadline=PATIENCE,
            settings=Settings(rpcbind_port=clients.rpcbind_port),
        )
    assert (notice.outcome, notice.names) == (Outcome.TOLD, NAMES)
    assert clients.heard["::1"].protocols.keys() == {"udp"}


def test_an_ipv4_client_recorded_in_its_ipv6_form_is_told_over_ipv4() -> None:
    with FakeClients() as clients:
        (notice,) = tell(clients, "::ffff:127.1.0.1")
    assert (notice.client, notice.outcome) == ("::ffff:127.1.0.1", Outcome.TOLD)


def test_each_outcome_is_announced_once_as_soon_as_it_is_known() -> None:
    announced: list[Notice] = []
    with FakeClients({"127.1.0.1": SILENT}) as clients:
        notices = notify(
            ["127.1.0.1", "127.1.0.2", "nonsense"],
            source=SERVER,
            names=NAMES,
            state=STATE,
            deadline=SHORT,
            on_notice=announced.append,
            settings=replace(QUICK, rpcbind_port=clients.rpcbind_port),
        )
    assert [notice.client for notice in announced] == ["nonsense", "127.1.0.2", "127.1.0.1"]
    assert sorted(announced, key=str) == sorted(notices, key=str)


def test_the_caller_opens_the_sockets_so_that_they_can_be_in_another_namespace() -> None:
    opened: list[tuple[int, int]] = []

    def open_socket(family: int, kind: int) -> socket.socket:
        opened.append((family, kind))
        return socket.socket(family, kind)

    with FakeClients({"127.1.0.1": Behaviour(udp=False)}) as clients:
        settings = replace(QUICK, rpcbind_port=clients.rpcbind_port)
        (notice,) = notify(
            ["127.1.0.1"], source=SERVER, names=NAMES, state=1, deadline=PATIENCE, open_socket=open_socket,
            settings=settings,
        )  # fmt: skip
    assert notice.outcome is Outcome.TOLD
    assert opened == [(socket.AF_INET, socket.SOCK_DGRAM)] + [(socket.AF_INET, socket.SOCK_STREAM)] * 2


class FullAtFirst(socket.socket):
    """A socket whose send buffer has no room for the first datagram."""

    refused = False

    def sendto(self, *arguments: Any) -> int:
        if not self.refused:
            self.refused = True
            raise BlockingIOError
        return super().sendto(*arguments)


def test_a_full_send_buffer_is_waited_for() -> None:
    with FakeClients() as clients:
        settings = replace(QUICK, rpcbind_port=clients.rpcbind_port)
        (notice,) = notify(
            ["127.1.0.1"], source=SERVER, names=NAMES, state=1, deadline=PATIENCE, open_socket=FullAtFirst,
            settings=settings,
        )  # fmt: skip
    assert (notice.outcome, notice.attempts) == (Outcome.TOLD, 1 + len(NAMES))


# --- not told ----------------------------------------------------------------------------------------------


def test_a_silent_client_is_tried_again_and_again_until_the_deadline() -> None:
    with FakeClients({"127.1.0.1": SILENT}) as clients:
        begun = time.monotonic()
        (notice,) = tell(clients, "127.1.0.1", deadline=SHORT)
        took = time.monotonic() - begun
    assert (notice.outcome, notice.names) == (Outcome.UNREACHABLE, ())
    assert notice.attempts >= 4
    assert f"no answer from rpcbind (udp port {clients.rpcbind_port})" in notice.detail
    assert took >= notice.seconds >= SHORT


def test_one_dead_client_among_two_hundred_delays_none_of_the_others() -> None:
    dead = "127.1.0.7"
    order: list[str] = []
    with FakeClients({dead: SILENT}) as clients:
        notices = notify(
            addresses(200),
            source=SERVER,
            names=NAMES,
            state=STATE,
            deadline=1.5,
            on_notice=lambda notice: order.append(notice.client),
            settings=replace(QUICK, rpcbind_port=clients.rpcbind_port),
        )
    assert {notice.client for notice in notices if notice.outcome is Outcome.TOLD} == {*addresses(200)} - {dead}
    assert order[-1] == dead
    assert max(n.attempts for n in notices if n.client != dead) < next(n.attempts for n in notices if n.client == dead)


def test_a_hundred_dead_clients_do_not_fill_the_window_for_good() -> None:
    dead = dict.fromkeys(addresses(100), SILENT)
    with FakeClients(dead) as clients:
        notices = tell(clients, *dead, "127.2.0.1", settings=replace(QUICK, window=16), deadline=1.0)
    assert notices[-1].outcome is Outcome.TOLD


def test_a_client_without_statd_is_told_as_soon_as_its_statd_has_started() -> None:
    with FakeClients({"127.1.0.1": Behaviour(statd_after=3)}) as clients:
        (notice,) = tell(clients, "127.1.0.1")
    assert (notice.outcome, notice.names) == (Outcome.TOLD, NAMES)
    assert clients.heard["127.1.0.1"].questions == 4


def test_a_client_that_never_starts_statd_is_told_apart_from_a_dead_one() -> None:
    with FakeClients({"127.1.0.1": Behaviour(statd_after=-1)}) as clients:
        (notice,) = tell(clients, "127.1.0.1", deadline=SHORT)
    assert (notice.outcome, notice.names) == (Outcome.NO_STATD, ())
    assert "not registered" in notice.detail


def test_a_program_that_took_statds_port_is_not_believed_and_rpcbind_is_asked_again() -> None:
    with FakeClients({"127.1.0.1": Behaviour(refuse=2)}) as clients:
        (notice,) = tell(clients, "127.1.0.1")
    assert (notice.outcome, notice.names) == (Outcome.TOLD, NAMES)
    assert clients.heard["127.1.0.1"].questions == 3


def test_what_was_acknowledged_before_the_deadline_is_reported_though_it_was_not_all() -> None:
    def only_the_first(reply: bytes, seen: list[bytes] = []) -> list[bytes]:  # noqa: B006  # its memory
        seen.append(reply)
        return [reply] if len(seen) <= 2 else []  # the port, and one name

    with FakeClients({"127.1.0.1": Behaviour(tcp=False, mangle=only_the_first)}) as clients:
        (notice,) = tell(clients, "127.1.0.1", deadline=SHORT)
    assert (notice.outcome, notice.names) == (Outcome.UNREACHABLE, NAMES[:1])


@pytest.mark.parametrize(
    "text", ["client1.example", "", "127.1.0.1 ", "127.1", "0x7f000001", "../../etc/passwd", "[::1]"]
)
def test_a_string_that_is_no_address_is_reported_and_never_looked_up(text: str) -> None:
    with FakeClients() as clients:
        notices = tell(clients, text, "127.1.0.1")
    assert [notice.outcome for notice in notices] == [Outcome.UNREACHABLE, Outcome.TOLD]
    assert "names are not looked up" in notices[0].detail


def test_a_client_of_the_other_address_family_is_reported_with_the_reason() -> None:
    with FakeClients() as clients:
        notices = tell(clients, "fd00::7", "127.1.0.1")
    assert [notice.outcome for notice in notices] == [Outcome.UNREACHABLE, Outcome.TOLD]
    assert "cannot send from 127.0.0.1 to an IPv6 address" in notices[0].detail


@pytest.mark.parametrize("scope", ["nosuch0", "lo\0", "lo\0and-much-too-long", "99999999999999", "\u00e9"])
def test_a_scope_that_does_not_exist_is_reported(scope: str) -> None:
    (notice,) = notify([f"fe80::1%{scope}"], source=IPv6Address("::1"), names=NAMES, state=1, deadline=SHORT)
    assert notice.outcome is Outcome.UNREACHABLE
    assert "interface" in notice.detail


def test_an_address_that_the_kernel_will_not_send_to_is_retried_and_reported() -> None:
    with FakeClients() as clients:
        notices = tell(clients, "255.255.255.255", "127.1.0.1", deadline=SHORT)
    assert [notice.outcome for notice in notices] == [Outcome.UNREACHABLE, Outcome.TOLD]
    assert "cannot send" in notices[0].detail
    assert notices[0].attempts > 1


# --- a source or a notice that cannot be -------------------------------------------------------------------


def test_an_address_that_is_not_up_is_an_error_before_anything_is_sent() -> None:
    with pytest.raises(NlmfoError, match=r"cannot send from 192\.0\.2\.1") as error:
        notify(["127.1.0.1"], source=IPv4Address("192.0.2.1"), names=NAMES, state=1, deadline=SHORT)
    assert error.value.hint is not None
    assert "must be up" in error.value.hint


def test_no_socket_to_be_had_is_an_error_of_ours() -> None:
    def none_left(_family: int, _kind: int) -> socket.socket:
        raise OSError(24, "Too many open files")

    with pytest.raises(NlmfoError, match="cannot open a socket: Too many open files"):
        notify(["127.1.0.1"], source=SERVER, names=NAMES, state=1, deadline=SHORT, open_socket=none_left)


@pytest.mark.parametrize("names", [(), ("n" * 1025,)])
def test_names_that_cannot_be_sent_are_an_error_before_anything_is_sent(names: tuple[str, ...]) -> None:
    with pytest.raises(WireError):
        notify(["127.1.0.1"], source=SERVER, names=names, state=1, deadline=SHORT)


def test_nobody_to_tell_is_no_work() -> None:
    assert notify([], source=IPv4Address("192.0.2.1"), names=NAMES, state=1, deadline=SHORT) == ()


# --- the other way: TCP ------------------------------------------------------------------------------------


def test_a_client_that_is_silent_over_udp_is_told_over_tcp() -> None:
    with FakeClients({"127.1.0.1": Behaviour(udp=False)}) as clients:
        (notice,) = tell(clients, "127.1.0.1")
    assert (notice.outcome, notice.names) == (Outcome.TOLD, NAMES)
    assert "acknowledged over tcp" in notice.detail
    assert clients.heard["127.1.0.1"].notices == [(name, STATE) for name in NAMES]


def test_a_filter_before_statds_udp_port_only_does_not_help_either() -> None:
    with FakeClients({"127.1.0.1": Behaviour(statd_udp=False)}) as clients:
        (notice,) = tell(clients, "127.1.0.1")
    assert (notice.outcome, notice.names) == (Outcome.TOLD, NAMES)
    assert clients.heard["127.1.0.1"].protocols["tcp"] == 1 + len(NAMES)


def test_an_ipv6_client_that_is_silent_over_udp_is_told_over_tcp() -> None:
    with FakeClients(default=Behaviour(udp=False), ipv6=True) as clients:
        settings = replace(QUICK, rpcbind_port=clients.rpcbind_port)
        (notice,) = notify(
            ["::1"], source=IPv6Address("::1"), names=NAMES, state=1, deadline=PATIENCE, settings=settings
        )
    assert (notice.outcome, notice.names) == (Outcome.TOLD, NAMES)


def test_more_clients_than_connections_take_turns() -> None:
    with FakeClients(default=Behaviour(udp=False)) as clients:
        notices = tell(clients, *addresses(30), settings=replace(QUICK, connections=3))
    assert {notice.outcome for notice in notices} == {Outcome.TOLD}


def test_a_connection_that_is_accepted_and_never_answered_gives_its_place_up() -> None:
    mute = {address: Behaviour(udp=False, mangle=lambda _: []) for address in addresses(4)}
    settings = replace(QUICK, connections=2, tcp_timeout=0.2)
    with FakeClients({**mute, "127.2.0.1": Behaviour(udp=False)}) as clients:
        notices = tell(clients, *mute, "127.2.0.1", deadline=2.0, settings=settings)
    assert [notice.outcome for notice in notices] == [Outcome.UNREACHABLE] * 4 + [Outcome.TOLD]
    assert "no answer over tcp" in notices[0].detail


# --- strangers ---------------------------------------------------------------------------------------------


def twice(reply: bytes) -> list[bytes]:
    return [reply, reply]


def flood(reply: bytes) -> list[bytes]:
    return [reply] * 300


def cut(reply: bytes) -> list[bytes]:
    return [reply[:size] for size in range(len(reply))]


def with_a_tail(reply: bytes) -> list[bytes]:
    return [reply + b"junk"]


def too_long(reply: bytes) -> list[bytes]:
    return [reply + bytes(3000)]


def noise(reply: bytes) -> list[bytes]:
    return [reply[:4] + bytes([number]) * 40 for number in range(256)]


def another_xid(reply: bytes) -> list[bytes]:
    return [bytes(byte ^ 0xFF for byte in reply[:4]) + reply[4:]]


def empty(_reply: bytes) -> list[bytes]:
    return [b""]


@pytest.mark.parametrize("mangle", [twice, flood])
def test_repeated_answers_count_once(mangle: object) -> None:
    assert callable(mangle)
    with FakeClients(default=Behaviour(mangle=mangle)) as clients:
        notices = tell(clients, *addresses(5))
    assert {(notice.outcome, notice.names) for notice in notices} == {(Outcome.TOLD, NAMES)}


def test_garbage_is_no_answer_and_delays_none_of_the_others() -> None:
    kinds = (cut, with_a_tail, too_long, noise, another_xid, empty)
    strange = {f"127.2.0.{number}": Behaviour(mangle=kind) for number, kind in enumerate(kinds, 1)}
    with FakeClients(strange) as clients:
        notices = tell(clients, *strange, *addresses(20), deadline=1.5)
    assert {(notice.outcome, notice.names) for notice in notices[: len(kinds)]} == {(Outcome.UNREACHABLE, ())}
    assert {notice.outcome for notice in notices[len(kinds) :]} == {Outcome.TOLD}


def test_a_malformed_answer_is_named_in_the_account() -> None:
    with FakeClients({"127.1.0.1": Behaviour(tcp=False, mangle=with_a_tail)}) as clients:
        (notice,) = tell(clients, "127.1.0.1", deadline=SHORT)
    assert "malformed answer from rpcbind" in notice.detail
    assert "4 bytes too many" in notice.detail


def test_an_answer_from_another_address_is_no_answer() -> None:
    with FakeClients({"127.1.0.1": Behaviour(tcp=False, forged_from="127.66.6.6")}) as clients:
        (notice,) = tell(clients, "127.1.0.1", deadline=SHORT)
    assert (notice.outcome, notice.names) == (Outcome.UNREACHABLE, ())
    assert clients.heard["127.1.0.1"].questions > 1


def test_a_lie_from_another_address_that_comes_first_is_passed_over() -> None:
    with FakeClients({"127.1.0.1": Behaviour(also_forged_from="127.66.6.6")}) as clients:
        (notice,) = tell(clients, "127.1.0.1")
    assert (notice.outcome, notice.attempts) == (Outcome.TOLD, 1 + len(NAMES))


def test_one_client_cannot_acknowledge_for_another() -> None:
    with FakeClients({"127.1.0.1": Behaviour(tcp=False, forged_from="127.1.0.2")}) as clients:
        notices = tell(clients, "127.1.0.1", "127.1.0.2", deadline=SHORT)
    assert [notice.outcome for notice in notices] == [Outcome.UNREACHABLE, Outcome.TOLD]


# --- strangers over TCP ------------------------------------------------------------------------------------

HOSTILE: dict[str, Callable[[bytes], bytes]] = {
    "garbage": lambda _: bytes(range(256)) * 8,
    "another protocol": lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "a huge record": lambda _: b"\xff\xff\xff\xff",
    "a huge fragment": lambda _: b"\x7f\xff\xff\xff" + bytes(8192),
    "a record just too long": lambda _: (0x8000_0000 | 1025).to_bytes(4, "big") + bytes(1025),
    "empty fragments": lambda _: bytes(40000),
    "nothing": lambda _: b"",
    "half": lambda record: record[: len(record) // 2],
    "the end missing": lambda record: record[:-1],
    "a tail": lambda record: (int.from_bytes(record[:4], "big") + 4).to_bytes(4, "big") + record[4:] + b"junk",
    "another xid": lambda record: (record[:4] + bytes(4) + record[8:]) * 500,
}


@pytest.mark.parametrize("service", ["rpcbind", "statd"])
def test_whatever_comes_over_tcp_the_others_are_told_first_and_it_ends(service: str) -> None:
    hostile = {
        f"127.3.0.{number}": Behaviour(udp=False, stream=stream, stream_of=(service,))
        for number, stream in enumerate(HOSTILE.values(), 1)
    }
    dripping = {"127.3.1.1": Behaviour(udp=False, drip=0.05)}  # of 32 bytes: it takes 1.6 s
    others = dict.fromkeys(addresses(20), Behaviour(udp=False))
    order: list[Notice] = []
    with FakeClients(hostile | dripping | others) as clients:
        notify(
            [*hostile, *dripping, *others],
            source=SERVER,
            names=NAMES,
            state=STATE,
            deadline=3.0,
            on_notice=order.append,
            settings=replace(QUICK, rpcbind_port=clients.rpcbind_port, connections=4, tcp_timeout=0.2),
        )
    assert {notice.client for notice in order[: len(others)]} == {*others}
    assert {notice.outcome for notice in order[: len(others)]} == {Outcome.TOLD}
    assert {(notice.outcome, notice.names) for notice in order[len(others) :]} == {(Outcome.UNREACHABLE, ())}
    assert len(order) == len(hostile) + len(dripping) + len(others)


def test_strangers_who_send_to_our_socket_whatever_they_like_delay_nobody() -> None:
    """They need not guess the port: whoever is told, sees it."""
    noise = random.Random(1)
    stop = threading.Event()
    spraying = threading.Event()

    class Sprayed(socket.socket):
        """The notifier's socket, at which somebody aims from when it is bound until all is over."""

        def bind(self, address: Any) -> None:
            super().bind(address)
            if self.type == socket.SOCK_DGRAM:
                target = self.getsockname()
                thread = threading.Thread(target=spray, args=(target,))
                thread.start()
                threads.append(thread)
                assert spraying.wait(PATIENCE)

    def spray(target: tuple[str, int]) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            while not stop.is_set():
                for _ in range(20):
                    sock.sendto(noise.randbytes(noise.randrange(200)), target)
                spraying.set()
                stop.wait(0.005)

    threads: list[threading.Thread] = []
    order: list[str] = []
    with FakeClients({"127.3.0.1": SILENT}) as clients:
        try:
            notify(
                ["127.3.0.1", *addresses(50)], source=SERVER, names=NAMES, state=STATE, deadline=2.0,
                open_socket=Sprayed, on_notice=lambda notice: order.append(f"{notice.client} {notice.outcome}"),
                settings=replace(QUICK, rpcbind_port=clients.rpcbind_port),
            )  # fmt: skip
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert {*order[:50]} == {f"{client} told" for client in addresses(50)}
    assert order[50:] == ["127.3.0.1 unreachable"]
