# SPDX-License-Identifier: GPL-2.0-or-later
"""Who is on record: the clients that may hold locks on a service, and what is still owed to them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from nlmfo.config import Config, Service
from nlmfo.errors import NotOwned
from nlmfo.failover.runs import registry_of
from nlmfo.host import partitions
from nlmfo.records import ClientRecord, Store, directory_name


class ClientState(StrEnum):
    """``current``: on record since the last takeover. ``owed``: on record since before it, and not back yet."""

    CURRENT = "current"
    OWED = "owed"


@dataclass(frozen=True, slots=True)
class ClientOnRecord:
    """One client of one service. ``fsids`` empty: not known, so any; ``since`` in seconds since the epoch.

    ``intact`` is false when a record could not be read: the client counts all the same.
    """

    service: str
    client: str
    addresses: tuple[str, ...]
    fsids: tuple[str, ...]
    since: float
    state: ClientState
    intact: bool

    def may_use(self, fsid: str) -> bool:
        """Whether it may hold locks below the export with that fsid: unknown means yes."""
        return not self.fsids or fsid in self.fsids


def on_record(config: Config, service: Service) -> tuple[ClientOnRecord, ...]:
    """Everybody on record for a service, by client.

    The records travel with the service, so they are read where it is served; elsewhere NotOwned.
    """
    partition = service.state_partition
    here = partition is None or partitions.is_mounted(partition)
    if not here or not any((service.state / directory_name(a.ip)).is_dir() for a in service.addresses):
        owner = registry_of(config).read(service.name)
        where = f"{owner.node} has it ({owner.standing})" if owner else "it was never served"
        raise NotOwned(
            f"service '{service.name}': its records are not on this node: {where}",
            hint="ask on the node that serves it" if owner else None,
        )
    store = Store(service.state, tuple(address.ip for address in service.addresses))
    found: dict[tuple[str, ClientState], list[tuple[str, ClientRecord]]] = {}
    for address in store.addresses:
        for state, records in ((ClientState.CURRENT, store.current(address)), (ClientState.OWED, store.owed(address))):
            for record in records:
                found.setdefault((record.client, state), []).append((str(address), record))
    return tuple(_merged(service, *key, found[key]) for key in sorted(found))


def _merged(
    service: Service, client: str, state: ClientState, records: list[tuple[str, ClientRecord]]
) -> ClientOnRecord:
    """One line for all addresses; where one of them does not know the fsids, none is known."""
    fsids = [record.fsids for _, record in records]
    known = all(fsids)
    return ClientOnRecord(
        service=service.name,
        client=client,
        addresses=tuple(address for address, _ in records),
        fsids=tuple(sorted(frozenset().union(*fsids))) if known else (),
        since=min(record.since for _, record in records),
        state=state,
        intact=all(record.intact for _, record in records),
    )
