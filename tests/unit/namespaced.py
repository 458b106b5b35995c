# SPDX-License-Identifier: GPL-2.0-or-later
"""Real namespaces for one test, and an end to whatever it leaves in them."""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from nlmfo.deadline import Deadline, poll_until
from nlmfo.host import mounts
from nlmfo.host.namespaces import Namespaces
from nlmfo.kernel import syscalls
from nlmfo.run import run

#: Nothing here takes this long unless it hangs.
SECONDS = 30.0
_numbers = itertools.count(1)
_libc = ctypes.CDLL(None, use_errno=True)


def need_root() -> None:
    if os.geteuid() != 0:
        pytest.fail("this test makes namespaces and mounts, for which it has to run as root", pytrace=False)


@contextmanager
def unmade() -> Iterator[Namespaces]:
    """Namespaces that nobody has made yet; whatever becomes of them is gone afterwards."""
    need_root()
    namespaces = Namespaces(f"unit-{os.getpid()}-{next(_numbers)}")
    try:
        yield namespaces
    finally:
        _end_processes(namespaces)
        _unmount(namespaces)
        shutil.rmtree(namespaces.directory, ignore_errors=True)
        namespaces.net.unlink(missing_ok=True)


@contextmanager
def made() -> Iterator[Namespaces]:
    with unmade() as namespaces:
        namespaces.create()
        yield namespaces


@contextmanager
def own_mounts() -> Iterator[None]:
    """A mount namespace for this process, so that what is mounted is seen by nobody else's namespaces and tests.

    Mounts spread from it as they do where systemd runs (MS_SHARED), and it holds no copy of anybody's pins.
    """
    need_root()
    with _one_processor(), Path("/proc/self/ns/mnt").open("rb") as home:
        directory = Path.cwd()
        assert _libc.unshare(syscalls.CLONE_NEWNS) == 0
        try:
            run(["mount", "--make-rprivate", "/"], deadline=SECONDS)
            for mount in reversed(mounts.table()):
                if mount.kind == "nsfs":
                    _drop_copy(mount.mountpoint)
            run(["mount", "--make-rshared", "/"], deadline=SECONDS)
            yield
        finally:
            syscalls.setns(home.fileno(), syscalls.CLONE_NEWNS)
            os.chdir(directory)


def _drop_copy(pin: Path) -> None:
    try:
        syscalls.umount(pin)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):  # its owner, another test's run, has just dropped it
            raise


@contextmanager
def _one_processor() -> Iterator[None]:
    """Only a younger mount namespace can be pinned (fs/namespace.c, mnt_ns_loop), and on 6.18 one that was made on
    another processor was seen to count as older: unshare(1) was refused, with EINVAL, in one of two tries.
    """
    all_of_them = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(all_of_them)[os.getpid() % len(all_of_them)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, all_of_them)


@contextmanager
def loop_device(image: Path, uuid: str) -> Iterator[Path]:
    """An ext4 of 4 MB on a loop device; detached at the end."""
    need_root()
    with image.open("wb") as file:
        file.truncate(4 << 20)
    run(["mkfs.ext4", "-q", "-O", "^has_journal", "-U", uuid, image], deadline=SECONDS)
    device = Path(run(["losetup", "--find", "--show", image], deadline=SECONDS).strip())
    try:
        yield device
    finally:
        run(["losetup", "--detach", device], deadline=SECONDS)


def _end_processes(namespaces: Namespaces) -> None:
    for pid in namespaces.processes():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    poll_until("the test's processes to end", lambda: not namespaces.processes(), Deadline(SECONDS))


def _unmount(namespaces: Namespaces) -> None:
    for mount in reversed(mounts.table()):
        if mount.mountpoint == namespaces.net or mount.mountpoint.is_relative_to(namespaces.directory):
            syscalls.umount(mount.mountpoint)
