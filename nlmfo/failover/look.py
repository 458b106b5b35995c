# SPDX-License-Identifier: GPL-2.0-or-later
"""Looks at what is there of a service on this node: asked of the kernel and of the registry, changing nothing."""

from __future__ import annotations

from nlmfo.child import in_child
from nlmfo.config import Config, Isolation, Service
from nlmfo.failover import shared
from nlmfo.failover.observe import Observed
from nlmfo.host import addresses, daemons, exports, node_addresses, node_exports, node_locks, partitions, view
from nlmfo.host.namespaces import Namespaces
from nlmfo.host.node import Node
from nlmfo.kernel import lockd, nfsd
from nlmfo.ownership.record import OwnerRecord, boot_id
from nlmfo.ownership.registry import Registry
from nlmfo.records import CALLOUT_CONFIG, Store, frozen_addresses

#: Seconds to read a few bytes from the shared storage.
READ = 20.0


def look(config: Config, service: Service, registry: Registry) -> Observed:
    """Look at everything; raises Refused when the registry cannot be read, NlmfoError when the records cannot."""
    owner = registry.read(service.name)
    mounted = frozenset(p.uuid for p in service.partitions if partitions.is_mounted(p))
    seen = _on_node if service.isolation is Isolation.HOST else _in_namespaces
    return seen(config, service, owner, mounted)


def _in_namespaces(config: Config, service: Service, owner: OwnerRecord | None, mounted: frozenset[str]) -> Observed:
    namespaces = Namespaces(service.name)
    isolated = namespaces.exist() and namespaces.call(view.put_in_place_already)
    threads, in_grace, exported = namespaces.call(_inside) if isolated else (0, False, frozenset())
    return Observed(
        owner=owner,
        owned=owner is not None and owner.serves(config.node, boot_id()),
        listed=owner is not None and owner.serves(config.node),
        mounted=mounted,
        isolated=isolated,
        traces=namespaces.traces(),
        threads=threads,
        in_grace=in_grace,
        exported=exported,
        addresses=frozenset(a.ip for a in service.addresses if isolated and addresses.is_up(namespaces, a.ip)),
        told=threads > 0 and len(mounted) == len(service.partitions) and _told(service),
        frozen=isolated and bool(frozen_addresses(view.on_node(namespaces, CALLOUT_CONFIG))),
        kept=isolated and daemons.keeper_runs(namespaces),
    )


def _on_node(config: Config, service: Service, owner: OwnerRecord | None, mounted: frozenset[str]) -> Observed:
    node = Node(service.name)
    others = shared.neighbours(config, service)
    attached = shared.mark(service.name).exists()
    paths = {export.path for export in service.exports}
    ours = {address.ip for address in service.addresses}
    return Observed(
        owner=owner,
        owned=owner is not None and owner.serves(config.node, boot_id()),
        listed=owner is not None and owner.serves(config.node),
        mounted=mounted,
        isolated=False,
        traces=node_exports.traces(service),
        threads=node.call(nfsd.threads),
        in_grace=node.call(_in_grace),
        exported=frozenset(str(path) for path in node_exports.table() & paths),
        addresses=frozenset(ip for ip in ours if node_addresses.is_up(ip)),
        told=attached and _told(service),
        frozen=attached and bool(frozen_addresses(CALLOUT_CONFIG) & ours),
        kept=daemons.keeper_runs(node),
        attached=attached,
        neighbours=tuple(other.name for other in others),
        untold=tuple(other.name for other in others if not _told(other)),
        per_address=node_locks.grace_per_address(),
    )


def _told(service: Service) -> bool:
    store = Store(service.state, [address.ip for address in service.addresses])
    return in_child(f"service '{service.name}': reading {service.state}", store.told, deadline=READ)


def _inside() -> tuple[int, bool, frozenset[str]]:
    text = exports.ETAB.read_text(encoding="utf-8", errors="surrogateescape")
    return nfsd.threads(), _in_grace(), frozenset(str(path) for path in exports.parse(text))


def _in_grace() -> bool:
    """Whether reclaims are granted: lockd asks both keepers, its own and NFSv4's (fs/nfs_common/grace.c)."""
    return lockd.in_grace() or (nfsd.threads() > 0 and not nfsd.v4_grace_ended())
