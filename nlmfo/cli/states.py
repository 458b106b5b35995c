# SPDX-License-Identifier: GPL-2.0-or-later
"""``nlmfo status`` as lines."""

from __future__ import annotations

from collections.abc import Sequence

from nlmfo.cli import words
from nlmfo.failover.status import ServiceStatus
from nlmfo.plain import plain

SUPERSEDED = "STILL MOUNTED here, and must not be written to: restart this node by 'echo b > /proc/sysrq-trigger'"
PARTLY = "PARTLY up here: run 'nlmfo resume' or 'nlmfo abort'"


def status(states: Sequence[ServiceStatus]) -> str:
    """One line for each service."""
    if not states:
        return "no services are configured"
    width = max(len(state.service) for state in states)
    return "\n".join(f"{state.service:<{width}}  {_standing(state)}" for state in states)


def _standing(state: ServiceStatus) -> str:
    if state.problem:
        return f"unknown: {state.problem}"
    if state.owner is None:
        return f"no owner on record; {PARTLY}" if state.here == "partly" else "not served anywhere yet"
    since = words.when(state.owner.since)
    owner = f"{state.owner.standing} on {state.owner.node} since {since} (epoch {state.owner.epoch})"
    if state.superseded:
        return f"{owner}; {SUPERSEDED}"
    if state.here == "partly":
        return f"{owner}; {PARTLY}{_unfinished(state)}"
    if state.here == "serving":
        return f"{owner}, here{_in_grace(state)}{_trouble(state)}{_unreached(state)}"
    return f"{owner}{_unfinished(state)}"


def _in_grace(state: ServiceStatus) -> str:
    """Whether it is in grace, and how far the clients are."""
    if not state.in_grace:
        return ""
    progress = state.progress
    if progress is None:
        return ", in grace"
    clients, locks = progress.counted, progress.locks
    said = f"{clients.told} of {clients.owed} clients told, {clients.back} back"
    said += f", {locks.back} of {locks.total} locks held again" if locks is not None else ""
    said += " (estimate)" if locks is not None and not locks.exact else ""
    until = f" until {words.time_of_day(progress.grace_until)} at the latest" if progress.grace_until else ""
    return f", in grace{until}: {said}"


def _unreached(state: ServiceStatus) -> str:
    unreachable = 0 if state.progress is None else state.progress.counted.unreachable
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
