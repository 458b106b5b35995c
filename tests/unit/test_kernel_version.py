# SPDX-License-Identifier: GPL-2.0-or-later
"""Which bugs a kernel has, and of which kernels that cannot be said."""

from __future__ import annotations

import pytest

from nlmfo.kernel import version
from nlmfo.kernel.version import Answer, KernelVersion, parse

DEBIAN = "#1 SMP PREEMPT_DYNAMIC Debian 6.1.147-1 (2025-08-02)"


@pytest.mark.parametrize(
    ("release", "build", "numbers", "exact"),
    [
        ("6.12.107", "#1 SMP", (6, 12, 107), True),
        ("6.1.176-um", "#2", (6, 1, 176), True),
        ("7.2.0", "#1 SMP", (7, 2, 0), True),
        ("7.2", "#1", (7, 2, 0), True),
        ("7.3.0-rc2", "#1", (7, 3, 0), False),
        ("6.1.0-38-amd64", DEBIAN, (6, 1, 147), True),
        ("6.12.48+deb13-amd64", "#1 SMP Debian 6.12.48-1 (2025-09-20)", (6, 12, 48), True),
        ("5.14.0-503.11.1.el9_5.x86_64", "#1 SMP PREEMPT_DYNAMIC Tue Nov 12", (5, 14, 0), False),
        ("6.8.0-45-generic", "#45-Ubuntu SMP", (6, 8, 0), False),
        ("home-made", "", (0, 0, 0), False),
    ],
)
def test_a_release_is_read_with_how_much_it_says(
    release: str, build: str, numbers: tuple[int, int, int], exact: bool
) -> None:
    assert parse(release, build) == KernelVersion(release, numbers, exact)


def test_this_kernel_has_a_version() -> None:
    assert version.running().numbers > (2, 6, 0)


@pytest.mark.parametrize(
    ("release", "answer"),
    [
        ("6.1.190", Answer.YES),
        ("6.1.191", Answer.NO),
        ("6.6.200", Answer.YES),
        ("6.12.111", Answer.YES),
        ("6.12.112", Answer.NO),
        ("7.1.9", Answer.YES),
        ("7.2", Answer.NO),
        ("7.2.0-12-generic", Answer.NO),
        ("5.14.0-503.el9", Answer.UNKNOWN),
        ("home-made", Answer.UNKNOWN),
    ],
)
def test_who_has_the_unlock_ip_that_does_nothing(release: str, answer: Answer) -> None:
    assert version.UNLOCK_IP_IDLE.in_kernel(parse(release)) is answer


@pytest.mark.parametrize(
    ("release", "answer"),
    [
        ("6.1.176", Answer.NO),
        ("6.8.12", Answer.NO),
        ("6.9.1", Answer.YES),
        ("6.12.65", Answer.YES),
        ("6.12.66", Answer.NO),
        ("6.18.5", Answer.YES),
        ("6.19.1", Answer.NO),
        ("5.14.0-503.el9", Answer.UNKNOWN),
    ],
)
def test_who_crashes_when_locks_are_dropped_without_nfsd(release: str, answer: Answer) -> None:
    """Distributions take in new code, with its bugs, under old numbers."""
    assert version.UNLOCK_FS_CRASH.in_kernel(parse(release)) is answer
