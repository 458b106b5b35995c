# SPDX-License-Identifier: GPL-2.0-or-later
"""Established TCP connections of the calling process's network namespace, from sock_diag(7).

This is how the floating address that a client uses is learned: lockd tells statd nothing of it, but the client's
connections to nfsd and lockd have it as their local address. UDP has no connections; such clients are not seen here.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from nlmfo.kernel.messages import dump

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
TCP_ESTABLISHED = 1
#: struct inet_diag_req_v2: family, protocol, extensions, states; the socket to look for (48 bytes) stays empty.
_REQUEST = struct.Struct("=BBBxI48x")
#: struct inet_diag_msg up to the addresses: family, state, timer, retransmissions; source and destination port.
_MESSAGE = struct.Struct("!BBBBHH16s16s")


@dataclass(frozen=True, slots=True)
class Connection:
    """One connection, seen from here. ``remote_port`` is 0 where nobody asked for it."""

    local: IPv4Address | IPv6Address
    port: int
    remote: IPv4Address | IPv6Address
    remote_port: int = 0


def established() -> tuple[Connection, ...]:
    """Every established TCP connection. Raises OSError when the kernel does not answer the question."""
    return tuple(connection for family in (socket.AF_INET, socket.AF_INET6) for connection in _dump(family))


def _dump(family: int) -> Iterator[Connection]:
    body = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 1 << TCP_ESTABLISHED)
    return map(parse, dump("sock_diag", NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, body))


def parse(content: bytes) -> Connection:
    """A struct inet_diag_msg. An IPv4 client of an IPv6 socket is given as what it is."""
    family, _, _, _, port, remote_port, source, destination = _MESSAGE.unpack_from(content)
    if family == socket.AF_INET:
        return Connection(IPv4Address(source[:4]), port, IPv4Address(destination[:4]), remote_port)
    local, remote = IPv6Address(source), IPv6Address(destination)
    return Connection(local.ipv4_mapped or local, port, remote.ipv4_mapped or remote, remote_port)
