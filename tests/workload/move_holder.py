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
from tests.workload.holder import hold

#: Seconds between two requests for one lock: seldom enough that 20 processes leave the node's processor to others.
PAUSE = 1.0
#: file, first byte, length (0: to the end of the file), exclusive
LOCKS = (
    *((f"whole-{number}", 0, 0, True) for number in range(4)),
    *((f"shared-{number}", 0, 0, False) for number in range(4)),
    *((f"ranges-{number}", 100 * part, 50, True) for number in range(2) for part in range(5)),
    *((f"ranges-{number}", 1000, 1, False) for number in range(2)),
)


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
    if sys.argv[1] == "hold":
        hold(Path(sys.argv[2]), LOCKS)
    else:
        want(Path(sys.argv[2]))
