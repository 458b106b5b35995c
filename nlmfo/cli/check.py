# SPDX-License-Identifier: GPL-2.0-or-later
"""What ``nlmfo check`` says of a kernel's interfaces: a table for people, and a document for programs."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Any

from nlmfo.kernel.capabilities import Capability, Use
from nlmfo.plain import plain

WIDTH = 118
INDENT = "    "
#: What cannot be done without, so that it is said when a kernel has nothing for it.
NEEDED = (Use.DROP_FILESYSTEM, Use.SEE_LOCKS, Use.START_GRACE, Use.END_GRACE, Use.FLUSH)


def table(capabilities: Iterable[Capability]) -> str:
    """One line for each interface, its note below it where it is not the one before, and what is missing at the end."""
    found = list(capabilities)
    rows = [("INTERFACE", "PRESENT", "CHOSEN FOR", "WHERE")]
    rows += [(c.name, c.present, ", ".join(c.chosen_for) or "-", c.where) for c in found]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines: list[str] = []
    before = ""
    for row, note in zip(rows, ["", *(c.note for c in found)], strict=True):
        lines.append("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
        if note != before:
            lines += textwrap.wrap(plain(note), WIDTH, initial_indent=INDENT, subsequent_indent=INDENT)
        before = note
    if lacking := missing(found):
        lines.append(f"nothing found for: {', '.join(lacking)}")
    return "\n".join(lines)


def document(capabilities: Iterable[Capability]) -> dict[str, Any]:
    """The same as a JSON document."""
    found = list(capabilities)
    return {
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
    }


def missing(capabilities: Iterable[Capability]) -> tuple[Use, ...]:
    """What has to be done and no interface was found for."""
    served = {use for capability in capabilities for use in capability.chosen_for}
    return tuple(use for use in NEEDED if use not in served)
