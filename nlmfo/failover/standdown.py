# SPDX-License-Identifier: GPL-2.0-or-later
"""A node that hung while another took over finds out when it wakes, and stops answering.

This is the second line: it looks every few seconds, so a client may be answered before. What keeps a node that hung
from writing and answering at the very moment it wakes is what fenced it (see docs/ownership.md).
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path

from nlmfo.child import in_child
from nlmfo.config import Config, Isolation, Service
from nlmfo.errors import NlmfoError
from nlmfo.host import addresses, node_addresses, node_exports, probe
from nlmfo.kernel import nfsd, syscalls
from nlmfo.ownership.record import OwnerRecord
from nlmfo.ownership.registry import DirectoryRegistry

#: Seconds for the registry to answer.
READ = 10.0
#: Seconds in which the successor has to answer for the addresses, and for all of it.
LISTEN, POINT = 0.6, 5.0
#: The node's own: an ipvlan link hears no answer to what it does not ask for itself.
NODE_NETWORK = Path("/proc/1/ns/net")


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
    else:
        addresses.remove_link()
        nfsd.stop()
    with suppress(NlmfoError, OSError):
        in_child("pointing clients to the successor", partial(_point_to_successor, service), deadline=POINT)


def _point_to_successor(service: Service) -> None:
    """Tell clients where the addresses live: this node's kernel may have said "here" while it was awake.

    They would send to it, and hear nothing, until they doubt that by themselves: up to a minute and a half. For IPv6
    they have to. Nobody who does not answer is pointed to, and nothing depends on it.
    """
    with NODE_NETWORK.open("rb") as node:
        syscalls.setns(node.fileno(), syscalls.CLONE_NEWNET)
    for address, hardware in probe.answering(service.interface, service.addresses, seconds=LISTEN).items():
        if isinstance(address, IPv4Address):
            addresses.announce_elsewhere(address, bytes.fromhex(hardware.replace(":", "")), service.interface)
