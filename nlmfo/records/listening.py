# SPDX-License-Identifier: GPL-2.0-or-later
"""Where nfsd and lockd listen, for the node that serves next: clients may have connections there that nobody noted.

lockd has another port on each node, and after each start, unless somebody has set one (nlm_tcpport). One file in the
state directory, ``listening``, root's, 0600, one floating address and TCP port per line::

    10.10.0.100 2049
    10.10.0.100 43211

What the next node does with it is in nlmfo.failover.tickles; without it some clients come back later. So it is no error
when it cannot be read, and a line that is not as above is left out.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from ipaddress import ip_address
from pathlib import Path

from nlmfo.records.directory import Directory, StoreError
from nlmfo.records.layout import Address

LISTENING = "listening"
#: Two programs at each of a few addresses, and those of one server before.
MAX_LISTENERS = 64
MAX_LISTENING_BYTES = 1 << 12

#: A floating address, and a TCP port there.
Listener = tuple[Address, int]

_LINE = re.compile(r"([0-9a-f.:]+) ([1-9][0-9]{0,4})", re.ASCII)


def write_listening(state: Path, listeners: Iterable[Listener]) -> None:
    """Keep these, in the place of those kept before. ``state`` is the service's state directory. Raises StoreError."""
    lines = sorted({f"{address} {port}\n" for address, port in listeners})[:MAX_LISTENERS]
    content = "".join(lines).encode("ascii")
    with Directory.open(state) as directory:
        if directory.read(LISTENING, MAX_LISTENING_BYTES) != content:
            directory.replace(LISTENING, content, 0o600)


def read_listening(state: Path, addresses: Collection[Address]) -> frozenset[Listener]:
    """Where clients of the service's ``addresses`` may have connections; empty if nobody noted it. Never raises."""
    try:
        with Directory.open(state) as directory:
            content = directory.read(LISTENING, MAX_LISTENING_BYTES)
    except StoreError:
        return frozenset()
    *lines, _torn = (content or b"").decode("ascii", errors="replace").split("\n", MAX_LISTENERS)
    found = (_parse(line) for line in lines)
    return frozenset(one for one in found if one and one[0] in addresses)


def _parse(line: str) -> Listener | None:
    match = _LINE.fullmatch(line)
    if match is None:
        return None
    try:
        address, port = ip_address(match[1]), int(match[2])
    except ValueError:
        return None
    return (address, port) if port < 1 << 16 else None
