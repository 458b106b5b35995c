# SPDX-License-Identifier: GPL-2.0-or-later
"""Partitions, on real file systems in loop devices: found by what they carry, and let go for certain or not at all."""

from __future__ import annotations

import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from nlmfo.config import Partition
from nlmfo.deadline import Deadline, poll_until
from nlmfo.errors import DeadlineExceeded, Refused
from nlmfo.host import libmount, mounts, partitions
from nlmfo.host.holders import Holder, HolderKind, proc
from nlmfo.host.libmount import MountFailed
from nlmfo.host.partitions import PartitionError
from nlmfo.kernel import syscalls
from nlmfo.run import run
from tests.unit.namespaced import SECONDS, loop_device, own_mounts

#: For what stays busy, so this is waited out; with time for an unmount on a busy machine.
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
    name, links = str(uuid.uuid4()), tmp_path / "by-uuid"
    with own_mounts(), loop_device(tmp_path / "image", name) as device:
        links.mkdir()
        (links / name).symlink_to(device)
        monkeypatch.setattr(mounts, "BY_UUID", links)
        udev.devices[name] = [Device(str(device), f"/sys/class/block/{device.name}")]
        found = Disk(Partition(name, tmp_path / "srv/home", "noatime"), device, udev)
        yield found
        while mounts.at(found.mountpoint):
            syscalls.umount(found.mountpoint)


def mount(disk: Disk, *, options: str | None = None, deadline: float = partitions.MOUNT) -> None:
    """As a takeover does: the mount point is made ready, and the device found by what it carries."""
    partition = disk.partition if options is None else disk.partition._replace(options=options)
    device = partitions.find(partition.uuid)
    partitions.make_ready(partition.mountpoint)
    partitions.mount(partition, device, deadline=deadline)


def test_a_partition_is_mounted_with_its_options_where_there_was_no_directory_yet(disk: Disk) -> None:
    assert not mounts.is_mounted(disk.partition)
    mount(disk)
    found = mounts.at(disk.mountpoint)
    assert found is not None
    assert (found.kind, found.source) == ("ext4", str(disk.device))
    assert mounts.is_mounted(disk.partition)


def test_a_mount_that_is_rehearsed_changes_nothing_and_is_done_afterwards(disk: Disk, tmp_path: Path) -> None:
    before = (tmp_path / "image").read_bytes()
    partitions.rehearse_mount(disk.partition, disk.device)
    assert mounts.at(disk.mountpoint) is None
    assert partitions.is_free(disk.device)
    assert (tmp_path / "image").read_bytes() == before
    mount(disk)
    assert mounts.at(disk.mountpoint) is not None


def test_what_stands_against_a_mount_is_not_said_by_its_rehearsal(disk: Disk) -> None:
    partitions.rehearse_mount(disk.partition, Path("/dev/away"))
    assert mounts.at(disk.mountpoint) is None


def test_after_the_unmount_the_device_is_free_for_another_node(disk: Disk) -> None:
    mount(disk)
    assert not partitions.is_free(disk.device)
    partitions.unmount(disk.partition)
    assert mounts.at(disk.mountpoint) is None
    assert partitions.is_free(disk.device)


def test_unmounting_what_is_not_mounted_does_no_harm(disk: Disk) -> None:
    disk.mountpoint.mkdir(parents=True)
    partitions.unmount(disk.partition)
    assert partitions.is_free(disk.device)


def test_a_busy_partition_stays_mounted_and_the_error_names_who_uses_it(disk: Disk) -> None:
    mount(disk)
    with (disk.mountpoint / "open").open("w"), pytest.raises(PartitionError) as caught:
        partitions.unmount(disk.partition, deadline=LATER)
    holder = Holder(HolderKind.FILE, proc.name(os.getpid()), f"{disk.mountpoint}/open")
    assert caught.value.holders == (holder,)
    assert str(caught.value) == f"{disk.mountpoint} stays busy (target is busy): held by {holder}"
    assert str(caught.value.hint).startswith("end the processes")
    assert mounts.is_mounted(disk.partition)


def test_what_a_process_does_to_the_partition_ends_and_then_it_is_unmounted(disk: Disk) -> None:
    mount(disk)
    with subprocess.Popen(["sleep", "0.5"], cwd=disk.mountpoint):
        partitions.unmount(disk.partition)
    assert partitions.is_free(disk.device)


