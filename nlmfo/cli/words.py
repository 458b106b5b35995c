# SPDX-License-Identifier: GPL-2.0-or-later
"""How times, lists, tables and failures are written."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from nlmfo.errors import NlmfoError, Refused
from nlmfo.plain import plain

#: How many clients, and locks, a report names before it says how many more there are.
NAMED = 8


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Cells below each other, of which the last has no end."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def time_of_day(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds))


def refusal(error: BaseException) -> Refused | None:
    """The refusal that an error is, or that a step of a run ended with."""
    found = error if isinstance(error, Refused) else error.__cause__
    return found if isinstance(found, Refused) else None


def failure(error: BaseException) -> tuple[str, list[str]]:
    """What went wrong, a refusal with its code, and the hints: what to do next, and how to pass it."""
    refused = refusal(error)
    named = f"refused ({refused.code}): " if refused else ""
    hints = [f"hint: {error.hint}"] if isinstance(error, NlmfoError) and error.hint else []
    if refused and refused.forcible:
        hints.append(f"hint: if you know that it does no harm: --force={refused.code}")
    return f"{named}{error}", hints


def listed(names: Iterable[str], count: int | None = None) -> str:
    """The first names, and how many more there are."""
    found = [plain(name) for name in names]
    more = (len(found) if count is None else count) - len(found[:NAMED])
    return ", ".join(found[:NAMED]) + (f" and {more} more" if more > 0 else "")
