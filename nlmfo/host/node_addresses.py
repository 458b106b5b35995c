# SPDX-License-Identifier: GPL-2.0-or-later
"""Floating addresses on the node's own interface, beside its own: for services with ``isolation = "host"``.

Everything here acts on the network namespace of the calling process. When an address goes, the kernel closes nfsd's
and lockd's TCP connections to it (nfsd_inetaddr_event, lockd_inetaddr_event, Linux 4.5); UDP has none to close.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from pathlib import Path

from nlmfo.host import interfaces
from nlmfo.host.addresses import (
    IFA_F_NODAD,
    Address,
    AddressError,
    Interface,
    announce,
    explained,
    index_of,
    netlink_error,
)
from nlmfo.host.interfaces import Assigned

SETTINGS = Path("/proc/sys/net/ipv4/conf")
#: An address that never expires.
FOREVER = 0xFFFFFFFF
#: An address that is never preferred. Said twice: pyroute2 0.7.2 (Debian 12) looks at the last only, 0.9 at the others.
DEPRECATED = {"preferred_lft": 0, "valid_lft": FOREVER, "cacheinfo": {"preferred": 0, "valid": FOREVER}}


def bring_up(interface: str, wanted: Iterable[Interface]) -> None:
    """Give the node's ``interface`` the addresses, see each of them there, and announce it.

    What is there already stays as it is, and is announced again. Duplicate address detection is skipped for IPv6: the
    owner record has answered its question. An IPv6 address comes as deprecated, so that the node opens no connection
    of its own from it, which would break when the address moves; whoever calls it is answered all the same (RFC 4862
    5.5.4). IPv4 does without: the kernel prefers the first address of a network, which is the node's own.
    """
    addresses = tuple(wanted)
    _check_interface(interface)
    for address in addresses:
        if not _on(interface, address.ip):
            _add(interface, address)
        if not is_up(address.ip):
            raise AddressError(f"address {address} did not come up on {interface}")
    announce(addresses, interface)


def take_down(interface: str, wanted: Iterable[Interface]) -> None:
    """Remove the addresses from the node's ``interface``, whatever prefix they have there; done when they are gone.

    Only those: the others on the interface stay. One that is gone already is fine.
    """
    for address in wanted:
        for entry in _entries(address.ip):
            if entry.interface == interface:
                _remove(entry)
        left = _entries(address.ip)
        if left:
            raise AddressError(
                f"address {address.ip} is still on {left[0].interface} after its removal from {interface}",
                hint=f"'ip address del {address.ip}/{left[0].prefix} dev {left[0].interface}' removes it",
            )


def is_up(address: Address) -> bool:
    """Whether an interface of the node has the address, and may use it."""
    return any(entry.usable for entry in _entries(address))


def _entries(address: Address) -> tuple[Assigned, ...]:
    return tuple(entry for entry in interfaces.assigned() if entry.address == address)


def _check_interface(interface: str) -> None:
    index_of(interface)
    if not interfaces.is_up(interface):
        raise AddressError(f"interface '{interface}' is down", hint=f"'ip link set {interface} up' sets it up")


def _on(interface: str, address: Address) -> bool:
    """Whether the address is there already; on another interface it would answer from the wrong place."""
    found = _entries(address)
    elsewhere = [entry.interface for entry in found if entry.interface != interface]
    if elsewhere:
        raise AddressError(
            f"address {address} is on {elsewhere[0]} of this node already, not on {interface}",
            hint="something else manages it: take it away there, or set 'interface' in the service's file",
        )
    return bool(found)


def _add(interface: str, address: Interface) -> None:
    from pyroute2 import IPRoute  # noqa: PLC0415 - 140 ms that only release and takeover need

    prefix = address.network.prefixlen
    more = {"flags": IFA_F_NODAD, **DEPRECATED} if address.version == 6 else {}
    with IPRoute() as node, explained(f"cannot give {interface} the address {address}"):
        node.addr("add", index=index_of(interface), address=str(address.ip), prefixlen=prefix, **more)


def _remove(entry: Assigned) -> None:
    from pyroute2 import IPRoute  # noqa: PLC0415

    _keep_secondaries(entry)
    with IPRoute() as node, explained(f"cannot take {entry.address} from {entry.interface}"):
        try:
            node.addr("del", index=index_of(entry.interface), address=str(entry.address), prefixlen=entry.prefix)
        except netlink_error() as error:
            if error.args[0] != errno.EADDRNOTAVAIL:  # somebody else was quicker
                raise


def _keep_secondaries(entry: Assigned) -> None:
    """Have the kernel keep the other IPv4 addresses of the network, which it would remove with the first of them.

    Two services with addresses in one network that the node has no own address in: without this, the release of one
    takes the other one's address away. The setting stays: another release may count on it by now.
    """
    others = (other for other in interfaces.assigned() if other.interface == entry.interface)
    setting = SETTINGS / entry.interface / "promote_secondaries"
    if not entry.secondary and any(other.secondary for other in others) and setting.exists():
        setting.write_text("1\n", encoding="ascii")
