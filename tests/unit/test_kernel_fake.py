# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel in memory does what running kernels were seen to do, or their sources say; other tests rely on it."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from nlmfo.kernel import lockd, locks, nfsd
from nlmfo.kernel.files import ControlFiles
from tests.unit.kernel_fake import EOF, Answer, FakeKernel, KernelOops, qword_get

HOME = Path("/srv/home")
Version = tuple[int, int, int]


def started(version: Version = (6, 1, 176), *, tracking: bool = True) -> FakeKernel:
    kernel = FakeKernel(version)
    kernel.client_tracking = tracking
    kernel.mount(HOME, "8:16")
    start(kernel)
    return kernel


def start(kernel: FakeKernel) -> None:
    kernel.write(nfsd.CONTROL / "portlist", b"tcp 2049\n")
    kernel.write(nfsd.CONTROL / "threads", b"8\n")


def stop(kernel: FakeKernel) -> None:
    kernel.write(nfsd.CONTROL / "threads", b"0\n")


def errno_of(kernel: FakeKernel, name: str, data: bytes) -> int:
    with pytest.raises(OSError) as raised:  # noqa: PT011 - the errno is what is asked for
        kernel.write(nfsd.CONTROL / name, data)
    return raised.value.errno or 0


def test_it_is_control_files() -> None:
    files: ControlFiles = FakeKernel()
    assert files.exists(nfsd.CONTROL / "threads")


# -- parsing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "word", "rest"),
    [
        (b"/srv/home\n", b"/srv/home", b"\n"),
        (b"  two words\n", b"two", b"words\n"),
        (b"a\\040b\n", b"a b", b"\n"),
        (b"a\\40b\n", b"a\\40b", b"\n"),
        (b"a\\400\n", b"a\\400", b"\n"),
        (b"\\x2f73\n", b"/s", b"\n"),
        (b"\\x2f7\n", None, b""),
        (b"a\tb\n", b"a\tb", b"\n"),
        (b"a\0b\n", b"a", b"\0b\n"),
        (b"\n", b"", b"\n"),
    ],
)
def test_words_are_read_as_qword_get_reads_them(line: bytes, word: bytes | None, rest: bytes) -> None:
    assert qword_get(line) == (word, rest)


@pytest.mark.parametrize("data", [b"/srv/home", b"\n", b"srv/home\n", b"\\x2\n"])
def test_a_line_that_is_none_is_refused(data: bytes) -> None:
    assert errno_of(started(), "unlock_filesystem", data) in (errno.EINVAL, errno.ENOENT)


def test_what_follows_the_first_word_does_not_matter() -> None:
    kernel = started((7, 2, 0))
    kernel.lock("8:16", 13)
    kernel.write(nfsd.CONTROL / "unlock_ip", b"10.0.0.100 x\n")
    assert kernel.locks == []


@pytest.mark.parametrize("data", [b"10.0.0.100", b"\n", b"fd00::100\n", b"::ffff:10.0.0.100\n", b" 223.255.255.255\n"])
def test_an_address_that_the_kernel_cannot_read_is_refused(data: bytes) -> None:
    assert errno_of(started((7, 2, 0)), "unlock_ip", data) == errno.EINVAL


def test_a_second_write_on_an_open_file_is_refused_and_so_is_one_after_reading() -> None:
    kernel = started()
    for first in (lambda d: d.write(b"8\n"), lambda d: d.read()):
        with kernel.open(nfsd.CONTROL / "threads") as descriptor:
            first(descriptor)  # type: ignore[no-untyped-call]
            with pytest.raises(OSError, match="busy"):
                descriptor.write(b"0\n")
    assert kernel.threads == 8


def test_a_line_of_a_page_is_too_long() -> None:
    assert errno_of(started(), "unlock_filesystem", b"/" + b"a" * 4096 + b"\n") == errno.EFBIG


def test_an_order_that_is_read_without_being_given_is_refused() -> None:
    with pytest.raises(OSError, match="Invalid"):
        started().read(nfsd.CONTROL / "unlock_ip")


# -- the lock table ------------------------------------------------------------------------------------------


