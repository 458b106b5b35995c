# SPDX-License-Identifier: GPL-2.0-or-later
"""A plan is carried out in order, told step by step, and ends with the first step that fails."""

from __future__ import annotations

import errno

import pytest

from nlmfo.deadline import Deadline
from nlmfo.errors import CommandFailed, DeadlineExceeded, ExitCode, NlmfoError, Refused, StepFailed
from nlmfo.failover.engine import SECONDS, USUAL, execute
from nlmfo.failover.events import StepDone, StepNotDone, StepStarted
from nlmfo.failover.plan import Action, Step
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
