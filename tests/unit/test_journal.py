# SPDX-License-Identifier: GPL-2.0-or-later
"""The journal hears everything first, goes where the records go, and stops nothing."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from nlmfo import helper
from nlmfo.failover import last_run
from nlmfo.failover.events import Begun, Ended, Event, JournalNotWritten, Planned, RollingBack, StepDone, StepStarted
from nlmfo.failover.journal import Journal, as_object
from nlmfo.failover.last_run import newest
from nlmfo.failover.plan import Action, Step
from nlmfo.failover.verbs import Outcome, Verb
from nlmfo.records import journal_file as records
from nlmfo.records.journal import names, read
from tests.unit import shapes
from tests.unit.cluster_fake import Log
from tests.unit.full_disk import file_size
from tests.unit.shapes import HERE

MOUNT = Step(Action.MOUNT, "/srv/other")
RECORDS = Step(Action.RECORDS, "/srv/other/state")
UMOUNT = Step(Action.UMOUNT, "/srv/other")
BEGUN = Begun(Verb.TAKEOVER, "home", HERE, "boot-1", fenced="node2")


class Scene:
    def __init__(self, directory: Path, *, on_partition: bool = True) -> None:
        self.runs = directory / "node"
        self.state = directory / "state"
        self.state.mkdir()
        service = shapes.service(state=self.state)
        if on_partition:
            service = service._replace(partitions=(shapes.partition(1, directory),))
        self.service = service
        self.log = Log()

    def journal(self, *, attached: bool = False) -> Journal:
        return Journal(self.service, self.log, runs=self.runs, attached=attached)

    def own(self) -> list[str]:
        return self._events(self.runs)

    def shared(self) -> list[str]:
        return self._events(self.state / "runs")

    def _events(self, directory: Path) -> list[str]:
        found = names(directory, "home")
        return [line["event"] for line in read(directory, found[-1])] if found else []


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_each_event_is_on_the_node_before_it_is_passed_on(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    seen: list[list[str]] = []
    log = Journal(scene.service, lambda _: seen.append(scene.own()), runs=scene.runs, attached=False)
    log(BEGUN)
    log(StepStarted(MOUNT))
    log.close()
    assert seen == [["begun"], ["begun", "step-started"]]


def test_the_copy_beside_the_records_begins_with_them_and_has_all_from_the_beginning(scene: Scene) -> None:
    log = scene.journal()
    for event in (BEGUN, StepStarted(RECORDS)):
        log(event)
    assert scene.shared() == []
    log(StepDone(RECORDS, 0.1, ""))
    assert scene.shared() == scene.own() == ["begun", "step-started", "step-done"]
    log(Ended(Outcome.SERVED))
    log.close()
    assert scene.shared() == scene.own()


def test_the_copy_ends_before_its_partition_is_unmounted(scene: Scene) -> None:
    log = scene.journal(attached=True)
    log(BEGUN)
    log(StepStarted(UMOUNT))
    log(Ended(Outcome.RELEASED))
    assert scene.shared() == ["begun"]
    assert scene.own() == ["begun", "step-started", "ended"]
    log.close()


def test_a_copy_on_storage_that_stays_is_written_to_the_end(tmp_path: Path) -> None:
    scene = Scene(tmp_path, on_partition=False)
    log = scene.journal(attached=True)
    for event in (BEGUN, StepStarted(UMOUNT), Ended(Outcome.RELEASED)):
        log(event)
    log.close()
    assert scene.shared() == ["begun", "step-started", "ended"]


def test_a_node_that_cannot_keep_its_journal_says_so_once_and_goes_on(scene: Scene) -> None:
    scene.runs.write_text("a file in its place")
    log = scene.journal(attached=True)
    for event in (BEGUN, StepStarted(MOUNT), Ended(Outcome.SERVED)):
        log(event)
    log.close()
    assert len(scene.log.of(JournalNotWritten)) == 1
    assert scene.shared() == ["begun", "step-started", "ended"]


def test_storage_that_takes_no_copy_is_told_once_and_the_node_has_all(scene: Scene) -> None:
    (scene.state / "runs").write_text("a file in its place")
    log = scene.journal(attached=True)
    for event in (BEGUN, StepStarted(MOUNT), Ended(Outcome.SERVED)):
        log(event)
    log.close()
    assert len(scene.log.of(JournalNotWritten)) == 1
    assert scene.own() == ["begun", "step-started", "ended"]


def test_a_disk_that_fills_up_costs_the_rest_of_the_journal_and_not_the_run(scene: Scene) -> None:
    log = scene.journal()
    passed = [BEGUN, *(StepStarted(MOUNT) for _ in range(10)), Ended(Outcome.SERVED)]
    with file_size(300):
        for event in passed:
            log(event)
        log.close()
    assert len(scene.log.of(JournalNotWritten)) == 1
    assert [event for event in scene.log.events if not isinstance(event, JournalNotWritten)] == passed
    assert scene.own()[0] == "begun"


def test_events_are_objects_with_their_fields() -> None:
    found = as_object(Planned((MOUNT, RECORDS)))
    assert found.pop("at") > 0
    assert found == {
        "event": "planned",
        "steps": [{"action": "mount", "subject": "/srv/other"}, {"action": "open records", "subject": RECORDS.subject}],
    }
    assert as_object(BEGUN)["fenced"] == "node2"
    assert as_object(Ended(Outcome.TAKEN_DOWN, "busy"))["outcome"] == "taken down"


def run(scene: Scene, *events: Event) -> None:
    log = scene.journal()
    for event in events:
        log(event)
    log.close()


@pytest.mark.parametrize(
    ("events", "verb", "outcome", "finished"),
    [
        ((BEGUN, Ended(Outcome.SERVED)), Verb.TAKEOVER, Outcome.SERVED, True),
        ((BEGUN, StepStarted(MOUNT)), Verb.TAKEOVER, None, False),
        ((BEGUN, RollingBack("home"), StepStarted(UMOUNT)), Verb.ABORT, None, False),
        ((BEGUN, RollingBack("home"), Ended(Outcome.TAKEN_DOWN)), Verb.ABORT, Outcome.TAKEN_DOWN, True),
        ((BEGUN, Ended(Outcome.INCOMPLETE)), Verb.TAKEOVER, Outcome.INCOMPLETE, False),
        ((BEGUN, Ended(Outcome.UNTOUCHED)), Verb.TAKEOVER, Outcome.UNTOUCHED, True),
    ],
)
def test_the_last_run_tells_what_it_was_for_and_whether_it_came_to_its_end(
    scene: Scene, events: tuple[Event, ...], verb: Verb, outcome: Outcome | None, finished: bool
) -> None:
    run(scene, Begun(Verb.RELEASE, "home", HERE, "boot-1"), Ended(Outcome.RELEASED))
    run(scene, *events)
    past = newest(scene.runs, "home")
    assert past is not None
    assert (past.verb, past.outcome, past.finished) == (verb, outcome, finished)
    assert (past.node, past.boot_id) == (HERE, "boot-1")


def test_a_run_that_was_killed_before_it_had_begun_does_not_count(scene: Scene) -> None:
    run(scene, BEGUN, StepStarted(MOUNT))
    run(scene)
    past = newest(scene.runs, "home")
    assert past is not None
    assert past.last == "mount"
    assert newest(scene.runs, "mail") is None
    assert newest(scene.runs / "none", "home") is None


@pytest.mark.parametrize("line", [{"event": "begun", "verb": "dance"}, {"event": "begun"}, {"event": 3}])
def test_a_journal_that_makes_no_sense_does_not_count(line: dict[str, object]) -> None:
    assert last_run._past("x", (line,)) is None


def test_when_a_run_said_twice_how_it_ended_the_last_word_counts() -> None:
    lines = tuple(as_object(event) for event in (BEGUN, Ended(Outcome.SERVED), Ended(Outcome.INCOMPLETE, "no")))
    past = last_run._past("x", lines)
    assert past is not None
    assert not past.finished


def test_a_name_that_is_no_text_and_a_line_break_in_an_error_stay_within_their_line(scene: Scene) -> None:
    said = Ended(Outcome.INCOMPLETE, "busy: a\udcff\u2028b\nc")
    run(scene, BEGUN, said)
    (name,) = names(scene.runs, "home")
    assert [found.get("error") for found in read(scene.runs, name)] == [None, said.error]


def test_a_link_in_the_place_of_the_nodes_journals_is_told_once_and_nothing_is_made_where_it_leads(
    scene: Scene,
) -> None:
    elsewhere = scene.runs.with_name("elsewhere")
    elsewhere.mkdir()
    scene.runs.symlink_to(elsewhere)
    run(scene, BEGUN, Ended(Outcome.SERVED))
    assert [type(event) for event in scene.log.events] == [JournalNotWritten, Begun, Ended]
    assert list(elsewhere.iterdir()) == []


def test_shared_storage_that_hangs_is_waited_for_once_and_told_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "WRITE", 0.3)
    monkeypatch.setattr(helper, "PATIENCE", 0.1)
    monkeypatch.setattr(records, "JournalFile", lambda *_: signal.pause())  # where the helper's is made
    began = time.monotonic()
    log = scene.journal(attached=True)
    for event in (BEGUN, *[StepStarted(MOUNT)] * 20, Ended(Outcome.SERVED)):
        log(event)
    log.close()
    assert time.monotonic() - began < 4
    (told,) = scene.log.of(JournalNotWritten)
    assert str(scene.state / "runs") in told.reason
    assert len(scene.own()) == 22
