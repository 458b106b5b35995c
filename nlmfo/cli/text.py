# SPDX-License-Identifier: GPL-2.0-or-later
"""Events and states as sentences."""

from __future__ import annotations

from collections.abc import Iterator
from functools import singledispatch

from nlmfo.cli import words
from nlmfo.config import Service
from nlmfo.failover.events import (
    AwaitingRelease,
    CleaningUp,
    ClientNotTold,
    ClientQuiet,
    Event,
    ExportLeftOut,
    JournalNotWritten,
    LocksMissing,
    Mended,
    Proved,
    RollingBack,
    StartedAgain,
    StepDone,
    StepNotDone,
    StoodDown,
    Troubled,
)
from nlmfo.failover.plan import WHY, Plan, Step
from nlmfo.failover.progress import Clients, Locks
from nlmfo.failover.report import Grace, Pause, Report, Told, next_steps
from nlmfo.failover.runs import Outlook
from nlmfo.plain import plain


@singledispatch
def line(_event: Event) -> str | None:
    """The line that tells of an event; None when it needs none."""
    return None


@line.register
def _(event: Proved) -> str:
    return f"{event.service}: may be served here: {event.reason}"


@line.register
def _(event: CleaningUp) -> str:
    return f"{event.service}: something was left here by an earlier run; it goes first"


@line.register
def _(event: StepDone) -> str:
    detail = f"  ({event.detail})" if event.detail else ""
    return f"{event.seconds:6.2f} s  {event.step}{detail}"


@line.register
def _(event: StepNotDone) -> str:
    return f"{event.seconds:6.2f} s  {event.step}  FAILED"


@line.register
def _(event: RollingBack) -> str:
    return f"{event.service}: taking down what was begun"


@line.register
def _(event: ClientNotTold) -> str:
    return f"warning: client {plain(event.client)} was not told: {plain(event.reason)}; it stays on record"


@line.register
def _(event: ClientQuiet) -> str:
    return f"client {plain(event.client)} has asked for no lock again so far; it stays on record"


@line.register
def _(event: ExportLeftOut) -> str:
    return f"warning: {event.export} is not exported: the client's name cannot be resolved here"


@line.register
def _(event: JournalNotWritten) -> str:
    return f"warning: the journal of this run has gaps: {event.reason}"


@line.register
def _(event: AwaitingRelease) -> str:
    return f"{event.service}: ready; waiting for {event.node} to release it"


@line.register
def _(event: LocksMissing) -> str:
    of = f"{event.missing} of {event.total} locks are not held again"
    if not event.exact:
        of += " (of those seen at the last look before the crash)"
    return "\n".join((f"warning: {of}", *(f"  {plain(lock)}" for lock in event.named)))


@line.register
def _(event: Troubled) -> str:
    return plain(event.reason)


@line.register
def _(event: StartedAgain) -> str:
    return f"{event.part}: started again"


@line.register
def _(_event: Mended) -> str:
    return "all is in order again"


@line.register
def _(event: StoodDown) -> str:
    return f"{plain(event.node)} owns it (epoch {event.epoch}): stood down"


def outlook(service: Service, found: Outlook) -> str:
    """What a run would do, each step with its reason."""
    lines = []
    if found.refused is not None:
        lines += [f"{service.name}: would be refused ({found.refused.code}): {found.refused}"]
        lines += [f"hint: {found.refused.hint}"] if found.refused.hint else []
    if found.proof is not None:
        lines += [f"{service.name}: may be served here: {found.proof.reason}"]
    if found.first:
        lines += ["first, what a run that did not end has left here:", *_steps(found.first, 1)]
    if found.steps:
        lines += [f"{found.verb} of {service.name}:", *_steps(found.steps, len(found.first) + 1)]
    if not found.first and not found.steps:
        lines += [f"{service.name}: nothing to do: it is served here, and everybody was told"]
    return "\n".join(lines)


def _steps(steps: Plan, first: int) -> Iterator[str]:
    for number, step in enumerate(steps, start=first):
        why = WHY[step.action]
        yield f"{number:3}  {step}" + (f"\n       {why}" if why else "")


def outlook_document(service: Service, found: Outlook) -> dict[str, object]:
    """The same for machines."""
    refused, proof = found.refused, found.proof
    return {
        "service": service.name,
        "verb": found.verb,
        "refused": None if refused is None else {"code": refused.code, "text": refused.text, "hint": refused.hint},
        "proof": None if proof is None else {"reason": proof.reason, "epoch": proof.epoch},
        "first": [_step(step) for step in found.first],
        "steps": [_step(step) for step in found.steps],
    }


def _step(step: Step) -> dict[str, str]:
    return {"action": str(step.action), "subject": step.subject, "why": WHY[step.action]}


def report(found: Report) -> str:
    """What a run came to, in a few lines."""
    outcome = found.outcome or "cut off"
    lines = [f"{found.service}: {found.verb}: {outcome} after {found.seconds:.2f} s{_slowest(found)}"]
    lines += [f"  {line}" for told in found.told for line in _told(told, several=len(found.told) > 1)]
    if found.pause is not None:
        lines.append(f"  {_pause(found.pause)}")
    lines += [f"  next: {step}" for step in next_steps(found)]
    return "\n".join(lines)


def _slowest(found: Report) -> str:
    if not found.steps:
        return ""
    slowest = max(found.steps, key=lambda each: each.seconds)
    return f"; the longest step was '{slowest.step}', {slowest.seconds:.2f} s"


def _told(told: Told, *, several: bool) -> Iterator[str]:
    of = f"{told.service}: " if several else ""
    yield f"{of}clients: {_counted(told.clients)}"
    if told.clients.unreachable:
        names = words.listed(told.clients.unreachable_names, told.clients.unreachable)
        yield f"{of}did not answer: {names}"
    if told.clients.not_back_names:
        yield f"{of}asked for no lock so far: {words.listed(told.clients.not_back_names)}"
    if told.locks is not None:
        yield f"{of}locks: {_held(told.locks)}"
        missing = told.locks.missing
        yield from (f"  not held again: {plain(lock)}" for lock in missing[: words.NAMED])
        if len(missing) > words.NAMED:
            yield f"  not held again: {len(missing) - words.NAMED} more"
    yield f"{of}grace: {_grace(told.grace)}"


def _counted(clients: Clients) -> str:
    if not clients.owed:
        return "nobody had to be told"
    said = f"{clients.owed} owed a notice, {clients.told} told, {clients.answered} answered, {clients.back} back"
    said += f", {clients.left} hold nothing any more" if clients.left else ""
    return said + (f", {clients.unreachable} did not answer" if clients.unreachable else "")


def _held(locks: Locks) -> str:
    said = f"{locks.back} of {locks.total} held again"
    return said if locks.exact else f"{said} (estimate: of those seen at the last look before the crash)"


def _grace(grace: Grace) -> str:
    if grace.on:
        return f"goes on until {words.time_of_day(grace.until)} at the latest" if grace.until else "goes on"
    after = "" if grace.after is None else f" after {grace.after:.1f} s"
    return f"ended early{after}: {plain(grace.ended)}" if grace.ended else f"over{after}"


def _pause(pause: Pause) -> str:
    if pause.exact:
        since = f"from address down on {plain(pause.node)} to address up here"
        return f"longest pause for clients: {pause.seconds:.2f} s, {since}, by the clocks of both nodes"
    return (
        f"longest pause for clients: at least {pause.seconds:.2f} s, from the claim to address up; when the last owner "
        "went away is not on record"
    )
