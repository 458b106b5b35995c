# SPDX-License-Identifier: GPL-2.0-or-later
"""Events and states as sentences."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import singledispatch

from nlmfo.config import Service
from nlmfo.failover.clients import ClientOnRecord, ClientState
from nlmfo.failover.events import (
    AwaitingRelease,
    CleaningUp,
    ClientNotTold,
    ClientQuiet,
    Event,
    ExportLeftOut,
    JournalNotWritten,
    LocksMissing,
    Proved,
    RollingBack,
    StepDone,
    StepNotDone,
)
from nlmfo.failover.held import LockOnFile
from nlmfo.failover.plan import WHY, Plan, Step
from nlmfo.failover.progress import Locks, Progress
from nlmfo.failover.report import Clients, Grace, Pause, Report, Told, clients_of, next_steps
from nlmfo.failover.runs import Outlook
from nlmfo.failover.status import ServiceStatus
from nlmfo.plain import plain
from nlmfo.records.ledger import Standing

SUPERSEDED = "STILL MOUNTED here, and must not be written to: restart this node by 'echo b > /proc/sysrq-trigger'"
#: How many clients, and locks, a report names before it says how many more there are.
NAMED = 8
PARTLY = "PARTLY up here: run 'nlmfo resume' or 'nlmfo abort'"


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
        names = _listed(told.clients.unreachable_names, told.clients.unreachable)
        yield f"{of}did not answer: {names}"
    if told.clients.not_back_names:
        yield f"{of}asked for no lock so far: {_listed(told.clients.not_back_names)}"
    if told.locks is not None:
        yield f"{of}locks: {_held(told.locks)}"
        missing = told.locks.missing
        yield from (f"  not held again: {plain(lock)}" for lock in missing[:NAMED])
        if len(missing) > NAMED:
            yield f"  not held again: {len(missing) - NAMED} more"
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
        return f"goes on until {_time_of_day(grace.until)} at the latest" if grace.until else "goes on"
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


def _listed(names: Iterable[str], count: int | None = None) -> str:
    """The first names, and how many more there are."""
    found = [plain(name) for name in names]
    more = (len(found) if count is None else count) - len(found[:NAMED])
    return ", ".join(found[:NAMED]) + (f" and {more} more" if more > 0 else "")


def status(states: list[ServiceStatus], progresses: Mapping[str, Progress] | None = None) -> str:
    """One line for each service. ``progresses``: how far the clients are, of those services that are served here."""
    if not states:
        return "no services are configured"
    width = max(len(state.service) for state in states)
    found = progresses or {}
    return "\n".join(f"{state.service:<{width}}  {_standing(state, found.get(state.service))}" for state in states)


def clients(found: list[ClientOnRecord]) -> str:
    """A table of the clients on record."""
    if not found:
        return "nobody is on record here"
    rows = [("SERVICE", "CLIENT", "ADDRESSES", "FSIDS", "SINCE", "STATE")]
    rows += [
        (
            client.service,
            plain(client.client),
            ",".join(client.addresses),
            ",".join(client.fsids) or "any",
            when(client.since),
            _state(client),
        )
        for client in found
    ]
    return columns(rows)


def locks(found: Sequence[LockOnFile]) -> str:
    """A table of the locks that clients hold."""
    if not found:
        return "no client holds a lock here, as far as the kernel shows"
    rows = [("SERVICE", "FILE", "BYTES", "TYPE", "HOLDERS", "CLIENTS THAT MAY HOLD IT")]
    rows += [
        (
            lock.service,
            f"inode {lock.inode} of {plain(lock.mountpoint)}" if lock.path is None else plain(lock.path),
            f"{lock.first}-{'end' if lock.last is None else lock.last}",
            "exclusive" if lock.exclusive else "shared",
            str(lock.holders),
            _listed(lock.clients) or "nobody on record",
        )
        for lock in found
    ]
    return columns(rows)


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Cells below each other, of which the last has no end."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _state(client: ClientOnRecord) -> str:
    said, notice = str(client.state), client.notice
    if notice is None:
        said += f", {Standing.PENDING}" if client.state is ClientState.OWED else ""
    elif notice.standing is Standing.UNREACHABLE:
        said += f", unreachable since {when(notice.since)}"
    elif notice.standing is Standing.LEFT:
        said += f", left {when(notice.at)}: {plain(notice.detail)}"
    elif notice.standing is Standing.PENDING:
        said += f", pending since {when(notice.since)}"
    else:
        said += f", {notice.standing} {when(notice.at)}"
    return said if client.intact else f"{said}, record damaged"


def when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _time_of_day(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds))


def _standing(state: ServiceStatus, progress: Progress | None) -> str:
    if state.problem:
        return f"unknown: {state.problem}"
    if state.owner is None:
        return f"no owner on record; {PARTLY}" if state.here == "partly" else "not served anywhere yet"
    owner = f"{state.owner.standing} on {state.owner.node} since {when(state.owner.since)} (epoch {state.owner.epoch})"
    if state.superseded:
        return f"{owner}; {SUPERSEDED}"
    if state.here == "partly":
        return f"{owner}; {PARTLY}{_unfinished(state)}"
    if state.here == "serving":
        return f"{owner}, here{_in_grace(state, progress)}{_trouble(state)}{_unreached(state, progress)}"
    return f"{owner}{_unfinished(state)}"


def _in_grace(state: ServiceStatus, progress: Progress | None) -> str:
    """Whether it is in grace, and how far the clients are."""
    if not state.in_grace:
        return ""
    if progress is None:
        return ", in grace"
    clients, locks = clients_of(progress), progress.locks
    said = f"{clients.told} of {clients.owed} clients told, {clients.back} back"
    said += f", {locks.back} of {locks.total} locks held again" if locks is not None else ""
    said += " (estimate)" if locks is not None and not locks.exact else ""
    until = f" until {_time_of_day(progress.grace_until)} at the latest" if progress.grace_until else ""
    return f", in grace{until}: {said}"


def _unreached(state: ServiceStatus, progress: Progress | None) -> str:
    unreachable = 0 if progress is None else clients_of(progress).unreachable
    if not unreachable:
        return ""
    who = "1 client" if unreachable == 1 else f"{unreachable} clients"
    return f"; WARNING: {who} unreachable, told again when seen: see 'nlmfo clients {state.service}'"


def _unfinished(state: ServiceStatus) -> str:
    if state.unfinished is None:
        return ""
    return f"; WARNING: a run was cut off here ({state.unfinished}): run 'nlmfo resume' or 'nlmfo abort'"


def _trouble(state: ServiceStatus) -> str:
    """What is wrong with a service that is served here."""
    trouble = _unfinished(state)
    if state.untold:
        trouble += "; WARNING: not every client was told to reclaim: run 'nlmfo takeover' here"
    if state.unread:
        trouble += "; WARNING: its records do not answer: see to the storage that they lie on"
    if state.stalled or state.waiting:
        why = plain(state.stalled or "on their way")
        trouble += f"; WARNING: {state.waiting} records are on this node only ({why})"
    if state.refused:
        trouble += f"; WARNING: {state.refused} clients could not be put on record (see docs/records.md)"
    return trouble
