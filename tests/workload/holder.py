# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs on a client: takes locks, keeps them, and writes all the time. Usage: holder.py DIRECTORY

Prints one JSON object per line:
    {"held": {"file": ..., "inode": ..., "first": ..., "last": ..., "exclusive": ...}}    last is -1 for end of file
    {"acknowledged": N, "at": monotonic seconds}      write N has returned from fsync(2)
    {"failed": "errno text", "at": ...}               a write did not
Each write is a record of 16 bytes in the file "journal": its number.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PAUSE = 0.05
#: file, first byte, length (0: to the end of the file), exclusive
LOCKS = (
    ("whole", 0, 0, True),
    ("ranges", 100, 100, True),
    ("ranges", 4096, 1, True),
    ("shared", 0, 0, False),
)


def say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def lock(directory: Path, name: str, first: int, length: int, exclusive: bool) -> int:
    file = os.open(directory / name, os.O_RDWR | os.O_CREAT, 0o666)
    fcntl.lockf(file, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH, length, first)
    last = first + length - 1 if length else -1
    found = {
        "file": name,
        "inode": os.fstat(file).st_ino,
        "first": first,
        "last": last,
        "exclusive": exclusive,
    }
    say({"held": found})
    return file


def hold(directory: Path, locks: Sequence[tuple[str, int, int, bool]] = LOCKS) -> None:
    """Take the locks, keep them, and write for ever."""
    held = [lock(directory, *each) for each in locks]
    journal = os.open(directory / "journal", os.O_WRONLY | os.O_CREAT, 0o666)
    number = 0
    while held:  # the descriptors stay open, and with them the locks: for ever
        try:
            os.pwrite(journal, b"%015d\n" % number, 16 * number)
            os.fsync(journal)
        except OSError as error:
            say({"failed": os.strerror(error.errno or 0), "at": time.monotonic()})
        else:
            say({"acknowledged": number, "at": time.monotonic()})
            number += 1
        time.sleep(PAUSE)


if __name__ == "__main__":
    hold(Path(sys.argv[1]))
