# SPDX-License-Identifier: GPL-2.0-or-later
"""Events and states as sentences."""

from __future__ import annotations

import time
from functools import singledispatch

from nlmfo.failover.clients import ClientOnRecord
from nlmfo.failover.events import (
    CleaningUp,
    ClientNotTold,
    ClientQuiet,
    Event,
    Proved,
    RecordsNotKept,
    RollingBack,
    StepDone,
    StepNotDone,
)
from nlmfo.failover.status import ServiceStatus

PARTLY = "PARTLY up here: run 'nlmfo takeover' or 'nlmfo release'"


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
def _(event: RecordsNotKept) -> str:
    return f"warning: nobody looks after the records ('nlmfo keep' did not start): {event.reason}"


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


def plain(name: str) -> str:
    """A name from a directory that others can write to, fit for a terminal."""
    return "".join(character if character.isprintable() else "?" for character in name)


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _standing(state: ServiceStatus) -> str:
    if state.problem:
        return f"unknown: {state.problem}"
    if state.owner is None:
        return f"no owner on record; {PARTLY}" if state.here == "partly" else "not served anywhere yet"
    owner = f"{state.owner.standing} on {state.owner.node} since {_when(state.owner.since)} (epoch {state.owner.epoch})"
    if state.here == "partly":
        return f"{owner}; {PARTLY}"
    if state.here == "serving":
        return f"{owner}, here{', in grace' if state.in_grace else ''}{_trouble(state)}"
    return owner


def _trouble(state: ServiceStatus) -> str:
    """What is wrong with the records of a service that is served here."""
    trouble = ""
    if state.stalled or state.waiting:
        why = plain(state.stalled or "on their way")
        trouble += f"; WARNING: {state.waiting} records are on this node only ({why})"
    if state.refused:
        trouble += f"; WARNING: {state.refused} clients could not be put on record (see docs/records.md)"
    return trouble
