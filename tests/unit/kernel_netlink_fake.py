# SPDX-License-Identifier: GPL-2.0-or-later
"""The generic netlink side of the kernel in memory (see kernel_fake): nfsd's family, as each version has it."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from nlmfo.kernel.dropping import Kernel
from nlmfo.kernel.messages import attributes
from nlmfo.kernel.netlink import attribute
from nlmfo.kernel.version import parse
from tests.unit.kernel_fake import FakeKernel, refuse

NLCTRL, NFSD = 16, 31
NLMSG_ERROR = 2
#: The first kernel of each group of commands (Documentation/netlink/specs/nfsd.yaml).
COMMANDS = {
    (6, 7, 0): {1},
    (6, 10, 0): {2, 3, 4, 5, 6, 7},
    (6, 11, 0): {8, 9},
    (7, 2, 0): {10, 11, 12, 13, 14, 15, 16, 17, 18},
}


class FakeNetlink:
    """A Transport to a FakeKernel."""

    def __init__(self, kernel: FakeKernel) -> None:
        self.kernel = kernel
        #: Some containers have no generic netlink at all.
        self.available = True
        #: Each command that reached a family: its number, and its first attribute.
        self.calls: list[tuple[int, bytes]] = []

    def exchange(self, datagram: bytes) -> Iterator[bytes]:
        if not self.available:
            raise refuse(errno.EPROTONOSUPPORT)
        length, kind, flags, sequence, _ = struct.unpack_from("=IHHII", datagram)
        assert length == len(datagram)
        assert flags == 0x5, "a request that wants to be acknowledged"
        command, _ = struct.unpack_from("=BB", datagram, 16)
        fields = dict(attributes(datagram[20:]))
        number = 0
        try:
            for answer in self._do(kind, command, fields):
                body = struct.pack("=BBxx", command, 1) + answer
                yield struct.pack("=IHHII", 16 + len(body), kind, 0, sequence, 0) + body
        except OSError as error:
            number = error.errno or errno.EIO
        # struct nlmsgerr: the errno, and the header that it is about.
        yield struct.pack("=IHHIIi", 36, NLMSG_ERROR, 0, sequence, 0, -number) + datagram[:16]

    def commands(self) -> set[int]:
        return {number for since, numbers in COMMANDS.items() if self.kernel.version >= since for number in numbers}

    def _do(self, kind: int, command: int, fields: dict[int, bytes]) -> list[bytes]:
        if kind == NLCTRL:
            return [self._family(fields[2])]
        assert kind == NFSD
        self.calls.append((command, fields.get(1, b"")))
        if command not in self.commands():
            raise refuse(errno.EOPNOTSUPP)
        match command:
            case 3:
                return [attribute(1, struct.pack("=I", self.kernel.threads)) + attribute(2, struct.pack("=I", 90))]
            case 16:
                self._unlock_ip(fields[1])
            case 17:
                self.kernel.unlock_filesystem(_path(fields[1]))
            case 18:
                self.kernel.v4_revoked.append(str(_path(fields[1])))
        return []

    def _family(self, name: bytes) -> bytes:
        if name != b"nfsd\0" or not self.commands():
            raise refuse(errno.ENOENT)
        operations = b"".join(
            attribute(index, attribute(1, struct.pack("=I", number)) + attribute(2, struct.pack("=I", 0)))
            for index, number in enumerate(sorted(self.commands()), start=1)
        )
        nested = 0x8000
        return attribute(2, name) + attribute(1, struct.pack("=H", NFSD)) + attribute(6 | nested, operations)

    def _unlock_ip(self, sockaddr: bytes) -> None:
        family = struct.unpack_from("=H", sockaddr)[0]
        lengths = {2: 16, 10: 28}
        if family not in lengths:
            raise refuse(errno.EAFNOSUPPORT)
        if len(sockaddr) < lengths[family]:
            raise refuse(errno.EINVAL)
        address: IPv4Address | IPv6Address = ip_address(sockaddr[4:8] if family == 2 else sockaddr[8:24])
        self.kernel.drop(lambda lock: ip_address(lock.server_ip) == address)


def _path(content: bytes) -> Path:
    assert content.endswith(b"\0")
    return Path(os.fsdecode(content[:-1]))


def interfaces(kernel: FakeKernel) -> Kernel:
    """Everything that nlmfo.kernel.dropping and capabilities talk to, of a kernel in memory."""
    return Kernel(
        files=kernel,
        transport=FakeNetlink(kernel),
        version=parse(kernel.release),
        is_mountpoint=kernel.is_mountpoint,
    )
