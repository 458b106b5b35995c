# SPDX-License-Identifier: GPL-2.0-or-later
"""nfsd's versions, listeners and times: set while it is down, and read back, because success alone says little."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from nlmfo.errors import NlmfoError
from nlmfo.kernel import nfsd
from nlmfo.kernel import nfsd_settings as settings
from nlmfo.kernel.files import ControlError
from nlmfo.kernel.nfsd_settings import Listener, Time
from tests.unit.kernel_fake import FakeKernel

ALL = {"3", "4", "4.0", "4.1", "4.2"}


class Deaf(FakeKernel):
    """A kernel that reports success, and does nothing."""

    def write(self, file: Path, data: bytes) -> None:
        self.writes.append((file.name, data))


def test_version_4_0_is_on_with_4_although_the_kernel_does_not_mention_it() -> None:
    kernel = FakeKernel()
    assert kernel.read(nfsd.CONTROL / "versions") == b"+3 +4 +4.1 +4.2\n"
    found = settings.versions(files=kernel)
    assert found.on == ALL
    assert not found.off


@pytest.mark.parametrize(
    ("on", "off", "left"),
    [
        ((), ("4",), {"3"}),
        ((), ("3",), {"4", "4.0", "4.1", "4.2"}),
        ((), ("4.0", "4.2"), {"3", "4", "4.1"}),
        (("4.1",), ("3", "4"), {"4", "4.1"}),
        (("4",), ("4.0",), {"3", "4", "4.1", "4.2"}),
        (("3",), (), ALL),
    ],
)
def test_versions_are_switched_and_the_rest_stays(on: tuple[str, ...], off: tuple[str, ...], left: set[str]) -> None:
    kernel = FakeKernel()
    settings.set_versions(on=on, off=off, files=kernel)
    assert settings.versions(files=kernel).on == left
    assert len(kernel.writes) == 1


def test_a_minor_version_that_is_off_stays_off_when_4_is_switched_on_again() -> None:
    kernel = FakeKernel()
    settings.set_versions(off=["4"], files=kernel)
    settings.set_versions(on=["4"], off=["4.0"], files=kernel)
    assert settings.versions(files=kernel).on == ALL - {"4.0"}


def test_the_kernel_switches_everything_on_again_when_nothing_would_be_left_and_that_is_noticed() -> None:
    kernel = FakeKernel()
    with pytest.raises(NlmfoError, match=r"reported success, but serves 3, 4, 4\.0, 4\.1, 4\.2"):
        settings.set_versions(off=["3", "4"], files=kernel)


def test_a_version_that_the_kernel_was_not_built_with_is_noticed() -> None:
    with pytest.raises(NlmfoError, match="reported success, but serves"):
        settings.set_versions(on=["2"], files=FakeKernel())


def test_a_version_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ControlError, match="no such version"):
        settings.set_versions(on=["4.9"], files=FakeKernel())


@pytest.mark.parametrize("listens_only", [True, False])
def test_nothing_of_it_changes_while_nfsd_runs_or_listens(listens_only: bool) -> None:
    kernel = FakeKernel()
    settings.add_listener(Listener("tcp", 2049), files=kernel)
    if not listens_only:
        nfsd.set_threads(8, files=kernel)
    with pytest.raises(ControlError) as versions:
        settings.set_versions(off=["4"], files=kernel)
    with pytest.raises(ControlError) as times:
        settings.set_seconds(Time.GRACE, 10, files=kernel)
    assert (versions.value.number, times.value.number) == (errno.EBUSY, errno.EBUSY)
    assert "stop nfsd first" in str(times.value.hint)


def test_a_listener_is_one_although_the_kernel_lists_it_for_each_address_family() -> None:
    kernel = FakeKernel()
    settings.add_listener(Listener("tcp", 2049), files=kernel)
    settings.add_listener(Listener("udp", 2050), files=kernel)
    assert kernel.writes == [("portlist", b"tcp 2049\n"), ("portlist", b"udp 2050\n")]
    assert kernel.read(nfsd.CONTROL / "portlist").count(b"\n") == 4
    assert settings.listeners(files=kernel) == (Listener("tcp", 2049), Listener("udp", 2050))


def test_stopping_nfsd_forgets_its_listeners_and_keeps_the_rest() -> None:
    kernel = FakeKernel()
    settings.set_versions(off=["4"], files=kernel)
    settings.set_seconds(Time.LEASE, 20, files=kernel)
    settings.add_listener(Listener("tcp", 2049), files=kernel)
    nfsd.set_threads(8, files=kernel)
    nfsd.set_threads(0, files=kernel)
    assert settings.listeners(files=kernel) == ()
    assert settings.versions(files=kernel).on == {"3"}
    assert settings.seconds(Time.LEASE, files=kernel) == 20


@pytest.mark.parametrize(
    ("listener", "number"),
    [
        (Listener("tcp", 2049), errno.EADDRINUSE),
        (Listener("tcp", 0), errno.EINVAL),
        (Listener("tcp", 65536), errno.EINVAL),
        (Listener("pigeon", 2049), errno.EPROTONOSUPPORT),
    ],
)
def test_a_listener_that_cannot_be_says_why(listener: Listener, number: int) -> None:
    kernel = FakeKernel()
    settings.add_listener(Listener("tcp", 2049), files=kernel)
    with pytest.raises(ControlError) as raised:
        settings.add_listener(listener, files=kernel)
    assert raised.value.number == number


def test_a_listener_that_is_not_there_afterwards_is_noticed() -> None:
    with pytest.raises(NlmfoError, match="does not list it"):
        settings.add_listener(Listener("tcp", 2049), files=Deaf())


@pytest.mark.parametrize("time", Time)
def test_a_time_is_set_in_seconds(time: Time) -> None:
    kernel = FakeKernel()
    settings.set_seconds(time, 10, files=kernel)
    assert settings.seconds(time, files=kernel) == 10
    assert kernel.writes == [(time, b"10\n")]


@pytest.mark.parametrize("value", [9, 3601])
def test_a_time_outside_of_what_the_kernel_takes_is_refused_with_the_limits(value: int) -> None:
    with pytest.raises(ControlError, match="10 to 3600"):
        settings.set_seconds(Time.GRACE, value, files=FakeKernel())


def test_a_time_that_did_not_change_is_noticed() -> None:
    with pytest.raises(NlmfoError, match="with success, but reads 90 s"):
        settings.set_seconds(Time.GRACE, 10, files=Deaf())
