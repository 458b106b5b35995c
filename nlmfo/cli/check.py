# SPDX-License-Identifier: GPL-2.0-or-later
"""What ``nlmfo check`` says: tables of the kernel's interfaces and of file systems, and what was found on the node; and
all of it as JSON.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from nlmfo.cli import words
from nlmfo.config import Config
from nlmfo.config.digest import digest
from nlmfo.failover.forecast import SHORTEST
from nlmfo.failover.readiness import Finding, Severity
from nlmfo.failover.room import Room, span
from nlmfo.kernel.capabilities import Capability, Use
from nlmfo.plain import plain

WIDTH = 118
INDENT = "    "
#: What takes samples of free space.
NEXT = "'nlmfo serve', 'metrics' and 'check' take one an hour"
#: What cannot be done without, so that it is said when a kernel has nothing for it.
NEEDED = (Use.DROP_FILESYSTEM, Use.SEE_LOCKS, Use.START_GRACE, Use.END_GRACE, Use.FLUSH)


def table(capabilities: Iterable[Capability]) -> str:
    """One line for each interface, its note below it where it is not the one before, and what is missing at the end."""
    found = list(capabilities)
    rows = [("INTERFACE", "PRESENT", "CHOSEN FOR", "WHERE")]
    rows += [(c.name, c.present, ", ".join(c.chosen_for) or "-", c.where) for c in found]
    lines: list[str] = []
    before = ""
    for row, note in zip(words.columns(rows).split("\n"), ["", *(c.note for c in found)], strict=True):
        lines.append(row)
        if note != before:
            lines += _wrapped(note, INDENT)
        before = note
    if lacking := missing(found):
        lines.append(f"nothing found for: {', '.join(lacking)}")
    return "\n".join(lines)


def space(rooms: Iterable[Room]) -> str:
    """One line for each file system: what is free there, and for how long."""
    rows = [("FILE SYSTEM", "FREE", "INODES", "FULL IN")]
    for room in rooms:
        free = f"{room.now.free >> 20} of {room.now.size >> 20} MiB"
        rows.append((plain(str(room.place.path)), free, str(room.now.inodes or "-"), _full_in(room)))
    return words.columns(rows)


def _full_in(room: Room) -> str:
    if not room.enough:
        return f"(needs {span(SHORTEST)} of samples: {NEXT})"
    return "-" if room.full_in is None else span(room.full_in)


def told(config: Config, findings: Sequence[Finding]) -> str:
    """What was found, a paragraph each, and how much of it there is."""
    services = ", ".join(config.services) or "none"
    lines = [f"node {config.node}; services: {services}"]
    lines += [f"configuration {digest(config.services.values())}: compare it with that of the other nodes"]
    for found in findings:
        lines += _wrapped(f"{found.severity.upper()} {found.subject}: {found.text} ({found.code})", "")
        lines += _wrapped(found.mend, INDENT)
    errors = sum(found.severity is Severity.ERROR for found in findings)
    if findings:
        lines += [f"{errors} errors, {len(findings) - errors} warnings"]
    else:
        lines += ["nothing was found that stands in the way of a takeover here"]
    return "\n".join(lines)


def _wrapped(said: str, indent: str) -> list[str]:
    return textwrap.wrap(plain(said), WIDTH, initial_indent=indent, subsequent_indent=INDENT)


def document(
    config: Config, capabilities: Iterable[Capability], rooms: Iterable[Room], findings: Iterable[Finding]
) -> dict[str, Any]:
    """The same as a JSON document."""
    found = list(capabilities)
    return {
        "node": config.node,
        "digest": digest(config.services.values()),
        "interfaces": [
            {
                "name": capability.name,
                "present": str(capability.present),
                "where": capability.where,
                "note": capability.note,
                "chosen_for": [str(use) for use in capability.chosen_for],
            }
            for capability in found
        ],
        "missing": [str(use) for use in missing(found)],
        "space": [
            {
                "subject": room.place.subject,
                "path": str(room.place.path),
                "size": room.now.size,
                "free": room.now.free,
                "free_inodes": room.now.inodes,
                "seen_for": room.since,
                "bytes_used_up_in": _rounded(room.bytes_in),
                "inodes_used_up_in": _rounded(room.inodes_in),
            }
            for room in rooms
        ],
        "findings": [asdict(each) for each in findings],
    }


def _rounded(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds)


def missing(capabilities: Iterable[Capability]) -> tuple[Use, ...]:
    """What has to be done and no interface was found for."""
    served = {use for capability in capabilities for use in capability.chosen_for}
    return tuple(use for use in NEEDED if use not in served)
