# SPDX-License-Identifier: GPL-2.0-or-later
"""Steps that go side by side end before a signal is heard: what they do must not come after it was taken down."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator

import pytest

from nlmfo.deadline import Deadline
from nlmfo.errors import NlmfoError, StepFailed
from nlmfo.failover.engine import execute, uninterrupted
from nlmfo.failover.plan import Action, Step
from tests.unit.cluster_fake import Log

MOUNTS = (Step(Action.MOUNT, "/srv/home"), Step(Action.MOUNT, "/srv/nlmfo/home"))
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Slow:
    """Hands whose mounts take a while, in which the process is told to end as often as ``times``."""

    def __init__(self, number: int, times: int = 1) -> None:
        self.mounted: list[str] = []
        self._number = number
        self._times = times
        self._both = threading.Barrier(2)

    def prepare(self) -> None:
        """Nothing to load."""

    def do(self, step: Step, limit: Deadline) -> str:
        assert not limit.passed()
        self._both.wait(10)
        for _ in range(self._times):
            # To the thread that would hear it: a runner of tests has others, which block nothing.
            signal.pthread_kill(threading.main_thread().ident or 0, self._number)
        # Whoever waits for this would have been interrupted long before.
        time.sleep(0.3)
        self.mounted.append(step.subject)
        return ""


@pytest.fixture(autouse=True)
def interrupting() -> Iterator[None]:
    """The handlers of the command line."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("times", [1, 3])
def test_an_interruption_waits_until_all_that_go_side_by_side_have_ended(number: int, times: int) -> None:
    hands = Slow(number, times)
    with pytest.raises(KeyboardInterrupt):
        execute(MOUNTS, hands, Log())
    assert sorted(hands.mounted) == ["/srv/home", "/srv/nlmfo/home"]


def test_an_interruption_ends_the_run_before_the_next_step() -> None:
    hands, log = Slow(signal.SIGTERM), Log()
    with pytest.raises(KeyboardInterrupt):
        execute((*MOUNTS, Step(Action.RECORDS, "/srv/nlmfo/home")), hands, log)
    assert [getattr(event, "step", None) for event in log.events].count(MOUNTS[0]) == 2
    assert len(hands.mounted) == 2


def test_a_failure_of_one_of_them_is_told_when_the_other_has_ended() -> None:
    ended = threading.Event()

    class OneFails(Slow):
        def do(self, step: Step, _: Deadline) -> str:
            if step is MOUNTS[0]:
                raise NlmfoError("no such disk")
            time.sleep(0.1)
            ended.set()
            return ""

    with pytest.raises(StepFailed, match="no such disk"):
        execute(MOUNTS, OneFails(0), Log())
    assert ended.is_set()


def test_what_is_not_to_be_interrupted_hears_of_the_signal_when_it_is_done() -> None:
    done = []

    def work() -> None:
        with uninterrupted():
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            done.append(True)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & set(SIGNALS)
