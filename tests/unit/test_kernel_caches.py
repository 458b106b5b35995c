# SPDX-License-Identifier: GPL-2.0-or-later
"""The export caches are flushed in the kernel's order, and each is seen to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from nlmfo.errors import NlmfoError
from nlmfo.kernel import caches
from tests.unit.kernel_fake import FakeKernel

ORDER = ("auth.unix.ip", "auth.unix.gid", "nfsd.fh", "nfsd.export")


def test_all_caches_are_flushed_once_in_order() -> None:
    kernel = FakeKernel()
    flushed: list[str] = []

    class Watched(FakeKernel):
        def write(self, file: Path, data: bytes) -> None:
            flushed.append(file.parent.name)
            kernel.write(file, data)

        def read(self, file: Path) -> bytes:
            return kernel.read(file)

    assert caches.flush(files=Watched()) == ORDER
    assert tuple(flushed) == ORDER


def test_two_flushes_within_a_second_are_two() -> None:
    kernel = FakeKernel()
    caches.flush(files=kernel)
    caches.flush(files=kernel)
    assert set(kernel.flushed.values()) == {1002}


def test_caches_that_are_not_there_hold_nothing() -> None:
    kernel = FakeKernel()
    del kernel.flushed["nfsd.fh"], kernel.flushed["nfsd.export"]
    assert caches.flush(files=kernel) == ("auth.unix.ip", "auth.unix.gid")


def test_a_flush_that_did_not_happen_is_noticed() -> None:
    class Deaf(FakeKernel):
        def write(self, file: Path, data: bytes) -> None:
            self.writes.append((file.name, data))

    kernel = Deaf()
    with pytest.raises(NlmfoError, match=r"auth\.unix\.ip cache: it reported success, but its flush time did not rise"):
        caches.flush(files=kernel)
    assert len(kernel.writes) == 1


def test_the_number_that_is_written_fits_and_ends_with_a_newline() -> None:
    kernel = FakeKernel()
    caches.flush(files=kernel)
    assert all(data.endswith(b"\n") and len(data) < 20 and data.strip().isdigit() for _, data in kernel.writes)
