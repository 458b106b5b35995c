# SPDX-License-Identifier: GPL-2.0-or-later
"""The ledger of notices: what became of each client that was owed one, for the next owner and for the operator.

One file in the state directory, ``ledger``, of root's: a line of JSON for each change, durable before the next thing
happens. The last line of a client counts; one that a crash cut short does not. When a keeper begins, it drops the
lines of earlier generations whose clients no record is left of.

The ledger explains. Whom a notice is owed to is said by the records in ``sm.bak`` (nlmfo.records.layout), which
outlive a lost or damaged ledger: then everybody there is told once more, which is harmless.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from nlmfo.records.directory import Directory
from nlmfo.records.journal_file import JournalFile
from nlmfo.records.layout import Address, client_is_safe

LEDGER = "ledger"
#: A ledger that is longer was not written by us: 100,000 clients with a few changes each.
MAX_BYTES = 64 << 20


class Standing(StrEnum):
    """How far a client has come since the server that it knew has gone."""

    PENDING = "pending"  #: owed a notice, which has not been sent yet
    TOLD = "told"  #: a notice was sent, and has not been answered yet
    ANSWERED = "answered"  #: its statd acknowledged every name
    UNREACHABLE = "unreachable"  #: no answer; it is tried again, and stays on record
    BACK = "back"  #: on record again on the new server: it has asked for a lock
    LEFT = "left"  #: holds nothing here any more; ``detail`` says how that is known


#: What a client that is on record at several addresses counts as: the first of these that applies to one of them.
_FIRST = (
    Standing.UNREACHABLE,
    Standing.PENDING,
    Standing.TOLD,
    Standing.BACK,
    Standing.ANSWERED,
    Standing.LEFT,
)
#: What ends the account of a client: its record goes.
SETTLED = frozenset({Standing.BACK, Standing.LEFT})


@dataclass(frozen=True, slots=True)
class Entry:
    """One client at one floating address. Times are in seconds since 1970.

    ``state``: the NSM state number of the server that it is told of; ``since``: when that, or an earlier one, first
    owed it a notice; ``names``: those it acknowledged; ``attempts``: datagrams and connections spent on it.
    """

    address: Address
    client: str
    state: int
    standing: Standing
    at: float
    since: float
    names: tuple[str, ...] = ()
    attempts: int = 0
    detail: str = ""


Key = tuple[Address, str]


class Ledger:
    """The ledger below a state directory, open for one keeper. All methods raise NlmfoError."""

    def __init__(self, state: Path, owed: Iterable[Key], number: int) -> None:
        """``owed``: the clients that there are records of; lines of others are kept if they are of state ``number``."""
        wanted = set(owed)
        found = read(state).items()
        self.entries = {key: entry for key, entry in found if key in wanted or entry.state == number}
        with Directory.open(state) as files:
            files.replace(LEDGER, b"".join(map(_line, self.entries.values())), 0o600)
        self._file = JournalFile(state, LEDGER)

    def write(self, entries: Iterable[Entry]) -> None:
        """Add what has changed; durable when this returns."""
        lines = b""
        for entry in entries:
            self.entries[entry.address, entry.client] = entry
            lines += _line(entry)
        if lines:
            self._file.append(lines)

    def close(self) -> None:
        self._file.close()


def overall(entries: Iterable[Entry]) -> Entry:
    """Of one client's entries at its addresses, of which there is one at least, the one that says how far it is."""
    return min(entries, key=lambda entry: _FIRST.index(entry.standing))


def read(state: Path) -> Mapping[Key, Entry]:
    """The last entry of each client; empty when there is no ledger. Raises StoreError without the directory."""
    with Directory.open(state) as files:
        content = files.read(LEDGER, MAX_BYTES) or b""
    return {(entry.address, entry.client): entry for entry in _entries(content)}


def append(state: Path, entries: Iterable[Entry]) -> None:
    """Add lines beside the keeper that has it open; durable when this returns. Raises NlmfoError."""
    file = JournalFile(state, LEDGER)
    try:
        # On lines of their own, whatever a keeper that was killed has left unfinished.
        file.append(b"".join(b"\n" + _line(entry) for entry in entries))
    finally:
        file.close()


def _line(entry: Entry) -> bytes:
    found = asdict(entry) | {"address": str(entry.address)}
    return json.dumps(found, ensure_ascii=True).encode() + b"\n"


def _entries(content: bytes) -> Iterator[Entry]:
    for line in content.split(b"\n")[:-1]:
        try:
            yield _entry(json.loads(line))
        except (ValueError, TypeError, KeyError, RecursionError):
            continue


def _entry(found: dict[str, Any]) -> Entry:
    """Raises ValueError, TypeError or KeyError for what is no entry."""
    known = {field.name: found[field.name] for field in fields(Entry)}
    entry = Entry(
        **known
        | {
            "address": ip_address(known["address"]),
            "standing": Standing(known["standing"]),
            "names": tuple(map(str, known["names"])),
            "at": float(known["at"]),
            "since": float(known["since"]),
            "state": int(known["state"]),
            "attempts": int(known["attempts"]),
            "detail": str(known["detail"]),
        }
    )
    if not client_is_safe(entry.client):
        raise ValueError(entry.client)
    return entry
