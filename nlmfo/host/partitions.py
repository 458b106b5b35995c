# SPDX-License-Identifier: GPL-2.0-or-later
"""File systems that move with a service: found by UUID, mounted, unmounted, and proved to be free."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from nlmfo.config import Partition
from nlmfo.deadline import Deadline, poll_until
from nlmfo.errors import CommandFailed, DeadlineExceeded, NlmfoError, Refused
from nlmfo.host import mounts
from nlmfo.run import run

BY_UUID = Path("/dev/disk/by-uuid")
#: Seconds. ext4 with multi-mount protection was seen to take 43 s to mount after its owner's power cut.
MOUNT = 120.0
UMOUNT = 30.0
QUICK = 20.0
#: umount(8): "mount failed", which is how it reports EBUSY.
UMOUNT_FAILED = 32


class PartitionError(NlmfoError):
    """A partition that cannot be found, mounted or let go."""


def find(uuid: str) -> Path:
    """The device that carries the file system, as udev knows it and as its superblock confirms.

    Several devices may carry one UUID (the legs of a multipath device or of a mirror): the one that nothing else
    is built on is meant. Raises PartitionError when there is none, or still more than one.
    """
    import pyudev  # noqa: PLC0415 - 20 ms that only a takeover needs

    context = pyudev.Context()
    devices = [device for device in context.list_devices(subsystem="block", ID_FS_UUID=uuid) if device.device_node]
    tops = [Path(device.device_node) for device in devices if not _has_holders(Path(device.sys_path))]
    if not tops:
        raise PartitionError(
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
        raise
    return True


def is_mounted(partition: Partition) -> bool:
    """Whether the partition itself, and not something else, is mounted at its mount point.

    Asked without udev's library, for ``nlmfo status``; a device that has gone while mounted still counts.
    """
    mount = mounts.at(partition.mountpoint)
    link = BY_UUID / partition.uuid
    return mount is not None and (not link.exists() or Path(mount.source).resolve() == link.resolve())


def lock_device(partition: Partition) -> str | None:
    """MAJOR:MINOR by which /proc/locks calls the mounted partition's files; None when it is not mounted."""
    mount = mounts.at(partition.mountpoint)
    return None if mount is None else mount.device


def refuse_if_held(partition: Partition) -> None:
    """Refuse a partition that something on this node still has mounted: evidence against a takeover."""
    device = find(partition.uuid)
    if not is_free(device):
        raise Refused(
            "device-held",
            f"partition {partition.uuid}: {device} is in use on this node already",
            hint=f"something has it mounted: 'grep {device} /proc/*/mountinfo' names the processes",
        )


def mount(partition: Partition) -> None:
    """Mount the partition and see it mounted."""
    device = find(partition.uuid)
    if mounts.at(partition.mountpoint) is not None:
        raise PartitionError(
            f"{partition.mountpoint}: something is mounted there already",
            hint=f"'findmnt {partition.mountpoint}' shows what; unmount it, or choose another mountpoint",
        )
    partition.mountpoint.mkdir(parents=True, exist_ok=True)
    run(["mount", "-o", partition.options, device, partition.mountpoint], deadline=MOUNT)
    if not is_mounted(partition):
        raise PartitionError(f"{partition.mountpoint}: mount reported success, but {device} is not mounted there")


def unmount(partition: Partition, *, deadline: float = UMOUNT) -> None:
    """Unmount the partition, never lazily, and prove that its device is free.

    Busy is retried until the deadline (seconds): the kernel lets go of files a moment after the last use.
    Raises PartitionError when it stays busy, or when another mount namespace keeps it.
    """
    limit = Deadline(deadline)
    problem = ""

    def gone() -> bool:
        nonlocal problem
        try:
            run(["umount", "--no-canonicalize", partition.mountpoint], deadline=deadline, ok=(0,))
        except CommandFailed as error:
            if error.returncode != UMOUNT_FAILED:
                raise
            problem = error.stderr.strip()
        return mounts.at(partition.mountpoint) is None

    device = find(partition.uuid)
    try:
        poll_until(f"unmount of {partition.mountpoint}", gone, limit, interval=0.2)
    except DeadlineExceeded as error:
        raise PartitionError(
            f"{partition.mountpoint} stays busy: {problem}",
            hint=f"'fuser -vm {partition.mountpoint}' names the processes; end them and release again",
        ) from error
    prove_free(device, limit)


def prove_free(device: Path, limit: Deadline) -> None:
    """Wait until nothing on the node has the device mounted, in whatever namespace."""
    try:
        poll_until(f"{device} to be free", lambda: is_free(device), limit, interval=0.1)
    except DeadlineExceeded as error:
        raise PartitionError(
            f"{device} is unmounted here, but another mount namespace keeps it in use",
            hint=f"'grep -l {device} /proc/*/mountinfo' names the processes that hold it",
        ) from error
