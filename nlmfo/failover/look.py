# SPDX-License-Identifier: GPL-2.0-or-later
"""Looks at what is there of a service on this node: asked of the kernel and of the registry, changing nothing."""

from __future__ import annotations

from collections.abc import Mapping

from nlmfo.child import in_child
from nlmfo.config import Config, Isolation, Service
from nlmfo.errors import NlmfoError
from nlmfo.failover import neighbours
from nlmfo.failover.observe import Observed
from nlmfo.failover.owner import owner_of
from nlmfo.host import (
    addresses,
    exports,
    keeper_process,
    mounts,
    node_addresses,
    node_exports,
    view,
)
from nlmfo.host.namespaces import Namespaces
from nlmfo.host.node import Node
from nlmfo.kernel import grace, locks, nfsd, proposed
from nlmfo.ownership.record import OwnerRecord, boot_id
from nlmfo.ownership.registry import Registry
from nlmfo.records.callout import CALLOUT_CONFIG, callout_addresses
from nlmfo.records.store import Store

#: Seconds to read a few bytes from the shared storage. Those of several services may hang, one after the other.
READ = 5.0


def look(config: Config, service: Service, registry: Registry) -> Observed:
    """Look at everything; raises Refused when the registry cannot be read, or not in time.

    Records that cannot be read do not say that anybody was told: a release must be possible while their storage hangs.
    """
    return look_as_owned(config, service, owner_of(service, registry))


def look_as_owned(config: Config, service: Service, owner: OwnerRecord | None) -> Observed:
    """The same for who has read the owner record already."""
    mounted = frozenset(p.uuid for p in service.partitions if mounts.is_mounted(p))
    seen = _on_node if service.isolation is Isolation.HOST else _in_namespaces
    return seen(config, service, owner, mounted)


def _in_namespaces(config: Config, service: Service, owner: OwnerRecord | None, mounted: frozenset[str]) -> Observed:
    namespaces = Namespaces(service.name)
    isolated = namespaces.exist() and namespaces.call(view.put_in_place_already)
    callout = callout_addresses(view.on_node(namespaces, CALLOUT_CONFIG)) if isolated else {}
    nothing: frozenset[str] = frozenset()
    inside = namespaces.call(_inside) if isolated else (0, False, False, nothing, nothing)
    threads, set_up, in_grace, exported, to_export = inside
    told = _told(service) if threads > 0 and len(mounted) == len(service.partitions) else False
    return Observed(
        owner=owner,
        owned=owner is not None and owner.serves(config.node, boot_id()),
        listed=owner is not None and owner.serves(config.node),
        mounted=mounted,
        isolated=isolated,
        traces=namespaces.traces(),
        threads=threads,
        set_up=set_up,
        in_grace=in_grace,
        exported=exported,
        to_export=to_export,
        addresses=frozenset(a.ip for a in service.addresses if isolated and addresses.is_up(namespaces, a.ip)),
        told=bool(told),
        unread=_named({service.name: told}, None),
        frozen=any(callout.values()),
        attached=bool(callout),
        kept=isolated and keeper_process.runs(namespaces),
        stranded=not threads and bool(mounted) and _stranded(service),
    )


def _on_node(config: Config, service: Service, owner: OwnerRecord | None, mounted: frozenset[str]) -> Observed:
    node = Node(service.name)
    others = neighbours.of(config, service)
    attached = neighbours.mark(service.name).exists()
    paths = {export.path for export in service.exports}
    ours = {address.ip for address in service.addresses}
    told = {service.name: _told(service) if attached else False} | {other.name: _told(other) for other in others}
    return Observed(
        owner=owner,
        owned=owner is not None and owner.serves(config.node, boot_id()),
        listed=owner is not None and owner.serves(config.node),
        mounted=mounted,
        isolated=False,
        traces=node_exports.traces(service),
        threads=node.call(nfsd.threads),
        in_grace=node.call(grace.on),
        exported=frozenset(str(path) for path in node_exports.table() & paths),
        to_export=frozenset(map(str, node_exports.written(service))),
        addresses=frozenset(ip for ip in ours if node_addresses.is_up(ip)),
        told=bool(told[service.name]),
        unread=_named(told, None),
        frozen=attached and any(frozen for ip, frozen in callout_addresses(CALLOUT_CONFIG).items() if ip in ours),
        kept=keeper_process.runs(node),
        attached=attached,
        neighbours=tuple(other.name for other in others),
        untold=_named({other.name: told[other.name] for other in others}, False),
        per_address=proposed.can_start_grace(),
    )


def _stranded(service: Service) -> bool:
    """Whether the kernel's lock table has locks of clients there, whatever has become of their nfsd."""
    found = (mounts.at(partition.mountpoint) for partition in service.partitions)
    return bool(locks.held_by_clients({mount.device for mount in found if mount is not None}))


def _told(service: Service) -> bool | None:
    """Whether the records say so; None when they do not answer, which must keep nobody from letting go."""
    store = Store(service.state, [address.ip for address in service.addresses])
    try:
        return in_child(f"service '{service.name}': reading {service.state}", store.told, deadline=READ)
    except (NlmfoError, OSError):
        return None


def _named(answers: Mapping[str, bool | None], answer: bool | None) -> tuple[str, ...]:
    return tuple(name for name, found in answers.items() if found is answer)


def _inside() -> tuple[int, bool, bool, frozenset[str], frozenset[str]]:
    exported, to_export = (frozenset(map(str, found)) for found in exports.here())
    return nfsd.threads(), nfsd.is_set_up(), grace.on(), exported, to_export
