# SPDX-License-Identifier: GPL-2.0-or-later
"""How long the lab takes: ``python -m tests.bench.lab_boot``, as root. Prints one ``NAME VALUE UNIT`` per line."""

from __future__ import annotations

import statistics
import time

from tests.lab.lab import Lab
from tests.lab.root import CACHE

ROUNDS = 3


def boot() -> float:
    """Seconds until two servers with a shared disk and two clients, all light, run commands."""
    begun = time.monotonic()
    with Lab(CACHE / "logs/bench") as lab:
        disk = lab.disk("shared")
        for name in ("server-a", "server-b"):
            lab.node(name, disks=[disk])
        for name in ("client-1", "client-2"):
            lab.node(name)
        lab.boot()
        return time.monotonic() - begun


def main() -> None:
    boot()  # the tree is built, and in memory
    print(f"lab_boot_4_nodes_s {statistics.median(boot() for _ in range(ROUNDS)):.2f} s")


if __name__ == "__main__":
    main()
