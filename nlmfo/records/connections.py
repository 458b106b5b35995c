# SPDX-License-Identifier: GPL-2.0-or-later
"""The connections that clients have, for the node that serves next: it ends them, so that they come back at once.

One file in the state directory, ``connections``, root's, 0600, one connection per line::

    10.10.0.100 2049 192.0.2.17 871        floating address, port, the client's address, its port
    fd00::100 2049 2001:db8::17 1003

What the next node does with it is in nlmfo.host.tickle. A list that is old, cut off or lost costs those clients some
seconds and never a lock. So it is no error when it cannot be read, and a line that is not as above is left out. It is
read as if an enemy had written it: whoever is on it gets packets of 40 bytes from a floating address.

It is replaced durably, as everything here is, although nobody would miss it: a file that is renamed before its content
is on the disk may be empty after a crash, which is just when it is wanted; and it is only written when it says
something new, which while clients come and go is once in a round of the keeper, and never when nobody does.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_address
from pathlib import Path
from typing import Protocol

from nlmfo.records.directory import Directory, StoreError
from nlmfo.records.layout import Address

CONNECTIONS = "connections"
MAX_CONNECTIONS_BYTES = 1 << 20
MAX_CONNECTIONS = 20_000

_PORT = "([1-9][0-9]{0,4})"
_LINE = re.compile(rf"([0-9a-f.:]+) {_PORT} ([0-9a-f.:]+) {_PORT}", re.ASCII)
#: RFC 1122 3.2.1.3: "this network" is nobody's address.
_THIS_NETWORK = IPv4Network("0.0.0.0/8")


class Ends(Protocol):
    """A TCP connection, as the server sees it: nlmfo.kernel.sockdiag has such."""

    @property
    def local(self) -> Address:
        """The floating address."""

    @property
    def port(self) -> int:
        """Of the server."""

    @property
    def remote(self) -> Address:
        """The client's address."""

    @property
    def remote_port(self) -> int:
        """Of the client."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """A connection that a client had to a node that served before."""

    local: Address
    port: int
    remote: Address
    remote_port: int


def write_connections(state: Path, connections: Iterable[Ends]) -> bool:
    """Keep these, in the place of those kept before; returns whether there was anything to write.

    ``state`` is the service's state directory. What goes beyond the file's limits is left out. Raises StoreError.
    """
    content = _content(connections)
    with Directory.open(state) as directory:
        if directory.read(CONNECTIONS, MAX_CONNECTIONS_BYTES) == content:
            return False
        directory.replace(CONNECTIONS, content, 0o600)
    return True


def read_connections(state: Path, addresses: Collection[Address]) -> tuple[Remembered, ...]:
    """The connections that clients had to the service's ``addresses``, without repetitions; empty if there is no list.

    Never raises.
    """
    try:
        with Directory.open(state) as directory:
            content = directory.read(CONNECTIONS, MAX_CONNECTIONS_BYTES)
    except StoreError:
        return ()
    *lines, _torn = (content or b"").decode("ascii", errors="replace").split("\n", MAX_CONNECTIONS)
    found = (_parse(line) for line in lines)
    return tuple(dict.fromkeys(one for one in found if one and _is_ours(one, addresses)))


def _content(connections: Iterable[Ends]) -> bytes:
    """The file. Sorted: the kernel gives connections in no order, and the same ones should be the same file."""
    lines = sorted({f"{c.local} {c.port} {c.remote} {c.remote_port}\n" for c in connections})
    return b"".join(_fitting(line.encode("ascii") for line in lines[:MAX_CONNECTIONS]))


def _fitting(lines: Iterable[bytes]) -> Iterator[bytes]:
    room = MAX_CONNECTIONS_BYTES
    for line in lines:
        room -= len(line)
        if room < 0:
            return
        yield line


def _parse(line: str) -> Remembered | None:
    match = _LINE.fullmatch(line)
    if match is None:
        return None
    try:
        found = Remembered(ip_address(match[1]), int(match[2]), ip_address(match[3]), int(match[4]))
    except ValueError:
        return None
    return found if max(found.port, found.remote_port) < 1 << 16 else None


def _is_ours(found: Remembered, addresses: Collection[Address]) -> bool:
    """Whether it is a client's connection to one of the service's own addresses."""
    remote = found.remote
    same = found.local in addresses and remote not in addresses and remote.version == found.local.version
    return same and not (remote.is_multicast or remote.is_loopback or _is_nobodys(remote))


def _is_nobodys(address: Address) -> bool:
    """An address that no client of a floating address has, or that no packet can be sent to without an interface."""
    if address.version == 4:
        return address in _THIS_NETWORK or address.is_reserved
    return address.is_unspecified or address.is_link_local or address.ipv4_mapped is not None
