# SPDX-License-Identifier: GPL-2.0-or-later
"""How a run is told of: as lines, with a status line on a terminal; as events (``--events``); as a document (``--json``).

``--events``: a line of JSON for each event, as it comes, in the form of nlmfo.failover.journal.as_object; the first has
``"version": 1`` as well. There is none where nothing was to be done.

``--json``: one document at the end, also when the run failed::

    {"version": 1, "service": "home", "verb": "takeover", "outcome": "served", "error": null, "report": {...}}

``outcome`` is one of nlmfo.failover.events.Outcome, ``report`` as nlmfo.failover.report.as_object makes it. ``resume``
without a service has a list of these, one for each run, under ``"runs"``. Errors are said on standard error as well.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import Any

from nlmfo.child import in_child
from nlmfo.cli import screen, text
from nlmfo.cli.running import Running
from nlmfo.config import Config, Service
from nlmfo.errors import NlmfoError
from nlmfo.failover.events import (
    Begun,
    ClientNotTold,
    Ended,
    Event,
    ExportLeftOut,
    JournalNotWritten,
    LocksMissing,
    Outcome,
    StepNotDone,
    Verb,
)
from nlmfo.failover.journal import as_object
from nlmfo.failover.report import AddressDown, Lines, Report, Reporter, last_address_down
from nlmfo.failover.report import as_object as report_as_object
from nlmfo.records import journal

VERSION = 1
#: Seconds to read the journals of earlier runs, and how many of them: enough to get past some that failed.
READ, EARLIER = 3.0, 10
#: Select Graphic Rendition (ECMA-48): yellow, red, and back.
_YELLOW, _RED, _PLAIN = "\x1b[33m", "\x1b[31m", "\x1b[0m"
_WARNINGS = (ClientNotTold, ExportLeftOut, JournalNotWritten, LocksMissing)


class Teller:
    """Hears the events of one command. Makes the reports; the subclasses say how all of it is told."""

    def __init__(self) -> None:
        self.reporters: list[Reporter] = []
        self.said: list[str] = []
        self.gaps = False
        self.clock = screen.wall_clock()

    def __call__(self, event: Event) -> None:
        at = self.clock()
        self.gaps = self.gaps or isinstance(event, JournalNotWritten)
        if isinstance(event, Begun):
            self.reporters.append(Reporter(event, at))
        elif self.reporters:
            self.reporters[-1].hear(event, at)
        self.tell(event)

    def tell(self, event: Event) -> None:
        """Say what there is to say at once."""

    def say(self, line: str) -> None:
        """What it came to, in a sentence; said at the end."""
        self.said.append(line)

    def end(self, reports: list[Report], error: BaseException | None) -> None:
        """The command has ended; ``error`` is what it ended with, and is said elsewhere."""


class Lines_(Teller):
    """Sentences, one line each."""
