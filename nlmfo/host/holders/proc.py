# SPDX-License-Identifier: GPL-2.0-or-later
"""What /proc says of processes: proc(5). They end while they are looked at, and that is no error.

A node may have 100000 files open, and each is asked: where it counts, paths are plain strings, which takes half the
time.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
_ESCAPE = re.compile(r"\\([0-7]{3})")


def read(file: Path | str) -> str | None:
    """The file's text, with bytes that are no text as surrogates; None when its process has gone."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.fsdecode(b"".join(iter(lambda: os.read(descriptor, 1 << 16), b"")))
    except OSError:
        return None
    finally:
        os.close(descriptor)


def link(file: Path | str) -> str | None:
    """What a symbolic link of /proc says; None when its process, or what it stands for, has gone."""
    try:
        return os.readlink(file)  # noqa: PTH115 - see above
    except OSError:
        return None


def pids() -> Iterator[int]:
    """Every process but the calling one, which only looks: its copies of open files end with it."""
    own = os.getpid()
    found = [int(file.name) for file in PROC.iterdir() if file.name.isdigit()]
    return (pid for pid in found if pid != own)


def tasks(pid: int) -> list[Path]:
    """The directory of every thread: each may have a working directory and a mount namespace of its own.

    A process whose first thread has ended shows its files only in the others.
    """
    try:
        return list((PROC / str(pid) / "task").iterdir())
    except OSError:
        return []


def name(pid: int) -> str:
    """A process as an operator looks for it. Its command line is not read: that waits for a process that hangs."""
    comm = read(PROC / str(pid) / "comm")
    return f"process {pid} ({(comm or '?').removesuffix(chr(10))})"


def unescape(path: str) -> str:
    """A path of one of the kernel's tables. Only ASCII is ever escaped: blanks, commas, backslashes (seq_path)."""
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)), path)
