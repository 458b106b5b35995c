# SPDX-License-Identifier: GPL-2.0-or-later
"""The records of one service: who may hold locks, and which generation of the server they knew."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from pathlib import Path

from nlmfo.records.directory import Directory, StoreError
from nlmfo.records.layout import (
    CURRENT,
    EARLIER,
    FSIDS,
    INCOMPLETE,
    MAX_RECORD_BYTES,
    STATE,
    TOLD,
    Address,
    ClientRecord,
    client_is_safe,
    directory_name,
    format_record,
    names_of_clients,
    parse_fsids,
    parse_record,
)

STATE_BYTES = 4
#: Two per takeover never gets here; a number above it is damage, and believing it would use up all numbers.
HIGHEST_STATE = 2**30


class Store:
    """A service's state directory (drawn in nlmfo.records.layout). All methods raise StoreError."""

    def __init__(self, state: Path, addresses: Sequence[Address]) -> None:
        self.state = state
        self.addresses = tuple(addresses)

    def prepare(self, uid: int, gid: int) -> None:
        """Create what is missing and mend owners and modes; run on every takeover.

        ``uid`` and ``gid`` are statd's on this node: they differ between nodes and distributions.
        Refuses what is a link or no directory.
        """
        with Directory.open(self.state) as state:
            for address in self.addresses:
                state.make(directory_name(address), 0o755)
                with state.inside(directory_name(address)) as home:
                    home.own(os.geteuid(), os.getegid(), 0o755)
                    for name in (CURRENT, EARLIER, FSIDS):
                        _prepare_records(home, name, uid, gid)
                    home.sync()
            state.sync()

    def begin_generation(self, above: int = 0, *, complete: bool = True) -> int:
        """Begin a new generation of the server; returns its NSM state number, higher than ``above``.

        ``complete`` is false when clients are known to be missing in the records.

        Runs at takeover, before statd starts. Everybody on record becomes a client of an earlier generation,
        to whom a notice is owed, and the state number rises for all addresses alike. Interrupted at any point
        it leaves each record in one of the two directories, and can be run again.
        """
        for address in self.addresses:
            with (
                self._home(address) as home,
                home.inside(CURRENT) as current,
                home.inside(EARLIER) as earlier,
            ):
                _move_all(current, earlier)
        number = max(self.state_number(), above) + 1 | 1
        if not complete or not (self.complete() or self.told()):
            with Directory.open(self.state) as state:
                state.replace(INCOMPLETE, _number(number), 0o644)
        for address in self.addresses:
            with self._home(address) as home:
                home.replace(STATE, _number(number), 0o644)
        return number

    def complete(self) -> bool:
        """Whether nobody is known to have been missing in the records when this generation began."""
        with Directory.open(self.state) as state:
            return state.read(INCOMPLETE, STATE_BYTES) != _number(self.state_number())

    def owed(self, address: Address) -> tuple[ClientRecord, ...]:
        """The clients of earlier generations that are not settled: who may hold locks and must be told."""
        return self._records(address, EARLIER)

    def owed_names(self, address: Address) -> tuple[str, ...]:
        """The same, by name only: this is asked several times a second, of thousands."""
        with self._home(address) as home, home.inside(EARLIER) as earlier:
            return names_of_clients(earlier.names())

    def current(self, address: Address) -> tuple[ClientRecord, ...]:
        """The clients on record since this generation began."""
        return self._records(address, CURRENT)

    def current_names(self, address: Address) -> tuple[str, ...]:
        with self._home(address) as home, home.inside(CURRENT) as current:
            return names_of_clients(current.names())

    def settle(self, address: Address, answered: AbstractSet[str]) -> tuple[str, ...]:
        """Drop from the earlier generations those of ``answered`` that are on record again; returns them.

        Who is on record again without having been told has asked for another lock, and those of before are at stake.
        """
        if not answered:
            return ()
        with self._home(address) as home, home.inside(CURRENT) as current, home.inside(EARLIER) as earlier:
            back = sorted(answered & {*names_of_clients(current.names())} & {*names_of_clients(earlier.names())})
            if not back:
                return ()
            # An asynchronous callout may not have made the new record durable yet.
            current.sync_files(back)
            for client in back:
                earlier.remove(client)
            earlier.sync()
        return tuple(back)

    def forget(self, address: Address, client: str) -> bool:
        """Drop one client of an earlier generation, because its outcome is known; false when it is not there.

        Never because a notice was sent: only when the client answered and holds nothing.
        """
        with self._home(address) as home, home.inside(EARLIER) as earlier:
            if client not in earlier.names():
                return False
            earlier.remove(client)
            earlier.sync()
            return True

    def add(self, address: Address, client: str, my_name: str) -> None:
        """Put a client on record, durably, as the callout does in mode sync.

        ValueError if one of the names cannot stand in a record.
        """
        line = format_record(client, my_name)
        with self._home(address) as home, home.inside(CURRENT) as current:
            try:
                if not current.create(client, line, 0o640):
                    current.replace(client, line, 0o640)
            finally:  # also where there was no room, and the name that is there may be of somebody who was killed
                current.sync()

    def owe(self, address: Address, record: ClientRecord) -> bool:
        """Owe a notice to a client that was found elsewhere; false when its name cannot be a file's."""
        if not client_is_safe(record.client):
            return False
        line = format_record(record.client, record.my_name) if record.intact else b""
        with self._home(address) as home, home.inside(EARLIER) as earlier:
            if earlier.create(record.client, line, 0o640):
                earlier.sync()
        return True

    def state_number(self) -> int:
        """The highest NSM state number on record for any address; 0 when there is none."""
        with Directory.open(self.state) as state:
            return max((_read_state(state, name) for name in state.names() if name.startswith("sm_")), default=0)

    def mark_told(self) -> None:
        """Note, durably, that everybody whom this generation owed a notice when it began has been sent one."""
        content = _number(self.state_number())
        for address in self.addresses:
            with self._home(address) as home:
                home.replace(TOLD, content, 0o644)

    def told(self) -> bool:
        """Whether that was noted for the generation that is served now."""
        content = _number(self.state_number())
        for address in self.addresses:
            with self._home(address) as home:
                if home.read(TOLD, STATE_BYTES) != content:
                    return False
        return True

    def _records(self, address: Address, where: str) -> tuple[ClientRecord, ...]:
        with self._home(address) as home, home.inside(where) as records, home.inside(FSIDS) as fsids:
            return tuple(_record(records, fsids, name) for name in names_of_clients(records.names()))

    @contextmanager
    def _home(self, address: Address) -> Iterator[Directory]:
        with Directory.open(self.state) as state, state.inside(directory_name(address)) as home:
            yield home


