# SPDX-License-Identifier: GPL-2.0-or-later
"""Processes that hold a file system: by a directory, an open file, their executable, a memory map or a socket.

Which mount an open file is on stands in /proc/PID/fdinfo (mnt_id), and a directory is asked for the same by opening it
without reaching its file system (O_PATH): stat() would wait for the server of a dead NFS mount, of which any process
may have a file open. Only where no mount table has the mount (it was detached: umount -l) is stat() left.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nlmfo.host.holders import proc
from nlmfo.host.holders.model import Holder, HolderKind
from nlmfo.host.holders.views import Views

_LINKS = {"cwd": HolderKind.DIRECTORY, "root": HolderKind.ROOT, "exe": HolderKind.EXECUTABLE}
_MOUNT_ID = re.compile(r"^mnt_id:\s*(\d+)$", re.MULTILINE)
_SOCKET = re.compile(r"socket:\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class Doubtful:
    """What may be on the file system by a mount that no table has: to be asked by its path in /proc."""

    path: Path
    holder: Holder


@dataclass(slots=True)
class Found:
    """What the processes hold; ``doubtful`` needs a second look; ``closed`` are processes that we may not look into."""

    holders: list[Holder] = field(default_factory=list)
    doubtful: list[Doubtful] = field(default_factory=list)
    closed: int = 0


def look(views: Views, names: frozenset[str]) -> Found:
    """All that can be told without reaching a file system. ``names`` are those of the device itself."""
    found, sockets = Found(), _sockets(views)
    for pid in proc.pids():
        who = proc.name(pid)
        try:
            for task in proc.tasks(pid):
                _directories(task, who, views, found)
            _descriptors(pid, who, views, names, sockets, found)
        except PermissionError:
            found.closed += 1
        except (FileNotFoundError, ProcessLookupError):
            pass  # it has ended
    if found.closed:
        found.holders.append(Holder(HolderKind.UNSEEN, f"{found.closed} processes", "permission denied"))
    return found


def detached(doubtful: list[Doubtful], devices: frozenset[str]) -> tuple[Holder, ...]:
    """Those of the doubtful that are on the devices. This reaches their file systems, and may hang."""
    return tuple(
        Holder(one.holder.kind, one.holder.who, f"{one.holder.what} (of a mount that was detached, as by 'umount -l')")
        for one in doubtful
        if _device(one.path) in devices
    )


def maps(devices: frozenset[str]) -> tuple[Holder, ...]:
    """What is mapped into memory, also from files that are closed. Waits for a process that hangs in a page fault."""
    wanted = frozenset("{:02x}:{:02x}".format(*map(int, device.split(":"))) for device in devices)
    return tuple(
        Holder(HolderKind.MAP, proc.name(pid), path)
        for pid in proc.pids()
        for path in dict.fromkeys(_mapped(pid, wanted))
    )


def _directories(task: Path, who: str, views: Views, found: Found) -> None:
    for name, kind in _LINKS.items():
        path = task / name
        says = proc.link(path)
        if says is not None:
            _judge(_mount_behind(path), str(path), (kind, who, says), views, found)


def _descriptors(
    pid: int, who: str, views: Views, names: frozenset[str], sockets: dict[str, str], found: Found
) -> None:
    home, numbers = _open_files(pid)
    for number in numbers:
        says = proc.link(f"{home}/fd/{number}")
        if says is None:
            continue
        if says in names:
            found.holders.append(Holder(HolderKind.DEVICE, who, says))
        elif says.startswith("/"):
            ident = _mount_id(proc.read(f"{home}/fdinfo/{number}"))
            _judge(ident, f"{home}/fd/{number}", (HolderKind.FILE, who, says), views, found)
        elif (socket := _SOCKET.fullmatch(says)) and socket[1] in sockets:
            found.holders.append(Holder(HolderKind.SOCKET, who, sockets[socket[1]]))


def _open_files(pid: int) -> tuple[Path, list[str]]:
    """Of the first thread that has any: threads share them."""
    for task in proc.tasks(pid):
        with os.scandir(task / "fd") as entries:
            numbers = [entry.name for entry in entries]
        if numbers:
            return task, numbers
    return proc.PROC, []


def _judge(ident: int | None, path: str, holder: tuple[HolderKind, str, str], views: Views, found: Found) -> None:
    if ident in views.ids:
        found.holders.append(Holder(*holder))
    elif ident is not None and ident not in views.known:
        found.doubtful.append(Doubtful(Path(path), Holder(*holder)))


def _mount_behind(link: Path) -> int | None:
    """The id of the mount that a link of /proc leads to."""
    try:
        descriptor = os.open(link, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return _mount_id(proc.read(proc.PROC / f"self/fdinfo/{descriptor}"))
    finally:
        os.close(descriptor)


def _mount_id(fdinfo: str | None) -> int | None:
    found = _MOUNT_ID.search(fdinfo or "")
    return int(found[1]) if found else None


def _device(path: Path) -> str | None:
    try:
        number = path.stat().st_dev
    except OSError:
        return None
    return f"{os.major(number)}:{os.minor(number)}"


def _mapped(pid: int, wanted: frozenset[str]) -> Iterator[str]:
    """Lines are ADDRESSES PERMISSIONS OFFSET DEVICE INODE PATH; the device is the superblock's, in hexadecimal."""
    for line in (proc.read(proc.PROC / str(pid) / "maps") or "").split("\n"):
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[3] in wanted:
            yield fields[5]


def _sockets(views: Views) -> dict[str, str]:
    """Unix sockets that are bound to a file on the file system, by inode: also those that only accepted."""
    found: dict[str, str] = {}
    seen: set[str | None] = set()
    for pid in proc.pids():
        home = proc.PROC / str(pid)
        network = proc.link(home / "ns/net")
        if network not in seen:
            seen.add(network)
            found |= _bound(proc.read(home / "net/unix") or "", views)
    return found


def _bound(table: str, views: Views) -> dict[str, str]:
    """Lines are NUM REFCOUNT PROTOCOL FLAGS TYPE STATE INODE PATH (net/unix/af_unix.c); any byte may be in a path."""
    rows = (line.split(maxsplit=7) for line in table.split("\n"))
    return {row[6]: row[7] for row in rows if len(row) == 8 and row[7].startswith("/") and views.show(row[7])}
