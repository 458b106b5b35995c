# SPDX-License-Identifier: GPL-2.0-or-later
"""A plan is carried out in order, told step by step, and ends with the first step that fails."""

from __future__ import annotations

import errno
import threading
import time

import pytest

from nlmfo.deadline import Deadline
from nlmfo.errors import CommandFailed, DeadlineExceeded, ExitCode, NlmfoError, Refused, StepFailed
from nlmfo.failover.engine import SECONDS, USUAL, execute
from nlmfo.failover.events import StepDone, StepNotDone, StepStarted
from nlmfo.failover.plan import Action, InvalidPlan, Step
from tests.unit.cluster_fake import Log

MOUNT = Step(Action.MOUNT, "/srv/home")
EXPORT = Step(Action.EXPORT, "/srv/home")
NOTIFY = Step(Action.NOTIFY, "")


class Recorder:
    """Hands that write down what they are asked to do; ``failing`` raises ``error``."""

    def __init__(self, failing: Step | None = None, error: BaseException | None = None) -> None:
        self.asked: list[str] = []
        self._failing = failing
        self._error = error

    def prepare(self) -> None:
        self.asked.append("prepare")

    def do(self, step: Step, limit: Deadline) -> str:
        assert 0 < limit.remaining() <= SECONDS.get(step.action, USUAL)
        self.asked.append(str(step))
        if step is self._failing and self._error is not None:
            raise self._error
        return f"found {step.subject}"


def fail_with(error: BaseException) -> tuple[Recorder, Log]:
    return Recorder(EXPORT, error), Log()


def test_what_the_steps_need_is_loaded_before_the_first_of_them() -> None:
    hands = Recorder()
    execute((MOUNT, EXPORT), hands, Log())
    assert hands.asked == ["prepare", "mount: /srv/home", "export: /srv/home"]


def test_each_step_is_told_when_it_begins_and_when_it_is_done_with_what_was_found() -> None:
    log = Log()
    execute((MOUNT, NOTIFY), Recorder(), log)
    kinds = [(type(event), getattr(event, "step", None)) for event in log.events]
    assert kinds == [(StepStarted, MOUNT), (StepDone, MOUNT), (StepStarted, NOTIFY), (StepDone, NOTIFY)]
    done = log.events[1]
    assert isinstance(done, StepDone)
    assert done.detail == "found /srv/home"
    assert done.seconds >= 0


def test_nothing_after_a_step_that_failed_is_begun() -> None:
    hands, log = fail_with(NlmfoError("no such path"))
    with pytest.raises(StepFailed):
        execute((MOUNT, EXPORT, NOTIFY), hands, log)
    assert hands.asked == ["prepare", "mount: /srv/home", "export: /srv/home"]
    assert isinstance(log.events[-1], StepNotDone)
    assert log.events[-1].error == "no such path"


def test_a_failure_names_step_and_cause_and_passes_the_hint_on() -> None:
    hands, log = fail_with(NlmfoError("no such path", hint="make it"))
    with pytest.raises(StepFailed) as caught:
        execute((EXPORT,), hands, log)
    assert str(caught.value) == "export: /srv/home: no such path"
    assert caught.value.hint == "make it"
    assert isinstance(caught.value.__cause__, NlmfoError)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NlmfoError("no"), ExitCode.FAILED),
        (Refused("device-held", "no"), ExitCode.REFUSED),
        (DeadlineExceeded("it", 3), ExitCode.DEADLINE),
        (CommandFailed(["mount"], 32, "no"), ExitCode.FAILED),
        (OSError(errno.EIO, "Input/output error", "/srv/home"), ExitCode.FAILED),
    ],
)
def test_a_failed_step_ends_with_the_status_of_its_cause(error: NlmfoError | OSError, status: ExitCode) -> None:
    hands, log = fail_with(error)
    with pytest.raises(StepFailed) as caught:
        execute((EXPORT,), hands, log)
    assert caught.value.exit_code is status


def test_an_interruption_and_a_programming_error_pass_through_as_they_are() -> None:
    for error in (KeyboardInterrupt(), ZeroDivisionError()):
        hands, log = fail_with(error)
        with pytest.raises(type(error)):
            execute((EXPORT,), hands, log)


def test_an_empty_plan_is_carried_out_at_once() -> None:
    log = Log()
    execute((), Recorder(), log)
    assert log.events == []


