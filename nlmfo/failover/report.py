# SPDX-License-Identifier: GPL-2.0-or-later
"""What a run came to, from the events that were heard of it: times, clients, locks, grace, and how long clients waited.

Pure: whoever hears the events says when that was, and hands in the journals of earlier runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeGuard

from nlmfo.failover.events import Begun, Ended, Event, Progressed, StepDone, StepNotDone
from nlmfo.failover.plan import Action, Step
from nlmfo.failover.progress import Clients, Locks, Progress
from nlmfo.failover.verbs import Outcome, Verb

#: How many journals to look through for the last release: enough to get past some runs that failed.
EARLIER = 10
#: What begins a grace period, in either isolation.
GRACE_BEGINS = frozenset({Action.START_NFSD, Action.GRACE})


@dataclass(frozen=True, slots=True)
class StepTime:
    """How long a step took, in seconds. ``done`` is false where it failed."""

    step: Step
    seconds: float
    done: bool


@dataclass(frozen=True, slots=True)
class Grace:
    """``on``, until ``until`` (seconds since 1970) at the latest, 0 when not known; or over.

    ``ended``: why it was ended early, ``after`` so many seconds; None when it was not seen to begin.
    """

    on: bool
    until: float
    ended: str
    after: float | None


@dataclass(frozen=True, slots=True)
class Told:
    """The clients of one service. ``problem``: what keeps notices from being sent."""

    service: str
    clients: Clients
    locks: Locks | None
    grace: Grace
    problem: str


@dataclass(frozen=True, slots=True)
class AddressDown:
    """When a release began to take the address down, by the clock of ``node``, in seconds since 1970."""

    node: str
    at: float


@dataclass(frozen=True, slots=True)
class Pause:
    """How long nobody answered at the address. ``exact``: since ``node`` took it down, by the clocks of both nodes.

    Else at least ``seconds``: when the last owner went away is not on record, so it counts from the claim.
    """

    seconds: float
    exact: bool
    node: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """Times are in seconds since 1970, ``seconds`` is how long the run took. ``outcome`` is None while it goes on.

    ``address_down``, ``address_up``: when this run did that last; None when it did not. ``told``: this service first,
    then those that share its nfsd. ``pause`` is None where nobody had to wait, or not for this run.
    """

    service: str
    verb: Verb
    node: str
    outcome: Outcome | None
    error: str
    began: float
    seconds: float
    steps: tuple[StepTime, ...]
    address_down: float | None
    address_up: float | None
    told: tuple[Told, ...]
    pause: Pause | None


@dataclass(slots=True)
class _Heard:
    """The last that was heard of a service's clients, and when their grace was first seen to be over."""

    progress: Progress
    over_at: float | None = None


class Reporter:
    """Listens to one run. ``at``: when each event came, in seconds since 1970, by a clock that is not set meanwhile."""

    def __init__(self, begun: Begun, at: float) -> None:
        self.begun = begun
        self._began = self._last = at
        self._steps: list[StepTime] = []
        self._done: dict[Action, float] = {}
        self._claimed: float | None = None
        self._heard: dict[str, _Heard] = {}
        self._ended: Ended | None = None

    def hear(self, event: Event, at: float) -> None:
        """Take in one event of the run."""
        self._last = at
        match event:
            case StepDone(step, seconds):
                self._steps.append(StepTime(step, seconds, done=True))
                self._done[step.action] = at
                if step.action is Action.CLAIM:
                    self._claimed = at - seconds
            case StepNotDone(step, seconds):
                self._steps.append(StepTime(step, seconds, done=False))
            case Progressed(service, progress):
                heard = self._heard.setdefault(service, _Heard(progress))
                heard.progress = progress
                if not progress.in_grace and heard.over_at is None:
                    heard.over_at = at
            case Ended():
                self._ended = event

    def report(self, before: AddressDown | None = None) -> Report:
        """What is known so far. ``before``: when the release of the last owner took the address down."""
        names = sorted(self._heard, key=lambda name: name != self.begun.service)
        return Report(
            service=self.begun.service,
            verb=self.begun.verb,
            node=self.begun.node,
            outcome=None if self._ended is None else self._ended.outcome,
            error="" if self._ended is None else self._ended.error,
            began=self._began,
            seconds=self._last - self._began,
            steps=tuple(self._steps),
            address_down=self._done.get(Action.ADDRESS_DOWN),
            address_up=self._done.get(Action.ADDRESS_UP),
            told=tuple(self._told(name, self._heard[name]) for name in names),
            pause=self._pause(before),
        )

    def _told(self, service: str, heard: _Heard) -> Told:
        found = heard.progress
        begins = [self._done[action] for action in GRACE_BEGINS if action in self._done]
        after = None if heard.over_at is None or not begins else max(0.0, heard.over_at - max(begins))
        grace = Grace(found.in_grace, found.grace_until, found.ended, after)
        return Told(service, found.counted, found.locks, grace, found.problem)

    def _pause(self, before: AddressDown | None) -> Pause | None:
        up, outcome = self._done.get(Action.ADDRESS_UP), self._ended and self._ended.outcome
        if up is None or self._claimed is None or outcome is not Outcome.SERVED:
            return None
        since = min(self._claimed, self._done.get(Action.ADDRESS_DOWN, up))
        # A release that came after our claim did not: the clocks differ by more than the pause.
        if before is not None and before.at <= since:
            return Pause(up - before.at, exact=True, node=before.node)
        owed = sum(heard.progress.everybody for heard in self._heard.values())
        return Pause(up - since, exact=False) if owed else None


