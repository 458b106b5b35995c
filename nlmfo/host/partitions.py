# SPDX-License-Identifier: GPL-2.0-or-later
"""File systems that move with a service: found by UUID, mounted, unmounted, and proved to be free."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from nlmfo.child import Call, own_child
from nlmfo.config import Partition
from nlmfo.deadline import Deadline, poll_until
from nlmfo.errors import DeadlineExceeded, NlmfoError, Refused
from nlmfo.host import holders, libmount, mmp, mounts
from nlmfo.host.holders import Holder, HolderKind
from nlmfo.host.libmount import MountFailed
from nlmfo.plain import plain
from nlmfo.run import run

#: Seconds. ext4 with multi-mount protection was seen to take 43 s to mount after its owner's power cut.
MOUNT = 120.0
UMOUNT = 30.0
QUICK = 20.0
#: For finding out who holds a partition: after the deadline, because only then it is asked.
SEARCH = 15.0
#: What ext4, xfs and others say of a file system that they find damaged.
DAMAGED = errno.EUCLEAN
_REPAIR = {"ext2": "e2fsck -f", "ext3": "e2fsck -f", "ext4": "e2fsck -f", "xfs": "xfs_repair"}


class PartitionError(NlmfoError):
    """A partition that cannot be found, mounted or let go; ``holders`` are who keeps it."""

    def __init__(self, text: str, *, hint: str | None = None, holders: Iterable[Holder] = ()) -> None:
        super().__init__(text, hint=hint)
        self.holders = tuple(holders)


class PartitionNotThere(PartitionError):
    """No disk that this node sees carries it."""


def find(uuid: str) -> Path:
    """The device that carries the file system, as udev knows it and as its superblock confirms.

    Several devices may carry one UUID (the legs of a multipath device or of a mirror): the one that nothing else
    is built on is meant. Raises PartitionNotThere when there is none, PartitionError when there is still more than one.
    """
    import pyudev  # noqa: PLC0415 - 20 ms that only a takeover needs

    context = pyudev.Context()
    devices = [device for device in context.list_devices(subsystem="block", ID_FS_UUID=uuid) if device.device_node]
    tops = [Path(device.device_node) for device in devices if not _has_holders(Path(device.sys_path))]
    if not tops:
        raise PartitionNotThere(
            f"partition {uuid}: no block device on this node carries it",
            hint="check that the shared disk is connected ('lsblk -f'), and the uuid in the service's file",
        )
    if len(tops) > 1:
        names = ", ".join(map(str, tops))
        raise PartitionError(
            f"partition {uuid}: more than one device carries it: {names}",
            hint="a clone or a second path to the same disk must not be visible: set up multipath, or hide it",
        )
    said = run(["blkid", "-p", "-o", "value", "-s", "UUID", tops[0]], deadline=QUICK).strip()
    if said.lower() != uuid:
        raise PartitionError(f"partition {uuid}: {tops[0]} carries {said or 'nothing'} by now")
    return tops[0]


def _has_holders(sys_path: Path) -> bool:
    holders = sys_path / "holders"
    return holders.is_dir() and any(holders.iterdir())


def is_free(device: Path) -> bool:
    """Whether no mount namespace of this node has the device mounted (an exclusive open is refused otherwise)."""
    try:
        os.close(os.open(device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        if error.errno == errno.EBUSY:
            return False
        raise PartitionError(
            f"{device}: {error.strerror}: nobody can tell whether it is in use",
            hint="check that the shared disk is connected ('lsblk -f'); 'dmesg' may say what happened to it",
        ) from error
    return True


def is_still(partition: Partition, device: Path) -> bool:
    """Whether udev still says that the device carries the partition: disks come back under other names."""
    link = mounts.BY_UUID / partition.uuid
    return link.exists() and link.resolve() == device.resolve()


def lock_device(partition: Partition) -> str | None:
    """MAJOR:MINOR by which /proc/locks calls the mounted partition's files; None when it is not mounted."""
    mount = mounts.at(partition.mountpoint)
    return None if mount is None else mount.device


def refuse_if_held(partition: Partition, device: Path) -> None:
    """Refuse a partition that something on this node still has in use: evidence against a takeover."""
    if not is_free(device):
        found = _holders(partition.mountpoint, device)
        raise Refused(
            "device-held",
            f"partition {partition.uuid}: {device} is in use on this node already: {holders.in_words(found)}",
            hint=f"{holders.advice(found)}; then take over again",
        )


def mount(partition: Partition, device: Path, call: Call = own_child, *, deadline: float = MOUNT) -> None:
    """Mount the partition, which is on ``device``, on a directory that is ready, and see it mounted.

    ``call`` does it, in a process that is left behind after ``deadline`` seconds.
    """
    _refuse_if_covered(partition.mountpoint)
    try:
        call(partial(libmount.mount, device, partition.mountpoint, partition.options), deadline=deadline)
    except MountFailed as error:
        if error.number == DAMAGED:
            raise _damaged(partition, device, error) from error
        # EBUSY is also what multi-mount protection answers.
        holder = mmp.holder(device) if error.number == errno.EBUSY else None
        if holder is not None:
            raise mmp_in_use(partition, holder) from error
        raise
    except DeadlineExceeded as error:
        raise DeadlineExceeded(f"mount of {device} on {partition.mountpoint}", error.seconds) from error
    if not mounts.is_mounted(partition):
        raise PartitionError(f"{partition.mountpoint}: mount reported success, but {device} is not mounted there")


