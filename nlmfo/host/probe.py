# SPDX-License-Identifier: GPL-2.0-or-later
"""Who on the network has an address already: asked before it is announced, without telling anybody anything.

IPv4: ARP probes, which name no sender address and so change nobody's table (RFC 5227 2.1). IPv6: the neighbour
solicitation of duplicate address detection, from the unspecified address (RFC 4862 5.4); the answer goes to all
nodes (RFC 4861 7.2.4). Silence proves nothing: a node may be hung or cut off and write all the same. An answer does.

Frames come from anybody: what is not an answer to the letter is none. A filter in the kernel keeps everything else
away, lest the answer be lost in what the node has to do with clients of its other services.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from nlmfo.deadline import Deadline
from nlmfo.errors import NlmfoError
from nlmfo.host.addresses import (
    BROADCAST,
    ETH_P_ARP,
    ICMPV6_NEIGHBOUR_ADVERTISEMENT,
    SIOCGIFHWADDR,
    Address,
    Interface,
)

#: RFC 5227 1.1, PROBE_NUM. They go out in the first half of the time, so that the last can be answered too.
PROBES = 3
#: Seconds between two rounds of questions while a takeover waits, and for which the outcome of one is good.
BETWEEN, FRESH = 0.3, 1.0
ETH_P_ALL = 0x0003
ETH_P_IPV6 = 0x86DD
ICMPV6_NEIGHBOUR_SOLICITATION = 135
#: RFC 4861 7.1: any other hop limit has come through a router, and lies.
ON_LINK = 255
REQUEST, REPLY = 1, 2
#: The first frame that fits is all that an answer needs; Ethernet, IPv6 and ICMPv6 headers with options are below it.
FRAME = 2048
#: Where the all-nodes group (ff02::1) is on Ethernet, RFC 2464 7.
ALL_NODES_HARDWARE = bytes.fromhex("333300000001")

SIOCGIFFLAGS = 0x8913
IFF_UP, IFF_RUNNING = 0x1, 0x40
ARPHRD_ETHER = 1
PACKET_ADD_MEMBERSHIP, PACKET_MR_MULTICAST = 1, 0
SOL_PACKET = 263
SO_ATTACH_FILTER = 26

#: Ethernet; ARP: hardware, protocol, their lengths, operation, sender, target.
_ETHERNET = struct.Struct("!6s6sH")
_ARP = struct.Struct("!HHBBH6s4s6s4s")
#: IPv6: version and flow, payload length, next header, hop limit, source, destination. Neighbour messages: type,
#: code, checksum, flags, target.
_IPV6 = struct.Struct("!IHBB16s16s")
_NEIGHBOUR = struct.Struct("!BBHI16s")

#: Classic BPF (linux/filter.h): code, jump if true, jump if false, operand. Lets through ARP, and neighbour
#: advertisements without extension headers (RFC 6980 has no others), of no VLAN: those are other networks, and their
#: tag may have been taken off by the card. SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT is 0xfffff030.
_LOAD_BYTE, _LOAD_HALF, _JUMP_IF_EQUAL, _RETURN = 0x30, 0x28, 0x15, 0x06
_FILTER = (
    (_LOAD_BYTE, 0, 0, 0xFFFFF030),
    (_JUMP_IF_EQUAL, 0, 8, 0),
    (_LOAD_HALF, 0, 0, 12),
    (_JUMP_IF_EQUAL, 5, 0, ETH_P_ARP),
    (_JUMP_IF_EQUAL, 0, 5, ETH_P_IPV6),
    (_LOAD_BYTE, 0, 0, 20),
    (_JUMP_IF_EQUAL, 0, 3, socket.IPPROTO_ICMPV6),
    (_LOAD_BYTE, 0, 0, 54),
    (_JUMP_IF_EQUAL, 0, 1, ICMPV6_NEIGHBOUR_ADVERTISEMENT),
    (_RETURN, 0, 0, FRAME),
    (_RETURN, 0, 0, 0),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """Somebody says that the address is at this hardware address."""

    address: Address
    hardware: bytes


def answering(interface: str, addresses: Iterable[Interface], *, seconds: float = 0.6) -> dict[Address, str]:
    """Which of the addresses somebody else has, and the hardware address of who answered for it.

    Asks on ``interface`` of the caller's network namespace, for ``seconds``, or until all have been answered for.
    Raises NlmfoError when the interface is missing, down, without a carrier, or not Ethernet: nobody could be heard.
    """
    wanted = {address.ip for address in addresses}
    if not wanted:
        return {}
    try:
        hardware = _hardware_address(interface)
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as wire:
            _listen(wire, interface)
            found, unasked = _ask(wire, hardware, wanted, seconds)
        _hardware_address(interface)  # still there, still up: silence was not the cable's
    except OSError as error:
        raise _deaf(interface, error.strerror or str(error)) from error
    if unasked:
        raise _deaf(interface, "its queue was full all the time")
    return found


class Silence:
    """Asks again and again while a takeover waits, so that nobody waits for it to ask once the service was released.

    Each round is what ``answering`` does; a node that lets go is noticed about as long after its address went down as
    it takes to unmount.
    """

    def __init__(self, interface: str, addresses: Iterable[Interface], *, seconds: float) -> None:
        """``seconds``: how long whoever has an address has to answer in each round."""
        self._interface = interface
        self._addresses = tuple(addresses)
        self._seconds = seconds
        self._heard = float("-inf")  # when the last silent round ended; it is one float, which needs no lock
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def lasts(self) -> bool:
        """Whether nobody answered in the last round, a moment ago."""
        return time.monotonic() - self._heard < FRESH

    def end(self) -> None:
        """Ask no more, but for the round that is under way."""
        self._over.set()

    def close(self) -> None:
        """The same, and see that round end."""
        self.end()
        self._thread.join()

    def _listen(self) -> None:
        while not self._over.wait(BETWEEN):
            try:
                somebody = bool(answering(self._interface, self._addresses, seconds=self._seconds))
            except NlmfoError:  # whoever asks for the last time will say it
                somebody = True
            self._heard = float("-inf") if somebody else time.monotonic()


def answer(frame: bytes) -> Answer | None:
    """What an Ethernet frame says about who has an address; None when it says nothing of the kind."""
    if len(frame) < _ETHERNET.size:
        return None
    _, sender, kind = _ETHERNET.unpack_from(frame)
    content = frame[_ETHERNET.size :]
    if kind == ETH_P_ARP:
        return _of_arp(content)
    return _of_neighbour(content, sender) if kind == ETH_P_IPV6 else None


def arp_probe(address: IPv4Address, hardware: bytes) -> bytes:
    """An Ethernet frame that asks who has ``address``, from nobody's address (RFC 5227 2.1.1)."""
    probe = _ARP.pack(1, 0x0800, 6, 4, REQUEST, hardware, b"\0" * 4, b"\0" * 6, address.packed)
    return _ETHERNET.pack(BROADCAST, hardware, ETH_P_ARP) + probe


