# SPDX-License-Identifier: GPL-2.0-or-later
"""Partitions, on real file systems in loop devices: found by what they carry, and let go for certain or not at all."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from nlmfo.config import Partition
from nlmfo.deadline import Deadline, poll_until
from nlmfo.errors import CommandFailed, Refused
from nlmfo.host import mounts, partitions
from nlmfo.host.partitions import PartitionError
from nlmfo.kernel import syscalls
from nlmfo.run import run
from tests.unit.namespaced import SECONDS, need_root

#: For what stays busy, so this is waited out.
SOON = 0.5
#: The same, with time for an unmount on a busy machine.
LATER = 2.0


@dataclass(frozen=True, slots=True)
class Device:
    """A block device as udev's library shows it."""

    device_node: str | None
    sys_path: str


class Udev:
    """What udev knows: stands in for pyudev.Context, because not every machine runs udev."""

    def __init__(self) -> None:
        self.devices: dict[str, list[Device]] = {}

    def __call__(self) -> Udev:
        return self

    def list_devices(self, *, subsystem: str, ID_FS_UUID: str) -> list[Device]:
        assert subsystem == "block"
        return self.devices.get(ID_FS_UUID, [])


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system of its own, and where it is to be mounted."""

    partition: Partition
    device: Path
    udev: Udev

    @property
    def mountpoint(self) -> Path:
        return self.partition.mountpoint


@pytest.fixture
def udev(monkeypatch: pytest.MonkeyPatch) -> Udev:
    fake = Udev()
    monkeypatch.setattr("pyudev.Context", fake)
    return fake


@pytest.fixture
def disk(tmp_path: Path, udev: Udev, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """An ext4 of 4 MB on a loop device; unmounted and detached at the end."""
    need_root()
    image, name = tmp_path / "image", str(uuid.uuid4())
    with image.open("wb") as file:
        file.truncate(4 << 20)
    run(["mkfs.ext4", "-q", "-O", "^has_journal", "-U", name, image], deadline=SECONDS)
    device = Path(run(["losetup", "--find", "--show", image], deadline=SECONDS).strip())
    links = tmp_path / "by-uuid"
    links.mkdir()
    (links / name).symlink_to(device)
    monkeypatch.setattr(partitions, "BY_UUID", links)
    udev.devices[name] = [Device(str(device), f"/sys/class/block/{device.name}")]
    found = Disk(Partition(name, tmp_path / "srv/home", "noatime"), device, udev)
    try:
        yield found
    finally:
        while mounts.at(found.mountpoint):
            syscalls.umount(found.mountpoint)
        run(["losetup", "--detach", device], deadline=SECONDS)


def test_a_partition_is_mounted_with_its_options_where_there_was_no_directory_yet(disk: Disk) -> None:
    assert not partitions.is_mounted(disk.partition)
    partitions.mount(disk.partition)
    found = mounts.at(disk.mountpoint)
    assert found is not None
    assert (found.kind, found.source) == ("ext4", str(disk.device))
    assert partitions.is_mounted(disk.partition)


def test_after_the_unmount_the_device_is_free_for_another_node(disk: Disk) -> None:
    partitions.mount(disk.partition)
    assert not partitions.is_free(disk.device)
    partitions.unmount(disk.partition)
    assert mounts.at(disk.mountpoint) is None
    assert partitions.is_free(disk.device)


def test_unmounting_what_is_not_mounted_does_no_harm(disk: Disk) -> None:
    disk.mountpoint.mkdir(parents=True)
    partitions.unmount(disk.partition)
    assert partitions.is_free(disk.device)


def test_a_busy_partition_stays_mounted_and_the_error_says_how_to_find_its_users(disk: Disk) -> None:
    partitions.mount(disk.partition)
    with (disk.mountpoint / "open").open("w"), pytest.raises(PartitionError, match="stays busy") as caught:
        partitions.unmount(disk.partition, deadline=SOON)
    assert "fuser" in str(caught.value.hint)
    assert partitions.is_mounted(disk.partition)


def test_an_unmount_that_another_mount_namespace_survives_is_not_the_end(disk: Disk) -> None:
    """Seen: the next node mounted stale contents, because here nothing had been written back."""
    partitions.mount(disk.partition)
    hold = ["unshare", "--mount", "--propagation", "private", "sleep", "1000"]
    with subprocess.Popen(hold) as holder:
        try:
            own = Path("/proc/self/ns/mnt").readlink()
            poll_until("its own namespace", lambda: in_another_namespace(holder.pid, own), Deadline(SECONDS))
            with pytest.raises(PartitionError, match="another mount namespace keeps it in use") as caught:
                partitions.unmount(disk.partition, deadline=LATER)
            assert "mountinfo" in str(caught.value.hint)
            assert mounts.at(disk.mountpoint) is None
        finally:
            holder.kill()
    partitions.prove_free(disk.device, Deadline(SECONDS))


def in_another_namespace(pid: int, own: Path) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text() == "sleep\n" and Path(f"/proc/{pid}/ns/mnt").readlink() != own
    return False


def test_a_partition_that_something_here_has_mounted_is_refused(disk: Disk) -> None:
    partitions.refuse_if_held(disk.partition)
    partitions.mount(disk.partition)
    with pytest.raises(Refused, match="in use on this node already") as caught:
        partitions.refuse_if_held(disk.partition)
    assert caught.value.code == "device-held"


def test_nothing_is_mounted_over_what_is_mounted_there(disk: Disk) -> None:
    partitions.mount(disk.partition)
    with pytest.raises(PartitionError, match="something is mounted there already"):
        partitions.mount(disk.partition)


def test_another_file_system_in_its_place_is_not_the_partition(disk: Disk) -> None:
    disk.mountpoint.mkdir(parents=True)
    syscalls.mount("none", disk.mountpoint, "tmpfs")
    assert not partitions.is_mounted(disk.partition)


def test_a_device_that_has_gone_while_mounted_still_counts_as_mounted(disk: Disk) -> None:
    partitions.mount(disk.partition)
    (partitions.BY_UUID / disk.partition.uuid).unlink()
    assert partitions.is_mounted(disk.partition)


def test_the_lock_table_knows_a_partition_by_the_numbers_of_its_device(disk: Disk) -> None:
    assert partitions.lock_device(disk.partition) is None
    partitions.mount(disk.partition)
    number = disk.device.stat().st_rdev
    assert partitions.lock_device(disk.partition) == f"{number >> 8 & 0xFFF}:{number & 0xFF}"


def test_a_uuid_that_no_device_carries_is_an_error_with_a_hint(udev: Udev) -> None:
    assert udev.devices == {}
    with pytest.raises(PartitionError, match="no block device on this node carries it") as caught:
        partitions.find("11111111-2222-3333-4444-555555555555")
    assert "lsblk" in str(caught.value.hint)


def test_a_uuid_that_two_devices_carry_is_not_guessed_at(disk: Disk) -> None:
    disk.udev.devices[disk.partition.uuid].append(Device("/dev/clone", "/sys/class/block/clone"))
    with pytest.raises(PartitionError, match=f"more than one device carries it: {disk.device}, /dev/clone"):
        partitions.find(disk.partition.uuid)


def test_of_a_mirror_and_its_legs_the_mirror_is_meant(disk: Disk, tmp_path: Path) -> None:
    leg = tmp_path / "leg"
    (leg / "holders/md0").mkdir(parents=True)
    disk.udev.devices[disk.partition.uuid].insert(0, Device("/dev/leg", str(leg)))
    assert partitions.find(disk.partition.uuid) == disk.device


def test_what_udev_remembers_is_checked_against_the_superblock(disk: Disk) -> None:
    stale = "11111111-2222-3333-4444-555555555555"
    disk.udev.devices[stale] = disk.udev.devices[disk.partition.uuid]
    with pytest.raises(PartitionError, match=f"{disk.device} carries {disk.partition.uuid} by now"):
        partitions.find(stale)


def test_a_mount_that_the_kernel_refuses_says_what_mount_said(disk: Disk) -> None:
    with pytest.raises(CommandFailed, match="no-such-option"):
        partitions.mount(replace(disk.partition, options="no-such-option"))
    assert not partitions.is_mounted(disk.partition)
