# SPDX-License-Identifier: GPL-2.0-or-later
"""Who keeps a file system in use: seen from /proc and /sys, named, and left alone.

    model.py      what is found, in words, and what to do about it
    proc.py       what /proc says of processes, whatever becomes of them meanwhile
    views.py      where it is mounted, in every mount namespace of this node
    processes.py  processes: directories, open files, executables, memory maps, sockets
    kernel.py     the kernel itself: loop devices, swap, devices built on it, NFS exports and locks
    search.py     all of these, each in a child process of its own that may hang

Nothing here touches a file system by its path: the server of another mount may be gone, and who asks it waits.
"""

from __future__ import annotations

from nlmfo.host.holders.model import Holder, HolderKind, advice, in_words
from nlmfo.host.holders.search import of

__all__ = ["Holder", "HolderKind", "advice", "in_words", "of"]
