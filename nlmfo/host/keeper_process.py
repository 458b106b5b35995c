# SPDX-License-Identifier: GPL-2.0-or-later
"""The process that keeps a service's records in order and tells its clients: ``nlmfo keep`` (nlmfo.failover.keep)."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

from nlmfo.deadline import Deadline, poll_until
from nlmfo.errors import DeadlineExceeded
from nlmfo.host.surroundings import Surroundings
from nlmfo.run import own_command, spawn

#: Seconds for it to end after SIGTERM, before SIGKILL, and after that.
POLITE = 3.0
SOON = 30.0
#: In the directory that a service has on the node: its process id.
KEEPER = "keep.pid"


def start(place: Surroundings, configuration: Path) -> None:
    """Start ``nlmfo keep`` (see nlmfo.failover.keeper) unless it runs."""
    if runs(place):
        return
    # The host name is the service's there, and the node's name where the configuration names none.
    as_node = ("nsenter", f"--uts=/proc/{os.getpid()}/ns/uts", "--")
    keep = own_command(configuration, "keep", place.service)
    pid = spawn(place.command(*as_node, *keep), log=place.directory / "log/nlmfo-keep.log")
    (place.directory / KEEPER).write_text(f"{pid}\n", encoding="ascii")


def runs(place: Surroundings) -> bool:
    return _pid(place) is not None


def stop(place: Surroundings) -> None:
    """End ``nlmfo keep``, and see it gone."""
    for number, seconds in ((signal.SIGTERM, POLITE), (signal.SIGKILL, SOON)):
        pid = _pid(place)
        if pid is None:
            return
        with suppress(ProcessLookupError):  # it ended by itself
            os.kill(pid, number)
        with suppress(DeadlineExceeded):
            poll_until("nlmfo keep to end", lambda: not runs(place), Deadline(seconds))
            return
    raise DeadlineExceeded(f"service '{place.service}': the end of nlmfo keep", POLITE + SOON)


def _pid(place: Surroundings) -> int | None:
    """Its process id, if the process that has the number is the one that was started under it."""
    try:
        pid = int((place.directory / KEEPER).read_text(encoding="ascii"))
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return pid if words[-3:-1] == [b"keep", place.service.encode()] else None