def rehearse_mount(partition: Partition, device: Path) -> None:
    """Have this process ready to mount it; nothing is changed. Whatever stands against it, ``mount`` will say."""
    libmount.rehearse_mount(device, partition.mountpoint, partition.options)


def mmp_in_use(partition: Partition, holder: str) -> Refused:
    """Evidence against a takeover that nothing passes: another node writes to the file system."""
    return Refused(
        "mmp-in-use",
        f"partition {partition.uuid}: {holder} has it mounted (ext4 multi-mount protection)",
        hint=f"release the service on {holder}, or fence that node",
    )


def make_ready(mountpoint: Path) -> None:
    """Make the mount point, or see that it is an empty directory: what is in it would be hidden, and missed later.

    A symbolic link on the way there would be followed, and the partition then looked for in vain.
    """
    _refuse_if_covered(mountpoint)
    there = Path(os.path.realpath(mountpoint))  # resolve() raises RuntimeError at a loop
    if there != mountpoint:
        raise PartitionError(
            f"{mountpoint}: a symbolic link leads from there to {plain(str(there))}",
            hint=f'write mountpoint = "{plain(str(there))}" in the service\'s file, on every node, or remove the link',
        )
    try:
        mountpoint.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise PartitionError(
            f"{mountpoint}: this, or something above it, is a file and not a directory",
            hint="move it away, or choose another mountpoint",
        ) from error
    inside = sorted(plain(entry.name) for entry in mountpoint.iterdir())
    if inside:
        names = ", ".join(inside[:3]) + (f" and {len(inside) - 3} more" if len(inside) > 3 else "")
        raise PartitionError(
            f"mountpoint not empty: {mountpoint} has {names} in it, on the file system below",
            hint="look whether it belongs on the partition (written while that was not mounted), then move it away",
        )


def _refuse_if_covered(mountpoint: Path) -> None:
    """Asked before anything is looked at there, too: what is in another file system is nothing to be moved away."""
    if mounts.at(mountpoint) is not None:
        raise PartitionError(
            f"{mountpoint}: something is mounted there already",
            hint=f"'findmnt {mountpoint}' shows what; unmount it, or choose another mountpoint",
        )


def _damaged(partition: Partition, device: Path, error: MountFailed) -> PartitionError:
    """A dirty journal is replayed by mount; this is more."""
    kind = run(["blkid", "-p", "-o", "value", "-s", "TYPE", device], deadline=QUICK).strip()
    return PartitionError(
        f"partition {partition.uuid}: the file system on {device} is damaged: {error.said}",
        hint=f"with no node using it, run '{_REPAIR.get(kind, 'fsck')} {device}' and take over again",
    )


def unmount(partition: Partition, call: Call = own_child, *, deadline: float = UMOUNT) -> None:
    """Unmount the partition, never lazily, and prove that its device is free.

    Busy is retried until the deadline (seconds): the kernel lets go of files a moment after the last use. Raises
    PartitionError, which names the holders, when it stays busy or another mount namespace keeps it; finding them out
    takes up to 15 s more. ``call`` does it, in a process that is left behind when it hangs.
    """
    limit = Deadline(deadline)
    problem = ""

    def gone() -> bool:
        nonlocal problem
        problem = _try_umount(partition.mountpoint, call, deadline)
        return mounts.at(partition.mountpoint) is None

    mounted = mounts.at(partition.mountpoint)
    device = find(partition.uuid) if mounted is None else Path(mounted.source)
    try:
        poll_until(f"unmount of {partition.mountpoint}", gone, limit, interval=0.2)
    except DeadlineExceeded as error:
        found = _in_the_way(partition.mountpoint, _holders(partition.mountpoint, device))
        raise PartitionError(
            f"{partition.mountpoint} stays busy ({problem}): {holders.in_words(found)}",
            hint=f"{holders.advice(found)}; then release again",
            holders=found,
        ) from error
    prove_free(device, limit, partition.mountpoint)


def _try_umount(mountpoint: Path, call: Call, deadline: float) -> str:
    """One attempt; returns what was said against it."""
    try:
        call(partial(libmount.umount, mountpoint), deadline=deadline)
    except MountFailed as error:
        return error.said
    except DeadlineExceeded as error:
        raise PartitionError(
            f"{mountpoint}: umount hangs since {error.seconds:g} s: it writes back what is not on the disk yet",
            hint="the kernel goes on by itself: look with 'dmesg' whether the disk still answers; then release again",
        ) from error
    return ""


def prove_free(device: Path, limit: Deadline, mountpoint: Path) -> None:
    """Wait until nothing on the node has the device in use, in whatever namespace.

    ``mountpoint`` is where it was mounted. PartitionError names the holders.
    """
    try:
        poll_until(f"{device} to be free", lambda: is_free(device), limit, interval=0.1)
    except DeadlineExceeded as error:
        found = _holders(mountpoint, device)
        raise PartitionError(
            f"{device} is unmounted from {mountpoint}, but still in use: {holders.in_words(found)}",
            hint=f"{holders.advice(found)}; then release again",
            holders=found,
        ) from error


def _holders(mountpoint: Path, device: Path) -> tuple[Holder, ...]:
    """Everything that has the partition in use, its own mount included."""
    number = device.stat().st_rdev
    return holders.of(f"{os.major(number)}:{os.minor(number)}", device, mountpoint, deadline=SEARCH)


def _in_the_way(mountpoint: Path, found: Iterable[Holder]) -> tuple[Holder, ...]:
    """Without the mount that is to be unmounted, which holds the device, but not itself."""
    own = (HolderKind.MOUNT, plain(str(mountpoint)))
    return tuple(holder for holder in found if (holder.kind, holder.what) != own)
