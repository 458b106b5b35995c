# SPDX-License-Identifier: GPL-2.0-or-later
"""Events and states as sentences."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import singledispatch

from nlmfo.config import Service
from nlmfo.failover.clients import ClientOnRecord
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
from nlmfo.failover.plan import WHY, Plan, Step
from nlmfo.failover.runs import Outlook
from nlmfo.failover.status import ServiceStatus
from nlmfo.plain import plain

SUPERSEDED = "STILL MOUNTED here, and must not be written to: restart this node by 'echo b > /proc/sysrq-trigger'"
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
    return f"warning: client {event.client} was not told: {event.reason}; it stays on record"


@line.register
def _(event: ClientQuiet) -> str:
    return f"client {event.client} has asked for no lock again so far; it stays on record"


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
    return "\n".join((f"warning: {of}", *(f"  {lock}" for lock in event.named)))


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


def status(states: list[ServiceStatus]) -> str:
    """One line for each service."""
    if not states:
        return "no services are configured"
    width = max(len(state.service) for state in states)
    return "\n".join(f"{state.service:<{width}}  {_standing(state)}" for state in states)


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
            _when(client.since),
            client.state if client.intact else f"{client.state}, record damaged",
        )
        for client in found
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _standing(state: ServiceStatus) -> str:
    if state.problem:
        return f"unknown: {state.problem}"
    if state.owner is None:
        return f"no owner on record; {PARTLY}" if state.here == "partly" else "not served anywhere yet"
    owner = f"{state.owner.standing} on {state.owner.node} since {_when(state.owner.since)} (epoch {state.owner.epoch})"
    if state.superseded:
        return f"{owner}; {SUPERSEDED}"
    if state.here == "partly":
        return f"{owner}; {PARTLY}{_unfinished(state)}"
    if state.here == "serving":
        return f"{owner}, here{', in grace' if state.in_grace else ''}{_trouble(state)}"
    return f"{owner}{_unfinished(state)}"


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
