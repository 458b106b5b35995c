# SPDX-License-Identifier: GPL-2.0-or-later
"""Which addresses the interfaces of the calling process's network namespace have, from rtnetlink(7).

Not asked by binding to an address: where net.ipv4.ip_nonlocal_bind is set, which is usual on nodes with floating
addresses, everybody may bind to anything. And not with the netlink library, which takes longer to load than to ask.
"""

from __future__ import annotations

import fcntl
import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from nlmfo.kernel.messages import attributes, dump

RTM_GETADDR = 22
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
IFA_F_SECONDARY, IFA_F_DADFAILED, IFA_F_TENTATIVE = 0x01, 0x08, 0x40
SIOCGIFFLAGS = 0x8913
IFF_UP = 0x1
#: struct ifaddrmsg: family, prefix length, flags, scope, interface.
_MESSAGE = struct.Struct("=BBBBI")


@dataclass(frozen=True, slots=True)
class Assigned:
    """An address that an interface has. ``flags`` are those of rtnetlink, IFA_F_*."""

    interface: str
    address: IPv4Address | IPv6Address
    prefix: int
    flags: int

    @property
    def usable(self) -> bool:
        """Whether it may be used: not when duplicate address detection is under way or has found another."""
        return self.address.version == 4 or not self.flags & (IFA_F_TENTATIVE | IFA_F_DADFAILED)

    @property
    def secondary(self) -> bool:
        """Whether it goes when the first IPv4 address of its network on the interface goes."""
        return self.address.version == 4 and bool(self.flags & IFA_F_SECONDARY)


def assigned() -> tuple[Assigned, ...]:
    """Every address here. Raises OSError when the kernel does not answer the question."""
    names = dict(socket.if_nameindex())
    found = []
    everything = _MESSAGE.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    for content in dump("rtnetlink", socket.NETLINK_ROUTE, RTM_GETADDR, everything):
        entry = parse(content, names)
        if entry is not None:
            found.append(entry)
    return tuple(found)


def is_up(interface: str) -> bool:
    """Whether the interface, which exists, has been set up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket, SIOCGIFFLAGS, struct.pack("16s24x", interface.encode()))
    return bool(struct.unpack_from("=H", answer, 16)[0] & IFF_UP)


def parse(content: bytes, names: dict[int, str]) -> Assigned | None:
    """A struct ifaddrmsg with its attributes; None for another family, or an interface that has gone meanwhile."""
    family, prefix, flags, _, index = _MESSAGE.unpack_from(content)
    fields = dict(attributes(content[_MESSAGE.size :]))
    # With a peer, IFA_ADDRESS is the peer's, and IFA_LOCAL ours.
    raw = fields.get(IFA_LOCAL, fields.get(IFA_ADDRESS))
    if family not in (socket.AF_INET, socket.AF_INET6) or raw is None or index not in names:
        return None
    if IFA_FLAGS in fields:
        (flags,) = struct.unpack_from("=I", fields[IFA_FLAGS])
    return Assigned(names[index], ip_address(raw), prefix, flags)