def test_the_lock_table_is_read_back_by_our_own_parser() -> None:
    kernel = started()
    kernel.lock("253:31", 4294967297, 0, EOF, exclusive=False)
    kernel.lock("8:16", 13, 100, 199)
    found = locks.held_by_clients({"253:31", "8:16"}, files=kernel)
    assert [(lock.device, lock.inode, lock.first, lock.last, lock.exclusive) for lock in found] == [
        ("253:31", 4294967297, 0, EOF, False),
        ("8:16", 13, 100, 199, True),
    ]


def test_locks_that_a_stopped_lockd_left_behind_are_still_clients_locks() -> None:
    kernel = FakeKernel()
    kernel.lock("8:16", 13)
    assert len(locks.held_by_clients({"8:16"}, files=kernel)) == 1


def test_a_file_system_with_locks_is_busy() -> None:
    kernel = started()
    kernel.lock("8:16", 13)
    with pytest.raises(OSError, match="busy"):
        kernel.umount(HOME)
    kernel.locks.clear()
    kernel.umount(HOME)
    assert not kernel.is_mountpoint(HOME)


def test_a_path_belongs_to_the_file_system_that_is_mounted_closest_above_it() -> None:
    kernel = started()
    kernel.lock("8:1", 99)
    kernel.lock("8:16", 13)
    kernel.write(nfsd.CONTROL / "unlock_filesystem", b"/srv/home/deep/below\n")
    assert [lock.device for lock in kernel.locks] == ["8:1"]
    kernel.write(nfsd.CONTROL / "unlock_filesystem", b"/srv/nothing\n")
    assert kernel.locks == []


# -- grace ---------------------------------------------------------------------------------------------------


def test_in_grace_only_what_was_held_is_granted_and_afterwards_only_what_is_new() -> None:
    kernel = started()
    assert kernel.request("8:16", 13) is Answer.GRACE
    assert kernel.request("8:16", 13, reclaim=True) is Answer.GRANTED
    kernel.tick(50)
    assert kernel.request("8:16", 14, reclaim=True) is Answer.GRACE
    assert kernel.request("8:16", 14) is Answer.GRANTED


@pytest.mark.parametrize(
    ("first", "last", "exclusive", "answer"),
    [
        (0, 99, True, Answer.DENIED),
        (99, 200, False, Answer.DENIED),
        (100, 199, True, Answer.GRANTED),
        (50, EOF, True, Answer.DENIED),
    ],
)
def test_locks_of_two_clients_conflict_where_they_overlap(
    first: int, last: int, exclusive: bool, answer: Answer
) -> None:
    kernel = started()
    kernel.tick(50)
    kernel.lock("8:16", 13, 0, 99)
    assert kernel.request("8:16", 13, first, last, client="10.0.0.2", exclusive=exclusive) is answer


def test_shared_locks_do_not_conflict() -> None:
    kernel = started()
    kernel.tick(50)
    kernel.lock("8:16", 13, exclusive=False)
    assert kernel.request("8:16", 13, client="10.0.0.2", exclusive=False) is Answer.GRANTED


def test_grace_has_two_keepers_also_for_an_nfsv3_server() -> None:
    kernel = FakeKernel()
    kernel.client_tracking = False
    kernel.write(nfsd.CONTROL / "versions", b"-4\n")
    start(kernel)
    kernel.write(lockd.END_GRACE, b"Y\n")
    assert not lockd.in_grace(files=kernel)
    assert kernel.in_grace
    assert errno_of(kernel, "v4_end_grace", b"Y\n") == errno.EBUSY
    kernel.tick(90)
    assert not kernel.in_grace


def test_with_client_tracking_and_no_client_of_nfsv4_its_grace_is_skipped() -> None:
    kernel = started()
    assert nfsd.v4_grace_ended(files=kernel)
    kernel.write(lockd.END_GRACE, b"Y\n")
    assert not kernel.in_grace


def test_more_threads_start_no_grace() -> None:
    kernel = started()
    kernel.tick(90)
    kernel.write(nfsd.CONTROL / "threads", b"16\n")
    assert not kernel.in_grace


@pytest.mark.parametrize("version", [(6, 1, 176), (6, 12, 117)])
def test_a_restart_drops_locks_and_starts_grace(version: Version) -> None:
    kernel = started(version)
    kernel.tick(90)
    kernel.lock("8:16", 13)
    stop(kernel)
    start(kernel)
    assert kernel.locks == []
    assert lockd.in_grace(files=kernel)


