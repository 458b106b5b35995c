# SPDX-License-Identifier: GPL-2.0-or-later
"""How far the clients of a service have come since its takeover: written by its keeper, read by runs and by status.

One file of JSON on the node, in memory, replaced at each change: whoever reads it never waits for shared storage.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nlmfo.records.ledger import Standing
from nlmfo.replace import replace_file

#: A file that is longer was not written by us.
MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Waiting:
    """A client that is not settled, for people to read."""

    client: str
    standing: Standing
    detail: str


@dataclass(frozen=True, slots=True)
class Locks:
    """The locks of before, compared with those that are held now.

    ``exact``: noted by a release, when nothing could change any more; else an estimate, from the last look before a
    crash. ``missing`` is in words, the first of them only.
    """

    total: int
    back: int
    exact: bool
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Clients:
    """How many clients there were to tell, and how far they have come.

    ``told``: were sent a notice; ``answered``: acknowledged it, or are ``back`` or ``left`` by now; ``unreachable``:
    did not answer. The last two name the first of those, and of those that were told and have asked for no lock yet.
    """

    owed: int
    told: int
    answered: int
    back: int
    left: int
    unreachable: int
    unreachable_names: tuple[str, ...] = ()
    not_back_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """``state``: the NSM state number that clients are told; ``told``: everybody has been sent it once.

    ``clients``: how many there are of each standing; ``waiting``: the first of those that are not settled.
    ``in_grace``; ``grace_until``: when it ends by itself at the latest, in seconds since 1970, 0 when not known;
    ``ended``: why it was ended before that. ``problem``: what keeps the notices from being sent.
    """

    state: int
    told: bool
    in_grace: bool
    grace_until: float = 0.0
    ended: str = ""
    problem: str = ""
    clients: Mapping[Standing, int] = field(default_factory=dict)
    waiting: tuple[Waiting, ...] = ()
    locks: Locks | None = None

    def of(self, *standings: Standing) -> int:
        """How many clients are of one of these."""
        return sum(self.clients.get(standing, 0) for standing in standings)

    @property
    def everybody(self) -> int:
        return sum(self.clients.values())

    @property
    def counted(self) -> Clients:
        """What the keeper says of the clients, as numbers and names."""
        back, left = self.of(Standing.BACK), self.of(Standing.LEFT)
        return Clients(
            owed=self.everybody,
            told=self.everybody - self.of(Standing.PENDING),
            answered=self.of(Standing.ANSWERED) + back + left,
            back=back,
            left=left,
            unreachable=self.of(Standing.UNREACHABLE),
            unreachable_names=self._named(Standing.UNREACHABLE),
            not_back_names=self._named(Standing.TOLD, Standing.ANSWERED),
        )

    def plain(self) -> dict[str, Any]:
        """As JSON has it; see ``from_object``."""
        return asdict(self)

    def _named(self, *standings: Standing) -> tuple[str, ...]:
        return tuple(waiting.client for waiting in self.waiting if waiting.standing in standings)


def write(path: Path, progress: Progress) -> None:
    """Replace the file. Raises OSError."""
    replace_file(path, json.dumps(progress.plain()))


def read(path: Path) -> Progress | None:
    """What the keeper wrote last; None when there is nothing, or nothing that can be read."""
    try:
        with path.open("rb") as file:
            return from_object(json.loads(file.read(MAX_BYTES)))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def from_object(found: dict[str, Any]) -> Progress:
    """What ``plain`` made of it. Raises KeyError, TypeError, ValueError, AttributeError where it is something else."""
    locks = found["locks"]
    return Progress(
        **found
        | {
            "clients": {Standing(name): int(count) for name, count in found["clients"].items()},
            "waiting": tuple(Waiting(w["client"], Standing(w["standing"]), w["detail"]) for w in found["waiting"]),
            "locks": None if locks is None else Locks(**locks | {"missing": tuple(locks["missing"])}),
        }
    )
