# SPDX-License-Identifier: GPL-2.0-or-later
"""The report of a run, from its events; and for how long clients waited, from the journals of earlier runs."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from nlmfo.cli import text
from nlmfo.failover import journal
from nlmfo.failover.events import Begun, Ended, Event, Progressed, RollingBack, StepDone, StepNotDone, StepStarted
from nlmfo.failover.plan import Action, Step
from nlmfo.failover.progress import Locks, Progress, Waiting
from nlmfo.failover.report import (
    AddressDown,
    Grace,
    Pause,
    Report,
    Reporter,
    as_object,
    last_address_down,
    next_steps,
)
from nlmfo.failover.verbs import Outcome, Verb
from nlmfo.records.ledger import Standing

TAKEOVER = Begun(Verb.TAKEOVER, "home", "node1", "boot-1")
RELEASE = Begun(Verb.RELEASE, "home", "node2", "boot-2")
T0 = 1_000_000_000.0

CLAIM = Step(Action.CLAIM, "home")
UP = Step(Action.ADDRESS_UP, "10.10.0.100/24")
DOWN = Step(Action.ADDRESS_DOWN, "10.10.0.100/24")
NFSD = Step(Action.START_NFSD, "8 threads")
NOTIFY = Step(Action.NOTIFY, "home")
MOUNT = Step(Action.MOUNT, "/srv/home")

BUSY = Progress(
    state=7,
    told=True,
    in_grace=True,
    grace_until=T0 + 50.0,
    clients={Standing.BACK: 5, Standing.ANSWERED: 2, Standing.UNREACHABLE: 2, Standing.LEFT: 1, Standing.PENDING: 1},
    waiting=(
        Waiting("192.0.2.7", Standing.UNREACHABLE, "no answer"),
        Waiting("192.0.2.8", Standing.ANSWERED, ""),
        Waiting("192.0.2.9", Standing.PENDING, ""),
    ),
    locks=Locks(32, 30, exact=True, missing=("/srv/home/a bytes 0-9 exclusive", "/srv/home/b bytes 0-end shared")),
)
NOBODY = Progress(state=7, told=True, in_grace=False, ended="nobody has to reclaim")


def heard(*events: tuple[float, Event], begun: Begun = TAKEOVER, before: AddressDown | None = None) -> Report:
    """The report of a run that began at T0; the others come so many seconds later."""
    reporter = Reporter(begun, T0)
    for after, event in events:
        reporter.hear(event, T0 + after)
    return reporter.report(before)


def served(*events: tuple[float, Event], before: AddressDown | None = None) -> Report:
    """A takeover that claimed from 1.0 to 1.1 s, had nfsd up at 2 and the address at 3 s."""
    steps: list[tuple[float, Event]] = [
        (1.1, StepDone(CLAIM, 0.1, "epoch 2")),
        (2.0, StepDone(NFSD, 0.5, "")),
        (3.0, StepDone(UP, 0.2, "")),
    ]
    return heard(*steps, *events, (9.0, Ended(Outcome.SERVED)), before=before)


def test_it_knows_how_long_the_run_and_each_step_took_and_which_failed() -> None:
    found = heard(
        (0.0, StepStarted(MOUNT)),
        (2.5, StepDone(MOUNT, 2.5, "")),
        (4.0, StepNotDone(CLAIM, 1.5, "lost")),
        (4.25, Ended(Outcome.TAKEN_DOWN, "claim: lost")),
    )
    assert (found.service, found.verb, found.node) == ("home", Verb.TAKEOVER, "node1")
    assert (found.outcome, found.error) == (Outcome.TAKEN_DOWN, "claim: lost")
    assert (found.began, found.seconds) == (T0, 4.25)
    assert [(each.step, each.seconds, each.done) for each in found.steps] == [(MOUNT, 2.5, True), (CLAIM, 1.5, False)]
    assert (found.address_down, found.address_up, found.pause) == (None, None, None)


def test_it_knows_when_the_address_went_down_and_up() -> None:
    found = heard((1.0, StepDone(DOWN, 0.1, "")), (5.0, StepDone(UP, 0.1, "")))
    assert (found.address_down, found.address_up) == (T0 + 1.0, T0 + 5.0)
    assert found.outcome is None


def test_the_clients_are_counted_and_those_that_are_missing_are_named() -> None:
    (told,) = served((4.0, Progressed("home", BUSY))).told
    clients = told.clients
    assert (clients.owed, clients.told, clients.answered, clients.back, clients.left) == (11, 10, 8, 5, 1)
    assert (clients.unreachable, clients.unreachable_names) == (2, ("192.0.2.7",))
    assert clients.not_back_names == ("192.0.2.8",)
    assert told.locks == BUSY.locks


def test_the_last_word_of_each_service_counts_and_the_one_of_the_run_stands_first() -> None:
    found = served((4.0, Progressed("also", BUSY)), (4.1, Progressed("home", NOBODY)), (5.0, Progressed("home", BUSY)))
    assert [told.service for told in found.told] == ["home", "also"]
    assert found.told[0].clients.owed == 11


@pytest.mark.parametrize(
    ("progress", "grace"),
    [
        (BUSY, Grace(on=True, until=T0 + 50.0, ended="", after=None)),
        (NOBODY, Grace(on=False, until=0.0, ended="nobody has to reclaim", after=2.5)),
    ],
)
def test_grace_goes_on_or_has_ended_so_long_after_it_began(progress: Progress, grace: Grace) -> None:
    found = served((4.5, Progressed("home", progress)), (6.0, Progressed("home", progress)))
    assert found.told[0].grace == grace


def test_when_nobody_saw_grace_begin_nobody_says_how_long_it_took() -> None:
    found = heard((4.5, Progressed("home", NOBODY)), (5.0, Ended(Outcome.SERVED)))
    assert found.told[0].grace.after is None
    assert found.pause is None


# How long clients waited


def test_after_a_planned_move_the_pause_is_from_address_down_there_to_address_up_here() -> None:
    found = served((4.0, Progressed("home", BUSY)), before=AddressDown("node2", T0 + 0.5))
    assert found.pause == Pause(2.5, exact=True, node="node2")


def test_without_a_release_on_record_it_is_at_least_from_the_claim_on() -> None:
    found = served((4.0, Progressed("home", BUSY)))
    assert found.pause == Pause(2.0, exact=False)


def test_a_release_that_came_after_our_claim_by_its_clock_is_not_believed() -> None:
    found = served((4.0, Progressed("home", BUSY)), before=AddressDown("node2", T0 + 1.5))
    assert found.pause == Pause(2.0, exact=False)


def test_where_nobody_was_on_record_and_nobody_released_it_nobody_waited() -> None:
    assert served((4.0, Progressed("home", NOBODY))).pause is None


@pytest.mark.parametrize("outcome", [Outcome.TAKEN_DOWN, Outcome.INCOMPLETE])
def test_a_takeover_that_failed_ended_no_pause(outcome: Outcome) -> None:
    found = heard((1.1, StepDone(CLAIM, 0.1, "")), (3.0, StepDone(UP, 0.2, "")), (4.0, Ended(outcome, "no")))
    assert found.pause is None


# The journals of earlier runs


def lines(begun: Begun, *events: tuple[float, Event]) -> list[dict[str, Any]]:
    """A journal as it is read back; events come so many seconds after T0."""
    return [json.loads(json.dumps(journal.as_object(e) | {"at": T0 + at})) for at, e in ((0.0, begun), *events)]


def released(at: float, node: str = "node2") -> list[dict[str, Any]]:
    """Its copy on the partition ends before the unmount, so nothing says how it ended."""
    return lines(Begun(Verb.RELEASE, "home", node, "boot-2"), (at, StepDone(DOWN, 0.5, "")))


OURS = lines(TAKEOVER, (90.0, StepDone(UP, 0.1, "")))
THEIRS = lines(
    Begun(Verb.TAKEOVER, "home", "node2", "boot-2"), (1.0, StepDone(UP, 0.1, "")), (2.0, Ended(Outcome.SERVED))
)
KILLED_LATE = lines(Begun(Verb.TAKEOVER, "home", "node2", "boot-2"), (30.0, StepDone(UP, 0.1, "")))
AGAIN = lines(
    Begun(Verb.TAKEOVER, "home", "node2", "boot-2"), (30.0, StepDone(UP, 0.1, "")), (31.0, Ended(Outcome.SERVED))
)
FAILED = lines(
    Begun(Verb.TAKEOVER, "home", "node3", "boot-3"),
    (50.0, StepDone(UP, 0.1, "")),
    (51.0, RollingBack("home")),
    (52.0, StepDone(DOWN, 0.1, "")),
    (53.0, Ended(Outcome.TAKEN_DOWN, "no")),
)
CUT_OFF = lines(Begun(Verb.TAKEOVER, "home", "node3", "boot-3"), (50.0, StepDone(CLAIM, 0.1, "")))


@pytest.mark.parametrize(
    ("journals", "at"),
    [
        ([OURS, released(10.0), THEIRS], 9.5),
        # The run itself may not be there: its journal could not be written.
        ([released(10.0), THEIRS], 9.5),
        ([OURS, released(10.0)], 9.5),
        # Cut off and resumed: the address has been down since the first.
        ([OURS, released(20.0), released(10.0), THEIRS], 9.5),
        # Killed before it had taken the address down, and resumed.
        ([OURS, released(20.0), lines(RELEASE), THEIRS], 19.5),
        # Others tried in between, and failed.
        ([OURS, FAILED, released(10.0), THEIRS], 9.5),
        # What was released there was not up: only the one before it was.
        ([OURS, released(60.0, "node3"), CUT_OFF, released(10.0), THEIRS], 9.5),
        # Takeovers that wait begin before the release that they wait for, so their journals come before it.
        ([released(40.0), OURS, released(10.0), AGAIN], 39.5),
        # Nobody released it since it was served last: a crash.
        ([OURS, AGAIN, released(10.0)], None),
        ([OURS, KILLED_LATE, released(10.0)], None),
        ([OURS, released(60.0, "node3"), CUT_OFF, AGAIN, released(10.0)], None),
        ([OURS, lines(TAKEOVER, (30.0, Ended(Outcome.SERVED))), released(10.0)], None),
        ([OURS], None),
        ([], None),
    ],
)
def test_the_last_release_that_nobody_served_after_says_when_the_address_went_down(
    journals: list[list[dict[str, Any]]], at: float | None
) -> None:
    found = last_address_down(journals, TAKEOVER)
    assert (None if found is None else found.at - T0) == at
    assert found is None or found.node == "node2"


@pytest.mark.parametrize(
    "line",
    [
        {},
        {"event": "step-done"},
        {"event": "step-done", "step": "address down", "at": 1.0, "seconds": 1.0},
        {"event": "step-done", "step": {"action": "address down"}, "at": "soon", "seconds": 1.0},
        {"event": "step-done", "step": {"action": "address down"}, "at": 1.0},
        {"event": "step-done", "step": {"action": "address down"}, "at": 10**400, "seconds": 1.0},
        {"event": "step-done", "step": {"action": "address down"}, "at": 1.0, "seconds": float("nan")},
        {"event": "step-done", "step": {"action": ["address down"]}, "at": 1.0, "seconds": 1.0},
    ],
    ids=lambda line: str(line)[-40:],
)
def test_a_journal_that_somebody_else_wrote_is_no_evidence_and_no_trouble(line: dict[str, Any]) -> None:
    assert last_address_down([[{"event": "begun", "verb": "release", "node": ["node2"]}, line]], TAKEOVER) is None


# What is said of it


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "localtime", time.gmtime)


def test_a_report_is_a_few_lines_with_what_to_do_next() -> None:
    found = served((4.0, Progressed("home", BUSY)), before=AddressDown("node2", T0 + 0.5))
    assert text.report(found).splitlines() == [
        "home: takeover: served after 9.00 s; the longest step was 'start nfsd in grace: 8 threads', 0.50 s",
        "  clients: 11 owed a notice, 10 told, 8 answered, 5 back, 1 hold nothing any more, 2 did not answer",
        "  did not answer: 192.0.2.7 and 1 more",
        "  asked for no lock so far: 192.0.2.8",
        "  locks: 30 of 32 held again",
        "    not held again: /srv/home/a bytes 0-9 exclusive",
        "    not held again: /srv/home/b bytes 0-end shared",
        "  grace: goes on until 01:47:30 at the latest",
        "  longest pause for clients: 2.50 s, from address down on node2 to address up here, "
        "by the clocks of both nodes",
        "  next: who did not answer is told again when it is seen: 'nlmfo clients home'; "
        "if it is gone for good: 'nlmfo clients home --forget CLIENT'",
    ]


def test_what_was_found_out_after_a_crash_is_called_an_estimate() -> None:
    progress = Progress(7, told=True, in_grace=False, clients={Standing.BACK: 1}, locks=Locks(3, 2, exact=False))
    said = text.report(served((52.0, Progressed("home", progress))))
    assert "  locks: 2 of 3 held again (estimate: of those seen at the last look before the crash)" in said
    assert "  grace: over after 50.0 s" in said
    assert "at least 2.00 s, from the claim to address up; when the last owner went away is not on record" in said
    assert "  next: a lock that is not held again can be granted to others by now" in said


def test_names_from_the_network_reach_the_terminal_without_their_control_characters() -> None:
    progress = Progress(
        7,
        told=True,
        in_grace=True,
        clients={Standing.UNREACHABLE: 1},
        waiting=(Waiting("\x1b[2Jevil", Standing.UNREACHABLE, ""),),
        locks=Locks(1, 0, exact=True, missing=("/srv/home/\x1b]0;x\x07 bytes 0-1 shared",)),
    )
    said = text.report(served((4.0, Progressed("home", progress)), before=AddressDown("\x1b[31mnode2", T0)))
    assert "\x1b" not in said
    assert "?[2Jevil" in said


def test_many_names_are_cut_short_and_counted() -> None:
    waiting = tuple(Waiting(f"192.0.2.{n}", Standing.UNREACHABLE, "") for n in range(50))
    missing = tuple(f"/srv/home/{n}" for n in range(20))
    progress = Progress(
        7, told=True, in_grace=True, clients={Standing.UNREACHABLE: 70}, waiting=waiting,
        locks=Locks(20, 0, exact=True, missing=missing),
    )  # fmt: skip
    said = text.report(served((4.0, Progressed("home", progress))))
    assert "192.0.2.7 and 62 more\n" in said
    assert "not held again: 12 more" in said


def test_a_run_in_which_nobody_had_to_be_told_has_nothing_next() -> None:
    found = served((4.0, Progressed("home", NOBODY)))
    assert next_steps(found) == ()
    assert "clients: nobody had to be told" in text.report(found)
    assert "grace: ended early after 2.0 s: nobody has to reclaim" in text.report(found)


def test_a_report_as_json_has_all_of_it() -> None:
    found = served((4.0, Progressed("home", BUSY)), before=AddressDown("node2", T0 + 0.5))
    said = json.loads(json.dumps(as_object(found)))
    assert (said["service"], said["verb"], said["outcome"], said["seconds"]) == ("home", "takeover", "served", 9.0)
    assert said["steps"][0] == {"action": "claim", "subject": "home", "seconds": 0.1, "done": True}
    assert (said["address_down"], said["address_up"]) == (None, T0 + 3.0)
    (told,) = said["services"]
    assert told["clients"] == {
        "owed": 11, "told": 10, "answered": 8, "back": 5, "left": 1, "unreachable": 2,
        "unreachable_names": ["192.0.2.7"], "not_back_names": ["192.0.2.8"],
    }  # fmt: skip
    assert told["locks"] == {"total": 32, "back": 30, "exact": True, "missing": list(BUSY.locks.missing)}  # type: ignore[union-attr]
    assert told["grace"] == {"on": True, "until": T0 + 50.0, "ended": "", "after": None}
    assert said["pause"] == {"seconds": 2.5, "exact": True, "node": "node2"}
    assert said["next"] == list(next_steps(found))
