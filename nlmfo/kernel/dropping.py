# SPDX-License-Identifier: GPL-2.0-or-later
"""Drops the NLM locks of a file system or an address, in the best way that this kernel has, and sees them gone.

    proposed   the files of 2006, on kernels that were patched with them
    netlink    nfsd's commands of kernels 7.2 and later
    procfs     unlock_filesystem and unlock_ip, on every kernel

What the kernel answers decides nothing: unlock_ip says success and drops nothing on most kernels that run today, and
unlock_filesystem of 6.9 and later can say EINVAL when it has dropped everything. /proc/locks decides. It does not
tell through which address a lock was taken, so take the address down first, and drop by file system where you can.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from ipaddress import IPv4Address, IPv6Address
from itertools import chain
from pathlib import Path

from nlmfo.deadline import Deadline, poll_until
from nlmfo.errors import DeadlineExceeded, NlmfoError
from nlmfo.kernel import locks, netlink, nfsd, proposed, version
from nlmfo.kernel.files import PROC, ControlError, ControlFiles
from nlmfo.kernel.locks import Lock
from nlmfo.kernel.netlink import Command, Family, Transport
from nlmfo.kernel.version import Answer, KernelVersion

#: Seconds for a lock to leave /proc/locks after it was dropped.
GONE = 10.0
#: Answers after which everything may be gone, or not: see nlmfo.kernel.nfsd.unlock_filesystem.
DOUBTFUL = frozenset({errno.EINVAL, errno.EIO})
NO_FAMILY = Family("nfsd", 0, frozenset())


class Way(StrEnum):
    """How locks are dropped."""

    PROPOSED = "proposed"
    NETLINK = "netlink"
    PROCFS = "procfs"


@dataclass(frozen=True, slots=True)
class Kernel:
    """What there is to talk to: the kernel of this process by default, one in memory in tests."""

    files: ControlFiles = PROC
    transport: Transport = netlink.KERNEL
    version: KernelVersion = field(default_factory=version.running)
    is_mountpoint: Callable[[Path], bool] = nfsd.has_own_file_system


@dataclass(frozen=True, slots=True)
class Dropped:
    """What was done. ``before``: locks of clients until then; ``doubt``: what the kernel said against its deed."""

    way: Way
    before: int
    doubt: str | None = None


class LocksLeft(NlmfoError):
    """Clients hold locks where none may be left."""

    def __init__(self, where: str, left: tuple[Lock, ...], names: Iterable[str], answer: str | None = None) -> None:
        said = "" if answer is None else f"; when it was told to drop them, the kernel said: {answer}"
        many = "1 NFS lock is" if len(left) == 1 else f"{len(left)} NFS locks are"
        super().__init__(
            f"{where}: {many} still held, on {', '.join(names)}{said}",
            hint="a client that still reaches this node takes its locks again: take the address down before they are "
            "dropped; /proc/locks shows what is left",
        )
        self.left = left


def way_for_filesystem(kernel: Kernel) -> Way | None:
    """How the locks of one file system would be dropped; None where this kernel has no way."""
    if proposed.can_unlock(files=kernel.files):
        return Way.PROPOSED
    if _has(kernel, Command.UNLOCK_FILESYSTEM):
        return Way.NETLINK
    return Way.PROCFS if kernel.files.exists(nfsd.CONTROL / "unlock_filesystem") else None


def way_for_address(kernel: Kernel, family: int = 4) -> Way | None:
    """How the locks of one address would be dropped; ``family`` is 4 or 6, as an address has it for ``version``.

    None also where the kernel has the file, but is known to drop nothing by it, and for IPv6 in it.
    """
    if _has(kernel, Command.UNLOCK_IP):
        return Way.NETLINK
    idle = version.UNLOCK_IP_IDLE.in_kernel(kernel.version) is Answer.YES
    return Way.PROCFS if family == 4 and not idle and kernel.files.exists(nfsd.CONTROL / "unlock_ip") else None


def drop_of_filesystem(
    mountpoint: Path, device: str, kernel: Kernel | None = None, *, seconds: float = GONE
) -> Dropped:
    """Drop every client's lock on the file system mounted at ``mountpoint``; ``device`` is its MAJOR:MINOR.

    Raises LocksLeft where a lock is still there after ``seconds``, and NlmfoError where it cannot be done at all.
    """
    kernel = kernel or Kernel()
    doing = f"dropping the locks on {mountpoint}"
    nfsd.need_nfsd(doing, kernel.files)
    nfsd.need_mountpoint(doing, mountpoint, kernel.is_mountpoint)
    way = way_for_filesystem(kernel)
    if way is None:
        raise NlmfoError(f"{doing}: this kernel has no way to do it", hint="'nlmfo check' lists what it has")
    return _drop(way, lambda: _unlock_filesystem(way, mountpoint, kernel), {device: mountpoint}, kernel, seconds)


def drop_of_address(
    address: IPv4Address | IPv6Address,
    mounted: Mapping[str, Path],
    kernel: Kernel | None = None,
    *,
    seconds: float = GONE,
) -> Dropped:
    """Drop every lock that clients took through ``address``.

    ``mounted`` has the mount point for each device, MAJOR:MINOR, that is reached through no other address: no lock
    may be left on them. Raises LocksLeft where one is, and NlmfoError where it cannot be done at all.
    """
    kernel = kernel or Kernel()
    way = way_for_address(kernel, address.version)
    if way is None:
        raise NlmfoError(
            f"dropping the locks taken through {address}: kernel {kernel.version.release} has no way that works",
            hint="drop the locks of the service's file systems instead; 'nlmfo check' lists what the kernel has",
        )
    return _drop(way, lambda: _unlock_address(way, address, kernel), mounted, kernel, seconds)


def verify(
    mounted: Mapping[str, Path],
    *,
    files: ControlFiles = PROC,
    seconds: float = GONE,
    answer: str | None = None,
) -> None:
    """Return when no client holds a lock on any of the devices (MAJOR:MINOR) any more.

    Raises LocksLeft, which names the files, after ``seconds``; ``answer`` is what the kernel said when it was told to
    drop them. Raises NlmfoError where /proc/locks does not show clients' locks, so that nothing can be verified.
    """
    left: tuple[Lock, ...] = ()

    def none_left() -> bool:
        nonlocal left
        left = _held(mounted, files)
        return not left

    try:
        poll_until("the locks to go", none_left, Deadline(seconds))
    except DeadlineExceeded as error:
        where = ", ".join(str(mounted[device]) for device in sorted({lock.device for lock in left}))
        raise LocksLeft(where, left, _names(mounted, left), answer) from error


def _drop(way: Way, unlock: Callable[[], None], mounted: Mapping[str, Path], kernel: Kernel, seconds: float) -> Dropped:
    before = len(_held(mounted, kernel.files))
    doubt = _answer(unlock)
    verify(mounted, files=kernel.files, seconds=seconds, answer=doubt or "success")
    return Dropped(way, before, doubt)


def _answer(unlock: Callable[[], None]) -> str | None:
    """What the kernel said against it, where that may have been after the deed; anything else is an error."""
    try:
        unlock()
    except ControlError as error:
        if error.number not in DOUBTFUL:
            raise
        return error.text
    return None


def _unlock_filesystem(way: Way, mountpoint: Path, kernel: Kernel) -> None:
    match way:
        case Way.PROPOSED:
            proposed.unlock(mountpoint, files=kernel.files)
        case Way.NETLINK:
            netlink.unlock_filesystem(family(kernel), mountpoint, transport=kernel.transport)
        case Way.PROCFS:
            nfsd.unlock_filesystem(mountpoint, files=kernel.files, is_mountpoint=kernel.is_mountpoint)


def _unlock_address(way: Way, address: IPv4Address | IPv6Address, kernel: Kernel) -> None:
    if way is Way.NETLINK:
        netlink.unlock_ip(family(kernel), address, transport=kernel.transport)
    else:
        nfsd.unlock_ip(address, files=kernel.files)


def _has(kernel: Kernel, command: Command) -> bool:
    return command in family(kernel).commands


def family(kernel: Kernel) -> Family:
    """nfsd's family; where there is none, or no generic netlink at all, one that has no commands."""
    return _family_here() if kernel.transport is netlink.KERNEL else _family(kernel.transport)


@cache
def _family_here() -> Family:
    """That of the running kernel, asked once: where it has none, it looks for a module each time (modprobe)."""
    return _family(netlink.KERNEL)


def _family(transport: Transport) -> Family:
    with suppress(OSError):
        return netlink.nfsd(transport=transport) or NO_FAMILY
    return NO_FAMILY


def _held(mounted: Mapping[str, Path], files: ControlFiles) -> tuple[Lock, ...]:
    if not locks.shows_all(files=files):
        raise NlmfoError(
            "/proc/locks does not show the locks of NFS clients to this process",
            hint="run nlmfo on the node itself, in its first process-id namespace, not in a container",
        )
    return locks.held_by_clients(set(mounted), files=files)


def _names(mounted: Mapping[str, Path], left: tuple[Lock, ...]) -> list[str]:
    """The files that the locks are on."""
    devices = sorted({lock.device for lock in left})
    found = (locks.paths([lock for lock in left if lock.device == device], mounted[device]) for device in devices)
    return list(chain.from_iterable(found))
