# SPDX-License-Identifier: GPL-2.0-or-later
"""What a run tells the service manager that started it: what it is at, and how long that may take."""

from __future__ import annotations

from nlmfo.failover.engine import seconds
from nlmfo.failover.events import Event, StepStarted
from nlmfo.host import systemd
from nlmfo.plain import plain

#: Seconds beyond a step's own deadline: to look, to take down again, and for the next step to be announced.
BEYOND = 60.0


def hear(event: Event) -> None:
    """Ask for as much time as the step has that begins now: the manager ends what takes longer than it was told."""
    if isinstance(event, StepStarted):
        allowed = seconds(event.step.action) + BEYOND
        systemd.notify(EXTEND_TIMEOUT_USEC=int(allowed * 1e6), STATUS=plain(str(event.step)))
