# SPDX-License-Identifier: GPL-2.0-or-later
"""The grace period of a network namespace, which has two keepers (fs/nfs_common/grace.c).

NLM asks whether anybody is in grace: lockd itself or NFSv4's part of nfsd, which has a grace of its own also where
NFSv4 is switched off. Reclaims are granted, and new locks refused, until both have ended.
"""

from __future__ import annotations

from nlmfo.deadline import Deadline, poll_until
from nlmfo.errors import NlmfoError
from nlmfo.kernel import lockd, nfsd
from nlmfo.kernel.files import PROC, ControlFiles

#: Seconds for NFSv4's grace to end after it was told to: another thread of the kernel does it (laundromat).
V4 = 5.0


def on(*, files: ControlFiles = PROC) -> bool:
    """Whether reclaims are granted here."""
    return lockd.in_grace(files=files) or (nfsd.threads(files=files) > 0 and not nfsd.v4_grace_ended(files=files))


def end(*, files: ControlFiles = PROC) -> None:
    """End it for both keepers, and read back that it has ended. Who has not reclaimed a lock by now has lost it.

    NFSv4's comes first: it is the one that can refuse, and until it has ended lockd's goes on protecting the locks.
    """
    nfsd.end_v4_grace(files=files)
    poll_until("NFSv4's grace to end", lambda: nfsd.v4_grace_ended(files=files), Deadline(V4), interval=0.01)
    lockd.end_grace(files=files)
    if on(files=files):
        raise NlmfoError("both keepers of the grace period were told to end it and say so, but it is still on")
