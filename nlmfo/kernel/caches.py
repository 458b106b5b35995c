# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's export caches, /proc/net/rpc/*/flush (net/sunrpc/cache.c) of the calling process's network namespace.

Their entries hold the exported file systems busy. rpc.mountd fills them again when a client asks, from the export
table, so unexport first.
"""

from __future__ import annotations

import errno
import time
from pathlib import Path

from nlmfo.errors import NlmfoError
from nlmfo.kernel.files import PROC, ControlFiles, Meaning, explained

DIRECTORY = Path("/proc/net/rpc")
#: In the order of exportfs(8): who the client is, in which groups, which handle is what, what is exported to whom.
#: nfsd.fh also empties nfsd's cache of open files, which netlink's CACHE_FLUSH does not.
ORDER = ("auth.unix.ip", "auth.unix.gid", "nfsd.fh", "nfsd.export")


def flush(*, files: ControlFiles = PROC) -> tuple[str, ...]:
    """Empty every cache that is there, in the kernel's order; return their names.

    The file reads the second of the last flush, which rises with every one, also within a second: read back.
    """
    there = tuple(name for name in ORDER if files.exists(DIRECTORY / name / "flush"))
    for name in there:
        _flush(name, files)
    return there


def _flush(name: str, files: ControlFiles) -> None:
    file = DIRECTORY / name / "flush"
    meanings = {errno.EINVAL: Meaning("the kernel takes a number and a newline")}
    with explained(f"flushing the kernel's {name} cache", meanings):
        before = int(files.read(file))
        # Kernels before 4.16 flush up to the time that is written, later ones up to now, whatever it is.
        files.write(file, b"%d\n" % time.time())
        after = int(files.read(file))
    if after <= before:
        raise NlmfoError(f"flushing the kernel's {name} cache: it reported success, but its flush time did not rise")