def next_steps(report: Report) -> tuple[str, ...]:
    """What is left for the operator to do, or to know."""
    return tuple(step for told in report.told for step in _next(told))


def _next(told: Told) -> Iterator[str]:
    clients, locks = told.clients, told.locks
    if told.problem:
        yield f"notices cannot be sent ({told.problem}): mend it, they are sent as soon as they can be"
    if clients.unreachable:
        yield (
            f"who did not answer is told again when it is seen: 'nlmfo clients {told.service}'; "
            f"if it is gone for good: 'nlmfo clients {told.service} --forget CLIENT'"
        )
    elif clients.not_back_names:
        yield f"who is not back stays on record until its locks are accounted for: 'nlmfo clients {told.service}'"
    if locks is not None and locks.back < locks.total and not told.grace.on:
        yield "a lock that is not held again can be granted to others by now: see to the programs that held it"


def as_object(report: Report) -> dict[str, Any]:
    """A report as JSON has it. Times are in seconds since 1970."""
    return {
        "service": report.service,
        "verb": str(report.verb),
        "node": report.node,
        "outcome": None if report.outcome is None else str(report.outcome),
        "error": report.error,
        "began": round(report.began, 3),
        "seconds": round(report.seconds, 3),
        "steps": [
            {
                "action": str(each.step.action),
                "subject": each.step.subject,
                "seconds": round(each.seconds, 3),
                "done": each.done,
            }
            for each in report.steps
        ],
        "address_down": _rounded(report.address_down),
        "address_up": _rounded(report.address_up),
        "services": [asdict(told) for told in report.told],
        "pause": None if report.pause is None else asdict(report.pause),
        "next": list(next_steps(report)),
    }


def _rounded(at: float | None) -> float | None:
    return None if at is None else round(at, 3)


Lines = Sequence[Mapping[str, Any]]


def last_address_down(journals: Iterable[Lines], begun: Begun) -> AddressDown | None:
    """When the last owner's release took the address down; None when nobody released it since it was served last.

    ``journals`` are those of the service, as nlmfo.records.journal reads them; the run that ``begun`` began may be
    among them. A takeover that waits begins before the release that it waits for, so their order says nothing: what
    counts is when addresses came up and went down. Of a release that was cut off and resumed the first time counts.
    They lie where clients may be able to write, so what makes no sense is left out, and nothing but a line of text
    depends on it.
    """
    served: list[tuple[float, str]] = []
    downs: list[AddressDown] = []
    ours = (str(Verb.TAKEOVER), begun.node, begun.boot_id)
    for lines in journals:
        head = next((line for line in lines if line.get("event") == "begun"), {})
        verb, node = head.get("verb"), str(head.get("node"))
        if (verb, node, head.get("boot_id")) == ours:
            ours = ("", "", "")  # the run itself: the newest one of this node
        elif verb == Verb.TAKEOVER and _served(lines):
            served.append((_began(lines, Action.ADDRESS_UP) or _last(lines), node))
        elif verb == Verb.RELEASE:
            at = _began(lines, Action.ADDRESS_DOWN)
            downs += [AddressDown(node, at)] if at else []
    since, owner = max(served, default=(0.0, ""))
    # Others may have cleaned up what never came up there.
    counting = (down for down in downs if down.at > since and owner in ("", down.node))
    return min(counting, key=lambda down: down.at, default=None)


def _served(lines: Lines) -> bool:
    if any(line.get("event") == "ended" and line.get("outcome") == Outcome.SERVED for line in lines):
        return True
    return _done(lines, Action.ADDRESS_UP) is not None and not any(
        line.get("event") == "rolling-back" for line in lines
    )


def _began(lines: Lines, action: Action) -> float | None:
    """When a step that was done began."""
    line = _done(lines, action)
    return None if line is None else float(line["at"]) - float(line["seconds"])


def _last(lines: Lines) -> float:
    """When the last thing happened of which it is known."""
    return max((float(line["at"]) for line in lines if is_time(line.get("at"))), default=0.0)


def _done(lines: Lines, action: Action) -> Mapping[str, Any] | None:
    """The line that says that a step was done, if it says when."""
    for line in lines:
        step = line.get("step")
        if line.get("event") == "step-done" and isinstance(step, dict) and step.get("action") == action:
            return line if all(is_time(line.get(name)) for name in ("at", "seconds")) else None
    return None


def is_time(value: object) -> TypeGuard[int | float]:
    """A number of seconds below the year 5138; JSON also has such that no float can be."""
    return isinstance(value, int | float) and 0 <= value < 1e11
