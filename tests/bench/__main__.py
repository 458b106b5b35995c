# SPDX-License-Identifier: GPL-2.0-or-later
"""``make bench``: everything that is measured, one ``NAME VALUE UNIT`` per line on standard output."""

from __future__ import annotations

import subprocess
import sys

#: Each is a program of its own: what one leaves in memory does not weigh on the next.
MEASURES = ("status", "callout", "storm", "notify_both", "lab_boot", "planned_move")
#: Seconds for one of them.
DEADLINE = 900


def main() -> int:
    failed = []
    for module in MEASURES:
        argv = [sys.executable, "-m", f"tests.bench.{module}"]
        if subprocess.run(argv, check=False, timeout=DEADLINE).returncode != 0:
            failed.append(module)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
