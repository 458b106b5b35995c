# SPDX-License-Identifier: GPL-2.0-or-later
"""What netlink(7) sends, whatever the subject: messages with a header, and attributes of length, type and content."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

NLM_F_REQUEST, NLM_F_DUMP = 0x1, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
RECEIVE = 1 << 18
#: Seconds for the kernel to answer a question.
ANSWER = 10.0
#: struct nlmsghdr: length, type, flags, sequence, port id.
HEADER = struct.Struct("=IHHII")
#: struct nlattr and rtattr: length with this header, type.
ATTRIBUTE = struct.Struct("=HH")
#: What is type in the field that is called so; the rest are flags (nested, byte order).
_TYPE = 0x3FFF


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The netlink messages of a datagram, each with its type. What is shorter than its own header ends them."""
    while len(data) >= HEADER.size:
        length, kind, *_ = HEADER.unpack_from(data)
        if length < HEADER.size:
            return
        yield kind, data[HEADER.size : length]
        data = data[(length + 3) & ~3 :]


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The attributes of a message, or within a nested one. What is cut off or makes no sense ends them."""
    while len(data) >= ATTRIBUTE.size:
        length, kind = ATTRIBUTE.unpack_from(data)
        if not ATTRIBUTE.size <= length <= len(data):
            return
        yield kind & _TYPE, data[ATTRIBUTE.size : length]
        data = data[(length + 3) & ~3 :]


def dump(whom: str, protocol: int, kind: int, body: bytes) -> Iterator[bytes]:
    """Everything that the kernel has on a subject, message by message, for the caller's network namespace.

    ``whom`` names the subject in errors. Raises OSError when the kernel refuses, or does not answer in time.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as kernel:
        kernel.settimeout(ANSWER)
        kernel.send(HEADER.pack(HEADER.size + len(body), kind, NLM_F_REQUEST | NLM_F_DUMP, 1, 0) + body)
        while True:
            for found, content in messages(kernel.recv(RECEIVE)):
                if found == NLMSG_DONE:
                    return
                if found == NLMSG_ERROR:
                    number = -struct.unpack_from("=i", content)[0]
                    raise OSError(number, f"{whom} refused the question")
                yield content
