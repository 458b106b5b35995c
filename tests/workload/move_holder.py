# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs on a client: 20 locks to keep, or to want in vain. Usage: move_holder.py hold|want DIRECTORY

``hold`` takes the locks, keeps them, and writes all the time; it says what holder.py says. ``want`` asks for each of
them again and again, exclusively, in a process of its own, and prints one JSON object per line:
    {"target": N, "result": "denied" | "granted" | errno text, "at": monotonic seconds}
where N counts LOCKS from 0. Whoever is granted one has broken the holder's lock.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from tests.workload.contender import attempt
from tests.workload.holder import lock, say

#: Seconds between two requests for one lock: seldom enough that 20 processes leave the node's processor to others.
PAUSE = 1.0
#: Seconds between two writes: the pause that is measured is not known better than this.
BETWEEN_WRITES = 0.05
#: file, first byte, length (0: to the end of the file), exclusive
LOCKS = (
    *((f"whole-{number}", 0, 0, True) for number in range(4)),
    *((f"shared-{number}", 0, 0, False) for number in range(4)),
    *((f"ranges-{number}", 100 * part, 50, True) for number in range(2) for part in range(5)),
    *((f"ranges-{number}", 1000, 1, False) for number in range(2)),
)


def hold(directory: Path) -> None:
    held = [lock(directory, *each) for each in LOCKS]
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
        time.sleep(BETWEEN_WRITES)


def want(directory: Path) -> None:
    for target, (name, first, _, _) in enumerate(LOCKS):
        if os.fork() == 0:
            time.sleep(PAUSE * target / len(LOCKS))  # not all at once
            _ask_for_ever(directory / name, target, first)
    while True:
        time.sleep(3600)


def _ask_for_ever(path: Path, target: int, first: int) -> None:
    file = os.open(path, os.O_RDWR)
    while True:
        line = json.dumps({"target": target, "result": attempt(file, first, 1), "at": time.monotonic()}) + "\n"
        os.write(1, line.encode())  # one write: the lines of several processes do not mix
        time.sleep(PAUSE)


if __name__ == "__main__":
    {"hold": hold, "want": want}[sys.argv[1]](Path(sys.argv[2]))
