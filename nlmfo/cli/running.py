# SPDX-License-Identifier: GPL-2.0-or-later
"""What is going on in a run: the words of the status line, and a line for each thing that clients wait for."""

from __future__ import annotations

import math
from collections.abc import Iterator

from nlmfo.cli import text
from nlmfo.failover.events import AwaitingRelease, Ended, Event, Progressed, StepDone, StepNotDone, StepStarted
from nlmfo.failover.plan import Action, Step
from nlmfo.failover.progress import Locks, Progress
from nlmfo.plain import plain

#: The steps in which clients come back, so that there is more to say than how long it takes.
_CLIENTS = frozenset({Action.NOTIFY, Action.RECLAIM})


class Running:
    """Follows the events of a run. ``now`` is of a clock that is never set, in seconds."""

    def __init__(self) -> None:
        self._since: dict[Step, float] = {}
        self._awaited: tuple[str, float] | None = None
        self._progress: dict[str, Progress] = {}
        self._reached: set[tuple[str, str]] = set()

    def lines(self, event: Event, now: float) -> list[str]:
        """All that there is to say of an event, which is taken in."""
        said = text.line(event)
        return [*([] if said is None else [said]), *self.hear(event, now)]

    def hear(self, event: Event, now: float) -> list[str]:
        """Take in an event; the lines for what was reached by it for the first time."""
        match event:
            case StepStarted(step):
                self._since[step] = now
                self._awaited = None
            case StepDone(step) | StepNotDone(step):
                self._since.pop(step, None)
            case AwaitingRelease(_, node):
                self._awaited = node, now
            case Ended():
                self._since.clear()
                self._awaited = None
            case Progressed(service, progress):
                self._progress[service] = progress
                return [line for what, line in _reached(service, progress) if self._is_new(service, what)]
        return []

    def words(self, now: float, wall: float) -> str:
        """What is being done, for how long, and how the clients stand; empty when nothing is. ``wall``: since 1970."""
        if self._awaited is not None:
            node, since = self._awaited
            return f"{now - since:6.1f} s  waiting for {plain(node)} to release it"
        if not self._since:
            return ""
        step, since = next(iter(self._since.items()))
        more = f" (and {len(self._since) - 1} more)" if len(self._since) > 1 else ""
        said = [f"{now - since:6.1f} s  {plain(str(step))}{more}"]
        if step.action in _CLIENTS:
            several = len(self._progress) > 1
            said += [(f"{name}: " if several else "") + standing(p, wall) for name, p in self._progress.items()]
        return " | ".join(said)

    def _is_new(self, service: str, what: str) -> bool:
        new = (service, what) not in self._reached
        self._reached.add((service, what))
        return new


def standing(found: Progress, wall: float) -> str:
    """How the clients of a service stand, in one line."""
    clients = found.counted
    said = f"{clients.told} of {clients.owed} clients told, {clients.answered} answered, {clients.back} back"
    if clients.unreachable:
        said += f", {clients.unreachable} unreachable"
    if found.locks is not None and found.locks.total:
        said += f" | {_locks(found.locks)}"
    return f"{said} | {_grace(found, wall)}"


def _locks(locks: Locks) -> str:
    return f"{locks.back} of {locks.total} locks held again{'' if locks.exact else ' (estimate)'}"


def _grace(found: Progress, wall: float) -> str:
    if not found.in_grace:
        return "grace ended"
    left = math.ceil(found.grace_until - wall)
    return f"{left} s of grace left" if left > 0 else "in grace"


def _reached(service: str, found: Progress) -> Iterator[tuple[str, str]]:
    """What can be said once and for all."""
    clients, locks = found.counted, found.locks
    if found.told:
        if not clients.owed:
            yield "told", f"{service}: nobody had to be told"
        else:
            silent = f"; {clients.unreachable} did not answer" if clients.unreachable else ""
            yield "told", f"{service}: {clients.owed} clients told, {clients.answered} answered{silent}"
    if locks is not None and locks.total and locks.back == locks.total:
        seen = "" if locks.exact else " (estimate: those seen at the last look before the crash)"
        yield "locks", f"{service}: {locks.total} of {locks.total} locks are held again{seen}"
    if not found.in_grace:
        yield (
            "grace",
            f"{service}: grace ended early: {plain(found.ended)}" if found.ended else f"{service}: grace is over",
        )
