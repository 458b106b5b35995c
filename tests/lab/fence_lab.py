#!/usr/bin/python3 -IS
# SPDX-License-Identifier: GPL-2.0-or-later
"""A fence agent for the lab, put on its nodes as /usr/sbin/fence_lab: has the test cut a node's power.

As Pacemaker wants it: ``key=value`` lines on stdin, and the exit status is the answer. A request is an empty file
ACTION.NODE.NUMBER in a directory that the test sees; it removes the file when the power is off (``PowerSwitch`` of
tests/lab/pacemaker.py). A node that was to be rebooted stays off until the test boots it.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

REQUESTS = Path("/lab/registry/power")
#: Seconds for the test to do it.
DEADLINE = 30.0
METADATA = """<?xml version="1.0"?>
<resource-agent name="fence_lab" shortdesc="The lab's power switch">
<longdesc>Has the test cut the power of a node.</longdesc>
<parameters>
<parameter name="action" required="1"><content type="string" default="reboot"/></parameter>
<parameter name="port"><content type="string"/></parameter>
</parameters>
<actions>
<action name="off"/><action name="reboot"/><action name="status"/><action name="monitor"/><action name="metadata"/>
</actions>
</resource-agent>
"""


def main() -> int:
    pairs = (line.strip().partition("=") for line in sys.stdin)
    options = {key: value for key, _, value in pairs}
    action = options.get("action", "reboot")
    if action == "metadata":
        print(METADATA)
        return 0
    if action in ("status", "monitor"):
        return 0 if REQUESTS.is_dir() else 1
    if action not in ("off", "reboot") or "port" not in options:
        print(f"fence_lab: cannot do {options}", file=sys.stderr)
        return 1
    return _ask(action, options["port"])


def _ask(action: str, node: str) -> int:
    request = REQUESTS / f"{action}.{node}.{os.getpid()}"
    request.touch()
    end = time.monotonic() + DEADLINE
    while request.exists():
        if time.monotonic() > end:
            print(f"fence_lab: the power of {node} was not cut in {DEADLINE:g} s", file=sys.stderr)
            return 1
        time.sleep(0.1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
