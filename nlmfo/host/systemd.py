# SPDX-License-Identifier: GPL-2.0-or-later
"""What a service manager is told: sd_notify(3), whose protocol needs no library.

A datagram of ``VARIABLE=VALUE`` lines to the socket that the manager names in the environment, where it does.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress

SOCKET, WATCHDOG, WATCHDOG_PID = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"


def notify(**variables: str | int) -> None:
    """Tell the manager, if there is one. What keeps it from being told must not stop a run."""
    name = os.environ.get(SOCKET, "")
    if not name:
        return
    text = "\n".join(f"{variable}={_line(str(value))}" for variable, value in variables.items())
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.settimeout(1.0)
        sock.connect("\0" + name[1:] if name.startswith("@") else name)
        sock.send(text.encode(errors="replace"))


def watchdog() -> float | None:
    """Within how many seconds the manager wants to hear WATCHDOG=1 again and again; None when it does not."""
    if os.environ.get(WATCHDOG_PID, str(os.getpid())) != str(os.getpid()):
        return None
    with suppress(ValueError):
        return int(os.environ.get(WATCHDOG, "")) / 1e6 or None
    return None


def _line(value: str) -> str:
    return value.replace("\n", "; ")
