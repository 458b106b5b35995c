# SPDX-License-Identifier: GPL-2.0-or-later
"""Carries a plan out, step by step. Every action observes what it did before it returns."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Protocol

from nlmfo.errors import NlmfoError, StepFailed
from nlmfo.failover.events import Sink, StepDone, StepNotDone, StepStarted
from nlmfo.failover.plan import Step


class Hands(Protocol):
    """What can do steps: the real thing, or a fake in tests."""

    def prepare(self) -> None:
        """Load and allocate what the steps need, changing nothing."""

    def do(self, step: Step) -> str:
        """Do it, see that it is done, and say what was found (or nothing)."""


def execute(steps: Iterable[Step], hands: Hands, sink: Sink) -> None:
    """Do the steps in order. The first that fails ends the run with StepFailed."""
    hands.prepare()
    for step in steps:
        sink(StepStarted(step))
        begun = time.monotonic()
        try:
            detail = hands.do(step)
        except (NlmfoError, OSError) as error:
            sink(StepNotDone(step, time.monotonic() - begun, str(error)))
            raise StepFailed(str(step), error) from error
        sink(StepDone(step, time.monotonic() - begun, detail))
