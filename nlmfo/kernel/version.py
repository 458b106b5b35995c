# SPDX-License-Identifier: GPL-2.0-or-later
"""Which kernel runs here, and which of its known bugs it has.

A number says that only of kernels that follow kernel.org's: their own releases, and Debian's, which names the stable
release that it is made of in uname's version. Other distributions take in fixes without changing the number
(5.14.0-503.el9, 6.8.0-45-generic), and bugs with them: of those, only what ended before their number is known.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

_NUMBER = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")
_DEBIAN = re.compile(r"\bDebian (\d+\.\d+(?:\.\d+)?)[-~]")


class Answer(StrEnum):
    """To a question that cannot always be answered."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class KernelVersion:
    """The release as uname(2) has it, as numbers. ``exact``: the numbers tell which fixes are in."""

    release: str
    numbers: tuple[int, int, int]
    exact: bool

    def __str__(self) -> str:
        return ".".join(map(str, self.numbers))


@dataclass(frozen=True, slots=True)
class Bug:
    """A bug, from its first release on. ``fixed``: for each series the release that ended it; ``ended``: mainline's."""

    since: tuple[int, int, int]
    ended: tuple[int, int, int]
    fixed: Mapping[tuple[int, int], int]

    def in_kernel(self, version: KernelVersion) -> Answer:
        if version.numbers >= self.ended:
            return Answer.NO
        if not version.exact:  # distributions take in bugs, too, together with what came later
            return Answer.UNKNOWN
        if version.numbers < self.since:
            return Answer.NO
        fix = self.fixed.get(version.numbers[:2])
        return Answer.NO if fix is not None and version.numbers[2] >= fix else Answer.YES


#: unlock_ip compares the wrong addresses: it reports success and drops nothing (4373ea84c84d, CVE-2026-93231).
UNLOCK_IP_IDLE = Bug(since=(2, 6, 26), ended=(7, 2, 0), fixed={(6, 1): 191, (6, 12): 112})
#: unlock_filesystem crashes the kernel where nfsd does not run (mended by d0424066fcd2).
UNLOCK_FS_CRASH = Bug(since=(6, 9, 0), ended=(6, 19, 0), fixed={(6, 12): 66})
#: Dropping locks while clients still send requests may use freed memory (CVE-2026-89485).
UNLOCK_RACE = Bug(since=(2, 6, 26), ended=(7, 2, 0), fixed={(6, 1): 188, (6, 12): 109})
#: Locks are not released rightly ("lockd: set fl_owner when unlocking files", 5.18.13).
UNLOCK_WRONG = Bug(since=(5, 15, 0), ended=(5, 18, 13), fixed={})
#: nfsd's stop leaves the locks of its network namespace behind when lockd serves another one.
LOCKS_LEFT = Bug(since=(3, 10, 0), ended=(6, 4, 0), fixed={})


def running() -> KernelVersion:
    """The kernel that this process runs on."""
    names = os.uname()
    return parse(names.release, names.version)


def parse(release: str, build: str = "") -> KernelVersion:
    """From uname's release and version. What is no number at all is kernel 0.0.0, of which nothing is known."""
    debian = _DEBIAN.search(build)
    found = _NUMBER.match(debian[1] if debian else release)
    if found is None:
        return KernelVersion(release, (0, 0, 0), exact=False)
    numbers = (int(found[1]), int(found[2]), int(found[3] or 0))
    return KernelVersion(release, numbers, exact=debian is not None or _is_plain(release, found))


def _is_plain(release: str, found: re.Match[str]) -> bool:
    """Whether the release is kernel.org's: a third number that counts, or nothing behind the numbers."""
    return release == found[0] or int(found[3] or 0) > 0
