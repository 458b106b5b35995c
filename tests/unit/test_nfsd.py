# SPDX-License-Identifier: GPL-2.0-or-later
"""nfsd's control files: one write each, in the kernel's spelling, and read as the kernel means it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlmfo.errors import NlmfoError
from nlmfo.kernel import nfsd, syscalls
from nlmfo.kernel.files import ControlError
from nlmfo.kernel.nfsd import escape
from tests.unit.kernel_fake import EOF, FakeKernel, KernelOops, qword_get
from tests.unit.namespaced import made

HOME, OTHER = Path("/srv/home"), Path("/srv/other")


def serving(version: tuple[int, int, int] = (6, 1, 176)) -> FakeKernel:
    """A kernel that runs nfsd and has two file systems mounted, with a client's lock on each."""
    kernel = FakeKernel(version)
    kernel.mount(HOME, "8:16")
    kernel.mount(OTHER, "8:32")
    kernel.write(nfsd.CONTROL / "portlist", b"tcp 2049\n")
    kernel.write(nfsd.CONTROL / "threads", b"8\n")
    kernel.lock("8:16", 13, 0, 99, "10.0.0.100")
    kernel.lock("8:32", 14, 0, EOF, "10.0.0.101")
    kernel.writes.clear()
    return kernel


class Lying(FakeKernel):
    """A kernel that reports success, and does nothing."""

    def write(self, file: Path, data: bytes) -> None:
        self.writes.append((file.name, data))


def unlock_filesystem(path: Path, kernel: FakeKernel) -> None:
    nfsd.unlock_filesystem(path, files=kernel, is_mountpoint=kernel.is_mountpoint)


# -- threads -------------------------------------------------------------------------------------------------


def test_threads_are_counted_and_none_run_where_nfsd_is_not_even_mounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nfsd, "CONTROL", tmp_path)
    assert nfsd.threads() == 0
    (tmp_path / "threads").write_text("8\n", encoding="ascii")
    assert nfsd.threads() == 8


def test_threads_are_started_with_one_write_of_a_whole_line_and_seen_to_run() -> None:
    kernel = FakeKernel()
    nfsd.set_threads(8, files=kernel)
    assert kernel.writes == [("threads", b"8\n")]
    assert nfsd.threads(files=kernel) == 8


def test_stopping_is_one_write_of_a_whole_line() -> None:
    kernel = serving()
    nfsd.stop(files=kernel)
    assert kernel.writes == [("threads", b"0\n")]
    assert nfsd.threads(files=kernel) == 0


def test_threads_that_do_not_run_although_the_kernel_said_so_are_an_error() -> None:
    with pytest.raises(NlmfoError, match="told to run 8 threads and reported success, but 0 run"):
        nfsd.set_threads(8, files=Lying())


def test_a_start_without_a_listener_says_what_is_missing() -> None:
    with pytest.raises(ControlError, match=r"no socket to listen on \(EIO\)") as raised:
        nfsd.set_threads(8, files=FakeKernel((7, 2, 0)))
    assert raised.value.hint is not None
    assert "add a listener" in raised.value.hint


def test_no_number_of_threads_is_refused_by_the_kernel() -> None:
    with pytest.raises(ControlError, match="no number of threads"):
        nfsd.set_threads(-1, files=serving())


ORDERS: dict[str, Callable[[FakeKernel], object]] = {
    "stop": lambda kernel: nfsd.stop(files=kernel),
    "set_threads": lambda kernel: nfsd.set_threads(8, files=kernel),
    "unlock_ip": lambda kernel: nfsd.unlock_ip(ip_address("10.0.0.1"), files=kernel),
    "filehandle": lambda kernel: nfsd.filehandle("*", HOME, files=kernel),
}


@pytest.mark.parametrize("order", ORDERS)
def test_where_nfsd_is_not_mounted_every_order_says_how_to_mount_it(order: str) -> None:
    kernel = FakeKernel()
    kernel.nfsd_mounted = False
    with pytest.raises(ControlError) as raised:
        ORDERS[order](kernel)
    assert raised.value.number == errno.ENOENT
    assert "mount -t nfsd" in str(raised.value.hint)


def test_a_control_file_that_is_missing_is_not_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nfsd, "CONTROL", tmp_path)
    with pytest.raises(ControlError):
        nfsd.stop()
    assert list(tmp_path.iterdir()) == []


# -- unlock_filesystem ---------------------------------------------------------------------------------------


def test_the_locks_of_one_file_system_are_dropped_and_no_others() -> None:
    kernel = serving()
    unlock_filesystem(HOME, kernel)
    assert [lock.inode for lock in kernel.locks] == [14]