def neighbour_probe(address: IPv6Address, hardware: bytes) -> bytes:
    """An Ethernet frame with the neighbour solicitation of duplicate address detection (RFC 4861 4.3)."""
    last = address.packed[13:]
    source, group = b"\0" * 16, IPv6Address("ff02::1:ff00:0").packed[:13] + last
    message = _NEIGHBOUR.pack(ICMPV6_NEIGHBOUR_SOLICITATION, 0, 0, 0, address.packed)
    checksum = _checksum(source + group + struct.pack("!II", len(message), socket.IPPROTO_ICMPV6) + message)
    message = _NEIGHBOUR.pack(ICMPV6_NEIGHBOUR_SOLICITATION, 0, checksum, 0, address.packed)
    header = _IPV6.pack(6 << 28, len(message), socket.IPPROTO_ICMPV6, ON_LINK, source, group)
    return _ETHERNET.pack(b"\x33\x33\xff" + last, hardware, ETH_P_IPV6) + header + message


def _ask(
    wire: socket.socket, hardware: bytes, wanted: set[Address], seconds: float
) -> tuple[dict[Address, str], set[Address]]:
    """Who answered, and for which addresses the question never got out."""
    found: dict[Address, str] = {}
    unasked = set(wanted)
    limit = Deadline(seconds)
    rounds = [Deadline(seconds * n / (2 * PROBES)) for n in range(PROBES)]
    while not limit.passed() and len(found) < len(wanted):
        if rounds and rounds[0].passed():
            rounds.pop(0)
            unasked -= _send(wire, hardware, wanted - found.keys())
        heard = _receive(wire, (rounds[0] if rounds else limit).remaining())
        if heard is not None and heard.address in wanted and heard.hardware != hardware:
            found.setdefault(heard.address, heard.hardware.hex(":"))
    return found, unasked - found.keys()


