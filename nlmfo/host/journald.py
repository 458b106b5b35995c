# SPDX-License-Identifier: GPL-2.0-or-later
"""The system journal, by its native protocol: one datagram for each entry (systemd, docs/JOURNAL_NATIVE_PROTOCOL.md).

::

    NLMFO_SERVICE\\n <length, 64 bits, little-endian> home \\n      each field

Every value goes with its length, also where a plain ``KEY=value`` would do: no name that came over the network can end
a field and begin another. Nothing waits for the journal: where there is none, or it does not keep up, an entry is lost,
and the run's own journal (nlmfo.failover.journal) has it all the same.
"""

from __future__ import annotations

import os
import re
import socket
import struct
from collections.abc import Mapping
from enum import IntEnum
from pathlib import Path
from typing import TextIO

SOCKET = Path("/run/systemd/journal/socket")
IDENTIFIER = "nlmfo"
#: Bytes of a value; the rest is cut off. All fields together fit in a datagram (net.core.wmem_default is 208 KiB).
LONGEST = 16 << 10
#: What journald takes for the name of a field from anybody (journal_field_valid in src/libsystemd).
_FIELD = re.compile(r"[A-Z][A-Z0-9_]{0,63}")


class Priority(IntEnum):
    """syslog(3)."""

    CRITICAL = 2
    ERROR = 3
    WARNING = 4
    NOTICE = 5
    INFO = 6


def send(fields: Mapping[str, str]) -> bool:
    """Put an entry with these fields into the journal; False where that was not possible."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        try:
            sender.sendto(encoded({"SYSLOG_IDENTIFIER": IDENTIFIER, **fields}), socket.MSG_DONTWAIT, os.fspath(SOCKET))
        except OSError:
            return False
    return True


def encoded(fields: Mapping[str, str]) -> bytes:
    """One entry on the wire. ValueError for what cannot be the name of a field."""
    return b"".join(_field(name, value) for name, value in fields.items())


def _field(name: str, value: str) -> bytes:
    if not _FIELD.fullmatch(name):
        raise ValueError(f"{name!r} cannot be the name of a field")
    content = value.encode("utf-8", errors="replace")[:LONGEST]
    return name.encode("ascii") + b"\n" + struct.pack("<Q", len(content)) + content + b"\n"


def takes(stream: TextIO | None) -> bool:
    """Whether what is written to ``stream`` ends up in the journal: JOURNAL_STREAM in systemd.exec(5)."""
    if stream is None:  # Python has none where the descriptor was closed
        return False
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):  # closed since, or no file at all
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
