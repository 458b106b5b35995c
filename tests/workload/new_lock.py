# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs on a client: asks for locks that nobody holds, and says how long each took.

Usage: new_lock.py DIRECTORY FIRST COUNT

Opens a file of its own, prints {"ready": true}, and waits for SIGUSR1. Then it asks for COUNT locks (F_SETLKW), from
byte FIRST on, each in a process of its own, APART seconds after the one before: the first at once. One JSON object
per line as each is granted, or fails:
    {"number": N, "asked": monotonic seconds, "granted": monotonic seconds, "error": errno text or ""}
The locks are kept until it is ended by a signal: a lock given up during a move would be one that never comes back.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path

APART = 0.5


def ask(file: int, first: int, number: int) -> None:
    signal.sigwait({signal.SIGUSR1})
    time.sleep(APART * number)
    asked, problem = time.monotonic(), ""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX, 1, first + number)
    except OSError as error:
        problem = os.strerror(error.errno or 0)
    answer = {"number": number, "asked": asked, "granted": time.monotonic(), "error": problem}
    os.write(1, (json.dumps(answer) + "\n").encode())  # one write: the lines of several processes do not mix
    while True:
        time.sleep(3600)


def main(directory: Path, first: int, count: int) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})  # it goes to the whole session, and each waits for it
    file = os.open(directory / "new", os.O_RDWR | os.O_CREAT, 0o666)
    for number in range(count):
        if os.fork() == 0:
            ask(file, first, number)
    os.write(1, b'{"ready": true}\n')
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
