# SPDX-License-Identifier: GPL-2.0-or-later
"""The last run of a service on this node, and how far it came."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from nlmfo.failover.verbs import Outcome, Verb
from nlmfo.records import journal

#: Where a node keeps the journals of its own runs.
RUNS = Path("/var/lib/nlmfo/runs")


class Past(NamedTuple):
    """What a journal says of a run. ``outcome`` is None when the run was killed."""

    name: str
    verb: Verb
    node: str
    boot_id: str
    outcome: Outcome | None
    last: str

    @property
    def reached(self) -> str:
        """What was going on last."""
        return f"{self.verb}, {self.last}".rstrip(", ")

    @property
    def finished(self) -> bool:
        """Whether nothing is left to resume."""
        return self.outcome not in (None, Outcome.INCOMPLETE)


def newest(directory: Path, service: str) -> Past | None:
    """The last run of a service that ``directory`` has a journal of. Raises StoreError."""
    for name in reversed(journal.names(directory, service)):
        past = _past(name, journal.read(directory, name))
        if past is not None:
            return past
    return None


def _past(name: str, lines: tuple[dict[str, Any], ...]) -> Past | None:
    """None for a journal without a beginning: killed before it had touched anything."""
    begun = next((line for line in lines if line.get("event") == "begun"), None)
    if begun is None:
        return None
    ended = next((line.get("outcome") for line in reversed(lines) if line.get("event") == "ended"), None)
    steps = [line.get("step") for line in lines if line.get("event") in ("step-started", "step-done")]
    last = steps[-1] if steps and isinstance(steps[-1], dict) else {}
    # A takeover that failed was on its way back.
    back = any(line.get("event") == "rolling-back" for line in lines)
    try:
        return Past(
            name=name,
            verb=Verb.ABORT if back else Verb(str(begun.get("verb"))),
            node=str(begun.get("node")),
            boot_id=str(begun.get("boot_id")),
            outcome=None if ended is None else Outcome(ended),
            last=str(last.get("action", "")),
        )
    except ValueError:
        return None