def test_a_plan_in_which_anything_comes_too_early_is_never_begun() -> None:
    hands, log = Recorder(), Log()
    with pytest.raises(InvalidPlan):
        execute((EXPORT, MOUNT), hands, log)
    assert hands.asked == []
    assert log.events == []


class Watched(Recorder):
    """Hands that look, while they are at work, at how far the log and their own time have come."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self.limits: dict[Step, Deadline] = {}
        self.announced: list[bool] = []
        self._log = log

    def do(self, step: Step, limit: Deadline) -> str:
        self.limits[step] = limit
        self.announced.append(self._log.events[-1] == StepStarted(step))
        return ""


def test_a_step_is_told_before_it_is_begun() -> None:
    """The journal of a node that died says what it was doing, not what it had done before."""
    log = Log()
    hands = Watched(log)
    execute((MOUNT, EXPORT, NOTIFY), hands, log)
    assert hands.announced == [True, True, True]


def test_each_step_has_a_time_of_its_own() -> None:
    hands = Watched(Log())
    execute((MOUNT, EXPORT, NOTIFY), hands, hands._log)
    assert [hands.limits[step].seconds for step in (MOUNT, EXPORT, NOTIFY)] == [SECONDS[Action.MOUNT], USUAL, USUAL]


def test_steps_that_take_long_where_all_is_well_have_the_time_for_it() -> None:
    # ext4 with multi-mount protection: 21 s to ask, 43 s to mount after a crash. A thousand clients, a second each.
    assert SECONDS[Action.PROVE] > 2 * 21
    assert SECONDS[Action.MOUNT] > 2 * 43
    assert min(SECONDS[Action.STOP_NFSD], SECONDS[Action.GRACE]) > 1000


SIBLINGS = (Step(Action.MOUNT, "/srv/home"), Step(Action.MOUNT, "/srv/mail"))
NESTED = (Step(Action.MOUNT, "/srv/home"), Step(Action.MOUNT, "/srv/home/data"))


class AtOnce(Recorder):
    """Hands of which two have to be at work at the same time; the first is the one that fails."""

    def __init__(self, parties: int = 2, error: NlmfoError | None = None) -> None:
        super().__init__()
        self.done: list[str] = []
        self._both = threading.Barrier(parties)
        self._error = error

    def do(self, step: Step, limit: Deadline) -> str:
        self._both.wait(min(10, limit.remaining()))
        if step is SIBLINGS[0] and self._error is not None:
            raise self._error
        self.done.append(step.subject)
        return ""


def test_what_does_not_lie_in_one_another_is_done_side_by_side() -> None:
    hands, log = AtOnce(), Log()
    execute(SIBLINGS, hands, log)
    assert sorted(hands.done) == ["/srv/home", "/srv/mail"]
    assert {event.step for event in log.of(StepDone)} == set(SIBLINGS)


def test_what_lies_in_one_another_is_done_one_after_the_other() -> None:
    hands, log = Recorder(), Log()
    execute(NESTED, hands, log)
    assert [(type(event), getattr(event, "step", None)) for event in log.events] == [
        *((StepStarted, NESTED[0]), (StepDone, NESTED[0])),
        *((StepStarted, NESTED[1]), (StepDone, NESTED[1])),
    ]


def test_one_of_several_that_fails_stops_none_half_way_and_all_of_them_are_told() -> None:
    hands, log = AtOnce(error=NlmfoError("no such disk", hint="plug it in")), Log()
    with pytest.raises(StepFailed, match="mount: /srv/home: no such disk") as caught:
        execute((*SIBLINGS, EXPORT), hands, log)
    assert caught.value.hint == "plug it in"
    assert hands.done == ["/srv/mail"]
    assert {event.step for event in log.of(StepStarted)} == set(SIBLINGS)
    assert [event.step for event in log.of(StepNotDone)] == [SIBLINGS[0]]
    assert [event.step for event in log.of(StepDone)] == [SIBLINGS[1]]


def test_those_who_work_side_by_side_speak_one_at_a_time() -> None:
    """Two lines of a journal that were written at once would be none."""
    speaking, overlaps = threading.Lock(), []

    def sink(_: object) -> None:
        overlaps.append(not speaking.acquire(blocking=False))
        time.sleep(0.01)
        if not overlaps[-1]:
            speaking.release()

    wide = tuple(Step(Action.MOUNT, f"/srv/{number}") for number in range(8))
    execute(wide, AtOnce(parties=8), sink)
    assert overlaps == [False] * 16