@pytest.mark.parametrize("version", [(6, 1, 176), (6, 12, 117)])
def test_with_an_nfsv3_mount_of_its_own_a_restart_does_neither(version: Version) -> None:
    kernel = started(version)
    kernel.tick(90)
    kernel.mount_v3("/mnt/elsewhere")
    kernel.lock("8:16", 13)
    stop(kernel)
    start(kernel)
    assert len(kernel.locks) == 1
    assert not lockd.in_grace(files=kernel)
    assert kernel.monitored == {"10.0.0.1"}
    stop(kernel)
    kernel.umount_v3("/mnt/elsewhere")
    assert kernel.locks == []


def test_a_server_of_nfsv4_alone_needs_no_lockd() -> None:
    kernel = FakeKernel()
    kernel.write(nfsd.CONTROL / "versions", b"-3\n")
    start(kernel)
    assert not lockd.in_grace(files=kernel)


# -- stopping and killing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "forgotten"), [((6, 1, 176), []), ((6, 4, 0), ["10.0.0.1", "10.0.0.2"])])
def test_a_clean_stop_takes_every_client_off_statds_list_from_6_4_on(version: Version, forgotten: list[str]) -> None:
    kernel = started(version)
    kernel.lock("8:16", 13, client="10.0.0.2")
    kernel.lock("8:16", 14, client="10.0.0.1")
    stop(kernel)
    assert kernel.unmonitored == forgotten
    assert kernel.monitored == {"10.0.0.1", "10.0.0.2"} - set(forgotten)


@pytest.mark.parametrize(("version", "left"), [((6, 1, 176), 2), ((6, 4, 0), 1)])
def test_before_6_4_a_stop_leaves_locks_behind_when_lockd_serves_another_namespace(version: Version, left: int) -> None:
    kernel = started(version)
    kernel.lockd_elsewhere = True
    kernel.lock("8:16", 13)
    kernel.lock("8:16", 14, elsewhere=True)
    stop(kernel)
    assert len(kernel.locks) == left


def test_before_6_6_killing_lockd_drops_everything_when_it_next_wakes_and_starts_grace() -> None:
    kernel = started((6, 1, 176))
    kernel.tick(90)
    kernel.lock("8:16", 13)
    kernel.kill_lockd()
    assert not lockd.in_grace(files=kernel)
    assert kernel.request("8:16", 14) is Answer.GRACE
    assert kernel.locks == []
    assert lockd.in_grace(files=kernel)
    assert kernel.monitored == {"10.0.0.1"}


def test_from_6_6_on_killing_lockd_does_nothing() -> None:
    kernel = started((6, 6, 0))
    kernel.tick(90)
    kernel.lock("8:16", 13)
    kernel.kill_lockd()
    assert kernel.request("8:16", 14) is Answer.GRANTED
    assert len(kernel.locks) == 2


# -- unlock_filesystem without nfsd --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "outcome"),
    [
        ((6, 1, 176), None),
        ((6, 8, 12), None),
        ((6, 9, 0), KernelOops),
        ((6, 12, 65), KernelOops),
        ((6, 12, 66), OSError),
        ((6, 18, 0), KernelOops),
        ((6, 19, 0), OSError),
        ((7, 2, 0), OSError),
    ],
)
def test_without_nfsd_some_kernels_crash_and_some_say_einval_after_dropping_all(
    version: Version, outcome: type[Exception] | None
) -> None:
    kernel = FakeKernel(version)
    kernel.mount(HOME, "8:16")
    kernel.lock("8:16", 13)
    if outcome is None:
        kernel.write(nfsd.CONTROL / "unlock_filesystem", b"/srv/home\n")
    else:
        with pytest.raises(outcome):
            kernel.write(nfsd.CONTROL / "unlock_filesystem", b"/srv/home\n")
    assert kernel.locks == []


def test_from_6_9_on_nfsv4_clients_lose_what_they_have_open_too() -> None:
    for version, revoked in (((6, 8, 0), []), ((6, 9, 0), ["8:16"])):
        kernel = started(version)
        kernel.write(nfsd.CONTROL / "unlock_filesystem", b"/srv/home\n")
        assert kernel.v4_revoked == revoked


def test_no_request_is_answered_where_nobody_serves() -> None:
    with pytest.raises(OSError, match="refused"):
        FakeKernel().request("8:16", 13)
