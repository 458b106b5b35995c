# SPDX-License-Identifier: GPL-2.0-or-later
"""The floating addresses of a service: an ipvlan link in its network namespace, up last and down first.

An ipvlan link in L2 mode shares the hardware address of the node's interface, so switches with port security and
hypervisors that filter by MAC address are content. The node itself cannot reach its own ipvlan links: it cannot be
a client of a service that it serves, which is the better for everybody.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from pathlib import Path

from nlmfo.errors import NlmfoError
from nlmfo.host.namespaces import Namespaces
from nlmfo.host.surroundings import Surroundings

Address = IPv4Address | IPv6Address
Interface = IPv4Interface | IPv6Interface

LINK = "nlmfo0"
IFA_F_NODAD = 0x02
IPVLAN_MODE_L2 = 0
NO_IPVLAN = "the kernel has no ipvlan ('modprobe ipvlan' loads it)"
#: Clients and switches that miss the first announcement get another two.
ANNOUNCEMENTS = 3
SIOCGIFHWADDR = 0x8927
ETH_P_ARP = 0x0806
BROADCAST = b"\xff" * 6
ALL_NODES = "ff02::1"
ICMPV6_NEIGHBOUR_ADVERTISEMENT = 136
#: RFC 4861 4.4: override; the address is no router's, and nobody asked.
NA_OVERRIDE = 0x20000000
NA_TARGET_LINK_LAYER_ADDRESS = 2


class AddressError(NlmfoError):
    """A floating address that cannot be brought up or taken down."""


@dataclass(frozen=True, slots=True)
class Route:
    """A way out through the service's interface, as the node itself has it."""

    family: int
    destination: str
    gateway: str


def load_library() -> None:
    """Import what this module works with, beforehand: it takes longer than all of its work."""
    import pyroute2  # noqa: F401, PLC0415


def rehearse() -> None:
    """Ask for the links, and change nothing: in a process that did so once, the rest goes many times as fast."""
    from pyroute2 import IPRoute  # noqa: PLC0415

    with IPRoute() as service:
        service.get_links()


