# SPDX-License-Identifier: GPL-2.0-or-later
"""The children of this process: a runner of tests may have some of its own, or of a test before."""

from __future__ import annotations

from pathlib import Path


def children() -> set[int]:
    """All that run or have ended without anybody having waited for them (proc_pid_task(5))."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found |= {int(word) for word in (task / "children").read_text(encoding="ascii").split()}
        except FileNotFoundError:  # a thread that ended meanwhile
            continue
    return found
