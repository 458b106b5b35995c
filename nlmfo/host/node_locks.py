# SPDX-License-Identifier: GPL-2.0-or-later
"""Locks and grace of one service among several on the node's NFS server, where the kernel can tell them apart."""

from __future__ import annotations

from pathlib import Path

from nlmfo.errors import NlmfoError
from nlmfo.host import mounts
from nlmfo.host.addresses import Address
from nlmfo.kernel import caches, dropping, proposed
from nlmfo.kernel.dropping import Kernel


def drop_locks(mountpoint: Path, kernel: Kernel | None = None) -> None:
    """Drop the clients' locks on the partition mounted at ``mountpoint``, see them gone, and flush what holds it.

    Refused, with NlmfoError, where it is not mounted or nfsd does not run (see nlmfo.kernel.nfsd.unlock_filesystem).
    The address has to be down and the exports taken back: a client that still gets here takes its locks again.
    """
    mount = mounts.at(mountpoint)
    if mount is None:
        raise NlmfoError(
            f"dropping the locks on {mountpoint}: nothing is mounted there, and the kernel would drop those of the "
            "file system above it",
            hint=f"'findmnt {mountpoint}' shows what is mounted",
        )
    kernel = kernel or Kernel()
    dropping.drop_of_filesystem(mountpoint, mount.device, kernel)
    caches.flush(files=kernel.files)


def start_grace_of(address: Address, kernel: Kernel | None = None) -> None:
    """Have clients that come through ``address``, and no others, reclaim for lockd's grace period."""
    proposed.start_grace(address, files=(kernel or Kernel()).files)
