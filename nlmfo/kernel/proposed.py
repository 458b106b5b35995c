# SPDX-License-Identifier: GPL-2.0-or-later
"""The control files that were proposed in 2006 with lock failover, for kernels that were patched with them.

    /proc/fs/nfsd/nlm_unlock        an fsid, or a path: drops the NLM locks below the exports that have it
    /proc/fs/nfsd/nlm_set_ip_grace  a server address: reclaims are granted through it, and nothing else, for a while

No kernel.org kernel has them (what became of the first are unlock_filesystem and unlock_ip; of the second, nothing).
They are used only where they exist.
"""

from __future__ import annotations

import errno
import os
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from nlmfo.kernel import nfsd
from nlmfo.kernel.files import PROC, ControlFiles, Meaning, explained

UNLOCK = "nlm_unlock"
SET_IP_GRACE = "nlm_set_ip_grace"
NOT_PATCHED = Meaning("this kernel was not patched with the interface of 2006", "'nlmfo check' lists what it has")


def can_unlock(*, files: ControlFiles = PROC) -> bool:
    return files.exists(nfsd.CONTROL / UNLOCK)


def can_start_grace(*, files: ControlFiles = PROC) -> bool:
    return files.exists(nfsd.CONTROL / SET_IP_GRACE)


def unlock(what: int | Path, *, files: ControlFiles = PROC) -> None:
    """Drop the NLM locks of a number fsid, or of the file system of a path. Look into /proc/locks afterwards."""
    word = b"%d" % what if isinstance(what, int) else os.fsencode(what)
    meanings = {errno.ENOENT: NOT_PATCHED, errno.EINVAL: Meaning("the kernel knows no such export")}
    with explained(f"dropping the locks of {what}", meanings):
        files.write(nfsd.CONTROL / UNLOCK, nfsd.escape(word) + b"\n")


def start_grace(address: IPv4Address | IPv6Address, *, files: ControlFiles = PROC) -> None:
    """Grant reclaims, and no new lock, to clients that come through ``address``, for lockd's grace period."""
    meanings = {errno.ENOENT: NOT_PATCHED, errno.EINVAL: Meaning("the kernel does not take this address")}
    with explained(f"starting the grace of {address}", meanings):
        files.write(nfsd.CONTROL / SET_IP_GRACE, f"{address}\n".encode("ascii"))
