# SPDX-License-Identifier: GPL-2.0-or-later
"""Consistency mode ``snapshot``: records are kept on the node, and copied to shared storage now and then.

One file in the state directory, ``snapshot``::

    nlmfo-snapshot 1
    service home
    generation 7                                       the NSM state number it was taken under
    taken 1795179814.75                                seconds since the epoch
    client 10.10.0.100 192.0.2.17 nfs100.example 1234,root
    client 10.10.0.100 192.0.2.18 - -                  a record that could not be read, fsids not known
    sha256 <64 hex digits>                             of everything above

It is written under a temporary name, read back and compared; only then does it get its name, which is the mark that
it is valid. It is used once: afterwards it is ``snapshot.used``. If it was damaged in between, every line that still
names a client counts, and the reader is told that there may be more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from nlmfo.records.directory import Directory
from nlmfo.records.layout import Address, ClientRecord, client_is_safe, fsid_is_safe
from nlmfo.records.sealed import seal, unseal
from nlmfo.records.store import Store

SNAPSHOT = "snapshot"
USED = "snapshot.used"
MAX_SNAPSHOT_BYTES = 64 << 20

_HEAD = "nlmfo-snapshot 1"


@dataclass(frozen=True, slots=True)
class Restored:
    """What came of a snapshot.

    ``clients`` are now owed a notice. ``complete`` says that nobody else was on record when it was taken;
    ``ignored`` says why it was not used at all.
    """

    clients: tuple[str, ...] = ()
    complete: bool = False
    ignored: str | None = None


def take_snapshot(local: Store, shared: Store, service: str, *, now: float) -> int:
    """Copy the clients on record on this node to shared storage; returns how many.

    ``now`` is in seconds since the epoch. Raises StoreError, also when what was read back is not what was written.
    """
    lines = [_HEAD, f"service {service}", f"generation {shared.state_number()}", f"taken {now}"]
    found = [(a, record) for a in local.addresses for record in (*local.owed(a), *local.current(a))]
    lines += sorted({_client_line(address, record) for address, record in found})
    content = seal("".join(f"{line}\n" for line in lines))
    with Directory.open(shared.state) as state:
        state.replace(SNAPSHOT, content, 0o600, verify=True)
    return len({record.client for _, record in found})


def restore_snapshot(store: Store, service: str) -> Restored:
    """Owe a notice to everybody in the snapshot, once; run at takeover, before the generation begins.

    A snapshot of another service or of another generation is ignored, if it is whole. Its age is no reason: clients
    wait for days with their locks, and clocks differ between nodes and are set. Raises StoreError.
    """
    with Directory.open(store.state) as state:
        content = state.read(SNAPSHOT, MAX_SNAPSHOT_BYTES)
        if content is None:
            return Restored(ignored="there is none that can be read")
        text, intact = unseal(content)
        ignored = _why_ignored(text, service, store.state_number())
        if ignored and intact:
            return Restored(ignored=ignored)
        found = {record.client: store.owe(address, record) for address, record in _clients(text, store)}
        state.rename(SNAPSHOT, USED)
    owed = tuple(sorted(client for client, recorded in found.items() if recorded))
    return Restored(owed, complete=intact and len(owed) == len(found))


def _client_line(address: Address, record: ClientRecord) -> str:
    my_name = record.my_name if record.intact else "-"
    return f"client {address} {record.client} {my_name} {','.join(sorted(record.fsids)) or '-'}"


def _why_ignored(text: str, service: str, generation: int) -> str | None:
    head = dict(line.partition(" ")[::2] for line in text.split("\n")[:4])
    if head.get("service") != service:
        return f"it is not of this service but of {head.get('service')!r}"
    if head.get("generation") != str(generation):
        return f"it is of generation {head.get('generation')!r}, and the records are of {generation}"
    return None


def _clients(text: str, store: Store) -> Iterator[tuple[Address, ClientRecord]]:
    for line in text.split("\n"):
        word, *fields = line.split(" ")
        if word != "client" or len(fields) < 2:
            continue
        named, client, my_name, fsids, *_ = (*fields, "-", "-")
        record = ClientRecord(
            client=client,
            mon_name=client,
            my_name=my_name if client_is_safe(my_name) else "",
            fsids=frozenset(fsid for fsid in fsids.split(",") if fsid_is_safe(fsid)) - {"-"},
            since=0.0,
            intact=client_is_safe(my_name),
        )
        for address in _addresses(named, store):
            yield address, record


def _addresses(named: str, store: Store) -> tuple[Address, ...]:
    """The address of that name, or all of them if the service has none such."""
    try:
        address = ip_address(named)
    except ValueError:
        return store.addresses
    return (address,) if address in store.addresses else store.addresses
