# SPDX-License-Identifier: GPL-2.0-or-later
"""Who is owed a notice gets it, as often as it takes, and no record goes before its client's outcome is known."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

import pytest

from nlmfo.config import Consistency, Service
from nlmfo.errors import NlmfoError
from nlmfo.failover import notices
from nlmfo.failover.keeper import Keeper
from nlmfo.failover.notices import Notices
from nlmfo.host.view import StatdUser
from nlmfo.notify import Notice, Outcome
from nlmfo.records import ledger
from nlmfo.records.layout import Address
from nlmfo.records.ledger import Entry, Standing
from tests.unit import shapes

ADDRESS = ip_address("10.10.0.100")
OTHER = ip_address("fd00::100")
CLIENTS = ("192.0.2.1", "192.0.2.2", "192.0.2.3")
ME = StatdUser(os.getuid(), os.getgid())


@dataclass
class Net:
    """The clients. ``reached`` answer; a round that was begun goes on when the test says so."""

    reached: set[str] = field(default_factory=lambda: set(CLIENTS))
    rounds: list[tuple[Address, list[str], int]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    waiting: list[Callable[[], None]] = field(default_factory=list)
    failure: Exception | None = None

    def send(
        self, address: Address, clients: Sequence[str], state: int, seconds: float, hear: Callable[[Notice], None]
    ) -> None:
        self.seconds.append(seconds)
        self.rounds.append((address, list(clients), state))
        if self.failure is not None:
            raise self.failure
        for client in clients:
            told = client in self.reached
            outcome = Outcome.TOLD if told else Outcome.UNREACHABLE
            hear(Notice(client, outcome, ("nfs100.example",) if told else (), 2, 0.1, "" if told else "no answer"))

    def go_on(self) -> None:
        waiting, self.waiting[:] = self.waiting[:], []
        for run in waiting:
            run()

    def clients(self) -> list[list[str]]:
        return [clients for _, clients, _ in self.rounds]


@dataclass
class Case:
    """A service that was just taken over, with ``CLIENTS`` on record."""

    service: Service
    keeper: Keeper
    net: Net
    clock: list[float]
    notices: Notices

    def sweep(self, *seen: str, in_grace: bool = True, ready: bool = True) -> None:
        """A look before the rounds go on, and one after it."""
        for _ in range(2):
            self.notices.sweep({(ADDRESS, client) for client in seen}, in_grace=in_grace, ready=ready)
            self.net.go_on()
        self.notices.sweep(set(), in_grace=in_grace, ready=False)

    def asks_for_a_lock(self, client: str) -> None:
        self.keeper.live.add(ADDRESS, client, "nfs100.example")

    def standing(self, client: str) -> Standing | None:
        found = self.notices.standings().get(client)
        return None if found is None else found.standing

    def owed(self) -> set[str]:
        return set(self.keeper.shared.owed_names(ADDRESS))

    def on_disk(self) -> dict[str, Entry]:
        return {client: entry for (_, client), entry in ledger.read(self.service.state).items()}

    def again(self) -> None:
        """The keeper was killed, and another one begins."""
        self.notices.close()
        self.notices = Notices(self.keeper, self.net.send, start=self.net.waiting.append)


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    return taken_over(shapes.service(), tmp_path, monkeypatch)


def taken_over(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "time", lambda: clock[0] + 1_700_000_000.0)
    service = service._replace(state=tmp_path / "state")
    keeper = Keeper(service, shapes.place(tmp_path))
    keeper.begin(ME)
    keeper.open_live(ME)
    for address in keeper.shared.addresses:
        for client in CLIENTS:
            keeper.shared.add(address, client, "nfs100.example")
    keeper.begin(ME)
    net = Net()
    return Case(service, keeper, net, clock, Notices(keeper, net.send, start=net.waiting.append))


def test_everybody_on_record_is_told_once_with_the_number_of_this_generation(case: Case) -> None:
    case.sweep()
    case.sweep()
    assert case.net.rounds == [(ADDRESS, list(CLIENTS), 3)]
    assert {case.standing(client) for client in CLIENTS} == {Standing.ANSWERED}


def test_with_a_short_grace_it_is_known_before_it_ends_that_a_client_does_not_answer(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case.sweep()
    assert case.net.seconds == [pytest.approx(8.0, abs=0.1)]
    short = taken_over(shapes.service()._replace(grace=10), tmp_path / "short", monkeypatch)
    short.net.reached.clear()
    short.sweep()
    assert short.net.seconds == [pytest.approx(4.0, abs=0.1)]
    assert short.notices.told


def test_nobody_is_told_before_everything_answers(case: Case) -> None:
    case.sweep(ready=False)
    assert case.net.rounds == []
    assert {case.standing(client) for client in CLIENTS} == {Standing.PENDING}


def test_nobody_is_told_for_the_first_time_when_grace_is_over_because_a_reclaim_is_tried_only_once(case: Case) -> None:
    case.sweep(in_grace=False)
    assert case.net.rounds == []
    assert not case.keeper.shared.told()


def test_that_everybody_was_sent_a_notice_is_durable_once_all_have_answered_or_not(case: Case) -> None:
    case.net.reached = {CLIENTS[0]}
    case.notices.sweep(set(), in_grace=True, ready=True)
    assert not case.keeper.shared.told()
    case.sweep()
    assert case.keeper.shared.told()


def test_where_nobody_is_on_record_everybody_was_told(case: Case) -> None:
    for client in CLIENTS:
        case.keeper.shared.forget(ADDRESS, client)
    case.sweep()
    assert case.net.rounds == []
    assert case.keeper.shared.told()


def test_a_record_stays_until_its_client_has_answered_and_is_on_record_again(case: Case) -> None:
    case.sweep()
    assert case.owed() == set(CLIENTS)
    case.asks_for_a_lock(CLIENTS[1])
    case.sweep()
    assert case.owed() == {CLIENTS[0], CLIENTS[2]}
    assert case.standing(CLIENTS[1]) is Standing.BACK
    assert case.on_disk()[CLIENTS[1]].standing is Standing.BACK


def test_who_asks_for_a_lock_before_it_is_told_is_owed_its_notice_all_the_same(case: Case) -> None:
    """The lock that it asks for is another one; those that it had are at stake."""
    case.asks_for_a_lock(CLIENTS[0])
    case.sweep(ready=False)
    assert case.owed() == set(CLIENTS)
    case.sweep()
    assert CLIENTS[0] in case.net.clients()[0]
    assert case.standing(CLIENTS[0]) is Standing.BACK


def test_who_has_come_to_the_server_by_itself_is_told_first(case: Case) -> None:
    case.sweep(CLIENTS[2])
    assert case.net.clients()[0][0] == CLIENTS[2]


def test_who_turns_up_while_a_round_is_under_way_is_told_at_once_beside_it(case: Case) -> None:
    case.notices.sweep(set(), in_grace=True, ready=True)
    case.notices.sweep({(ADDRESS, CLIENTS[1])}, in_grace=True, ready=True)
    first, second = case.net.waiting
    second()
    assert case.net.clients() == [[CLIENTS[1]]]
    case.notices.sweep(set(), in_grace=True, ready=True)
    assert case.standing(CLIENTS[1]) is Standing.ANSWERED
    first()
    case.notices.sweep(set(), in_grace=True, ready=True)
    assert {case.standing(client) for client in CLIENTS} == {Standing.ANSWERED}


def test_there_are_never_more_than_two_rounds_at_once_for_an_address_however_many_turn_up(case: Case) -> None:
    for _ in range(20):
        case.clock[0] += 60.0
        case.notices.sweep(set(), in_grace=True, ready=True)
        case.notices.sweep({(ADDRESS, client) for client in CLIENTS}, in_grace=True, ready=True)
    assert len(case.net.waiting) == 2


def test_who_does_not_answer_stays_on_record_and_is_tried_again_soon_in_grace_and_rarely_after_it(case: Case) -> None:
    case.net.reached = set()
    case.sweep()
    assert case.owed() == set(CLIENTS)
    assert {case.standing(client) for client in CLIENTS} == {Standing.UNREACHABLE}
    tries = len(case.net.rounds)
    case.clock[0] += notices.SOON
    case.sweep()
    assert len(case.net.rounds) == tries + 1
    gaps = []
    last = case.clock[0]
    for _ in range(4000):
        case.clock[0] += 1.0
        before = len(case.net.rounds)
        case.sweep(in_grace=False)
        if len(case.net.rounds) > before:
            gaps.append(case.clock[0] - last)
            last = case.clock[0]
    assert gaps[1:4] == sorted(gaps[1:4])
    assert gaps[1] >= notices.LATER
    assert max(gaps) == notices.LONGEST
    assert case.owed() == set(CLIENTS)


def test_who_was_away_is_told_when_it_is_seen_again_and_not_only_when_its_turn_comes(case: Case) -> None:
    case.net.reached = set(CLIENTS[:2])
    for _ in range(5):
        case.sweep(in_grace=not case.notices.told)
        case.clock[0] += notices.LONGEST
    tries = len(case.net.rounds)
    case.net.reached = set(CLIENTS)
    case.clock[0] += 3.0
    case.sweep(CLIENTS[2], in_grace=False)
    case.clock[0] += notices.SOON
    case.sweep(CLIENTS[2], in_grace=False)
    assert len(case.net.rounds) == tries + 1
    assert case.standing(CLIENTS[2]) is Standing.ANSWERED


def test_who_has_been_silent_for_as_long_as_it_is_tried_stays_on_record_and_is_told_when_it_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = taken_over(shapes.service()._replace(retry_for=60), tmp_path, monkeypatch)
    case.net.reached = set()
    case.sweep()
    case.clock[0] += 10_000.0
    tries = len(case.net.rounds)
    case.sweep(in_grace=False)
    assert len(case.net.rounds) == tries
    assert case.owed() == set(CLIENTS)
    case.net.reached = set(CLIENTS)
    case.sweep(CLIENTS[0], in_grace=False)
    case.clock[0] += notices.SOON
    case.sweep(CLIENTS[0], in_grace=False)
    assert case.standing(CLIENTS[0]) is Standing.ANSWERED


def test_who_has_answered_and_asked_for_nothing_within_grace_has_left(case: Case) -> None:
    case.sweep()
    case.sweep(in_grace=False)
    assert case.owed() == set(CLIENTS)  # its reclaim may be on its way
    case.clock[0] += notices.ARRIVED
    case.sweep(in_grace=False)
    assert case.owed() == set()
    assert {case.standing(client) for client in CLIENTS} == {Standing.LEFT}
    assert "asked for no lock" in case.on_disk()[CLIENTS[0]].detail


def test_a_silent_client_is_forgotten_only_after_the_configured_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = taken_over(shapes.service()._replace(forget_after=3600), tmp_path, monkeypatch)
    case.net.reached = set()
    case.sweep()
    case.clock[0] += 3599.0
    case.sweep(in_grace=False)
    assert case.owed() == set(CLIENTS)
    case.clock[0] += 2.0
    case.sweep(in_grace=False)
    assert case.owed() == set()
    assert {entry.standing for entry in case.on_disk().values()} == {Standing.LEFT}


def test_by_default_a_client_that_died_is_never_forgotten(case: Case) -> None:
    case.net.reached = set()
    case.sweep()
    case.clock[0] += 10 * 366 * 86_400.0
    case.sweep(in_grace=False)
    assert case.owed() == set(CLIENTS)


def test_a_keeper_that_was_killed_is_continued_and_who_has_answered_is_not_told_again(case: Case) -> None:
    case.net.reached = {CLIENTS[0]}
    case.sweep()
    case.again()
    case.net.rounds.clear()
    case.net.reached = set(CLIENTS)
    case.sweep()
    assert case.net.rounds == [(ADDRESS, list(CLIENTS[1:]), 3)]
    assert case.standing(CLIENTS[0]) is Standing.ANSWERED


def test_the_next_owner_tells_everybody_who_is_not_settled_with_its_own_number_and_knows_since_when(case: Case) -> None:
    case.net.reached = set(CLIENTS[:2])
    case.sweep()
    case.asks_for_a_lock(CLIENTS[0])
    case.sweep()
    since = case.on_disk()[CLIENTS[2]].since
    case.clock[0] += 100.0
    case.keeper.begin(ME)
    case.again()
    case.net.rounds.clear()
    case.net.reached = set()
    case.sweep()
    assert case.net.rounds[0] == (ADDRESS, list(CLIENTS), 5)
    assert case.on_disk()[CLIENTS[2]].since == since
    assert case.on_disk()[CLIENTS[0]].since == since + 100.0  # it was back meanwhile


def test_a_generation_that_begins_while_a_round_is_under_way_hears_nothing_of_that_round(case: Case) -> None:
    case.notices.sweep(set(), in_grace=True, ready=True)
    case.keeper.begin(ME)
    case.net.go_on()
    case.notices.sweep(set(), in_grace=True, ready=False)
    assert {case.standing(client) for client in CLIENTS} == {Standing.PENDING}
    case.sweep()
    assert case.net.rounds[-1] == (ADDRESS, list(CLIENTS), 5)


def test_what_keeps_the_notices_from_being_sent_is_said_and_tried_again(case: Case) -> None:
    case.net.failure = NlmfoError("address 10.10.0.100 is not here")
    case.sweep()
    assert case.notices.problem == "address 10.10.0.100 is not here"
    assert not case.keeper.shared.told()
    case.net.failure = None
    case.clock[0] += notices.SOON
    case.sweep()
    assert {case.standing(client) for client in CLIENTS} == {Standing.ANSWERED}
    assert case.notices.problem == ""


def test_each_address_tells_its_own_and_a_client_of_two_is_back_where_it_uses_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = taken_over(shapes.service(addresses=2), tmp_path, monkeypatch)
    case.sweep()
    assert sorted(address.version for address, _, _ in case.net.rounds) == [4, 6]
    case.asks_for_a_lock(CLIENTS[0])
    case.sweep()
    assert case.standing(CLIENTS[0]) is Standing.BACK
    assert case.keeper.shared.owed_names(OTHER) == CLIENTS
    case.notices.let_go_of_the_answered("every lock is held again")
    assert case.keeper.shared.owed_names(OTHER) == ()


def test_with_snapshots_a_client_is_back_once_the_snapshot_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = taken_over(shapes.service()._replace(consistency=Consistency.SNAPSHOT), tmp_path, monkeypatch)
    case.sweep()
    case.asks_for_a_lock(CLIENTS[0])
    case.sweep()
    assert case.owed() == set(CLIENTS[1:])
    assert f" {CLIENTS[0]} ".encode() in (case.service.state / "snapshot").read_bytes()


def test_a_round_runs_in_a_thread_that_does_not_keep_the_process_alive() -> None:
    heard: queue.SimpleQueue[bool] = queue.SimpleQueue()
    notices._in_thread(lambda: heard.put(threading.current_thread().daemon))
    assert heard.get(timeout=30.0) is True


def test_who_is_hurried_is_told_before_its_turn_and_after_its_time_and_nobody_else_is(case: Case) -> None:
    case.net.reached = {CLIENTS[0]}
    case.sweep()
    case.clock[0] += case.service.retry_for + 1
    case.sweep(in_grace=False)
    assert case.net.clients() == [list(CLIENTS)]
    case.notices.hurry(CLIENTS[2])
    case.sweep(in_grace=False)
    assert case.net.clients()[1:] == [[CLIENTS[2]]]
    case.sweep(in_grace=False)
    assert len(case.net.rounds) == 2


def test_of_all_who_are_hurried_those_who_have_answered_are_told_no_more(case: Case) -> None:
    case.net.reached = {CLIENTS[0]}
    case.sweep()
    case.notices.hurry()
    case.notices.hurry(CLIENTS[0])
    case.sweep()
    assert case.net.clients()[1:] == [[CLIENTS[1], CLIENTS[2]]]


def test_who_is_being_told_at_the_moment_is_not_told_beside_it(case: Case) -> None:
    case.notices.sweep(set(), in_grace=True, ready=True)  # under way from here on
    case.notices.hurry()
    case.notices.sweep(set(), in_grace=True, ready=True)
    assert len(case.net.waiting) == 1
    case.sweep()
    assert case.net.clients() == [list(CLIENTS)]


def test_who_was_told_in_vain_in_a_round_that_is_still_under_way_can_be_told_again(case: Case) -> None:
    """A round ends with its last client, and its first may have been given up long before."""
    heard: list[Callable[[Notice], None]] = []
    case.notices._send = lambda *words: heard.append(words[-1])
    case.notices._start = lambda run: run() if not heard else case.net.waiting.append(run)
    monkey = case.notices._ended
    case.notices._ended = queue.SimpleQueue()  # the round goes on
    case.notices.sweep(set(), in_grace=True, ready=True)
    case.notices._ended = monkey
    heard[0](Notice(CLIENTS[0], Outcome.UNREACHABLE, (), 1, 0.1, "no answer"))
    case.notices.hurry()
    case.notices._send = case.net.send
    case.notices.sweep(set(), in_grace=True, ready=True)
    case.net.go_on()
    assert case.net.clients() == [[CLIENTS[0]]]


def test_a_round_that_fails_leaves_nobody_who_cannot_be_hurried(case: Case) -> None:
    case.net.failure = NlmfoError("no network")
    case.sweep()
    case.net.failure = None
    case.notices.hurry()
    case.sweep()
    assert case.net.clients() == [list(CLIENTS)] * 2


def test_hurrying_tells_nobody_for_the_first_time_when_grace_is_over(case: Case) -> None:
    case.notices.hurry()
    case.sweep(in_grace=False)
    assert case.net.rounds == []
