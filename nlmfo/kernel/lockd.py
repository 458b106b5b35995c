# SPDX-License-Identifier: GPL-2.0-or-later
"""lockd's grace period, as seen from the calling process's network namespace (fs/lockd/procfs.c).

There is nothing that starts it: lockd enters grace only when it gets its first user in a network namespace, which is
nfsd, or an NFSv3 mount. Its length is one of ``nlmfo.kernel.lockd_settings``.
"""

from __future__ import annotations

import errno
from pathlib import Path

from nlmfo.errors import NlmfoError
from nlmfo.kernel.files import PROC, ControlFiles, Meaning, explained

END_GRACE = Path("/proc/fs/lockd/nlm_end_grace")


def in_grace(*, files: ControlFiles = PROC) -> bool:
    """Whether lockd itself is in grace here. False when lockd is not loaded.

    The file reads ``Y`` when lockd's grace has ended, so ``N`` means that it is on. NFSv4's grace keeps NLM in grace
    as well, and is not seen here: ``nlmfo.kernel.nfsd.v4_grace_ended``.
    """
    try:
        return files.read(END_GRACE).startswith(b"N")
    except FileNotFoundError:
        return False


def end_grace(*, files: ControlFiles = PROC) -> None:
    """End lockd's grace now, and read back that it has ended. Who has not reclaimed a lock by now has lost it.

    NLM goes on refusing new locks while NFSv4's grace lasts: it is the other keeper of the same grace.
    """
    meanings = {errno.ENOENT: Meaning("lockd is not loaded, or the kernel is older than 3.18")}
    with explained("ending lockd's grace", meanings):
        files.write(END_GRACE, b"Y\n")
    if in_grace(files=files):
        raise NlmfoError("lockd was told to end its grace and reported success, but it is still in grace")
