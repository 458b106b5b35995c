# SPDX-License-Identifier: GPL-2.0-or-later
"""The checker of tests/torture finds each kind of broken promise, and finds nothing in a history without one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.torture import checker
from tests.torture.checker import Outage
from tests.torture.history import CLOCKS, History, Reader

A, B = "0/home/counter-0", "1/home/counter-0"


class Log:
    """Says what a workload would log."""

    def __init__(self) -> None:
        self.events: dict[str, list[dict[str, Any]]] = {
            "0": [{"clock": 100.0, "within": 0.0}],
            "1": [{"clock": 200.0, "within": 0.0}],
        }

    def say(self, process: str, at: float, **event: Any) -> None:
        """``at`` by the wall clock; it is logged by the client's own."""
        client = process.partition("/")[0]
        clock = self.events[client][0]["clock"]
        if "asked" in event:
            event["asked"] -= clock
        self.events[client].append({"p": process} | event | {"at": at - clock})

    def hold(
        self, process: str, n: int, begun: float, ended: float, *, first: int = 0, last: int = 0, x: bool = True
    ) -> None:
        self.say(process, begun, n=n, held="counter", first=first, last=last, x=x, asked=begun - 0.1)
        self.say(process, ended, n=n, freeing=True)

    def increment(
        self, process: str, n: int, at: float, value: int, *, slot: int = 0, synced: bool = True, after: str = ""
    ) -> None:
        """Takes half a second, alone; the value before is that of ``after``, or of whoever logged it."""
        self.say(process, at, n=n, held="counter", first=slot, last=slot, x=True, asked=at - 0.1)
        by = after or self.writer(slot, value - 1)
        self.say(process, at + 0.2, n=n, slot=slot, read=value - 1, by=by, asked=at + 0.1)
        self.say(process, at + 0.3, n=n, slot=slot, write=value)
        if synced:
            self.say(process, at + 0.4, n=n, synced=[slot])
            self.say(process, at + 0.5, n=n, freeing=True)

    def cut_off(self, client: str) -> None:
        """Its power, or its work; it begins anew."""
        self.events[client] += [{"begun": True}, self.events[client][0]]

    def read(self, process: str, n: int, at: float, value: int, by: str) -> None:
        self.say(process, at, n=n, held="counter", first=0, last=0, x=False, asked=at - 0.1)
        self.say(process, at + 0.2, n=n, slot=0, read=value, by=by, asked=at + 0.1)
        self.say(process, at + 0.3, n=n, freeing=True)

    def writer(self, slot: int, value: int) -> str:
        every = [event for events in self.events.values() for event in events]
        return next((e["p"] for e in every if e.get("write") == value and e["slot"] == slot), "")

    def history(self, *, lagging: str = "", until: float = 0.0) -> History:
        """Of all that was said; of one client what it said ``until`` then."""
        history = History()
        for client, events in self.events.items():
            clock = events[0]["clock"]
            last = {"p": f"{client}/home/nobody", "at": 9000.0 - clock}
            arrived = [e for e in events if client != lagging or e.get("at", 0.0) <= until - clock]
            Reader(client, history).read(json.dumps(e) for e in (arrived if client == lagging else [*arrived, last]))
        return history

    def found(self) -> list[str]:
        return [violation.what for violation in checker.violations(self.history())]


@pytest.fixture
def log() -> Log:
    return Log()


def test_two_exclusive_holders_at_once_are_found_whatever_their_clients_clocks_say(log: Log) -> None:
    log.hold(A, 1, 1000.0, 1005.0)
    log.hold(B, 1, 1004.0, 1006.0)
    assert log.found() == ["home/counter: two processes hold conflicting locks for 1.000 s"]


def test_a_violation_shows_the_operations_that_show_it_by_time(log: Log) -> None:
    log.hold(A, 1, 1000.0, 1005.0)
    log.hold(B, 1, 1004.0, 1006.0)
    shown = str(checker.violations(log.history())[0]).splitlines()
    assert [line.split()[1:] for line in shown[1:]] == [
        f"{A} is granted home/counter, slots 0 to 0, exclusive".split(),
        f"{B} is granted home/counter, slots 0 to 0, exclusive".split(),
        f"{A} has it still".split(),
        f"{B} has it still".split(),
    ]


