# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs on a server: nlmfo, cut off just before a step begins. Usage: cut_off.py N HOW nlmfo-arguments...

N counts the steps of the run from 1; one more than it has means: just before its end is written down. Then it prints

    cut off before STEP

and, by HOW, ends without another instruction (``kill``), or stops for ever (``power``: cut the node's power then).
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from nlmfo.cli.main import main
from nlmfo.records.journal_file import JournalFile

SIGNALS = {"kill": signal.SIGKILL, "power": signal.SIGSTOP}


def cut_off(before: int, with_signal: signal.Signals) -> None:
    """See to it that this process gets the signal instead of writing down that step ``before`` begins."""
    write: Callable[[JournalFile, bytes], None] = JournalFile.append
    process, begun = os.getpid(), 0

    def append(file: JournalFile, line: bytes) -> None:
        nonlocal begun
        event = json.loads(line) if os.getpid() == process else {}  # not in who writes the copy: that is many lines
        if event.get("event") in ("step-started", "ended"):
            begun += 1
            if begun == before:
                os.write(1, f"cut off before {_name(event)}\n".encode())
                os.kill(process, with_signal)
        write(file, line)

    JournalFile.append = append  # type: ignore[assignment, method-assign]


def _name(event: dict[str, Any]) -> str:
    step = event.get("step")
    return f"{step['action']}: {step['subject']}" if step else "its end"


if __name__ == "__main__":
    cut_off(int(sys.argv[1]), SIGNALS[sys.argv[2]])
    sys.exit(main(sys.argv[3:]))
