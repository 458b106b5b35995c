# SPDX-License-Identifier: GPL-2.0-or-later
"""Keeps the records of a service in order while it is served: what the callout cannot do, because statd waits for it.

Every few seconds, and once more when the service is released:
- what the callout had to leave on this node, because the shared storage hung or failed, is brought there;
- whoever is on rpc.statd's own list and not in the records is put on record: a callout that was killed, or could
  not be run, loses no client for longer than that;
- a client that is connected to a second floating address is put on record there too: the kernel calls the callout
  once for each client, whatever addresses it uses;
- with ``consistency = "snapshot"``, the records, which are on this node only, are copied to the shared storage.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

from nlmfo.config import Consistency, Isolation, Service
from nlmfo.errors import Refused
from nlmfo.failover.place import Place
from nlmfo.host import view
from nlmfo.kernel.sockdiag import Connection
from nlmfo.records.directory import Directory
from nlmfo.records.generations import absorb, newest
from nlmfo.records.layout import (
    MAX_RECORD_BYTES,
    Address,
    client_is_safe,
    directory_name,
    names_of_clients,
    parse_record,
)
from nlmfo.records.snapshot import restore_snapshot, take_snapshot
from nlmfo.records.spool import drain_spool
from nlmfo.records.store import Store

#: Seconds to wait for a callout that is bringing the spool in as well.
DRAIN = 20.0


class Keeper:
    """The records of one service on this node. ``shared`` moves with it; ``live`` is where the callout writes."""

    def __init__(self, service: Service, place: Place) -> None:
        self.service = service
        self.place = place
        addresses = tuple(address.ip for address in service.addresses)
        self.shared = Store(service.state, addresses)
        self.live = Store(place.records, addresses) if self._snapshots() else self.shared

    def begin(
        self, user: view.StatdUser, known: int = 0, copies: Sequence[Path] = (), *, force: bool = False
    ) -> tuple[int, str]:
        """Make the shared records ready and begin a generation; its NSM state number, and what to tell about it.

        ``known`` is the number that the last owner noted where all nodes see it. Records of a lower one are an old
        copy, of a disk that was cloned or away: whoever came since is missing in them, so they are refused. Other
        ``copies`` of the state directory lose when they are older; of one that is as new, everybody in either counts.
        """
        self.service.state.mkdir(mode=0o755, parents=True, exist_ok=True)
        others = [Store(copy, self.shared.addresses) for copy in copies]
        found, known = self.shared.state_number(), max(known, *(other.state_number() for other in others), 0)
        if found < known and not force:
            raise Refused(
                "stale-records",
                f"service '{self.service.name}': the records in {self.service.state} are of generation {found}, "
                f"but generation {known} was served: this is an old copy of them, or the wrong disk",
                hint="find the disk that was in use last; the clients that it knows of are missing in this copy",
                forcible=True,
            )
        self.shared.prepare(user.uid, user.gid)
        told, complete = "", found >= known
        for other in newest([self.shared, *others])[1:]:
            told += f", {len(absorb(self.shared, other))} more from {other.state}"
        if self._snapshots():
            restored = restore_snapshot(self.shared, self.service.name)
            told += f", snapshot not used: {restored.ignored}" if restored.ignored else ", from a snapshot"
            told += "" if restored.complete or restored.ignored else " that was damaged: there may be more"
            complete = complete and restored.complete
        return self.shared.begin_generation(known, complete=complete), told

    def open_live(self, user: view.StatdUser) -> None:
        """Make the place ready where the callout writes."""
        if self._snapshots():
            self.place.records.mkdir(mode=0o755, parents=True, exist_ok=True)
            self.live.prepare(user.uid, user.gid)

    def callout_directory(self, address: Address) -> Path:
        """Where the callout writes an address's records, as it sees it."""
        return (view.RECORDS if self._snapshots() else self.service.state) / directory_name(address)

    def owed(self) -> set[str]:
        """The clients of earlier generations that are not back."""
        return {record.client for address in self.shared.addresses for record in self.shared.owed(address)}

    def on_record(self) -> set[str]:
        """The clients of the generation that is served now."""
        return {record.client for address in self.live.addresses for record in self.live.current(address)}

    def asking(self) -> set[tuple[Address, str]]:
        """Who has asked for a lock in the generation that is served now."""
        return {(address, client) for address in self.live.addresses for client in self.live.current_names(address)}

    def settle(self, answered: AbstractSet[tuple[Address, str]]) -> set[tuple[Address, str]]:
        """Drop from those owed a notice who has ``answered`` and is on record again; returns them."""
        if not self._snapshots():
            return {
                (address, client)
                for address in self.shared.addresses
                for client in self.shared.settle(address, {name for at, name in answered if at == address})
            }
        back = answered & self.asking()
        if back:
            # They are on this node only, so far: in the snapshot first, and then no longer among the earlier ones.
            self._snapshot()
        return {(address, client) for address, client in back if self.shared.forget(address, client)}

    def keep(self, connections: Iterable[Connection]) -> int:
        """One round; returns how many records were brought in. Raises StoreError when the storage takes none.

        ``connections`` are the established ones of the service's network.
        """
        brought = drain_spool(self.live, self.place.spool, deadline=DRAIN) + self._reconcile(connections)
        if self._snapshots():
            self._snapshot()
        return brought

    def _snapshot(self) -> None:
        take_snapshot(self.live, self.shared, self.service.name, now=time.time())

    def _snapshots(self) -> bool:
        return self.service.consistency is Consistency.SNAPSHOT

    def _reconcile(self, connections: Iterable[Connection]) -> int:
        """Put on record who is missing, under every address that it may use; returns how many records that took.

        statd's list does not say which service and address a client uses. Where statd is the service's own, it may
        be any address of it; where all services share one (host isolation), only who is on no record counts as that.
        """
        known = {address: {r.client for r in self.live.current(address)} for address in self.live.addresses}
        anywhere = set().union(*known.values())
        listed = _on_statds_list(self.place.statd)
        if self.service.isolation is Isolation.HOST:
            listed -= anywhere
        using = {(connection.local, str(connection.remote)) for connection in connections}
        added = 0
        for address in self.live.addresses:
            uses = {client for client in anywhere if (address, client) in using}
            for client in sorted((listed | uses) - known[address]):
                self.live.add(address, client, my_name(self.service, address))
                added += 1
        return added


def my_name(service: Service, address: Address) -> str:
    """The name that a record says the notice will come from."""
    return service.names[0] if service.names else str(address)


def _on_statds_list(directory: Path) -> set[str]:
    """The clients that rpc.statd monitors. It may name a file after a host; the line in it has what lockd said."""
    if not directory.is_dir():
        return set()
    with Directory.open(directory) as files:
        lines = [files.read(name, MAX_RECORD_BYTES) for name in names_of_clients(files.names())]
    names = [parse_record(line) for line in lines if line]
    return {found[0] for found in names if found and client_is_safe(found[0])}
