# SPDX-License-Identifier: GPL-2.0-or-later
"""Locks are dropped in the way that the kernel has, and only the lock table says that they are gone."""

from __future__ import annotations

import errno
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from nlmfo.errors import NlmfoError
from nlmfo.kernel import dropping, netlink, nfsd
from nlmfo.kernel.dropping import NO_FAMILY, Kernel, LocksLeft, Way
from nlmfo.kernel.files import ControlError
from tests.unit.kernel_fake import FakeKernel, KernelOops, refuse
from tests.unit.kernel_netlink_fake import FakeNetlink, interfaces

HOME, OTHER = Path("/srv/home"), Path("/srv/other")
#: Seconds to wait for locks that do not go.
SOON = 0.05
OLD, NEW = (6, 1, 176), (7, 2, 0)


def prepare(fake: FakeKernel) -> FakeKernel:
    fake.mount(HOME, "8:16")
    fake.mount(OTHER, "8:32")
    fake.write(nfsd.CONTROL / "portlist", b"tcp 2049\n")
    nfsd.set_threads(8, files=fake)
    fake.lock("8:16", 13, 0, 99, "10.0.0.100")
    fake.lock("8:16", 13, 200, 299, "10.0.0.100", client="10.0.0.2")
    fake.lock("8:32", 14, server_ip="10.0.0.101")
    return fake


def serving(version: tuple[int, int, int] = OLD, *, patched: bool = False) -> FakeKernel:
    return prepare(FakeKernel(version, patched=patched))


def drop(fake: FakeKernel, path: Path = HOME, device: str = "8:16") -> dropping.Dropped:
    return dropping.drop_of_filesystem(path, device, interfaces(fake), seconds=SOON)


# -- choosing the way ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "patched", "file_system", "ipv4", "ipv6"),
    [
        ((6, 1, 176), False, Way.PROCFS, None, None),
        ((6, 1, 191), False, Way.PROCFS, Way.PROCFS, None),
        ((6, 12, 107), False, Way.PROCFS, None, None),
        ((6, 12, 117), False, Way.PROCFS, Way.PROCFS, None),
        ((7, 2, 0), False, Way.NETLINK, Way.NETLINK, Way.NETLINK),
        ((2, 6, 18), True, Way.PROPOSED, Way.PROCFS, None),
    ],
)
def test_the_way_is_what_the_kernel_has_and_what_works_in_it(
    version: tuple[int, int, int], patched: bool, file_system: Way, ipv4: Way | None, ipv6: Way | None
) -> None:
    kernel = interfaces(FakeKernel(version, patched=patched))
    assert dropping.way_for_filesystem(kernel) is file_system
    assert dropping.way_for_address(kernel) is ipv4
    assert dropping.way_for_address(kernel, 6) is ipv6


def test_where_it_is_not_known_whether_unlock_ip_works_it_is_tried_because_the_lock_table_decides() -> None:
    kernel = interfaces(FakeKernel((5, 14, 0)))
    vendor = replace(kernel.version, exact=False)
    assert dropping.way_for_address(replace(kernel, version=vendor)) is Way.PROCFS


def test_a_kernel_without_nfsd_has_no_way() -> None:
    fake = FakeKernel()
    fake.nfsd_mounted = False
    assert dropping.way_for_filesystem(interfaces(fake)) is None
    assert dropping.way_for_address(interfaces(fake)) is None


def test_where_there_is_no_generic_netlink_the_files_are_used() -> None:
    fake = FakeKernel(NEW)
    transport = FakeNetlink(fake)
    transport.available = False
    assert dropping.way_for_filesystem(replace(interfaces(fake), transport=transport)) is Way.PROCFS


def test_the_kernel_of_this_machine_is_the_one_that_is_meant_by_default() -> None:
    assert Kernel().files.exists(Path("/proc/locks"))
    assert Kernel().version.numbers > (2, 6, 0)


# -- a file system -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "patched", "way"), [(OLD, False, Way.PROCFS), (NEW, False, Way.NETLINK), (OLD, True, Way.PROPOSED)]
)
def test_the_locks_of_one_file_system_are_dropped_and_counted(
    version: tuple[int, int, int], patched: bool, way: Way
) -> None:
    fake = serving(version, patched=patched)
    done = drop(fake)
    assert (done.way, done.before, done.doubt) == (way, 2, None)
    assert [lock.device for lock in fake.locks] == ["8:32"]


@pytest.mark.parametrize("version", [OLD, (6, 12, 65), NEW])
@pytest.mark.parametrize("patched", [True, False])
def test_without_nfsd_nothing_is_dropped_in_any_way(version: tuple[int, int, int], patched: bool) -> None:
    fake = FakeKernel(version, patched=patched)
    fake.mount(HOME, "8:16")
    fake.lock("8:16", 13)
    with pytest.raises(NlmfoError, match="nfsd does not run"):
        drop(fake)
    assert len(fake.locks) == 1


@pytest.mark.parametrize("version", [OLD, NEW])
def test_where_nothing_is_mounted_nothing_is_dropped_in_any_way(version: tuple[int, int, int]) -> None:
    fake = serving(version)
    fake.lock("8:1", 99)
    with pytest.raises(NlmfoError, match="nothing is mounted there"):
        drop(fake, Path("/srv/nothing"), "8:1")
    assert len(fake.locks) == 4


