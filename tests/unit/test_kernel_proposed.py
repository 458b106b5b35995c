# SPDX-License-Identifier: GPL-2.0-or-later
"""The interface of 2006: used where a kernel was patched with it, and missed with a clear word elsewhere."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from nlmfo.kernel import nfsd, proposed
from nlmfo.kernel.files import ControlError
from tests.unit.kernel_fake import Answer, FakeKernel


def patched() -> FakeKernel:
    kernel = FakeKernel((2, 6, 18), patched=True)
    kernel.mount("/srv/a b", "8:16")
    kernel.fsids[1234] = Path("/srv/a b")
    nfsd.set_threads(8, files=kernel)
    kernel.tick(90)
    kernel.lock("8:16", 13)
    kernel.lock("8:1", 14)
    kernel.writes.clear()
    return kernel


def test_a_patched_kernel_is_known_by_its_files() -> None:
    for kernel, has in ((patched(), True), (FakeKernel(), False)):
        assert proposed.can_unlock(files=kernel) is has
        assert proposed.can_start_grace(files=kernel) is has


@pytest.mark.parametrize(("what", "line"), [(1234, b"1234\n"), (Path("/srv/a b"), b"/srv/a\\040b\n")])
def test_locks_are_dropped_by_fsid_or_by_path(what: int | Path, line: bytes) -> None:
    kernel = patched()
    proposed.unlock(what, files=kernel)
    assert kernel.writes == [("nlm_unlock", line)]
    assert [lock.inode for lock in kernel.locks] == [14]


def test_an_fsid_that_is_not_exported_is_refused() -> None:
    with pytest.raises(ControlError, match="knows no such export"):
        proposed.unlock(99, files=patched())


def test_one_address_gets_its_grace_and_the_others_none() -> None:
    kernel = patched()
    proposed.start_grace(ip_address("10.0.0.100"), files=kernel)
    assert kernel.writes == [("nlm_set_ip_grace", b"10.0.0.100\n")]
    assert kernel.request("8:16", 20, server_ip="10.0.0.100", reclaim=True) is Answer.GRANTED
    assert kernel.request("8:16", 21, server_ip="10.0.0.101", reclaim=True) is Answer.GRACE
    assert kernel.request("8:16", 22, server_ip="10.0.0.101") is Answer.GRANTED
    kernel.tick(50)
    assert kernel.request("8:16", 23, server_ip="10.0.0.100", reclaim=True) is Answer.GRACE


def test_other_kernels_are_said_not_to_have_it() -> None:
    with pytest.raises(ControlError, match="not patched"):
        proposed.unlock(1234, files=FakeKernel())
    with pytest.raises(ControlError, match="not patched"):
        proposed.start_grace(ip_address("10.0.0.100"), files=FakeKernel())
