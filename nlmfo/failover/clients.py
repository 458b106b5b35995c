# SPDX-License-Identifier: GPL-2.0-or-later
"""Who is on record: the clients that may hold locks on a service, what is owed to them, and what became of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from enum import StrEnum
from ipaddress import ip_address

from nlmfo.config import Config, Service
from nlmfo.errors import NlmfoError, NotOwned, Refused
from nlmfo.failover.owner import registry_of
from nlmfo.failover.runs import not_served
from nlmfo.host import mounts
from nlmfo.host.node import surroundings_of
from nlmfo.kernel import sockdiag
from nlmfo.ownership.record import boot_id
from nlmfo.records import ledger
from nlmfo.records.layout import Address, ClientRecord, directory_name
from nlmfo.records.ledger import SETTLED, Entry, Key, Standing
from nlmfo.records.store import Store

#: What the ledger says of a client that was forgotten by hand.
BY_HAND = "the operator said so"


class ClientState(StrEnum):
    """``current``: on record since the last takeover. ``owed``: on record since before it, and not back yet.

    ``gone``: on record no more: since the last takeover it was found to hold nothing, as its notice says.
    """

    CURRENT = "current"
    OWED = "owed"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class ClientNotice:
    """What became of the notice that a client was owed since the last takeover; see nlmfo.records.ledger.Entry."""

    standing: Standing
    at: float
    since: float
    names: tuple[str, ...]
    attempts: int
    detail: str


@dataclass(frozen=True, slots=True)
class ClientOnRecord:
    """One client of one service. ``fsids`` empty: not known, so any; ``since`` in seconds since the epoch.

    ``intact`` is false when a record could not be read: the client counts all the same. ``notice`` is None for who was
    not owed any.
    """

    service: str
    client: str
    addresses: tuple[str, ...]
    fsids: tuple[str, ...]
    since: float
    state: ClientState
    intact: bool
    notice: ClientNotice | None = None

    def may_use(self, fsid: str) -> bool:
        """Whether it may hold locks below the export with that fsid: unknown means yes."""
        return not self.fsids or fsid in self.fsids


def on_record(config: Config, service: Service) -> tuple[ClientOnRecord, ...]:
    """Everybody on record for a service, by client, and who has left it since the last takeover.

    The records travel with the service, so they are read where it is served; elsewhere NotOwned.
    """
    store = store_of(config, service)
    entries = entries_of_now(store)
    found: dict[tuple[str, ClientState], list[tuple[Address, ClientRecord]]] = {}
    for address in store.addresses:
        for state, records in ((ClientState.CURRENT, store.current(address)), (ClientState.OWED, store.owed(address))):
            for record in records:
                found.setdefault((record.client, state), []).append((address, record))
    listed = [_merged(service, *key, found[key], entries) for key in found]
    return tuple(sorted([*listed, *_gone(service, entries, {client for client, _ in found})], key=_in_order))


@dataclass(frozen=True, slots=True)
class Forgotten:
    """A client that is told no more, and the floating addresses at which it was owed a notice."""

    service: str
    client: str
    addresses: tuple[str, ...]


def forget(config: Config, service: Service, client: str, forced: AbstractSet[str] = frozenset()) -> Forgotten:
    """Drop a client that is owed a notice, because the operator vouches that it is gone for good.

    NlmfoError when it is owed none: a client that is current may hold locks of this server, and goes when it lets go.
    Refused (``client-connected``) while it is connected to the service; a client on record by its host name is not
    recognised there. NotOwned where the service is not served. The ledger says so before the record goes.
    """
    refuse_if_not_served(config, service)
    store = store_of(config, service)
    owed = [address for address in store.addresses if client in store.owed_names(address)]
    if not owed:
        raise not_owed(service, store, client)
    if "client-connected" not in forced and _is_connected(service, client):
        raise Refused(
            "client-connected",
            f"service '{service.name}': client {client} is connected to it: it is not gone",
            hint="it is told as soon as it answers: see to its rpc.statd and to what is between it and this node",
            forcible=True,
        )
    entries, number, now = entries_of_now(store), store.state_number(), time.time()
    ledger.append(
        store.state,
        [
            replace(
                entries.get((address, client)) or Entry(address, client, number, Standing.PENDING, at=now, since=now),
                standing=Standing.LEFT,
                at=now,
                detail=BY_HAND,
            )
            for address in owed
        ],
    )
    for address in owed:
        store.forget(address, client)
    return Forgotten(service.name, client, tuple(map(str, owed)))


def store_of(config: Config, service: Service) -> Store:
    """The records, where they are; elsewhere NotOwned."""
    partition = service.state_partition
    here = partition is None or mounts.is_mounted(partition)
    if not here or not any((service.state / directory_name(a.ip)).is_dir() for a in service.addresses):
        owner = registry_of(config).read(service.name)
        where = f"{owner.node} has it ({owner.standing})" if owner else "it was never served"
        raise NotOwned(
            f"service '{service.name}': its records are not on this node: {where}",
            hint="ask on the node that serves it" if owner else None,
        )
    return Store(service.state, tuple(address.ip for address in service.addresses))


def refuse_if_not_served(config: Config, service: Service) -> None:
    """Records that all nodes see are changed by the one that serves them."""
    owner = registry_of(config).read(service.name)
    if owner is None or not owner.serves(config.node, boot_id()):
        raise not_served(service, owner, hint="do it on the node that serves it")


def not_owed(service: Service, store: Store, client: str) -> NlmfoError:
    if any(client in store.current_names(address) for address in store.addresses):
        return NlmfoError(
            f"service '{service.name}': client {client} is owed no notice: it is current, and may hold locks of this "
            "server",
            hint="it leaves the records by itself when it lets go of its last lock",
        )
    return NlmfoError(
        f"service '{service.name}': no client {client} is owed a notice",
        hint=f"'nlmfo clients {service.name}' names everybody who is",
    )


def _is_connected(service: Service, client: str) -> bool:
    """Whether there is an established TCP connection from it to one of the service's addresses."""
    try:
        remote = ip_address(client)
    except ValueError:
        return False
    ours = {address.ip for address in service.addresses}
    there = surroundings_of(service).call(sockdiag.established)
    return any(each.local in ours and each.remote == remote for each in there)