def _number(number: int) -> bytes:
    """A state number as sm-notify keeps it."""
    return number.to_bytes(STATE_BYTES, sys.byteorder, signed=True)


def _prepare_records(home: Directory, name: str, uid: int, gid: int) -> None:
    home.make(name, 0o700)
    with home.inside(name) as records:
        records.own(uid, gid, 0o700)
        for file in records.names():
            records.own_file(file, uid, gid)


def _move_all(current: Directory, earlier: Directory) -> None:
    names = current.names()
    for name in names_of_clients(names):
        current.move(name, earlier)
    for name in names:
        if name.startswith((".new.", ".probe.")):  # of callouts that were killed
            current.remove(name)
    earlier.sync()
    current.sync()


def _record(records: Directory, fsids: Directory, client: str) -> ClientRecord:
    known = fsids.read(client, MAX_RECORD_BYTES)
    found = records.read(client, MAX_RECORD_BYTES)
    names = parse_record(found) if found is not None else None
    if names is None or names[0] != client:
        names, intact = (client, ""), False
    else:
        intact = True
    return ClientRecord(
        client=client,
        mon_name=names[0],
        my_name=names[1],
        fsids=parse_fsids(known) if known else frozenset(),
        since=records.changed(client),
        intact=intact,
    )


def _read_state(state: Directory, name: str) -> int:
    """The number in one address's directory; 0 when there is none, or none to believe."""
    try:
        with state.inside(name) as home:
            found = home.read(STATE, STATE_BYTES)
    except StoreError:
        return 0
    if found is None or len(found) != STATE_BYTES:
        return 0
    number = int.from_bytes(found, sys.byteorder, signed=True)
    return number if 0 < number < HIGHEST_STATE else 0