def test_a_mount_on_a_directory_of_the_partition_is_named_as_what_keeps_it_busy(disk: Disk) -> None:
    mount(disk)
    below = disk.mountpoint / "below"
    below.mkdir()
    syscalls.mount("none", below, "tmpfs")
    with pytest.raises(PartitionError, match=f"mounted on a directory of it: {below}") as caught:
        partitions.unmount(disk.partition, deadline=LATER)
    assert f"'umount {below}'" in str(caught.value.hint)
    syscalls.umount(below)


def test_an_unmount_that_a_bind_mount_survives_is_not_the_end(disk: Disk, tmp_path: Path) -> None:
    mount(disk)
    view = tmp_path / "view"
    view.mkdir()
    syscalls.mount(str(disk.mountpoint), view, "none", syscalls.MS_BIND)
    with pytest.raises(PartitionError, match=f"still in use: held by this node: mounted at {view}$") as caught:
        partitions.unmount(disk.partition, deadline=LATER)
    assert f"'umount {view}'" in str(caught.value.hint)
    assert mounts.at(disk.mountpoint) is None
    syscalls.umount(view)


def test_an_unmount_that_another_mount_namespace_survives_is_not_the_end(disk: Disk) -> None:
    """Seen: the next node mounted stale contents, because here nothing had been written back."""
    mount(disk)
    hold = ["unshare", "--mount", "--propagation", "private", "sleep", "1000"]
    with subprocess.Popen(hold) as holder:
        try:
            own = Path("/proc/self/ns/mnt").readlink()
            poll_until("its own namespace", lambda: in_another_namespace(holder.pid, own), Deadline(SECONDS))
            with pytest.raises(PartitionError, match="but still in use: held by process") as caught:
                partitions.unmount(disk.partition, deadline=LATER)
            who = f"process {holder.pid} (sleep)"
            assert caught.value.holders == (Holder(HolderKind.NAMESPACE, who, str(disk.mountpoint)),)
            assert "end the processes of the mount namespace" in str(caught.value.hint)
            assert mounts.at(disk.mountpoint) is None
        finally:
            holder.kill()
    partitions.prove_free(disk.device, Deadline(SECONDS), disk.mountpoint)


def in_another_namespace(pid: int, own: Path) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text() == "sleep\n" and Path(f"/proc/{pid}/ns/mnt").readlink() != own
    return False


def test_a_device_that_nothing_visible_keeps_is_not_free_for_that(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitions, "is_free", lambda _: False)
    with pytest.raises(PartitionError, match="still in use: nothing visible holds it: the kernel itself may") as caught:
        partitions.prove_free(disk.device, Deadline(0), disk.mountpoint)
    assert "nfsd.fh/flush" in str(caught.value.hint)


