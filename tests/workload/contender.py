# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs on another client: keeps asking for locks that conflict with the holder's. Usage: contender.py DIRECTORY

One process for each lock, because a request waits while the server is in grace. Prints one JSON object per line:
    {"target": "whole", "result": "denied" | "granted" | errno text, "at": monotonic seconds}
The target "free" conflicts with nothing: it shows that the server does grant locks.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import sys
import time
from pathlib import Path

PAUSE = 0.25
#: target, file, first byte, length; each is asked for exclusively
TARGETS = (
    ("whole", "whole", 10, 1),
    ("range", "ranges", 150, 100),
    ("byte", "ranges", 4096, 1),
    ("shared", "shared", 0, 0),
    ("free", "ranges", 10000, 10),
)


def attempt(file: int, first: int, length: int) -> str:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, length, first)
    except OSError as error:
        return "denied" if error.errno in (errno.EAGAIN, errno.EACCES) else os.strerror(error.errno or 0)
    fcntl.lockf(file, fcntl.LOCK_UN, length, first)
    return "granted"


def contend(directory: Path, target: str, name: str, first: int, length: int) -> None:
    file = os.open(directory / name, os.O_RDWR)
    while True:
        result = attempt(file, first, length)
        line = json.dumps({"target": target, "result": result, "at": time.monotonic()}) + "\n"
        os.write(1, line.encode())  # one write: the lines of several processes do not mix
        time.sleep(PAUSE)


def main(directory: Path) -> None:
    for each in TARGETS:
        if os.fork() == 0:
            contend(directory, *each)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
