# SPDX-License-Identifier: GPL-2.0-or-later
"""The newest journal is the one that was begun last, whatever the clock says."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from nlmfo.failover.events import Begun, Ended, Event
from nlmfo.failover.journal import Journal
from nlmfo.failover.last_run import newest
from nlmfo.failover.verbs import Outcome, Verb
from nlmfo.records import journal
from tests.unit import shapes

NOON = 1_795_262_400 * 10**9
DAY = 86400 * 10**9


def clock(monkeypatch: pytest.MonkeyPatch, nanoseconds: int) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: nanoseconds)


def run(runs: Path, verb: Verb, outcome: Outcome | None) -> None:
    """A run that ended so, or was killed."""
    told: list[Event] = []
    log = Journal(shapes.service(), told.append, attached=False, runs=runs)
    log(Begun(verb, shapes.service().name, "a", "boot"))
    if outcome is not None:
        log(Ended(outcome))
    log.close()
    assert len(told) == 1 + (outcome is not None)


def test_a_name_tells_when_the_run_began(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, NOON + 1_234_567)
    assert journal.new_name("home") == "20261121T120000.001234Z-home.jsonl"
    assert journal.new_name("home", ["20261120T235959.999999Z-home.jsonl"]) == "20261121T120000.001234Z-home.jsonl"


def test_a_name_sorts_after_those_of_a_clock_that_was_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, NOON)
    ahead = ["20261121T120000.000000Z-home.jsonl", "20261231T235959.999999Z-home.jsonl"]
    assert journal.new_name("home", ahead[:1]) == "20261121T120000.000001Z-home.jsonl"
    assert journal.new_name("home", ahead) == "20270101T000000.000000Z-home.jsonl"
    assert journal.new_name("home", ["20269999T999999.000000Z-home.jsonl"]) == "20261121T120000.000000Z-home.jsonl"


def test_a_run_that_was_killed_is_not_the_newest_any_more_when_another_came_after_the_clock_was_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock(monkeypatch, NOON + DAY)
    run(tmp_path, Verb.RELEASE, None)
    clock(monkeypatch, NOON)
    run(tmp_path, Verb.TAKEOVER, Outcome.SERVED)
    past = newest(tmp_path, shapes.service().name)
    assert past is not None
    assert (past.verb, past.finished) == (Verb.TAKEOVER, True)


def test_old_journals_are_cleared_away_and_not_the_one_that_was_begun_after_the_clock_was_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock(monkeypatch, NOON + DAY)
    for _ in range(journal.KEPT):
        run(tmp_path, Verb.TAKEOVER, Outcome.SERVED)
    clock(monkeypatch, NOON)
    run(tmp_path, Verb.RELEASE, Outcome.RELEASED)
    past = newest(tmp_path, shapes.service().name)
    assert past is not None
    assert past.verb is Verb.RELEASE
    assert len(journal.names(tmp_path, shapes.service().name)) == journal.KEPT
