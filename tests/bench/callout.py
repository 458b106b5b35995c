# SPDX-License-Identifier: GPL-2.0-or-later
"""What one callout costs rpc.statd: ``python -m tests.bench.callout [PROGRAM]``, as root.

Everything is measured side by side, 300 times, through fork, exec and wait as statd does it. The store is on the
disk of the temporary directory, the spool on a tmpfs, as it is on a node. Prints one ``NAME VALUE UNIT`` per line.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from nlmfo.records.callout import Mode
from tests.unit.callout_stand import HOME, NODE, Stand, build

CALLS = 300


def spawn(argv: tuple[str | Path, ...], environment: dict[str, str]) -> float:
    """Milliseconds from fork to the end of the child."""
    begun = time.perf_counter()
    pid = os.posix_spawn(argv[0], argv, environment)
    os.waitpid(pid, 0)
    return (time.perf_counter() - begun) * 1000


def create_and_fsync(path: Path) -> float:
    """Milliseconds for one new file to become durable."""
    begun = time.perf_counter()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
    os.write(fd, b"x" * 100)
    os.fsync(fd)
    os.close(fd)
    return (time.perf_counter() - begun) * 1000


def measure(stands: dict[Mode, Stand]) -> dict[str, float]:
    """Medians in milliseconds; one of each in turn, so that a noisy moment meets all of them."""

    def add(mode: Mode, number: int) -> float:
        stand = stands[mode]
        return spawn((stand.program, "add-client", f"2001:db8::{number:x}", NODE), stand.environment())

    new_file = stands[Mode.SYNC].home() / "sm"
    things: dict[str, Callable[[int], float]] = {
        "dash": lambda _: spawn(("/bin/dash", "-c", ":"), {}),
        "callout_async": lambda number: add(Mode.ASYNC, number),
        "callout_sync": lambda number: add(Mode.SYNC, number),
        "fsync": lambda number: create_and_fsync(new_file / f".bench.{number}"),
    }
    samples: dict[str, list[float]] = {name: [] for name in things}
    for number in range(CALLS):
        for name, thing in things.items():
            samples[name].append(thing(number))
    return {name: statistics.median(values) for name, values in samples.items()}


def main() -> None:
    with tempfile.TemporaryDirectory() as disk, tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        program = Path(sys.argv[1]) if len(sys.argv) > 1 else build("compiled", Path(disk))
        modes = (Mode.SYNC, Mode.ASYNC)
        stands = {mode: Stand(Path(disk) / mode, program, spool=Path(memory) / mode) for mode in modes}
        for mode, stand in stands.items():
            stand.configure(mode=mode)
        median = measure(stands)
        for stand in stands.values():
            stand.until_drained()
            missing = CALLS - len(stand.store.current(HOME))
            if missing:
                sys.exit(f"{missing} records are missing")
    for name, value in median.items():
        print(f"{name}_ms {value:.3f} ms")
    dash, fsync = median["dash"], median["fsync"]
    print(f"callout_async_vs_dash {median['callout_async'] / dash:.2f} x")
    print(f"callout_sync_vs_budget {median['callout_sync'] / (2.5 * dash + 1.5 * fsync):.2f} x")


if __name__ == "__main__":
    main()