def test_an_umount_that_hangs_is_not_called_busy(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for a disk that does not answer: nobody needs to be ended."""

    mount(disk)
    monkeypatch.setattr(libmount, "umount", lambda _: time.sleep(SECONDS))
    with pytest.raises(PartitionError, match=f"{disk.mountpoint}: umount hangs since 2 s") as caught:
        partitions.unmount(disk.partition, deadline=LATER)
    assert "dmesg" in str(caught.value.hint)


def test_a_partition_that_something_here_has_mounted_is_refused_and_the_holder_named(disk: Disk) -> None:
    partitions.refuse_if_held(disk.partition, disk.device)
    mount(disk)
    with pytest.raises(Refused, match="in use on this node already") as caught:
        partitions.refuse_if_held(disk.partition, disk.device)
    assert caught.value.code == "device-held"
    assert str(caught.value).endswith(f"held by this node: mounted at {disk.mountpoint}")
    assert f"'umount {disk.mountpoint}'" in str(caught.value.hint)


def test_nothing_is_mounted_over_what_is_mounted_there(disk: Disk) -> None:
    mount(disk)
    with pytest.raises(PartitionError, match="something is mounted there already"):
        partitions.mount(disk.partition, disk.device)


def test_what_is_mounted_there_already_is_not_taken_for_files_in_the_mount_point(disk: Disk) -> None:
    """The hint against those is to move them away; these would be moved from a file system that is in use."""
    disk.mountpoint.mkdir(parents=True)
    syscalls.mount("none", disk.mountpoint, "tmpfs")
    (disk.mountpoint / "in-use").touch()
    with pytest.raises(PartitionError, match="something is mounted there already") as caught:
        mount(disk)
    assert f"'findmnt {disk.mountpoint}'" in str(caught.value.hint)
    assert partitions.is_free(disk.device)


def test_another_file_system_in_its_place_is_not_the_partition(disk: Disk) -> None:
    disk.mountpoint.mkdir(parents=True)
    syscalls.mount("none", disk.mountpoint, "tmpfs")
    assert not mounts.is_mounted(disk.partition)


def test_a_device_that_has_gone_while_mounted_still_counts_as_mounted(disk: Disk) -> None:
    mount(disk)
    (mounts.BY_UUID / disk.partition.uuid).unlink()
    assert mounts.is_mounted(disk.partition)


def test_the_lock_table_knows_a_partition_by_the_numbers_of_its_device(disk: Disk) -> None:
    assert partitions.lock_device(disk.partition) is None
    mount(disk)
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


def test_a_mount_that_the_kernel_refuses_says_what_mount_would_say(disk: Disk) -> None:
    with pytest.raises(MountFailed, match=f"mount of {disk.device} on {disk.mountpoint}: wrong fs type, bad option"):
        mount(disk, options="no-such-option")
    assert not mounts.is_mounted(disk.partition)


# -- what is in the way of a mount -----------------------------------------------------------------------


def test_what_is_in_the_mount_point_is_never_hidden_by_a_mount(disk: Disk) -> None:
    """Somebody wrote to the directory while the partition was not mounted: that would be missed only later."""
    disk.mountpoint.mkdir(parents=True)
    for name in ("d", "a\x1b[2J", "c", "b"):
        (disk.mountpoint / name).touch()
    with pytest.raises(PartitionError, match="mountpoint not empty") as caught:
        mount(disk)
    assert "has a?[2J, b, c and 1 more in it" in str(caught.value)
    assert mounts.at(disk.mountpoint) is None


@pytest.mark.parametrize("place", ["home", "."])
def test_a_file_in_the_place_of_the_mount_point_or_above_it_is_an_error(disk: Disk, place: str) -> None:
    file = disk.mountpoint.parent / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    with pytest.raises(PartitionError, match="is a file and not a directory"):
        mount(disk)
    assert file.is_file()
    assert partitions.is_free(disk.device)


@pytest.mark.parametrize("place", ["home", "."])
def test_a_symbolic_link_on_the_way_to_the_mount_point_is_an_error(disk: Disk, tmp_path: Path, place: str) -> None:
    """mount(8) follows it: the partition would be mounted elsewhere, and never be found where it is looked for."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    link = disk.mountpoint.parent / place
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(elsewhere)
    with pytest.raises(PartitionError, match=f"a symbolic link leads from there to {elsewhere}"):
        mount(disk)
    assert partitions.is_free(disk.device)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("target", ["nowhere", "home"])
def test_a_symbolic_link_to_nowhere_or_to_itself_is_an_error(disk: Disk, target: str) -> None:
    disk.mountpoint.parent.mkdir(parents=True)
    disk.mountpoint.symlink_to(target)
    with pytest.raises(PartitionError):
        mount(disk)
    assert disk.mountpoint.is_symlink()


def test_a_file_system_that_noted_errors_is_mounted_as_always(disk: Disk) -> None:
    run(["debugfs", "-w", "-R", "set_super_value state 2", disk.device], deadline=SECONDS)
    assert "with errors" in run(["dumpe2fs", "-h", disk.device], deadline=SECONDS)
    mount(disk)
    assert mounts.is_mounted(disk.partition)


def test_a_damaged_file_system_is_not_mounted_and_the_hint_says_how_to_mend_it(disk: Disk) -> None:
    with disk.device.open("r+b") as file:
        file.seek(2048)  # the group descriptors, with blocks of 1 KiB
        file.write(b"\xaa" * 64)
    with pytest.raises(PartitionError, match=f"the file system on {disk.device} is damaged") as caught:
        mount(disk)
    assert f"'e2fsck -f {disk.device}'" in str(caught.value.hint)
    assert not mounts.is_mounted(disk.partition)


def test_a_mount_that_takes_too_long_is_left_behind(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libmount, "mount", lambda *_: time.sleep(SECONDS))
    with pytest.raises(DeadlineExceeded, match=f"mount of {disk.device} on {disk.mountpoint}: not within 0.1 s"):
        mount(disk, deadline=0.1)
