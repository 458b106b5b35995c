# SPDX-License-Identifier: GPL-2.0-or-later
"""nfsd's commands over generic netlink (include/uapi/linux/nfsd_netlink.h), for the caller's network namespace.

Kernels from 7.2 on can drop locks this way, which knows IPv6, takes paths as they are, and has no line to parse. The
family came with 6.7 and grew, so what it can is asked: the "nlctrl" family lists the commands of each family. A
message is a struct nlmsghdr, a struct genlmsghdr (command, version) and attributes of length, type and content, each
padded to four bytes.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Protocol

from nlmfo.kernel.files import Meaning, explained
from nlmfo.kernel.messages import (
    ATTRIBUTE,
    HEADER,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    RECEIVE,
    attributes,
    messages,
)

NETLINK_GENERIC = 16
NLM_F_ACK = 0x4
#: The type of messages to the family that resolves the others; theirs are given out at run time.
NLCTRL, CTRL_CMD_GETFAMILY = 16, 3
CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME, CTRL_ATTR_OPS, CTRL_ATTR_OP_ID = 1, 2, 6, 1
#: Seconds for the kernel to answer; dropping locks may take a while.
ANSWER = 30.0
_GENERIC = struct.Struct("=BBxx")


class Command(IntEnum):
    """The commands of the "nfsd" family that nlmfo knows, with the kernel they came with."""

    THREADS_GET = 3  # 6.10
    CACHE_FLUSH = 15  # 7.2, as the rest
    UNLOCK_IP = 16
    UNLOCK_FILESYSTEM = 17
    UNLOCK_EXPORT = 18


class Cache(IntFlag):
    """What CACHE_FLUSH empties. Unlike the flush file of nfsd.fh, neither empties nfsd's cache of open files."""

    EXPORT = 1
    EXPKEY = 2


class Transport(Protocol):
    """A way to the kernel: one datagram there, and datagrams back until the caller has what it wants."""

    def exchange(self, datagram: bytes) -> Iterator[bytes]: ...


class Socket:
    """The kernel of this process; a fresh socket for each exchange, so that no late answer is taken for another's."""

    def exchange(self, datagram: bytes) -> Iterator[bytes]:
        with closing(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC)) as kernel:
            kernel.settimeout(ANSWER)
            kernel.send(datagram)
            while True:
                yield kernel.recv(RECEIVE)


KERNEL = Socket()


@dataclass(frozen=True, slots=True)
class Family:
    """A generic netlink family: the type of its messages, and the numbers of the commands that it has."""

    name: str
    number: int
    commands: frozenset[int]


def family(name: str, *, transport: Transport = KERNEL) -> Family | None:
    """The family of that name, or None where the kernel has none (or its module is not loaded)."""
    request = attribute(CTRL_ATTR_FAMILY_NAME, name.encode("ascii") + b"\0")
    try:
        (answer,) = call(NLCTRL, CTRL_CMD_GETFAMILY, request, transport=transport)
    except FileNotFoundError:
        return None
    fields = dict(attributes(answer))
    operations = (dict(attributes(operation)) for _, operation in attributes(fields.get(CTRL_ATTR_OPS, b"")))
    numbers = frozenset(_u32(operation[CTRL_ATTR_OP_ID]) for operation in operations)
    return Family(name, struct.unpack("=H", fields[CTRL_ATTR_FAMILY_ID])[0], numbers)


def nfsd(*, transport: Transport = KERNEL) -> Family | None:
    return family("nfsd", transport=transport)


def threads(nfsd_family: Family, *, transport: Transport = KERNEL) -> int:
    """How many nfsd threads run, in all pools together."""
    with explained("asking for nfsd's threads by netlink"):
        answers = call(nfsd_family.number, Command.THREADS_GET, transport=transport)
    return sum(_u32(content) for answer in answers for kind, content in attributes(answer) if kind == 1)


