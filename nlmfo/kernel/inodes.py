# SPDX-License-Identifier: GPL-2.0-or-later
"""From the inode numbers that /proc/locks shows to paths that a person knows."""

from __future__ import annotations

import os
from collections.abc import Set as AbstractSet
from contextlib import suppress
from pathlib import Path

from nlmfo.child import in_child
from nlmfo.deadline import Deadline
from nlmfo.errors import NlmfoError

#: Seconds to look for paths: only an error's text gets better by it.
SEARCH = 3.0
#: Seconds on top for the search to notice that its time is up, before it is left behind as hanging.
NOTICE = 1.0


def paths(mountpoint: Path, inodes: AbstractSet[int], *, seconds: float = SEARCH) -> dict[int, Path]:
    """A path below ``mountpoint`` for each inode of its file system that is found in time; never an error.

    Other file systems that are mounted below are left out: they have inodes with the same numbers. The search runs
    in a process of its own, because storage that hangs would hang it, too.
    """
    try:
        return in_child(
            f"looking for names below {mountpoint}",
            lambda: _walk(mountpoint, set(inodes), Deadline(seconds)),
            deadline=seconds + NOTICE,
        )
    except (NlmfoError, OSError):
        return {}


def _walk(mountpoint: Path, wanted: set[int], limit: Deadline) -> dict[int, Path]:
    top = mountpoint.stat()
    found = {top.st_ino: mountpoint} if top.st_ino in wanted else {}
    waiting = [mountpoint]
    while waiting and len(found) < len(wanted) and not limit.passed():
        with suppress(OSError):  # removed meanwhile, or a path that has become too long
            waiting += _look(waiting.pop(), top.st_dev, wanted, found, limit)
    return found


def _look(directory: Path, device: int, wanted: set[int], found: dict[int, Path], limit: Deadline) -> list[Path]:
    """Note the names of one directory that are wanted; return its subdirectories on the same file system."""
    below: list[Path] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if limit.passed():
                break
            if entry.is_dir(follow_symlinks=False):
                if entry.stat(follow_symlinks=False).st_dev != device:
                    continue
                below.append(Path(entry.path))
            if entry.inode() in wanted:
                found.setdefault(entry.inode(), Path(entry.path))
    return below
