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

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
NLM_F_REQUEST, NLM_F_DUMP = 0x1, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
TCP_ESTABLISHED = 1
RECEIVE = 1 << 18
#: Seconds for the kernel to answer.
ANSWER = 10.0
#: struct nlmsghdr: length, type, flags, sequence, port id.
_HEADER = struct.Struct("=IHHII")
#: struct inet_diag_req_v2: family, protocol, extensions, states; the socket to look for (48 bytes) stays empty.
_REQUEST = struct.Struct("=BBBxI48x")
#: struct inet_diag_msg up to the addresses: family, state, timer, retransmissions; source and destination port.
_MESSAGE = struct.Struct("!BBBBHH16s16s")


@dataclass(frozen=True, slots=True)
class Connection:
    """One connection, seen from here."""

    local: IPv4Address | IPv6Address
    port: int
    remote: IPv4Address | IPv6Address


def established() -> tuple[Connection, ...]:
    """Every established TCP connection. Raises OSError when the kernel does not answer the question."""
    return tuple(connection for family in (socket.AF_INET, socket.AF_INET6) for connection in _dump(family))


def _dump(family: int) -> Iterator[Connection]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(ANSWER)
        body = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 1 << TCP_ESTABLISHED)
        flags = NLM_F_REQUEST | NLM_F_DUMP
        kernel.send(_HEADER.pack(_HEADER.size + len(body), SOCK_DIAG_BY_FAMILY, flags, 1, 0) + body)
        while True:
            for kind, content in messages(kernel.recv(RECEIVE)):
                if kind == NLMSG_DONE:
                    return
                if kind == NLMSG_ERROR:
                    number = -struct.unpack_from("=i", content)[0]
                    raise OSError(number, "sock_diag refused the question")
                yield parse(content)


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The netlink messages of a datagram, each with its type. What is shorter than its own header ends them."""
    while len(data) >= _HEADER.size:
        length, kind, *_ = _HEADER.unpack_from(data)
        if length < _HEADER.size:
            return
        yield kind, data[_HEADER.size : length]
        data = data[(length + 3) & ~3 :]


def parse(content: bytes) -> Connection:
    """A struct inet_diag_msg. An IPv4 client of an IPv6 socket is given as what it is."""
    family, _, _, _, port, _, source, destination = _MESSAGE.unpack_from(content)
    if family == socket.AF_INET:
        return Connection(IPv4Address(source[:4]), port, IPv4Address(destination[:4]))
    local, remote = IPv6Address(source), IPv6Address(destination)
    return Connection(local.ipv4_mapped or local, port, remote.ipv4_mapped or remote)
