# SPDX-License-Identifier: GPL-2.0-or-later
"""Deadlines on the monotonic clock: no wait in nlmfo is without one."""

from __future__ import annotations

import time
from collections.abc import Callable

from nlmfo.errors import DeadlineExceeded


class Deadline:
    """A moment on the monotonic clock, ``seconds`` from its making."""

    __slots__ = ("_end", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def remaining(self) -> float:
        """Seconds left, never below 0."""
        return max(0.0, self._end - time.monotonic())

    def passed(self) -> bool:
        return self.remaining() == 0.0


def poll_until(what: str, check: Callable[[], bool], deadline: Deadline, *, interval: float = 0.05) -> None:
    """Call ``check`` until it returns true; raise DeadlineExceeded naming ``what`` when time is up.

    ``check`` runs at least once, and once more after the last wait.
    """
    while not check():
        if deadline.passed():
            raise DeadlineExceeded(what, deadline.seconds)
        time.sleep(min(interval, deadline.remaining()))
