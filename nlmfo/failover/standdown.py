# SPDX-License-Identifier: GPL-2.0-or-later
"""A node that hung while another took over finds out when it wakes, and stops answering.

This is the second line: it looks every few seconds, so a client may be answered before. What keeps a node that hung
from writing and answering at the very moment it wakes is what fenced it (see docs/ownership.md).
"""

from __future__ import annotations

from nlmfo.child import in_child
from nlmfo.config import Config, Isolation, Service
from nlmfo.host import addresses, node_addresses, node_exports
from nlmfo.kernel import nfsd
from nlmfo.ownership.record import OwnerRecord
from nlmfo.ownership.registry import DirectoryRegistry

#: Seconds for the registry to answer.
READ = 10.0


def successor(config: Config, service: Service) -> OwnerRecord | None:
    """The record of the node that owns the service instead of this one; None while this one does.

    Raises NlmfoError when the registry does not say. Without a registry nobody can tell.
    """
    if config.registry is None:
        return None
    registry = DirectoryRegistry(config.registry)
    record = in_child(f"reading {config.registry}", lambda: registry.read(service.name), deadline=READ)
    return record if record is not None and record.node != config.node else None


def stand_down(service: Service) -> None:
    """Answer no client any more: the addresses first, then what is behind them. Runs where ``nlmfo keep`` does.

    What is left, the partitions for one, is for ``nlmfo release``.
    """
    if service.isolation is Isolation.HOST:
        node_addresses.take_down(service.interface, service.addresses)
        node_exports.unload(service)
        return
    addresses.remove_link()
    nfsd.stop()
