# SPDX-License-Identifier: GPL-2.0-or-later
"""Non-blocking sockets that speak from the service's floating address."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

from nlmfo.errors import NlmfoError

#: Opens a socket of a family and a type, perhaps inside another network namespace.
OpenSocket = Callable[[int, int], socket.socket]
Address = IPv4Address | IPv6Address
#: What connect() and sendto() take: (host, port) or (host, port, flow, scope).
Peer = tuple[str, int] | tuple[str, int, int, int]

# Not in Python's socket module; the numbers of asm-generic/socket.h.
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_SIOCGIFINDEX = 0x8933

#: Bytes that a small datagram may take from a receive buffer (skb->truesize): drivers hand up half a page.
_DATAGRAM_COST = 2304


def family_of(address: Address) -> socket.AddressFamily:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def peer_of(address: Address, port: int, scope: int = 0) -> Peer:
    """The form in which the kernel reports a sender, so that both compare equal.

    Always a numeric host without %scope: Python then never asks a resolver.
    """
    host = socket.inet_ntop(family_of(address), address.packed)
    return (host, port) if address.version == 4 else (host, port, 0, scope)


def scope_index(sock: socket.socket, scope: str | None) -> int:
    """The index of a %scope, in the network namespace of ``sock``, which need not be ours.

    Raises OSError if there is no such interface.
    """
    if not scope:
        return 0
    if scope.isascii() and scope.isdecimal() and len(scope) < 10:
        return int(scope)
    name = scope.encode("utf-8", "replace")
    if len(name) > 15 or b"\0" in name:  # the kernel would read a shorter name, perhaps of another interface
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
    answer = fcntl.ioctl(sock, _SIOCGIFINDEX, struct.pack("16s16x", name))
    return int(struct.unpack_from("16si", answer)[1])


def open_from(open_socket: OpenSocket, source: Address, kind: socket.SocketKind) -> socket.socket:
    """A non-blocking socket bound to ``source``, any port (Linux statd accepts every source port).

    Raises NlmfoError when there is no socket to be had or the address cannot be used.
    """
    try:
        sock = open_socket(family_of(source), kind)
    except OSError as error:
        raise NlmfoError(f"cannot open a socket: {error.strerror}") from error
    try:
        sock.setblocking(False)
        sock.bind(peer_of(source, 0, scope_index(sock, getattr(source, "scope_id", None))))
    except OSError as error:
        sock.close()
        raise NlmfoError(
            f"cannot send from {source}: {error.strerror}",
            hint="the address must be up (and, for IPv6, no longer tentative) before clients are notified",
        ) from error
    except BaseException:
        sock.close()
        raise
    return sock


def enlarge_buffers(sock: socket.socket, size: int) -> int:
    """Ask for ``size`` bytes in both directions; return how many replies the receive buffer surely holds.

    Sending needs the room too: datagrams that wait for a dead neighbour's link address stay charged to the
    socket for three seconds, and would stop all others. The FORCE options pass the limits of net.core when
    CAP_NET_ADMIN is there.
    """
    for force, plain in ((_SO_RCVBUFFORCE, socket.SO_RCVBUF), (_SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, plain, size)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, force, size)
    return max(16, sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // _DATAGRAM_COST)