@pytest.mark.parametrize(
    "second",
    [
        {"begun": 1005.0, "ended": 1006.0},  # one after the other
        {"begun": 1005.0 - CLOCKS / 2, "ended": 1006.0},  # as far as two clocks can tell
        {"begun": 1002.0, "ended": 1003.0, "first": 1, "last": 3},  # other slots
    ],
)
def test_holders_that_follow_each_other_or_hold_other_slots_are_none(log: Log, second: dict[str, Any]) -> None:
    log.hold(A, 1, 1000.0, 1005.0)
    log.hold(B, 1, **second)
    assert log.found() == []


def test_shared_holders_do_not_conflict_with_each_other_but_with_an_exclusive_one(log: Log) -> None:
    log.hold(A, 1, 1000.0, 1005.0, x=False)
    log.hold(B, 1, 1001.0, 1003.0, x=False)
    assert log.found() == []
    log.hold(B, 2, 1004.0, 1006.0)
    assert log.found() == ["home/counter: two processes hold conflicting locks for 1.000 s"]


def test_a_conflict_with_a_lock_that_was_granted_long_before_others_is_found(log: Log) -> None:
    log.hold(A, 1, 1000.0, 2000.0)
    for number in range(20):
        log.hold("0/home/ranger-0", number, 1001.0 + number, 1001.5 + number, first=5, last=5)
    log.hold(B, 1, 1900.0, 1901.0)
    assert len(log.found()) == 1


def test_a_holder_that_was_never_heard_of_again_held_it_as_long_as_it_said_anything(log: Log) -> None:
    log.increment(A, 1, 1000.0, 1, synced=False)
    log.increment(B, 1, 1000.4, 1)
    assert log.found() == []
    log.increment(A, 2, 1010.0, 2, synced=False)
    log.hold(B, 2, 1010.1, 1010.2)
    assert log.found() == ["home/counter: two processes hold conflicting locks for 0.100 s"]


def test_increments_one_after_the_other_are_what_the_counters_say(log: Log) -> None:
    for number in range(1, 10):
        log.increment(A if number % 2 else B, number, 1000.0 + number, number)
    assert log.found() == []
    counted = checker.count(log.history())
    assert (counted.registers, counted.final, counted.acknowledged, counted.unknown) == (1, 9, 9, 0)


def test_two_increments_from_one_value_are_a_lost_one_without_any_clock(log: Log) -> None:
    log.increment(A, 1, 1000.0, 1)
    log.increment(B, 1, 1000.0 + 0.501, 1)
    assert "home/counter, slot 0: value 1 was written twice" in log.found()


def test_a_read_below_what_was_acknowledged_before_it_began_is_a_lost_write(log: Log) -> None:
    log.increment(A, 1, 1000.0, 1)
    log.increment(A, 2, 1001.0, 2)
    log.read(B, 1, 1002.0, 1, A)
    assert log.found() == ["home/counter, slot 0: an acknowledged write is lost"]


def test_a_write_that_was_cut_off_may_be_there_or_not(log: Log) -> None:
    log.increment(A, 1, 1000.0, 1)
    log.increment(A, 2, 1001.0, 2, synced=False)
    log.read(B, 1, 1002.0, 1, A)
    assert log.found() == []
    other = Log()
    other.increment(A, 1, 1000.0, 1)
    other.increment(A, 2, 1001.0, 2, synced=False)
    other.read(B, 1, 1002.0, 2, A)
    assert other.found() == []
    assert checker.count(other.history()).unknown == 1


NOBODY = "home/counter, slot 0: nobody can have written {} of '" + A + "'"


@pytest.mark.parametrize(("value", "found"), [(2, []), (3, []), (4, [NOBODY.format(4)])])
def test_two_writes_that_a_client_could_not_log_before_it_was_cut_off_are_believed_and_three_are_not(
    log: Log, value: int, found: list[str]
) -> None:
    log.increment(A, 1, 1000.0, 1)
    log.cut_off("0")
    log.increment(B, 1, 1002.0, value + 1, after=A)
    assert [what for what in log.found() if "add up" not in what] == found
    assert len(log.found()) == 2 * len(found)


def test_of_a_client_that_lives_or_was_cut_off_later_no_write_is_believed_that_it_did_not_log(log: Log) -> None:
    log.increment(A, 1, 1000.0, 1)
    log.read(B, 1, 1002.0, 2, A)
    assert NOBODY.format(2) in log.found()
    log.hold(A, 2, 1003.0, 1004.0)
    log.cut_off("0")
    assert NOBODY.format(2) in log.found()


