# SPDX-License-Identifier: GPL-2.0-or-later
"""lockd's grace period, as seen from the calling process's network namespace (fs/lockd/procfs.c)."""

from __future__ import annotations

from pathlib import Path

END_GRACE = Path("/proc/fs/lockd/nlm_end_grace")


def in_grace() -> bool:
    """Whether lockd itself is in grace here. False when lockd is not loaded.

    The file reads ``Y`` when lockd's grace has ended, so ``N`` means that it is on.
    """
    try:
        return END_GRACE.read_bytes().startswith(b"N")
    except FileNotFoundError:
        return False
