# SPDX-License-Identifier: GPL-2.0-or-later
"""The nfsd control files, /proc/fs/nfsd, of the network namespace in which they were mounted (fs/nfsd/nfsctl.c).

Each write is one write(2) on a fresh descriptor: the kernel takes the first and answers EBUSY to a second.
"""

from __future__ import annotations

import os
from pathlib import Path

CONTROL = Path("/proc/fs/nfsd")


def threads() -> int:
    """How many nfsd threads run; 0 when nfsd is down or its file system is not mounted."""
    try:
        return int((CONTROL / "threads").read_text(encoding="ascii"))
    except FileNotFoundError:
        return 0


def stop() -> None:
    """Stop nfsd: its locks and NFSv4 state go with it."""
    _write("threads", b"0\n")


def unlock_filesystem(mountpoint: Path) -> None:
    """Drop every NLM lock on the file system mounted at ``mountpoint``.

    The caller has made sure that it is a mount point (the kernel would take the parent file system otherwise) and
    that nfsd runs here (kernels 6.9 to 6.12.65 oops otherwise; mended by d0424066fcd2).
    """
    _write("unlock_filesystem", escape(os.fsencode(mountpoint)) + b"\n")


def v4_grace_ended() -> bool:
    """Whether NFSv4's grace period is over. NLM waits for it too, also where NFSv4 is switched off.

    True in a kernel that was built without NFSv4: it has no such grace, and no file to say so.
    """
    try:
        return (CONTROL / "v4_end_grace").read_text(encoding="ascii").startswith("Y")
    except FileNotFoundError:
        return True


def escape(word: bytes) -> bytes:
    """A word as qword_get() reads it: blank, tab, newline and backslash as three octal digits."""
    return b"".join(b"\\%03o" % byte if byte in b" \t\n\\" else bytes((byte,)) for byte in word)


def _write(name: str, data: bytes) -> None:
    descriptor = os.open(CONTROL / name, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)
