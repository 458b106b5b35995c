# SPDX-License-Identifier: GPL-2.0-or-later
"""What is mounted here, from /proc/self/mountinfo (proc_pid_mountinfo(5))."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from nlmfo.config import Partition

BY_UUID = Path("/dev/disk/by-uuid")
_ESCAPE = re.compile(r"\\([0-7]{3})")


class Mount(NamedTuple):
    """One line of the table: ``device`` is MAJOR:MINOR, ``root`` the place in the file system that is seen.

    ``options`` are those of the file system (the super block's), separated by commas, as the kernel escapes them.
    """

    device: str
    root: str
    mountpoint: Path
    kind: str
    source: str
    options: str = ""


def parse(text: str) -> tuple[Mount, ...]:
    """The mounts of a mountinfo file, in the order in which they were made.

    Only a newline ends a line: the kernel writes it in octal, and a carriage return or U+2028 as they are. Where
    anybody may mount (FUSE), anybody could otherwise blind us to the rest of the table.
    """
    return tuple(_parse_line(line) for line in text.split("\n") if line)


def table() -> tuple[Mount, ...]:
    """What the calling process sees mounted."""
    return parse(_text())


def at(mountpoint: Path) -> Mount | None:
    """What is mounted on top at ``mountpoint``, or None."""
    wanted = str(mountpoint)
    lines = (line for line in reversed(_text().split("\n")) if line and _unescape(line.split(" ", 5)[4]) == wanted)
    return next(map(_parse_line, lines), None)


def is_mounted(partition: Partition) -> bool:
    """Whether the partition itself, and not something else, is mounted at its mount point.

    Asked without udev's library, for ``nlmfo status``; a device that has gone while mounted still counts.
    """
    mount = at(partition.mountpoint)
    link = BY_UUID / partition.uuid
    return mount is not None and (not link.exists() or Path(mount.source).resolve() == link.resolve())


def _text() -> str:
    return Path("/proc/self/mountinfo").read_bytes().decode("utf-8", errors="surrogateescape")


def _parse_line(line: str) -> Mount:
    before, _, after = line.partition(" - ")
    fields = before.split(" ")
    kind, source, *options = after.split(" ")
    return Mount(
        device=fields[2],
        root=_unescape(fields[3]),
        mountpoint=Path(_unescape(fields[4])),
        kind=kind,
        source=_unescape(source),
        options=" ".join(options),
    )


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)), text)
