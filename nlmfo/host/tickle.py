# SPDX-License-Identifier: GPL-2.0-or-later
"""Ends the connections that clients had to the node that served before, so that they come back at once.

A client does not see the address move. Its connection waits for an answer, sends again after 0.2, 0.4, 0.8 ... seconds,
and only what it sends after the address is up here gets a reset: after an outage of 8 s that may be 6 s later. So the
new node speaks first. The idea is CTDB's, the "tickle ACK":

    here:    a bare ACK from the server's end of the old connection, with numbers that cannot be right
    client:  an ACK that tells its own numbers, as to everything outside its window (RFC 9293 3.10.7.4, RFC 5961)
    here:    a reset, from the kernel, which knows no such connection; its number is right, so the client believes it

A connection that this node does have, because the client is back with the same ports, takes the client's answer for a
repeated ACK and lives on. So it may be sent to everybody, and more than once:

- The address has to be up and announced before, or the client's answer goes elsewhere.
- A client answers for each connection once in 500 ms (net.ipv4.tcp_invalid_ratelimit, since Linux 4.0; see
  tcp_oow_rate_limited in net/ipv4/tcp_input.c): send again after a second, not sooner.
- Four ACKs for each connection, because nobody here knows its numbers. A client with a firewall that drops what is
  "invalid" hears only the one that looks old, in sequence and in acknowledgement (since 6e250dcbff1d, Linux 6.1; before
  that none); and of two that are 2 GiB apart, one at least is outside any window. A client without one answers the
  first.
- Not where connections are tracked (a firewall on the node, in host isolation). conntrack would take the ACK for a
  connection that the server opened; when that is reset, the client's next one from the same port, and NFS clients keep
  theirs, is "invalid" for 10 s: none of 40 could come back (seen on 6.18). The client's own time is the better one.
  A service with a network namespace of its own has no rules in it.
"""

from __future__ import annotations

import random
import socket
import struct
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from ipaddress import IPv4Address, IPv6Address
from itertools import count
from pathlib import Path

from nlmfo.records.connections import Ends, Remembered

Address = IPv4Address | IPv6Address
OpenSocket = Callable[[int, int, int], socket.socket]

#: So many connections at once, and then a pause, in seconds: at most 5000 in a second, which are 20000 packets, 800 kB.
BURST = 50
PAUSE = 0.01
#: Bytes. What waits for a neighbour's hardware address (3 s if he is gone) is held against its socket.
SEND_BUFFER = 32 << 20
#: socket(7); goes beyond net.core.wmem_max, for whoever has CAP_NET_ADMIN. The socket module has no name for it.
SO_SNDBUFFORCE = 32
ACK = 0x10
#: Half of the numbers there are: of two so far apart, one is in the past.
HALF = 1 << 31
#: Of the network namespace of who reads it; not there without nf_conntrack.
TRACKED = Path("/proc/sys/net/netfilter/nf_conntrack_count")
#: From where Linux clients mount, and where their lockd speaks from (sunrpc.min_resvport and max_resvport), unless they
#: mount with noresvport.
RESERVED = range(665, 1024)
#: Says nothing: who looks at it has found the numbers to be right.
WINDOW = 1024
HOPS = 64
DONT_FRAGMENT = 0x4000
#: Source and destination port, sequence, acknowledgement, offset in the upper half (5 words), flags, window, checksum,
#: urgent pointer.
_TCP = struct.Struct("!HHIIBBHHH")
#: Version and length in words, service, total length, id, fragment, hops, protocol, checksum, source, destination. The
#: kernel fills in what is 0 here (raw(7)).
_IPV4 = struct.Struct("!BBHHHBBH4s4s")
#: Version, class and flow; payload length, next header, hops, source, destination.
_IPV6 = struct.Struct("!IHBB16s16s")


