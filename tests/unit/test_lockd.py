# SPDX-License-Identifier: GPL-2.0-or-later
"""lockd's grace and its settings, which tell the truth only when they are read back."""

from __future__ import annotations

import errno
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlmfo.errors import NlmfoError
from nlmfo.kernel import lockd, nfsd
from nlmfo.kernel import lockd_settings as settings
from nlmfo.kernel.files import ControlError
from nlmfo.kernel.lockd_settings import Setting
from tests.unit.kernel_fake import Answer, FakeKernel


def started(*, tracking: bool = True) -> FakeKernel:
    kernel = FakeKernel()
    kernel.client_tracking = tracking
    nfsd.set_threads(8, files=kernel)
    kernel.writes.clear()
    return kernel


@pytest.mark.parametrize(("content", "grace"), [(b"Y\n\0", False), (b"N\n\0", True)])
def test_lockds_grace_is_on_when_its_end_has_not_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, grace: bool
) -> None:
    """The file answers another question than ours, with three bytes, the last of which is a NUL (fs/lockd/procfs.c)."""
    (tmp_path / "nlm_end_grace").write_bytes(content)
    monkeypatch.setattr(lockd, "END_GRACE", tmp_path / "nlm_end_grace")
    assert lockd.in_grace() is grace


def test_a_lockd_that_is_not_loaded_is_not_in_grace_and_cannot_end_it() -> None:
    kernel = FakeKernel()
    kernel.lockd_loaded = False
    assert lockd.in_grace(files=kernel) is False
    with pytest.raises(ControlError, match="lockd is not loaded") as raised:
        lockd.end_grace(files=kernel)
    assert raised.value.number == errno.ENOENT


def test_grace_is_on_from_nfsds_start_until_it_is_ended() -> None:
    kernel = started()
    assert lockd.in_grace(files=kernel)
    lockd.end_grace(files=kernel)
    assert not lockd.in_grace(files=kernel)
    assert kernel.writes == [("nlm_end_grace", b"Y\n")]
    assert kernel.request("8:1", 13) is Answer.GRANTED


def test_grace_ends_by_itself_after_its_time() -> None:
    kernel = started()
    kernel.tick(49)
    assert lockd.in_grace(files=kernel)
    kernel.tick(1)
    assert not lockd.in_grace(files=kernel)


def test_the_other_keeper_of_grace_goes_on_refusing_new_locks() -> None:
    kernel = started(tracking=False)
    lockd.end_grace(files=kernel)
    assert not lockd.in_grace(files=kernel)
    assert not nfsd.v4_grace_ended(files=kernel)
    assert kernel.request("8:1", 13) is Answer.GRACE


def test_a_grace_that_goes_on_although_the_kernel_said_otherwise_is_noticed() -> None:
    class Deaf(FakeKernel):
        def write(self, _file: Path, _data: bytes) -> None:
            """Success, and nothing else."""

        def read(self, _file: Path) -> bytes:
            return b"N\n\0"

    with pytest.raises(NlmfoError, match="still in grace"):
        lockd.end_grace(files=Deaf())


# -- settings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", Setting)
def test_the_ends_of_what_the_kernel_takes_are_taken_and_what_is_beyond_is_refused(setting: Setting) -> None:
    kernel = FakeKernel()
    low, high = settings.RANGES[setting]
    for value in (low, high):
        settings.write(setting, value, files=kernel)
        assert settings.read(setting, files=kernel) == value
    for value in (low - 1, high + 1):
        with pytest.raises(ControlError, match=f"the kernel takes {low} to {high}"):
            settings.write(setting, value, files=kernel)
    assert settings.read(setting, files=kernel) == high


def test_a_number_that_the_kernel_ignores_is_noticed() -> None:
    class Old(FakeKernel):
        """Before 5.1: success, whatever the number."""

        def write(self, file: Path, data: bytes) -> None:
            if int(data) <= 240:
                super().write(file, data)

    with pytest.raises(NlmfoError, match="reported success, but it reads 0") as raised:
        settings.write(Setting.GRACE_PERIOD, 250, files=Old())
    assert raised.value.hint == "the kernel takes 0 to 240"


def test_settings_appear_with_lockd() -> None:
    kernel = FakeKernel()
    kernel.lockd_loaded = False
    with pytest.raises(ControlError, match="lockd is not loaded") as raised:
        settings.read(Setting.TIMEOUT, files=kernel)
    assert "modprobe lockd" in str(raised.value.hint)


@pytest.mark.parametrize(
    ("period", "timeout", "seconds"), [(0, 10, 50), (0, 3, 15), (10, 10, 10), (11, 10, 20), (90, 10, 90), (240, 7, 245)]
)
def test_grace_lasts_for_a_multiple_of_the_timeout(period: int, timeout: int, seconds: int) -> None:
    assert settings.grace_of(period, timeout) == seconds


@given(st.integers(1, 240), st.integers(3, 20))
def test_grace_never_gets_shorter_by_rounding_nor_longer_by_a_whole_timeout(period: int, timeout: int) -> None:
    seconds = settings.grace_of(period, timeout)
    assert seconds == math.ceil(period / timeout) * timeout
    assert period <= seconds < period + timeout


def test_a_new_length_counts_from_the_next_grace_on() -> None:
    kernel = started()
    settings.write(Setting.GRACE_PERIOD, 15, files=kernel)
    assert settings.next_grace(files=kernel) == 20
    kernel.tick(49)
    assert lockd.in_grace(files=kernel)
    nfsd.set_threads(0, files=kernel)
    nfsd.set_threads(8, files=kernel)
    kernel.tick(19)
    assert lockd.in_grace(files=kernel)
    kernel.tick(1)
    assert not lockd.in_grace(files=kernel)