def test_a_lock_that_stays_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "mail").mkdir()
    (tmp_path / "mail/box").touch()
    inode = (tmp_path / "mail/box").stat().st_ino
    fake = serving()
    fake.mount(tmp_path, "8:48")
    fake.lock("8:48", inode)
    fake.lock("8:48", 2**63)
    fake.stuck = {inode, 2**63}
    with pytest.raises(LocksLeft) as raised:
        drop(fake, tmp_path, "8:48")
    error = raised.value
    assert f"2 NFS locks are still held, on {tmp_path}/mail/box, inode {2**63} of {tmp_path}" in error.text
    assert "the kernel said: dropping the locks on" in error.text
    assert "(EIO)" in error.text
    assert [lock.inode for lock in error.left] == [inode, 2**63]


def test_a_client_that_takes_its_lock_again_is_noticed_although_all_writes_succeeded() -> None:
    class Busy(FakeKernel):
        def write(self, file: Path, data: bytes) -> None:
            super().write(file, data)
            if file.name == "unlock_filesystem":
                self.lock("8:16", 13)

    with pytest.raises(LocksLeft, match="the kernel said: success") as raised:
        drop(prepare(Busy()))
    assert "take the address down" in str(raised.value.hint)


def test_locks_that_are_gone_are_gone_although_the_kernel_said_einval() -> None:
    """From 6.9 on it says so when nfsd stops between our look at its threads and the write."""

    class Stopping(FakeKernel):
        def write(self, file: Path, data: bytes) -> None:
            if file.name == "unlock_filesystem":
                self._stop()
            super().write(file, data)

    fake = prepare(Stopping((6, 12, 66)))
    done = drop(fake)
    assert done.doubt is not None
    assert "(EINVAL)" in done.doubt


def test_no_way_is_found_to_hide_that_the_kernel_crashed() -> None:
    class Stopping(FakeKernel):
        def write(self, file: Path, data: bytes) -> None:
            if file.name == "unlock_filesystem":
                self._stop()
            super().write(file, data)

    with pytest.raises(KernelOops):
        drop(prepare(Stopping((6, 12, 65))))


def test_an_answer_that_leaves_no_doubt_is_an_error_also_where_no_lock_was_held() -> None:
    class Locked(FakeKernel):
        def write(self, file: Path, data: bytes) -> None:
            if file.name == "unlock_filesystem":
                raise refuse(errno.EACCES)
            super().write(file, data)

    fake = prepare(Locked())
    fake.locks.clear()
    with pytest.raises(ControlError, match="permission denied"):
        drop(fake)


# -- an address ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "way"), [((6, 1, 191), Way.PROCFS), (NEW, Way.NETLINK)])
def test_the_locks_of_one_address_are_dropped(version: tuple[int, int, int], way: Way) -> None:
    fake = serving(version)
    done = dropping.drop_of_address(ip_address("10.0.0.100"), {"8:16": HOME}, interfaces(fake), seconds=SOON)
    assert (done.way, done.before) == (way, 2)
    assert [lock.device for lock in fake.locks] == ["8:32"]


def test_on_a_kernel_that_drops_nothing_the_address_is_refused_with_the_way_out() -> None:
    fake = serving(OLD)
    fake.writes.clear()
    with pytest.raises(NlmfoError, match=r"kernel 6\.1\.176 has no way that works") as raised:
        dropping.drop_of_address(ip_address("10.0.0.100"), {"8:16": HOME}, interfaces(fake), seconds=SOON)
    assert "file systems instead" in str(raised.value.hint)
    assert fake.writes == []


def test_a_kernel_that_says_success_and_drops_nothing_is_found_out() -> None:
    fake = serving((5, 14, 0))
    kernel = interfaces(fake)
    vendor = replace(kernel, version=replace(kernel.version, exact=False))
    with pytest.raises(LocksLeft, match="the kernel said: success"):
        dropping.drop_of_address(ip_address("10.0.0.100"), {"8:16": HOME}, vendor, seconds=SOON)


# -- verifying -----------------------------------------------------------------------------------------------


def test_locks_that_go_a_moment_later_are_waited_for() -> None:
    fake = serving()
    looks = 0

    class Slow(FakeKernel):
        def read(self, file: Path) -> bytes:
            nonlocal looks
            looks += file == Path("/proc/locks")
            if looks == 4:
                fake.locks.clear()
            return fake.read(file)

    dropping.verify({"8:16": HOME}, files=Slow())
    assert looks >= 4


def test_locks_on_other_devices_do_not_matter() -> None:
    fake = serving()
    fake.drop(lambda lock: lock.device == "8:16")
    dropping.verify({"8:16": HOME}, files=fake, seconds=SOON)
    with pytest.raises(LocksLeft, match=r"^/srv/other: 1 NFS lock is still held"):
        dropping.verify({"8:16": HOME, "8:32": OTHER}, files=fake, seconds=SOON)


def test_an_empty_table_proves_nothing_where_the_locks_of_clients_are_not_shown() -> None:
    fake = serving()
    fake.in_first_pid_namespace = False
    with pytest.raises(NlmfoError, match="does not show the locks of NFS clients"):
        dropping.verify({"8:16": HOME}, files=fake, seconds=SOON)
    with pytest.raises(NlmfoError, match="does not show the locks of NFS clients"):
        drop(fake)


def test_the_running_kernel_is_asked_for_its_commands_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it has no such family it starts modprobe for each question, and clients wait."""
    asked: list[object] = []
    monkeypatch.setattr(netlink, "nfsd", lambda *, transport: asked.append(transport))
    dropping._family_here.cache_clear()
    try:
        assert [dropping.family(Kernel()) for _ in range(3)] == [NO_FAMILY] * 3
    finally:
        dropping._family_here.cache_clear()
    assert asked == [netlink.KERNEL]
