# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's lock table, /proc/locks (proc_locks(5)): the only place that shows what NFS clients hold.

Lines look like ``1: POSIX  ADVISORY  WRITE 214 62:00:13 100 199``: kind, mode, type, process id of the holder,
MAJOR:MINOR (hexadecimal) and inode, first and last byte (or EOF). NLM locks belong to the lockd kernel thread.
A line with ``->`` is a waiter, not a lock. Locks are invisible outside the first process-id namespace.

**A reading is not of one moment.** Each read(2) gives one page, and the next goes on by the position in the list
(locks_start in fs/locks.c). When anybody locks or unlocks in between, on whatever file, locks that are held all the
time are left out, or come twice. So the pages begin elsewhere in each reading, and what matters is read several times
(see nlmfo.failover.accounting). On Linux 6.18, with a neighbour that does nothing else, one lock was left out of half
of all readings where pages always began at the same place, and of one in a hundred where they did not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nlmfo.kernel import inodes
from nlmfo.kernel.files import PROC, ControlFiles
from nlmfo.plain import plain

TABLE = Path("/proc/locks")
#: The name of the process with the id 2.
KTHREADD = Path("/proc/2/comm")
#: The last byte of a lock that reaches to the end of the file.
EOF = -1
#: Bytes that one read(2) gives at most, on most machines.
PAGE = 4096
#: Files to name in an error; the rest are counted.
NAMED = 10
_LINE = re.compile(
    r"\d+: (?P<kind>\S+) +\S+ +(?P<type>READ|WRITE) +(?P<pid>-?\d+) "
    r"(?P<major>[0-9a-f]+):(?P<minor>[0-9a-f]+):(?P<inode>\d+) (?P<first>\d+) (?P<last>\d+|EOF)"
)


@dataclass(frozen=True, slots=True, order=True)
class Lock:
    """A byte-range lock: ``device`` is MAJOR:MINOR in decimal, ``last`` is EOF (-1) or the last locked byte."""

    device: str
    inode: int
    first: int
    last: int
    exclusive: bool
    pid: int


def parse(text: str) -> tuple[Lock, ...]:
    """Every POSIX lock of the table that is held; waiters, flocks and leases are left out."""
    matches = (_LINE.fullmatch(line.strip()) for line in text.splitlines())
    return tuple(_lock(found) for found in matches if found and found["kind"] == "POSIX")


def table(*, files: ControlFiles = PROC) -> tuple[Lock, ...]:
    return parse(files.read(TABLE).decode("ascii"))


def held_by_clients(devices: set[str], *, files: ControlFiles = PROC) -> tuple[Lock, ...]:
    """The locks on ``devices`` that belong to the lockd kernel thread, so to NFSv3 clients."""
    found = _on(devices, files.pieces(TABLE, 1 + int.from_bytes(os.urandom(4), "big") % (PAGE - 1)))
    lockd = {pid for pid in {lock.pid for lock in found} if _is_lockd(pid, files)}
    return tuple(lock for lock in found if lock.pid in lockd)


def _on(devices: set[str], pieces: Iterable[bytes]) -> list[Lock]:
    """The locks on ``devices``. What begins a page as the one before ended is there once: the list has moved."""
    found: list[Lock] = []
    rest = b""
    for piece in pieces:
        lines, _, after = (rest + piece).rpartition(b"\n")
        here = [lock for lock in parse(lines.decode("ascii")) if lock.device in devices]
        found += here if rest else here[_repeated(found, here) :]
        rest = after
    return found


def _repeated(before: Sequence[Lock], here: Sequence[Lock]) -> int:
    """How many locks at the beginning of ``here`` are those that ``before`` ends with."""
    most = min(len(before), len(here))
    return next((n for n in range(most, 0, -1) if before[-n:] == here[:n]), 0)


def shows_all(*, files: ControlFiles = PROC) -> bool:
    """Whether the table shows the locks of kernel threads, so of NFS clients: not in a container of processes.

    There (locks_show) an empty table says nothing. Where the kernel's own threads are seen, the second is kthreadd.
    """
    try:
        return files.read(KTHREADD) == b"kthreadd\n"
    except FileNotFoundError:
        return False


def paths(left: Iterable[Lock], mountpoint: Path) -> list[str]:
    """The files that locks are on, for people: paths below the mount point of their file system, else inodes.

    This takes seconds on large file systems: see ``nlmfo.kernel.inodes``.
    """
    wanted = sorted({lock.inode for lock in left})
    found = inodes.paths(mountpoint, set(wanted[:NAMED]))
    names = [
        plain(os.fspath(found[inode])) if inode in found else f"inode {inode} of {mountpoint}"
        for inode in wanted[:NAMED]
    ]
    return names + [f"{len(wanted) - NAMED} more files"] * (len(wanted) > NAMED)


def _lock(found: re.Match[str]) -> Lock:
    return Lock(
        device=f"{int(found['major'], 16)}:{int(found['minor'], 16)}",
        inode=int(found["inode"]),
        first=int(found["first"]),
        last=EOF if found["last"] == "EOF" else int(found["last"]),
        exclusive=found["type"] == "WRITE",
        pid=int(found["pid"]),
    )


def _is_lockd(pid: int, files: ControlFiles) -> bool:
    """Also when the thread that took the lock has gone: nobody else's locks have a holder that does not exist."""
    try:
        return files.read(Path(f"/proc/{pid}/comm")).strip() == b"lockd"
    except (FileNotFoundError, ProcessLookupError):
        return True