@pytest.mark.parametrize(
    "name", ["a b", "back\\slash", "tab\there", "new\nline", "\\x41", "\\040", "gr\udcfcn", "日本"]
)
def test_locks_are_dropped_on_exactly_the_path_that_is_meant(name: str) -> None:
    kernel = serving()
    kernel.mount(f"/srv/{name}", "8:48")
    kernel.lock("8:48", 15)
    unlock_filesystem(Path(f"/srv/{name}"), kernel)
    assert [lock.device for lock in kernel.locks] == ["8:16", "8:32"]


def test_a_path_where_nothing_is_mounted_is_refused_because_the_kernel_would_take_the_file_system_above() -> None:
    kernel = serving()
    kernel.lock("8:1", 99)
    with pytest.raises(NlmfoError, match="nothing is mounted there"):
        unlock_filesystem(Path("/srv/nothing"), kernel)
    assert len(kernel.locks) == 3
    assert kernel.writes == []


@pytest.mark.parametrize("version", [(6, 1, 176), (6, 9, 0), (6, 12, 65), (6, 12, 117), (7, 2, 0)])
def test_without_nfsd_nothing_is_written_because_some_kernels_crash_then(version: tuple[int, int, int]) -> None:
    kernel = serving(version)
    nfsd.stop(files=kernel)
    kernel.writes.clear()
    kernel.lock("8:16", 13, elsewhere=True)
    with pytest.raises(NlmfoError, match="nfsd does not run"):
        unlock_filesystem(HOME, kernel)
    assert kernel.writes == []


def test_the_kernel_that_would_crash_is_the_one_that_the_refusal_is_for() -> None:
    kernel = FakeKernel((6, 12, 65))
    with pytest.raises(KernelOops):
        kernel.write(nfsd.CONTROL / "unlock_filesystem", b"/\n")


def test_a_lock_that_the_kernel_cannot_release_is_an_error_of_its_own() -> None:
    kernel = serving()
    kernel.stuck = {13}
    with pytest.raises(ControlError, match="could not release all of them") as raised:
        unlock_filesystem(HOME, kernel)
    assert raised.value.number == errno.EIO


def test_a_path_that_is_gone_is_no_mount_point() -> None:
    with pytest.raises(NlmfoError, match="No such file or directory"):
        nfsd.unlock_filesystem(Path("/nowhere/at/all"), files=serving())


def test_a_mount_point_is_told_from_a_directory_also_through_links_and_dots(tmp_path: Path) -> None:
    with made() as namespaces:

        def look() -> tuple[bool, ...]:
            mounted = tmp_path / "mounted"
            (mounted / "inside").mkdir(parents=True)
            syscalls.mount("none", mounted, "tmpfs")
            (mounted / "inside").mkdir()
            (tmp_path / "link").symlink_to(mounted)
            (tmp_path / "into").symlink_to(mounted / "inside")
            places = (mounted, tmp_path / "link", mounted / "inside", tmp_path / "into", tmp_path, mounted / "..")
            found = tuple(nfsd.has_own_file_system(place) for place in (*places, Path("/")))
            syscalls.umount(mounted)
            return found

        assert namespaces.call(look) == (True, True, False, False, False, False, True)


# -- unlock_ip -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "left"),
    [
        ((5, 10, 0), 2),
        ((6, 1, 190), 2),
        ((6, 1, 191), 1),
        ((6, 6, 200), 2),
        ((6, 12, 111), 2),
        ((6, 12, 112), 1),
        ((7, 1, 5), 2),
        ((7, 2, 0), 1),
    ],
)
def test_unlock_ip_succeeds_everywhere_and_drops_locks_only_where_it_was_mended(
    version: tuple[int, int, int], left: int
) -> None:
    kernel = serving(version)
    nfsd.unlock_ip(ip_address("10.0.0.100"), files=kernel)
    assert len(kernel.locks) == left


def test_the_longest_ipv4_address_is_not_too_long() -> None:
    kernel = serving((7, 2, 0))
    kernel.lock("8:16", 13, server_ip="223.255.255.255")
    nfsd.unlock_ip(ip_address("223.255.255.255"), files=kernel)
    assert len(kernel.locks) == 2


def test_ipv6_addresses_are_refused_with_the_way_out() -> None:
    with pytest.raises(ControlError, match="does not take this address") as raised:
        nfsd.unlock_ip(ip_address("fd00::100"), files=serving((7, 2, 0)))
    assert raised.value.hint is not None
    assert "netlink" in raised.value.hint


# -- grace ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("content", "over"), [("Y\n", True), ("N\n", False)])
def test_the_end_of_nfsv4s_grace_is_read_as_the_kernel_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, over: bool
) -> None:
    monkeypatch.setattr(nfsd, "CONTROL", tmp_path)
    (tmp_path / "v4_end_grace").write_text(content, encoding="ascii")
    assert nfsd.v4_grace_ended() is over