def create_link(namespaces: Namespaces, interface: str) -> None:
    """Make the service's link on the node's ``interface``, down and without an address."""
    from pyroute2 import IPRoute  # noqa: PLC0415 - 140 ms that only release and takeover need

    net = os.open(namespaces.net, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with IPRoute() as node, explained(f"cannot make an ipvlan link on '{interface}'", NO_IPVLAN):
            index = index_of(interface)
            node.link("add", ifname=LINK, kind="ipvlan", link=index, ipvlan_mode=IPVLAN_MODE_L2, net_ns_fd=net)
    finally:
        os.close(net)


def bring_up(namespaces: Namespaces, addresses: Iterable[Interface], routes: tuple[Route, ...]) -> None:
    """Give the link its addresses and ``routes``, those of the node, see each address work, and announce it.

    Duplicate address detection is skipped for IPv6: a second of silence, during which clients would be refused,
    to ask a question that the owner record has answered.
    """
    wanted = tuple(addresses)
    namespaces.call(partial(_configure, wanted, routes))
    for address in wanted:
        if not is_up(namespaces, address.ip):
            raise AddressError(f"address {address} did not come up on {LINK} of '{namespaces.service}'")
    namespaces.call(partial(announce, wanted))


def take_down(namespaces: Namespaces) -> None:
    """Remove the link with its addresses. Done when the link is gone; a link that is gone already is fine."""
    namespaces.call(remove_link)
    if namespaces.call(link_exists):
        raise AddressError(f"link {LINK} of '{namespaces.service}' is still there after its removal")


def is_up(namespaces: Surroundings, address: Address) -> bool:
    """Whether the address is one of the service's own, asked by binding to it."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with namespaces.open_socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                return False
            raise
    return True


def link_exists() -> bool:
    """Whether the calling process's network namespace has the service's link."""
    return LINK in (name for _, name in socket.if_nameindex())


def index_of(interface: str) -> int:
    """The interface's number in the caller's network namespace; AddressError when it is not there."""
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        raise AddressError(
            f"interface '{interface}': not on this node",
            hint="'ip link' lists them; set 'interface' in the service's file",
        ) from None


def routes_of(interface: str) -> tuple[Route, ...]:
    """The node's routes through a gateway on ``interface``: what clients in other networks are reached by."""
    from pyroute2 import IPRoute  # noqa: PLC0415

    found = []
    with IPRoute() as node:
        index = index_of(interface)
        for family in (socket.AF_INET, socket.AF_INET6):
            for message in node.get_routes(family=family, table=254):
                attributes = dict(message["attrs"])
                if attributes.get("RTA_OIF") == index and "RTA_GATEWAY" in attributes:
                    target = attributes.get("RTA_DST")
                    destination = f"{target}/{message['dst_len']}" if target else "default"
                    found.append(Route(family, destination, attributes["RTA_GATEWAY"]))
    return tuple(found)


def _configure(addresses: tuple[Interface, ...], routes: tuple[Route, ...]) -> None:
    from pyroute2 import IPRoute  # noqa: PLC0415

    # Only the service's own addresses may ever live here, not what a router suggests.
    accept_ra = Path(f"/proc/sys/net/ipv6/conf/{LINK}/accept_ra")
    if accept_ra.exists():
        accept_ra.write_text("0\n", encoding="ascii")
    with IPRoute() as service:
        index = socket.if_nametoindex(LINK)
        service.link("set", index=index, state="up")
        for address in addresses:
            more = {"flags": IFA_F_NODAD} if address.version == 6 else {}
            with explained(f"cannot give {LINK} the address {address}"):
                service.addr("add", index=index, address=str(address.ip), prefixlen=address.network.prefixlen, **more)
        for route in routes:
            # A gateway outside the service's own networks is no use to it.
            with contextlib.suppress(netlink_error()):
                service.route("add", family=route.family, dst=route.destination, gateway=route.gateway, oif=index)


def remove_link() -> None:
    """Remove the link of the calling process's network namespace, and the addresses with it."""
    from pyroute2 import IPRoute  # noqa: PLC0415

    if link_exists():
        with IPRoute() as service:
            service.link("del", index=socket.if_nametoindex(LINK))


@contextlib.contextmanager
def explained(what: str, unsupported: str | None = None) -> Iterator[None]:
    """The library's error is neither ours nor an OSError, and would pass for a mistake in nlmfo.

    ``unsupported`` is the hint where the kernel does not know what it is asked for.
    """
    try:
        yield
    except netlink_error() as error:
        number, *_ = error.args
        hint = unsupported if number == errno.EOPNOTSUPP else None
        raise AddressError(f"{what}: {os.strerror(number)}", hint=hint) from error


def netlink_error() -> type[Exception]:
    """The class of the library's errors; its first argument is the errno."""
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415

    return NetlinkError  # type: ignore[no-any-return]


def announce(addresses: Iterable[Interface], link: str = LINK) -> None:
    """Tell the network on ``link`` of the caller's network namespace where the addresses live now.

    IPv4: gratuitous ARP, as request and as reply, because some switches learn only from one of them (RFC 5227 3).
    IPv6: an unsolicited neighbour advertisement with the override flag (RFC 4861 7.2.6).
    """
    hardware = _hardware_address(link)
    for _ in range(ANNOUNCEMENTS):
        for address in addresses:
            if isinstance(address, IPv4Interface):
                _gratuitous_arp(address.ip, hardware, link)
            else:
                _neighbour_advertisement(address.ip, hardware, link)


def announce_elsewhere(address: IPv4Address, hardware: bytes, link: str) -> None:
    """Tell the network that an address lives at another node's ``hardware``: what was said of us here is wrong now.

    The frame itself comes from us, lest a switch look for the other node here.
    """
    _gratuitous_arp(address, hardware, link, sender=_hardware_address(link))


def _hardware_address(link: str) -> bytes:
    """The link's, from netdevice(7): /sys shows the links of the namespace in which it was mounted."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket, SIOCGIFHWADDR, struct.pack("16s24x", link.encode()))
    return answer[18:24]


def _gratuitous_arp(address: IPv4Address, hardware: bytes, link: str, *, sender: bytes | None = None) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind((link, ETH_P_ARP))
        for operation in (1, 2):
            wire.send(arp_frame(address, hardware, operation, sender=sender))


def arp_frame(address: IPv4Address, hardware: bytes, operation: int, *, sender: bytes | None = None) -> bytes:
    """An Ethernet frame, from ``hardware`` unless ``sender`` is, that tells everybody that ``address`` is at
    ``hardware`` (RFC 826).
    """
    ethernet = BROADCAST + (sender or hardware) + struct.pack("!H", ETH_P_ARP)
    header = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
    target = b"\0" * 6 if operation == 1 else BROADCAST
    return ethernet + header + hardware + address.packed + target + address.packed


def _neighbour_advertisement(address: IPv6Address, hardware: bytes, link: str) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as wire:
        wire.bind((str(address), 0))
        wire.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        wire.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex(link))
        wire.sendto(neighbour_advertisement(address, hardware), (ALL_NODES, 0, 0, socket.if_nametoindex(link)))


def neighbour_advertisement(address: IPv6Address, hardware: bytes) -> bytes:
    """The ICMPv6 message; the kernel fills in its checksum."""
    header = struct.pack("!BBHI", ICMPV6_NEIGHBOUR_ADVERTISEMENT, 0, 0, NA_OVERRIDE)
    return header + address.packed + struct.pack("!BB", NA_TARGET_LINK_LAYER_ADDRESS, 1) + hardware
