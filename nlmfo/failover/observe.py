# SPDX-License-Identifier: GPL-2.0-or-later
"""What is there of a service on this node, asked of the kernel and of the registry, changing nothing."""

from __future__ import annotations

from dataclasses import dataclass

from nlmfo.config import Service
from nlmfo.host import addresses, exports, partitions, view
from nlmfo.host.addresses import Address
from nlmfo.host.namespaces import Namespaces
from nlmfo.kernel import lockd, nfsd
from nlmfo.ownership.record import OwnerRecord, Standing, boot_id
from nlmfo.ownership.registry import Registry


@dataclass(frozen=True, slots=True)
class Observed:
    """A service as it is on this node. ``mounted`` holds UUIDs; without namespaces the rest is empty.

    ``traces``: something of the namespaces is left although they cannot be entered.
    ``owned``: the newest owner record says that this node, in this boot, serves.
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

    def anything(self) -> bool:
        """Whether anything of the service is left on this node."""
        return bool(self.mounted or self.isolated or self.traces)

    def serves(self, service: Service) -> bool:
        """Whether all of it is up here."""
        return (
            self.owned
            and len(self.mounted) == len(service.partitions)
            and self.threads > 0
            and {str(export.path) for export in service.exports} <= self.exported
            and {address.ip for address in service.addresses} <= self.addresses
        )


def observe(service: Service, node: str, registry: Registry) -> Observed:
    """Look at everything; raises Refused when the registry cannot be read."""
    namespaces = Namespaces(service.name)
    owner = registry.read(service.name)
    owned = (
        owner is not None and owner.standing is Standing.SERVING and (owner.node, owner.boot_id) == (node, boot_id())
    )
    isolated = namespaces.exist() and namespaces.call(view.put_in_place_already)
    inside = namespaces.call(_inside) if isolated else (0, False, frozenset())
    up = frozenset(a.ip for a in service.addresses if isolated and addresses.is_up(namespaces, a.ip))
    mounted = frozenset(p.uuid for p in service.partitions if partitions.is_mounted(p))
    return Observed(owner, owned, mounted, isolated, namespaces.traces(), *inside, up)


def _inside() -> tuple[int, bool, frozenset[str]]:
    in_grace = lockd.in_grace() or not _v4_grace_over()
    text = exports.ETAB.read_text(encoding="utf-8", errors="surrogateescape")
    return nfsd.threads(), in_grace, frozenset(str(path) for path in exports.parse(text))


def _v4_grace_over() -> bool:
    return nfsd.threads() == 0 or nfsd.v4_grace_ended()
