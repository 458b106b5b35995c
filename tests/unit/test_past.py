# SPDX-License-Identifier: GPL-2.0-or-later
"""What a journal has is read back as the events that it was written from, and nothing else is made of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlmfo.errors import NlmfoError
from nlmfo.failover import past
from nlmfo.failover.events import Begun, Ended, Event, Progressed, StepDone
from nlmfo.failover.journal import as_object
from nlmfo.failover.past import NoSuchRun, Run, event_of, named, runs
from nlmfo.failover.plan import Action, Step
from nlmfo.failover.progress import Locks, Progress, Waiting
from nlmfo.failover.verbs import Outcome, Verb
from nlmfo.records.ledger import Standing
from tests.unit import shapes

STEPS = st.builds(Step, st.sampled_from(Action), st.text())
COUNTS = st.integers(0, 10**6)
TIMES = st.floats(0, 1e10)
PROGRESS = st.builds(
    Progress,
    state=COUNTS,
    told=st.booleans(),
    in_grace=st.booleans(),
    grace_until=TIMES,
    ended=st.text(),
    problem=st.text(),
    clients=st.dictionaries(st.sampled_from(Standing), COUNTS),
    waiting=st.lists(st.builds(Waiting, st.text(), st.sampled_from(Standing), st.text()), max_size=3).map(tuple),
    locks=st.none() | st.builds(Locks, COUNTS, COUNTS, st.booleans(), st.lists(st.text(), max_size=3).map(tuple)),
)
st.register_type_strategy(Step, STEPS)
st.register_type_strategy(Progress, PROGRESS)
st.register_type_strategy(float, TIMES)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
EVENTS = st.sampled_from(sorted((kind for kind, _ in past._kinds().values()), key=str)).flatmap(st.from_type)


def written(event: Event) -> dict[str, Any]:
    """An event as whoever reads the journal finds it."""
    found: dict[str, Any] = json.loads(json.dumps(as_object(event)))
    return found


@given(EVENTS)
def test_every_event_is_read_back_as_it_was(event: Event) -> None:
    assert event_of(written(event)) == event


@given(EVENTS, st.data())
def test_a_line_with_anything_else_in_it_is_an_event_of_that_kind_or_none(event: Event, data: st.DataObject) -> None:
    line = written(event)
    name = data.draw(st.sampled_from(sorted(line)))
    line[name] = data.draw(JSON)
    found = event_of(line)
    assert found is None or isinstance(found, Event)


KINDS = sorted(
    written(event)["event"] for event in (Ended(Outcome.SERVED), Progressed("home", Progress(1, True, True)))
)


@given(st.sampled_from([*KINDS, "step-done", "begun", "planned"]), st.dictionaries(st.text(), JSON), JSON, JSON, JSON)
def test_no_line_whatever_breaks_the_reading(kind: str, more: dict[str, Any], a: Any, b: Any, c: Any) -> None:
    line = more | {"event": kind, "step": a, "progress": b, "steps": c, "service": "home", "seconds": 1.0}
    assert isinstance(event_of(line), Event | None)


def test_a_field_that_is_missing_makes_a_line_worth_nothing() -> None:
    line = written(StepDone(Step(Action.MOUNT, "/srv/home"), 0.1, ""))
    del line["seconds"]
    assert event_of(line) is None


def test_progress_that_is_no_progress_is_not_taken_for_some() -> None:
    line = written(Progressed("home", Progress(3, told=True, in_grace=True, locks=Locks(2, 1, exact=True))))
    assert event_of(line) is not None
    wrongs: list[dict[str, Any]] = [{"in_grace": "yes"}, {"grace_until": "soon"}, {"ended": 3}, {"clients": []}]
    for wrong in (*wrongs, {"locks": {"total": 1}}, {"more": 1}):
        assert event_of(line | {"progress": line["progress"] | wrong}) is None


BEGUN = Begun(Verb.TAKEOVER, "home", "b", "boot")
MOUNT = Step(Action.MOUNT, "/srv/home")


def write(directory: Path, name: str, *lines: tuple[float, Event]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(as_object(event) | {"at": at}) + "\n" for at, event in lines)
    (directory / name).write_text(text, encoding="ascii")


def read(tmp_path: Path, **more: Any) -> tuple[Run, ...]:
    service = shapes.service()._replace(state=tmp_path / "state", **more)
    return runs([service], directory=tmp_path / "own")


FIRST, SECOND = "20261121T091500.000001Z-home.jsonl", "20261121T091600.000001Z-home.jsonl"


def test_runs_of_this_node_and_of_others_are_told_in_order_and_each_once(tmp_path: Path) -> None:
    one = [(10.0, BEGUN), (12.0, Ended(Outcome.SERVED))]
    other = [(20.0, replace(BEGUN, verb=Verb.RELEASE, node="a")), (23.0, Ended(Outcome.RELEASED))]
    write(tmp_path / "own", FIRST, *one)
    write(tmp_path / "state/runs", FIRST, *one)
    write(tmp_path / "state/runs", SECOND, *other)
    first, second = read(tmp_path)
    assert (first.name, first.report.outcome, first.report.seconds) == (FIRST[:-6], Outcome.SERVED, 2.0)
    assert (second.begun.node, second.report.outcome) == ("a", Outcome.RELEASED)


def test_of_two_journals_of_a_run_the_longer_one_is_read(tmp_path: Path) -> None:
    """A release unmounts the storage that its second journal is on, and goes on."""
    beginning = (10.0, replace(BEGUN, verb=Verb.RELEASE))
    whole = (beginning, (12.0, Ended(Outcome.RELEASED)))
    for own, shared in ((whole, (beginning,)), ((beginning,), whole)):
        write(tmp_path / "own", FIRST, *own)
        write(tmp_path / "state/runs", FIRST, *shared)
        (run,) = read(tmp_path)
        assert run.report.outcome is Outcome.RELEASED


def test_a_run_that_was_cut_off_has_no_outcome(tmp_path: Path) -> None:
    write(tmp_path / "own", FIRST, (10.0, BEGUN), (11.0, StepDone(MOUNT, 0.5, "")))
    (run,) = read(tmp_path)
    assert run.report.outcome is None
    assert [step.step for step in run.report.steps] == [MOUNT]


def test_a_journal_without_a_beginning_and_one_of_another_service_are_no_runs(tmp_path: Path) -> None:
    write(tmp_path / "own", FIRST, (10.0, StepDone(MOUNT, 0.5, "")))
    write(tmp_path / "own", SECOND, (10.0, replace(BEGUN, service="mail")))
    assert read(tmp_path) == ()


def test_records_whose_storage_does_not_answer_take_nothing_from_what_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hangs(*_: object, **__: object) -> None:
        raise NlmfoError("it did not answer")

    write(tmp_path / "own", FIRST, (10.0, BEGUN))
    monkeypatch.setattr(past, "in_child", hangs)
    assert len(read(tmp_path)) == 1


def test_how_long_clients_waited_is_told_from_both_nodes_journals(tmp_path: Path) -> None:
    down, up, claim = Step(Action.ADDRESS_DOWN, "x"), Step(Action.ADDRESS_UP, "x"), Step(Action.CLAIM, "home")
    release = replace(BEGUN, verb=Verb.RELEASE, node="a", boot_id="other")
    write(
        tmp_path / "state/runs",
        FIRST,
        (10.0, release),
        (11.0, StepDone(down, 0.5, "")),
        (12.0, Ended(Outcome.RELEASED)),
    )
    write(
        *(tmp_path / "own", SECOND, (9.0, BEGUN), (12.5, StepDone(claim, 0.0, "")), (13.0, StepDone(up, 0.1, ""))),
        (14.0, Ended(Outcome.SERVED)),
    )
    takeover = read(tmp_path)[0]
    assert takeover.report.pause is not None
    assert (takeover.report.pause.seconds, takeover.report.pause.node) == (2.5, "a")


def test_each_takeover_of_a_node_has_its_own_pause_whatever_came_after_it(tmp_path: Path) -> None:
    """Also when all are of one boot, and although the service has changed hands since."""
    down, up, claim = Step(Action.ADDRESS_DOWN, "x"), Step(Action.ADDRESS_UP, "x"), Step(Action.CLAIM, "home")
    for n, (node, other, waited) in enumerate([("b", "a", 1.0), ("a", "b", 2.0), ("b", "a", 3.0), ("a", "b", 4.0)]):
        at, name = 100.0 * n, f"20261121T09{n}{{}}00.000001Z-home.jsonl"
        release = replace(BEGUN, verb=Verb.RELEASE, node=other, boot_id=f"boot of {other}")
        takeover = replace(BEGUN, node=node, boot_id=f"boot of {node}")
        shared = tmp_path / "state/runs"
        write(
            shared, name.format(1), (at, release), (at + 1, StepDone(down, 0.0, "")), (at + 2, Ended(Outcome.RELEASED))
        )
        write(
            *(shared, name.format(2), (at + 0.5, takeover), (at + 0.9 + waited, StepDone(claim, 0.0, ""))),
            *((at + 1 + waited, StepDone(up, 0.0, "")), (at + 9, Ended(Outcome.SERVED))),
        )
    pauses = [run.report.pause for run in read(tmp_path) if run.begun.verb is Verb.TAKEOVER]
    assert [(each.seconds, each.exact, each.node) for each in pauses if each] == [
        (1.0, True, "a"),
        (2.0, True, "b"),
        (3.0, True, "a"),
        (4.0, True, "b"),
    ]


def test_a_run_is_named_by_the_beginning_of_its_name_if_no_other_begins_so(tmp_path: Path) -> None:
    write(tmp_path / "own", FIRST, (10.0, BEGUN))
    write(tmp_path / "own", SECOND, (20.0, BEGUN))
    found = read(tmp_path)
    assert named(found, "20261121T0916") is found[1]
    assert named(found, found[0].name) is found[0]
    assert named(found, "last") is found[1]
    with pytest.raises(NoSuchRun, match="2 runs begin with '2026'"):
        named(found, "2026")
    with pytest.raises(NoSuchRun, match="no run begins with 'x'") as caught:
        named(found, "x")
    assert "nlmfo history" in str(caught.value.hint)
    with pytest.raises(NoSuchRun, match="no run begins with 'last'"):
        named((), "last")