def _send(wire: socket.socket, hardware: bytes, wanted: Iterable[Address]) -> set[Address]:
    """The addresses for which the question went out: a card whose queue is full may take the next one."""
    sent = set()
    for address in wanted:
        try:
            wire.send(_question(address, hardware))
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ENOBUFS):
                raise
        else:
            sent.add(address)
    return sent


def _question(address: Address, hardware: bytes) -> bytes:
    if isinstance(address, IPv4Address):
        return arp_probe(address, hardware)
    return neighbour_probe(address, hardware)


def _receive(wire: socket.socket, seconds: float) -> Answer | None:
    """The answer in the next frame from the network, if it comes within ``seconds`` and is one."""
    ready = select.poll()
    ready.register(wire, select.POLLIN)
    if not ready.poll(seconds * 1000):
        return None
    frame, (_, _, direction, *_) = wire.recvfrom(FRAME)
    return None if direction == socket.PACKET_OUTGOING else answer(frame)


def _of_arp(content: bytes) -> Answer | None:
    """Whoever names the address as its own, be it to answer or to ask for another, has it (RFC 5227 2.1.1)."""
    if len(content) < _ARP.size:
        return None
    hardware, protocol, size, length, operation, sender, address, _, _ = _ARP.unpack_from(content)
    if (hardware, protocol, size, length) != (1, 0x0800, 6, 4) or operation not in (REQUEST, REPLY):
        return None
    return Answer(IPv4Address(address), sender)


def _of_neighbour(content: bytes, sender: bytes) -> Answer | None:
    """RFC 4861 7.1.2, but for the checksum: a damaged frame would refuse a takeover, which can be tried again."""
    if len(content) < _IPV6.size + _NEIGHBOUR.size:
        return None
    first, length, following, hops, _, _ = _IPV6.unpack_from(content)
    if first >> 28 != 6 or following != socket.IPPROTO_ICMPV6 or hops != ON_LINK:
        return None
    if not _NEIGHBOUR.size <= length <= len(content) - _IPV6.size:
        return None
    kind, code, _, _, target = _NEIGHBOUR.unpack_from(content, _IPV6.size)
    if (kind, code) != (ICMPV6_NEIGHBOUR_ADVERTISEMENT, 0):
        return None
    return Answer(IPv6Address(target), sender)


def _checksum(data: bytes) -> int:
    """RFC 1071, over an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _listen(wire: socket.socket, interface: str) -> None:
    """Everything on the interface that the filter lets through, before bridges and ipvlan links can take it away."""
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in _FILTER))
    # struct sock_fprog; the kernel copies what it points to.
    pointer = struct.pack("@HP", len(_FILTER), ctypes.addressof(program))
    wire.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, pointer)
    index = socket.if_nametoindex(interface)
    # struct packet_mreq: a card would drop what goes to a group that nobody has joined.
    group = struct.pack("@iHH8s", index, PACKET_MR_MULTICAST, len(ALL_NODES_HARDWARE), ALL_NODES_HARDWARE)
    wire.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, group)
    wire.bind((interface, ETH_P_ALL))
    wire.setblocking(False)


def _hardware_address(interface: str) -> bytes:
    """The interface's own, if it can be used to ask and to hear (netdevice(7)). Raises NlmfoError, OSError."""
    request = struct.pack("16s24x", os.fsencode(interface))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as any_socket:
        (flags,) = struct.unpack_from("@H", fcntl.ioctl(any_socket, SIOCGIFFLAGS, request), 16)
        kind, hardware = struct.unpack_from("@H6s", fcntl.ioctl(any_socket, SIOCGIFHWADDR, request), 16)
    if not flags & IFF_UP:
        raise _deaf(interface, "it is down")
    if not flags & IFF_RUNNING:
        raise _deaf(interface, "it has no carrier")
    if kind != ARPHRD_ETHER:
        raise _deaf(interface, "it is not an Ethernet interface")
    return bytes(hardware)


def _deaf(interface: str, why: str) -> NlmfoError:
    return NlmfoError(
        f"interface '{interface}': cannot ask who has the service's addresses: {why}",
        hint=f"'ip link show {interface}' tells more; the name is 'interface' in the service's file",
    )
