# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel itself does with a file system: no process has anything open, and it is busy."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

from nlmfo.host.holders import proc
from nlmfo.host.holders.model import SHOWN, Holder, HolderKind
from nlmfo.host.holders.views import Pin, Views, pins
from nlmfo.kernel import locks, syscalls

SYS = Path("/sys")
DEV = Path("/dev")
EXPORTS = "net/rpc/nfsd.export/content"
#: linux/loop.h; struct loop_info64 begins with lo_device, the device of the backing file's file system.
LOOP_GET_STATUS64 = 0x4C05
LOOP_INFO64 = 232


def swaps(views: Views) -> tuple[Holder, ...]:
    """Swap files: /proc/swaps, a heading and lines of PATH TYPE SIZE USED PRIORITY."""
    table = (proc.read(proc.PROC / "swaps") or "").split("\n")[1:]
    paths = (proc.unescape(line.split()[0]) for line in table if line)
    return tuple(Holder(HolderKind.SWAP, "the kernel", path) for path in paths if views.show(path))


def built_on(source: Path) -> tuple[Holder, ...]:
    """Device-mapper and md devices that are built on the block device ``source``."""
    try:
        number = source.stat().st_rdev
        names = [file.name for file in (SYS / f"dev/block/{_numbers(number)}/holders").iterdir()]
    except OSError:
        return ()
    return tuple(Holder(HolderKind.BUILT_ON, _called(name), str(source)) for name in sorted(names))


def nfs_locks(devices: frozenset[str]) -> tuple[Holder, ...]:
    """Locks of NFS clients, which lockd holds for them: as long as they are there, so are their open files."""
    inodes = sorted({lock.inode for lock in locks.held_by_clients(set(devices))})
    if not inodes:
        return ()
    more = f" and {len(inodes) - SHOWN} more" if len(inodes) > SHOWN else ""
    return (Holder(HolderKind.LOCKS, "lockd", ", ".join(map(str, inodes[:SHOWN])) + more),)


def loops(views: Views) -> tuple[Holder, ...]:
    """Loop devices whose file is on the file system. Asking one waits for the file system of its file."""
    found = ((file.parts[-3], proc.read(file)) for file in sorted(SYS.glob("block/loop*/loop/backing_file")))
    return tuple(
        Holder(HolderKind.LOOP, f"{DEV / name}", path.removesuffix("\n"))
        for name, path in found
        if path is not None and (views.show(path.removesuffix("\n")) or _backed_by(DEV / name) in views.devices)
    )


def exports(views: Views) -> tuple[Holder, ...]:
    """What nfsd's export caches have of it, in the network namespace of the node and of every process."""
    own = proc.link(proc.PROC / "self/ns/net")
    found = _exports(proc.PROC / "self", "this node", views)
    for name, pid in _networks().items():
        if name != own:
            whose = next((str(pin) for pin in pins("net") if pin.name == name), f"the network of {proc.name(pid)}")
            found += _exports(proc.PROC / str(pid), whose, views)
    return found


def lonely_networks() -> tuple[Pin, ...]:
    """Network namespaces without a process. nfsd may serve there: its threads count as the node's."""
    inhabited = _networks()
    return tuple(pin for pin in pins("net") if pin.name not in inhabited)


def exports_inside(pin: Pin, views: Views) -> tuple[Holder, ...]:
    """The same in a network namespace which this enters: for a child process that ends with it."""
    with pin.file.open("rb") as file:
        syscalls.setns(file.fileno(), syscalls.CLONE_NEWNET)
    return _exports(proc.PROC / "thread-self", str(pin), views)


def parse_exports(content: str) -> list[str]:
    """The paths of an export cache: PATH, a tab, CLIENT(FLAGS); with "# " before it where it is of no use any more.

    That it is of no use (svc_export_show, c_show: expired, or negative) does not keep it from holding the path.
    """
    lines = (line.removeprefix("# ") for line in content.split("\n"))
    return [proc.unescape(line.split("\t", 1)[0]) for line in lines if line.startswith("/")]


def _exports(process: Path, whose: str, views: Views) -> tuple[Holder, ...]:
    paths = parse_exports(proc.read(process / EXPORTS) or "")
    return tuple(
        Holder(HolderKind.EXPORT, f"nfsd of {whose}", path) for path in dict.fromkeys(paths) if views.show(path)
    )


def _networks() -> dict[str | None, int]:
    """A process in each network namespace, by the namespace's name; of the node's own, our parent or another."""
    return {proc.link(proc.PROC / str(pid) / "ns/net"): pid for pid in proc.pids()}


def _backed_by(loop: Path) -> str | None:
    try:
        descriptor = os.open(loop, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        answer = fcntl.ioctl(descriptor, LOOP_GET_STATUS64, bytes(LOOP_INFO64))
    except OSError:
        return None  # it was detached meanwhile
    finally:
        os.close(descriptor)
    (number,) = struct.unpack_from("=Q", answer)
    return _numbers(number)


def _numbers(device: int) -> str:
    return f"{os.major(device)}:{os.minor(device)}"


def _called(name: str) -> str:
    """dm-0 as people know it."""
    known = proc.read(SYS / "block" / name / "dm/name")
    return f"{name} ({known.strip()})" if known else name