def tickle(
    connections: Iterable[Ends],
    *,
    open_socket: OpenSocket = socket.socket,
    pause: Callable[[float], None] = time.sleep,
) -> int:
    """Send the four ACKs for each connection; returns for how many connections they went out.

    To be run in the network namespace where the addresses are, with CAP_NET_RAW. What cannot be sent is left out: an
    address that is not up here, a client without a route; and everything, where connections are tracked. Never raises
    OSError, never waits for a client; takes ``PAUSE`` seconds for each ``BURST`` connections.
    """
    if connections_are_tracked():
        return 0
    by_address = defaultdict(list)
    for connection in connections:
        by_address[connection.local].append(connection)
    sent, tried = 0, count(1)
    with ExitStack() as stack:
        for address, theirs in by_address.items():
            try:
                wire = stack.enter_context(_open(address, open_socket))
            except OSError:
                continue
            for connection in theirs:
                sent += _send(wire, connection.remote, acks(connection))
                if next(tried) % BURST == 0:
                    pause(PAUSE)
    return sent


def from_reserved_ports(local: Address, port: int, client: Address) -> Iterator[Remembered]:
    """Every connection that a client can have there as Linux makes them; to those it does not have it says no."""
    return (Remembered(local, port, client, number) for number in RESERVED)


def connections_are_tracked() -> bool:
    """Whether conntrack is at work in the caller's network namespace; true also when that cannot be told.

    It is loaded for all and works where a rule needs it, so a datagram is sent for it to count, to the discard port.
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
            probe.sendto(b"", socket.MSG_DONTWAIT, ("127.0.0.1", 9))
        return int(TRACKED.read_text(encoding="ascii")) > 0
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return True


def acks(ends: Ends) -> tuple[bytes, ...]:
    """The packets of four ACKs, of which one at least is old in both its numbers."""
    sequence, acknowledgement = random.getrandbits(31), random.getrandbits(31)
    return tuple(
        packet(ends, segment(ends, sequence + later, acknowledgement + more))
        for later in (0, HALF)
        for more in (0, HALF)
    )


def packet(ends: Ends, content: bytes) -> bytes:
    """The whole packet around a segment: what raw(7) wants to have where the source address is given."""
    source, destination = ends.local.packed, ends.remote.packed
    if ends.local.version == 4:
        length = _IPV4.size + len(content)
        return _IPV4.pack(0x45, 0, length, 0, DONT_FRAGMENT, HOPS, socket.IPPROTO_TCP, 0, source, destination) + content
    return _IPV6.pack(6 << 28, len(content), socket.IPPROTO_TCP, HOPS, source, destination) + content


def segment(ends: Ends, sequence: int, acknowledgement: int) -> bytes:
    """A TCP segment (RFC 9293 3.1) from the server's end: ACK, and no data or options."""

    def header(checksum: int) -> bytes:
        return _TCP.pack(ends.port, ends.remote_port, sequence, acknowledgement, 5 << 4, ACK, WINDOW, checksum, 0)

    # The pseudo header of IPv4 and the one of IPv6 (RFC 8200 8.1) have the same sum for a length below 65536.
    pseudo = ends.local.packed + ends.remote.packed + struct.pack("!HH", socket.IPPROTO_TCP, _TCP.size)
    return header(_checksum(pseudo + header(0)))


def _checksum(data: bytes) -> int:
    """RFC 1071, of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _open(address: Address, open_socket: OpenSocket) -> socket.socket:
    """A socket that takes whole packets and receives none (IPPROTO_RAW); OSError if the address is not up there."""
    wire = open_socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)
    try:
        # The source stands in the packet. Binding only proves that it is ours: nobody else's is ever sent.
        wire.bind((str(address), 0))
        with suppress(OSError):
            wire.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, SEND_BUFFER)
    except OSError:
        wire.close()
        raise
    return wire


def _send(wire: socket.socket, to: Address, packets: Iterable[bytes]) -> bool:
    try:
        for content in packets:
            wire.sendto(content, socket.MSG_DONTWAIT, (str(to), 0))
    except OSError:
        return False
    return True
