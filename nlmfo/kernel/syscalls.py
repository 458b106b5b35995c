# SPDX-License-Identifier: GPL-2.0-or-later
"""The system calls that Python 3.11 does not wrap: mount(2), umount2(2), setns(2), unshare(2), mlockall(2)."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MCL_CURRENT = 1
CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
_libc.setns.argtypes = (ctypes.c_int, ctypes.c_int)
_libc.unshare.argtypes = (ctypes.c_int,)
_libc.mlockall.argtypes = (ctypes.c_int,)


def mount(source: str, target: Path, kind: str, flags: int = 0) -> None:
    """Attach a file system, or another place of one (MS_BIND); raises OSError naming the target."""
    if _libc.mount(source.encode(), os.fsencode(target), kind.encode(), flags, None) != 0:
        raise _error(target)


def umount(target: Path) -> None:
    """Detach what is mounted on top at ``target``. Never lazily: busy is an OSError with EBUSY."""
    if _libc.umount2(os.fsencode(target), 0) != 0:
        raise _error(target)


def setns(descriptor: int, kind: int) -> None:
    """Move the calling thread into the namespace that ``descriptor`` refers to."""
    if _libc.setns(descriptor, kind) != 0:
        raise _error(None)


def unshare(kinds: int) -> None:
    """Give the calling process new namespaces of these kinds."""
    if _libc.unshare(kinds) != 0:
        raise _error(None)


def reserve_memory() -> None:
    """Bring all that the calling process has mapped into memory, its own copy where it shares it, and keep it there.

    So nothing waits for a page to be copied or read when it is touched for the first time after a fork, or after days
    without work. A process that may not is none the worse for it.
    """
    _libc.mlockall(MCL_CURRENT)


def release_memory() -> None:
    """The opposite, for a process that goes on with less to do."""
    _libc.munlockall()


def _error(target: Path | None) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), None if target is None else os.fspath(target))