def entries_of_now(store: Store) -> Mapping[Key, Entry]:
    """The ledger's entries of the generation that is served now, and of those who are owed a notice since before it.

    The latter are pending again: what they were told then was of another server.
    """
    number = store.state_number()
    found = {}
    for key, entry in ledger.read(store.state).items():
        if entry.state == number:
            found[key] = entry
        elif entry.standing not in SETTLED:
            found[key] = replace(
                entry, state=number, standing=Standing.PENDING, names=(), attempts=0, detail="", at=entry.since
            )
    return found


def _merged(
    service: Service,
    client: str,
    state: ClientState,
    records: list[tuple[Address, ClientRecord]],
    entries: Mapping[Key, Entry],
) -> ClientOnRecord:
    """One line for all addresses; where one of them does not know the fsids, none is known."""
    fsids = [record.fsids for _, record in records]
    known = all(fsids)
    of_them = [entries[address, client] for address, _ in records if (address, client) in entries]
    if state is ClientState.CURRENT:
        notices = [entry for entry in of_them if entry.standing is Standing.BACK]
    else:
        notices = [entry for entry in of_them if entry.standing not in SETTLED]
    return ClientOnRecord(
        service=service.name,
        client=client,
        addresses=tuple(str(address) for address, _ in records),
        fsids=tuple(sorted(frozenset().union(*fsids))) if known else (),
        since=min(record.since for _, record in records),
        state=state,
        intact=all(record.intact for _, record in records),
        notice=_notice(notices),
    )


def _gone(service: Service, entries: Mapping[Key, Entry], on_record: AbstractSet[str]) -> list[ClientOnRecord]:
    """Who has left since the last takeover and is on record nowhere."""
    found: dict[str, list[Entry]] = {}
    for entry in entries.values():
        if entry.standing is Standing.LEFT and entry.client not in on_record:
            found.setdefault(entry.client, []).append(entry)
    return [
        ClientOnRecord(
            service=service.name,
            client=client,
            addresses=tuple(str(entry.address) for entry in left),
            fsids=(),
            since=min(entry.since for entry in left),
            state=ClientState.GONE,
            intact=True,
            notice=_notice(left),
        )
        for client, left in found.items()
    ]


def _notice(entries: list[Entry]) -> ClientNotice | None:
    if not entries:
        return None
    chosen = ledger.overall(entries)
    return ClientNotice(
        standing=chosen.standing,
        at=chosen.at,
        since=min(entry.since for entry in entries),
        names=chosen.names,
        attempts=sum(entry.attempts for entry in entries),
        detail=chosen.detail,
    )


def _in_order(found: ClientOnRecord) -> tuple[str, str]:
    return found.client, found.state
