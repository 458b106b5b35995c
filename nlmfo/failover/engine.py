# SPDX-License-Identifier: GPL-2.0-or-later
"""Carries a plan out, step by step. Every action observes what it did before it returns."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol

from nlmfo.deadline import Deadline
from nlmfo.errors import NlmfoError, StepFailed
from nlmfo.failover.events import Event, Sink, StepDone, StepNotDone, StepStarted
from nlmfo.failover.plan import Action, Plan, Step, check, waves

#: Seconds that a step may take, whatever it consists of, where that is not the same for all.
SECONDS: dict[Action, float] = {
    # ext4 with multi-mount protection was seen to take 43 s to mount after its owner's power cut.
    Action.PROVE: 90.0,
    Action.MOUNT: 150.0,
    # lockd takes every client off statd's list while nfsd stops, at up to a second each: see host.daemons.stop_nfsd.
    Action.STOP_NFSD: 3600.0,
    Action.GRACE: 3600.0,
}
USUAL = 90.0


def seconds(action: Action) -> float:
    """How long a step may take."""
    return SECONDS.get(action, USUAL)


class Hands(Protocol):
    """What can do steps: the real thing, or a fake in tests."""

    def prepare(self) -> None:
        """Load and allocate what the steps need, changing nothing."""

    def do(self, step: Step, limit: Deadline) -> str:
        """Do it, see that it is done, and say what was found (or nothing), all before ``limit``."""


def execute(steps: Plan, hands: Hands, sink: Sink) -> None:
    """Do the steps in order, side by side where that is allowed. Those that fail end the run with StepFailed.

    ``sink`` hears of a step before it is begun and once it is done: what it writes down is never behind.
    """
    check(steps)
    hands.prepare()
    one_at_a_time = _Turns(sink)
    for wave in waves(steps):
        if len(wave) == 1:
            _do(wave[0], hands, one_at_a_time)
            continue
        # A signal that broke the wait would leave the others at work while what they do is taken down again: a mount
        # that comes after the owner record says "released". So it waits for them; each ends at its deadline.
        with uninterrupted(), ThreadPoolExecutor(len(wave)) as pool:
            running = [pool.submit(_do, step, hands, one_at_a_time) for step in wave]
        for done in running:
            done.result()


@contextmanager
def uninterrupted() -> Iterator[None]:
    """What is done here is not stopped half-way by Ctrl-C: the signal comes when it is done. It has its deadlines."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _do(step: Step, hands: Hands, sink: Sink) -> None:
    sink(StepStarted(step))
    begun = time.monotonic()
    try:
        detail = hands.do(step, Deadline(seconds(step.action)))
    except (NlmfoError, OSError) as error:
        sink(StepNotDone(step, time.monotonic() - begun, str(error)))
        raise StepFailed(str(step), error) from error
    sink(StepDone(step, time.monotonic() - begun, detail))


class _Turns:
    """Lets steps that go side by side speak one at a time."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._turn = threading.Lock()

    def __call__(self, event: Event) -> None:
        with self._turn:
            self._sink(event)
