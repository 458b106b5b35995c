# SPDX-License-Identifier: GPL-2.0-or-later
"""The owner record: which node serves a service, since when, and how many times it has changed hands."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from nlmfo.errors import Refused

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
FIELDS = {
    "service": (str,),
    "node": (str,),
    "boot_id": (str,),
    "epoch": (int,),
    "since": (int, float),
    "standing": (str,),
    "state": (int,),
}


class Standing(StrEnum):
    """What the owner does with the service."""

    SERVING = "serving"
    RELEASED = "released"


class OwnerRecord(NamedTuple):
    """One change of owner. ``epoch`` rises by one with each; ``since`` is in seconds since 1970, for people.

    ``state`` is the NSM state number that the service's records had last, as far as the owner came; 0: not known.
    """

    service: str
    node: str
    boot_id: str
    epoch: int
    since: float
    standing: Standing
    state: int = 0

    def serves(self, node: str, boot_id: str | None = None) -> bool:
        """Whether it says that ``node`` serves, in that boot or, where none is given, in whichever."""
        return (self.standing, self.node) == (Standing.SERVING, node) and boot_id in (None, self.boot_id)

    def to_json(self) -> str:
        return json.dumps(self._asdict()) + "\n"


def from_json(text: str, source: str) -> OwnerRecord:
    """Read a record back. What cannot be understood proves nothing, so it is refused (``owner-unreadable``)."""
    try:
        fields = json.loads(text)
        values = {name: _field(fields, name) for name in FIELDS}
        return OwnerRecord(**values | {"standing": Standing(values["standing"])})
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Refused(
            "owner-unreadable",
            f"{source}: not an owner record: {error}",
            hint="find out on each node who serves ('nlmfo status'), then remove the file",
        ) from error


def _field(fields: dict[str, Any], name: str) -> Any:
    """A field as it stands: bent into shape, ``null`` would be a node called None, and true the epoch 1."""
    value = fields[name]
    if type(value) not in FIELDS[name] or value == "" or (name == "epoch" and value < 1):
        raise ValueError(f"{name} is {value!r}")
    return value


def boot_id() -> str:
    """This boot of this node."""
    return BOOT_ID.read_text(encoding="ascii").strip()
