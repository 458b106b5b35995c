# SPDX-License-Identifier: GPL-2.0-or-later
"""What happens during a run, as data: the command line renders it, tests compare it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nlmfo.failover.plan import Plan, Step
from nlmfo.failover.progress import Progress
from nlmfo.failover.verbs import Outcome, Verb


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events."""


@dataclass(frozen=True, slots=True)
class Begun(Event):
    """A run begins. ``fenced`` and ``released_by`` are what the operator vouched for; ``run`` is its journal's name."""

    verb: Verb
    service: str
    node: str
    boot_id: str
    fenced: str | None = None
    released_by: str | None = None
    run: str = ""


@dataclass(frozen=True, slots=True)
class Planned(Event):
    """What will be done, from what was found."""

    steps: Plan


@dataclass(frozen=True, slots=True)
class Ended(Event):
    """A run came to its end. ``error`` says why it failed; empty when it did not."""

    outcome: Outcome
    error: str = ""


@dataclass(frozen=True, slots=True)
class JournalNotWritten(Event):
    """From here on the journal has gaps; the run goes on, because it decides nothing."""

    reason: str


@dataclass(frozen=True, slots=True)
class Proved(Event):
    """Nobody else serves, and why."""

    service: str
    reason: str
    epoch: int


@dataclass(frozen=True, slots=True)
class AwaitingRelease(Event):
    """All is ready that can be; another node still serves."""

    service: str
    node: str


@dataclass(frozen=True, slots=True)
class CleaningUp(Event):
    """Something of the service was left here by a run that did not end, and goes first."""

    service: str


@dataclass(frozen=True, slots=True)
class StepStarted(Event):
    step: Step


@dataclass(frozen=True, slots=True)
class StepDone(Event):
    """``detail`` is what was found or made, for the reader; empty when the step says it all."""

    step: Step
    seconds: float
    detail: str


@dataclass(frozen=True, slots=True)
class StepNotDone(Event):
    step: Step
    seconds: float
    error: str


@dataclass(frozen=True, slots=True)
class RollingBack(Event):
    """A takeover failed half-way; what was begun is taken down again."""

    service: str


@dataclass(frozen=True, slots=True)
class ClientNotTold(Event):
    """A client that may hold locks could not be notified; it stays on record."""

    client: str
    reason: str


@dataclass(frozen=True, slots=True)
class ClientQuiet(Event):
    """A client that was on record has not asked for a lock again; it stays on record.

    Either it had none to reclaim, which is common, or it could not be told, or its reclaim failed.
    """

    client: str


@dataclass(frozen=True, slots=True)
class Progressed(Event):
    """Clients were told or came back, locks were reclaimed, or grace has ended."""

    service: str
    progress: Progress


@dataclass(frozen=True, slots=True)
class LocksMissing(Event):
    """Locks of before that are not held again. ``exact``: the release noted them; else the last look before a crash."""

    missing: int
    total: int
    exact: bool
    named: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ExportLeftOut(Event):
    """One client's export was left out, because its name cannot be resolved; the others are served."""

    export: str


@dataclass(frozen=True, slots=True)
class Troubled(Event):
    """Something is wrong with a service that is served, or its keeper cannot do all of its work."""

    service: str
    reason: str


@dataclass(frozen=True, slots=True)
class StartedAgain(Event):
    """A ``part`` of a service had died, or answered no more; it runs again, and no lock was lost."""

    service: str
    part: str


@dataclass(frozen=True, slots=True)
class Mended(Event):
    """What was wrong is over."""

    service: str


@dataclass(frozen=True, slots=True)
class StoodDown(Event):
    """Another node owns the service: this one answers its clients no more."""

    service: str
    node: str
    epoch: int


Sink = Callable[[Event], None]
