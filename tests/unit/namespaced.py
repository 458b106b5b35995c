# SPDX-License-Identifier: GPL-2.0-or-later
"""Real namespaces for one test, and an end to whatever it leaves in them."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from nlmfo.deadline import Deadline, poll_until
from nlmfo.host import mounts
from nlmfo.host.namespaces import Namespaces
from nlmfo.kernel import syscalls

#: Nothing here takes this long unless it hangs.
SECONDS = 30.0
_numbers = itertools.count(1)


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


def _end_processes(namespaces: Namespaces) -> None:
    for pid in namespaces.processes():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    poll_until("the test's processes to end", lambda: not namespaces.processes(), Deadline(SECONDS))


def _unmount(namespaces: Namespaces) -> None:
    for mount in reversed(mounts.table()):
        if mount.mountpoint == namespaces.net or mount.mountpoint.is_relative_to(namespaces.directory):
            syscalls.umount(mount.mountpoint)
