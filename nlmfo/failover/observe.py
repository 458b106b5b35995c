# SPDX-License-Identifier: GPL-2.0-or-later
"""What is there of a service on this node, as data: what ``nlmfo.failover.look`` sees, and what plans are made from."""

from __future__ import annotations

from dataclasses import dataclass

from nlmfo.config import Service
from nlmfo.ownership.record import OwnerRecord
from nlmfo.records.layout import Address


@dataclass(frozen=True, slots=True)
class Observed:
    """A service as it is on this node. ``mounted`` holds UUIDs; where nothing is up the rest is empty.

    ``owned``: the newest owner record says that this node, in this boot, serves; ``listed``: in this boot or another.
    ``isolated``: the service's own namespaces are there and whole; ``traces``: something of them is left.
    ``attached``: the callout of the rpc.statd that runs here writes this service's records.
    ``to_export``: the paths that the last takeover or reload was to export, by the file that it wrote.
    ``threads`` and ``in_grace`` are those of the nfsd that serves it, in host isolation the node's.
    ``set_up``: there is an nfsd of the service's own, be it without threads yet.
    ``stranded``: clients' locks are left on its partitions while no nfsd serves them: some kernels leave them behind.
    ``told``: everybody who was on record when this generation began has been sent a notice since.
    ``frozen``: the callout deletes nothing, because a release was under way.
    ``kept``: the process that keeps the records in order runs.
    ``neighbours``: the other services that share the nfsd; ``untold``: those of them whose clients have lost their
    locks to a restart of nfsd and have not been sent a notice since.
    ``unread``: the services, this one and neighbours, whose records do not answer: nothing is known of their clients.
    ``per_address``: the kernel can give a single address its grace (the interface proposed in 2006).
    """

    owner: OwnerRecord | None
    owned: bool
    mounted: frozenset[str]
    isolated: bool
    traces: bool
    threads: int
    in_grace: bool
    exported: frozenset[str]
    addresses: frozenset[Address]
    told: bool = False
    frozen: bool = False
    kept: bool = False
    attached: bool = False
    neighbours: tuple[str, ...] = ()
    untold: tuple[str, ...] = ()
    listed: bool = False
    per_address: bool = False
    unread: tuple[str, ...] = ()
    to_export: frozenset[str] = frozenset()
    set_up: bool = False
    stranded: bool = False

    def anything(self) -> bool:
        """Whether anything of the service is left on this node."""
        return bool(
            self.mounted
            or self.isolated
            or self.traces
            or self.attached
            or self.exported
            or self.addresses
            or self.kept
        )

    def superseded(self, node: str) -> bool:
        """Whether another node has owned the service since ``node``, this one, mounted what it still has mounted."""
        return bool(self.mounted) and self.owner is not None and self.owner.node != node

    def serves(self, service: Service) -> bool:
        """Whether all of it is up here."""
        return (
            self.owned
            and len(self.mounted) == len(service.partitions)
            and self.threads > 0
            and {str(export.path) for export in service.exports} <= self.exported
            and {address.ip for address in service.addresses} <= self.addresses
        )