def unlock_ip(nfsd_family: Family, address: IPv4Address | IPv6Address, *, transport: Transport = KERNEL) -> None:
    """Drop every NLM lock that was taken through the server address ``address``, as seen in /proc/locks."""
    meanings = {
        errno.EAFNOSUPPORT: Meaning("the kernel does not take this family of addresses"),
        errno.EINVAL: Meaning("the kernel does not take this address"),
        **_REFUSALS,
    }
    with explained(f"dropping the locks taken through {address}, by netlink", meanings):
        call(nfsd_family.number, Command.UNLOCK_IP, attribute(1, sockaddr(address)), transport=transport)


def unlock_filesystem(nfsd_family: Family, path: Path, *, transport: Transport = KERNEL) -> None:
    """Drop every NLM lock on the file system that ``path`` is on, and what NFSv4 clients have open there.

    The caller has made sure that the path is a mount point: the kernel takes any.
    """
    with explained(f"dropping the locks on {path}, by netlink", _REFUSALS):
        call(nfsd_family.number, Command.UNLOCK_FILESYSTEM, _path(path), transport=transport)


def unlock_export(nfsd_family: Family, path: Path, *, transport: Transport = KERNEL) -> None:
    """Take back what NFSv4 clients have open and locked below one export; NLM locks stay."""
    with explained(f"taking back the NFSv4 state below {path}, by netlink", _REFUSALS):
        call(nfsd_family.number, Command.UNLOCK_EXPORT, _path(path), transport=transport)


def flush(nfsd_family: Family, caches: Cache, *, transport: Transport = KERNEL) -> None:
    """Empty nfsd's export caches. ``nlmfo.kernel.caches`` does more: files that nfsd keeps open are closed there."""
    with explained("flushing nfsd's caches by netlink", _REFUSALS):
        call(nfsd_family.number, Command.CACHE_FLUSH, attribute(1, struct.pack("=I", caches)), transport=transport)


_REFUSALS = {
    errno.EOPNOTSUPP: Meaning("this kernel's nfsd has no such command", "kernels from 7.2 on have it"),
    errno.ENOENT: Meaning("no such path"),
    errno.EIO: Meaning("the kernel could not release all of them", "a lock that stays is shown in /proc/locks"),
}


def call(kind: int, command: int, content: bytes = b"", *, transport: Transport = KERNEL) -> tuple[bytes, ...]:
    """One command to a family; the attributes of each answer. Raises OSError with the errno of the kernel's refusal."""
    body = _GENERIC.pack(command, 1) + content
    header = HEADER.pack(HEADER.size + len(body), kind, NLM_F_REQUEST | NLM_F_ACK, 1, 0)
    answers: list[bytes] = []
    for found, answer in _received(transport.exchange(header + body)):
        if found in (NLMSG_ERROR, NLMSG_DONE):
            _raise_if_refused(answer)
            return tuple(answers)
        answers.append(answer[_GENERIC.size :])
    raise OSError(errno.EIO, "the kernel did not say whether the command succeeded")


def attribute(kind: int, content: bytes) -> bytes:
    """One netlink attribute, padded."""
    head = ATTRIBUTE.pack(ATTRIBUTE.size + len(content), kind)
    return head + content + bytes(-len(content) % 4)


def sockaddr(address: IPv4Address | IPv6Address) -> bytes:
    """A struct sockaddr_in or sockaddr_in6, port 0. An interface name or number as scope is kept (fe80::1%2)."""
    if isinstance(address, IPv4Address):
        return struct.pack("=HH4s8x", socket.AF_INET, 0, address.packed)
    return struct.pack("=HHI16sI", socket.AF_INET6, 0, 0, address.packed, _scope(address))


def _scope(address: IPv6Address) -> int:
    if not address.scope_id:
        return 0
    return int(address.scope_id) if address.scope_id.isdecimal() else socket.if_nametoindex(address.scope_id)


def _path(path: Path) -> bytes:
    return attribute(1, os.fsencode(path) + b"\0")


def _received(datagrams: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    for datagram in datagrams:
        yield from messages(datagram)


def _raise_if_refused(answer: bytes) -> None:
    """NLMSG_ERROR begins with a negative errno, or with 0, which is how success is said."""
    number = -struct.unpack_from("=i", answer)[0] if len(answer) >= 4 else 0
    if number:
        raise OSError(number, os.strerror(number))


def _u32(content: bytes) -> int:
    return int(struct.unpack("=I", content)[0])
