# SPDX-License-Identifier: GPL-2.0-or-later
"""The survey says what a kernel has, what of it lies, and what would be used: the same as what is then used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nlmfo.kernel import capabilities, nfsd
from nlmfo.kernel.capabilities import Capability, Use
from nlmfo.kernel.version import Answer
from tests.unit.kernel_fake import FakeKernel
from tests.unit.kernel_netlink_fake import interfaces

EVERY_VERSION = [(2, 6, 18), (5, 14, 0), (6, 1, 176), (6, 1, 191), (6, 12, 65), (6, 12, 117), (7, 2, 0)]


def survey(fake: FakeKernel) -> dict[str, Capability]:
    found = capabilities.survey(interfaces(fake))
    by_name = {capability.name: capability for capability in found}
    assert len(by_name) == len(found)
    return by_name


def chosen(found: dict[str, Capability], use: Use) -> set[str]:
    return {name for name, capability in found.items() if use in capability.chosen_for}


def test_the_unlock_ip_of_most_kernels_is_there_lies_and_is_not_chosen() -> None:
    found = survey(FakeKernel((6, 1, 176)))
    assert found["unlock_ip"].present is Answer.YES
    assert "kernel 6.1.176 reports success and drops nothing" in found["unlock_ip"].note
    assert chosen(found, Use.DROP_ADDRESS) == set()


def test_the_unlock_ip_of_a_distribution_perhaps_lies_and_is_tried() -> None:
    kernel = interfaces(FakeKernel((5, 14, 0)))
    vendor = replace(kernel, version=replace(kernel.version, exact=False))
    found = {capability.name: capability for capability in capabilities.survey(vendor)}
    assert "perhaps it reports success and drops nothing" in found["unlock_ip"].note
    assert found["unlock_ip"].chosen_for == (Use.DROP_ADDRESS,)


@pytest.mark.parametrize(
    ("version", "patched", "file_system", "address", "grace"),
    [
        ((6, 1, 176), False, {"unlock_filesystem"}, set(), {"threads"}),
        ((6, 12, 117), False, {"unlock_filesystem"}, {"unlock_ip"}, {"threads"}),
        ((7, 2, 0), False, {"unlock-filesystem (netlink)"}, {"unlock-ip (netlink)"}, {"threads"}),
        ((2, 6, 18), True, {"nlm_unlock"}, {"unlock_ip"}, {"nlm_set_ip_grace"}),
    ],
)
def test_for_each_work_the_best_interface_is_chosen(
    version: tuple[int, int, int], patched: bool, file_system: set[str], address: set[str], grace: set[str]
) -> None:
    found = survey(FakeKernel(version, patched=patched))
    assert chosen(found, Use.DROP_FILESYSTEM) == file_system
    assert chosen(found, Use.DROP_ADDRESS) == address
    assert chosen(found, Use.START_GRACE) == grace
    assert chosen(found, Use.END_GRACE) == {"nlm_end_grace", "v4_end_grace"}
    assert chosen(found, Use.FLUSH) == {"export caches"}
    assert chosen(found, Use.TRACKING) == {"nfsdcld upcall"}
    assert chosen(found, Use.SEE_LOCKS) == {"lock table"}


@pytest.mark.parametrize("version", EVERY_VERSION)
@pytest.mark.parametrize("patched", [True, False])
@pytest.mark.parametrize("mounted", [True, False])
def test_nothing_is_chosen_that_is_not_there_and_nothing_is_changed_by_asking(
    version: tuple[int, int, int], patched: bool, mounted: bool
) -> None:
    fake = FakeKernel(version, patched=patched)
    fake.nfsd_mounted = mounted
    found = survey(fake)
    assert [name for name, c in found.items() if c.chosen_for and c.present is not Answer.YES] == []
    assert fake.writes == []


def test_what_is_not_loaded_or_mounted_is_unknown_and_says_what_to_do() -> None:
    fake = FakeKernel()
    fake.nfsd_mounted = fake.lockd_loaded = False
    fake.flushed.clear()
    found = survey(fake)
    unknown = {name for name, capability in found.items() if capability.present is Answer.UNKNOWN}
    assert unknown == set(found) - {"lock table"}
    assert "mount -t nfsd" in found["unlock_filesystem"].note
    assert "modprobe lockd" in found["nlm_end_grace"].note


def test_what_a_kernel_that_serves_does_not_have_is_absent() -> None:
    fake = FakeKernel((6, 1, 176))
    fake.missing |= {nfsd.CONTROL / "v4_end_grace", Path("/proc/fs/lockd/nlm_end_grace")}
    found = survey(fake)
    absent = {name for name, capability in found.items() if capability.present is Answer.NO}
    assert absent == {
        "nlm_unlock",
        "nlm_set_ip_grace",
        "unlock-filesystem (netlink)",
        "unlock-ip (netlink)",
        "v4_end_grace",
        "nfsdcld upcall",
        "nlm_end_grace",
    }


@pytest.mark.parametrize(
    ("version", "crash", "race"), [((6, 1, 176), False, True), ((6, 12, 65), True, True), ((6, 12, 117), False, False)]
)
def test_the_dangers_of_unlock_filesystem_are_named(version: tuple[int, int, int], crash: bool, race: bool) -> None:
    note = survey(FakeKernel(version))["unlock_filesystem"].note
    assert ("crashes where nfsd does not run" in note) is crash
    assert ("CVE-2026-89485" in note) is race


def test_the_length_of_the_next_grace_is_told() -> None:
    fake = FakeKernel()
    fake.sysctl["nlm_grace_period"] = 15
    assert "the next one lasts 20 s" in survey(fake)["nlm_grace_period"].note


def test_a_container_cannot_see_that_locks_are_gone() -> None:
    fake = FakeKernel()
    fake.in_first_pid_namespace = False
    found = survey(fake)
    assert found["lock table"].present is Answer.NO
    assert chosen(found, Use.SEE_LOCKS) == set()


def test_caches_that_are_missing_are_named() -> None:
    fake = FakeKernel()
    del fake.flushed["nfsd.fh"]
    assert survey(fake)["export caches"].note == "not there: nfsd.fh"


def test_the_kernel_of_this_machine_is_surveyed() -> None:
    found = {capability.name: capability for capability in capabilities.survey()}
    assert found["lock table"].where == "/proc/locks"
    assert set(found) == set(survey(FakeKernel()))
