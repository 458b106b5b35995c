# SPDX-License-Identifier: GPL-2.0-or-later
"""What ``nlmfo check`` looks at, on a node whose own NFS server does not run."""

from __future__ import annotations

from pathlib import Path

from nlmfo.host import mounts, survey
from tests.unit.namespaced import need_root


def test_looking_leaves_no_mount_and_no_namespace_behind() -> None:
    need_root()
    before = mounts.table(), namespaces()
    found = survey.of_kernel()
    assert "lock table" in {capability.name for capability in found}
    assert (mounts.table(), namespaces()) == before


def namespaces() -> list[Path]:
    return [Path("/proc/self/ns", kind).readlink() for kind in ("net", "mnt")]