def test_a_kernel_without_nfsv4_has_no_grace_of_it() -> None:
    kernel = FakeKernel()
    kernel.missing.add(nfsd.CONTROL / "v4_end_grace")
    assert nfsd.v4_grace_ended(files=kernel)
    nfsd.end_v4_grace(files=kernel)
    assert kernel.writes == []


def in_v4_grace(*, tracking: bool) -> FakeKernel:
    kernel = FakeKernel()
    kernel.client_tracking, kernel.v4_clients = tracking, 1
    nfsd.set_threads(8, files=kernel)
    return kernel


def test_nfsv4s_grace_is_ended_where_somebody_keeps_track_of_clients() -> None:
    kernel = in_v4_grace(tracking=True)
    assert not nfsd.v4_grace_ended(files=kernel)
    nfsd.end_v4_grace(files=kernel)
    assert nfsd.v4_grace_ended(files=kernel)


def test_without_nfsdcld_nothing_ends_nfsv4s_grace_but_time() -> None:
    kernel = in_v4_grace(tracking=False)
    with pytest.raises(ControlError, match="keeps track of its clients") as raised:
        nfsd.end_v4_grace(files=kernel)
    assert raised.value.number == errno.EBUSY
    kernel.tick(90)
    assert nfsd.v4_grace_ended(files=kernel)


def test_a_grace_that_is_over_already_need_not_be_ended() -> None:
    kernel = in_v4_grace(tracking=True)
    kernel.tick(90)
    kernel.writes.clear()
    nfsd.end_v4_grace(files=kernel)
    assert kernel.writes == []


def test_a_grace_that_ends_by_itself_in_the_same_moment_is_no_error() -> None:
    kernel = in_v4_grace(tracking=True)

    class Late(FakeKernel):
        def read(self, file: Path) -> bytes:
            answer = kernel.read(file)
            kernel.tick(90)
            return answer

        def write(self, file: Path, data: bytes) -> None:
            kernel.write(file, data)

    nfsd.end_v4_grace(files=Late())
    assert kernel.writes[-1] == ("v4_end_grace", b"Y\n")


# -- filehandle ----------------------------------------------------------------------------------------------


def exporting(path: Path) -> FakeKernel:
    kernel = serving()
    kernel.exported[("10.0.0.0/8", path)] = bytes(range(28))
    return kernel


@pytest.mark.parametrize("path", [HOME, Path("/srv/a b\\c")])
def test_the_handle_of_an_export_is_asked_and_answered_on_one_descriptor(path: Path) -> None:
    kernel = exporting(path)
    assert nfsd.filehandle("10.0.0.0/8", path, files=kernel) == bytes(range(28))
    assert len(kernel.writes) == 1


def test_a_path_that_is_not_exported_to_those_clients_has_no_handle() -> None:
    with pytest.raises(ControlError, match="not exported to 'elsewhere'") as raised:
        nfsd.filehandle("elsewhere", HOME, files=exporting(HOME))
    assert raised.value.number == errno.EPERM


def test_a_handle_of_less_than_32_bytes_is_not_given_out() -> None:
    with pytest.raises(ControlError, match="from 32 to 64 bytes"):
        nfsd.filehandle("10.0.0.0/8", HOME, 31, files=exporting(HOME))


def test_an_answer_that_is_no_handle_is_an_error() -> None:
    class Odd(FakeKernel):
        def ask(self, _file: Path, _data: bytes) -> bytes:
            return b"\\xzz\n"

    with pytest.raises(NlmfoError, match="the kernel said"):
        nfsd.filehandle("*", HOME, files=Odd())


# -- the kernel's spelling -----------------------------------------------------------------------------------


@given(st.binary(min_size=1).filter(lambda raw: b"\0" not in raw))
def test_every_path_is_one_word_to_the_kernel_and_the_same_path(raw: bytes) -> None:
    assert qword_get(escape(raw) + b"\n") == (raw, b"\n")


def test_every_order_is_given_with_one_write_on_a_descriptor_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On real files: the kernel would refuse a second write, and a file object may make two of one."""
    monkeypatch.setattr(nfsd, "CONTROL", tmp_path)
    writes: list[tuple[str, bytes]] = []
    write = os.write

    def note(descriptor: int, data: bytes) -> int:
        writes.append((Path(f"/proc/self/fd/{descriptor}").readlink().name, data))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", note)
    for name, content in (("threads", "8\n"), ("unlock_filesystem", ""), ("unlock_ip", "")):
        (tmp_path / name).write_text(content, encoding="ascii")
    nfsd.unlock_ip(ip_address("10.0.0.1"))
    nfsd.unlock_filesystem(Path("/srv/a b\\c\td\ne"), is_mountpoint=lambda _: True)
    nfsd.stop()
    assert writes == [
        ("unlock_ip", b"10.0.0.1\n"),
        ("unlock_filesystem", b"/srv/a\\040b\\134c\\011d\\012e\n"),
        ("threads", b"0\n"),
    ]