def test_what_a_client_did_that_has_not_arrived_yet_is_no_violation(log: Log) -> None:
    for value in range(1, 6):
        log.increment(A, value, 1000.0 + value, value)
    log.increment(B, 1, 1010.0, 6)
    assert log.found() == []
    assert checker.violations(log.history(lagging="0", until=1003.5)) == []
    overtaken = log.history(lagging="0", until=1003.5)
    overtaken.logged["0"] = 1012.0
    assert checker.violations(overtaken) == []


def test_what_no_process_writes_is_damage(log: Log) -> None:
    log.read(B, 1, 1002.0, -1, "x\\ufffd\\ufffd")
    assert "nobody can have written -1" in log.found()[0]


def test_a_lock_that_the_server_does_not_know_of_is_found_only_where_it_was_held_all_the_time(log: Log) -> None:
    log.hold(A, 1, 1000.0, 1010.0)
    log.say(B, 1012.0, probe="counter", first=0, last=0, locked=False, asked=1009.0)
    log.say(B, 1005.0, probe="counter", first=1, last=1, locked=False, asked=1004.0)
    log.say(A, 1005.0, probe="counter", first=0, last=0, locked=False, asked=1004.0)
    log.say(B, 1006.0, probe="counter", first=0, last=0, locked=True, asked=1005.0)
    assert log.found() == []
    log.say(B, 1007.0, probe="counter", first=0, last=0, locked=False, asked=1006.0)
    assert log.found() == ["home/counter: a process holds a lock that the server does not know of"]


def test_what_a_process_or_a_kernel_finds_wrong_is_a_violation(log: Log) -> None:
    log.say(A, 1000.0, wrong="OSError: Stale file handle")
    log.events["1"].append({"kernel": "lockd: failed to reclaim lock for pid 7", "at": 1.0})
    assert log.found() == [
        f"{A}: OSError: Stale file handle",
        "the kernel of client 1: lockd: failed to reclaim lock for pid 7",
    ]


def test_a_client_that_booted_again_goes_on_by_its_new_clock(log: Log) -> None:
    log.hold(A, 1, 1000.0, 1001.0)
    log.say(A, 1002.0, n=2, held="counter", first=0, last=0, x=True, asked=1001.5)
    log.events["0"] += [{"begun": True}, {"clock": 5000.0, "within": 0.2}]
    log.events["0"].append({"p": A, "n": 1, "held": "counter", "first": 0, "last": 0, "x": True, "asked": 1, "at": 2})
    history = log.history()
    assert [(hold.granted, hold.ended) for hold in history.holds] == [(1000, 1001), (1002, 1002), (5002, 5002)]
    assert checker.violations(history) == []


def test_an_overlap_that_may_come_from_clocks_that_do_not_go_alike_is_none(log: Log) -> None:
    log.hold(A, 1, 1000.0, 1001.0)
    log.hold(B, 1, 1000.5, 1001.5)
    assert len(log.found()) == 1
    log.events["0"].append({"clock": 100.3, "within": 0.0})
    assert log.found() == []


@pytest.mark.parametrize(
    ("outages", "found"),
    [
        ((), 1),
        ((Outage("home", 1010.0, 1100.0),), 0),  # 40 s served, and two times 30 s to get on
        ((Outage("mail", 1010.0, 1100.0),), 1),
        ((Outage("home", 1010.0, 1011.0),), 1),
    ],
)
def test_who_does_not_get_on_while_its_service_is_served_is_found(
    log: Log, outages: tuple[Outage, ...], found: int
) -> None:
    log.hold(A, 1, 1000.0, 1001.0)
    stalled = list(checker.stalled(log.history(), outages, end=1130.0, patience=30.0))
    assert len(stalled) == found


@given(st.data())
def test_no_history_of_one_server_that_grants_one_at_a_time_is_a_violation(data: st.DataObject) -> None:
    log, values, at = Log(), {0: 0, 1: 0}, 1000.0
    for number in range(data.draw(st.integers(1, 30))):
        process, slot = data.draw(st.sampled_from([A, B])), data.draw(st.sampled_from([0, 1]))
        values[slot] += 1
        log.increment(process, number, at, values[slot], slot=slot)
        at += 0.5 + 2 * CLOCKS
    assert log.found() == []


@given(st.data())
def test_a_history_with_one_increment_done_twice_is_always_a_violation(data: st.DataObject) -> None:
    many = data.draw(st.integers(2, 20))
    twice, log, at = data.draw(st.integers(2, many)), Log(), 1000.0
    value = 0
    for number in range(1, many + 1):
        value += number != twice
        log.increment(data.draw(st.sampled_from([A, B])), number, at, value)
        at += 0.5 + 2 * CLOCKS
    assert log.found()
