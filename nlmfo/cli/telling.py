# SPDX-License-Identifier: GPL-2.0-or-later
"""How a run is told of: lines, on a terminal with a status line below; events (``--events``); a document (``--json``).

``--events``: a line of JSON for each event, as it comes. There is none where nothing was to be done. ``--json``: one
document at the end, also when the run failed. Both are described in docs/json.md. Errors are said on standard error as
well. The system journal is told of every run, and where a unit's output is the journal, nothing else is
(nlmfo.cli.journalled).
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from nlmfo.child import in_child
from nlmfo.cli import document, manager, screen, text
from nlmfo.cli.journalled import Journalled, failures
from nlmfo.cli.running import Running
from nlmfo.config import Config
from nlmfo.errors import NlmfoError
from nlmfo.failover.events import (
    Begun,
    ClientNotTold,
    Event,
    ExportLeftOut,
    JournalNotWritten,
    LocksMissing,
    Sink,
    StepNotDone,
)
from nlmfo.failover.journal import as_object
from nlmfo.failover.report import EARLIER, AddressDown, Report, Reporter, last_address_down
from nlmfo.failover.report import as_object as report_as_object
from nlmfo.failover.verbs import Outcome
from nlmfo.host import journald
from nlmfo.records import journal

#: Seconds to read the journals of earlier runs.
READ = 3.0
#: Select Graphic Rendition (ECMA-48): yellow, red, and back.
_YELLOW, _RED, _PLAIN = "\x1b[33m", "\x1b[31m", "\x1b[0m"
_WARNINGS = (ClientNotTold, ExportLeftOut, JournalNotWritten, LocksMissing)


class Teller:
    """Hears the events of one command, and makes the reports of its runs; subclasses say how that is told.

    The system journal is told by each of them (nlmfo.cli.journalled), and by this one itself nobody else.
    """

    def __init__(self, journal: Journalled) -> None:
        self.journal = journal
        self.reporters: list[Reporter] = []
        self.sentences: list[str] = []
        self.gaps = False
        self.error: str | None = None
        self._clock = screen.wall_clock()

    def __call__(self, event: Event) -> None:
        at = self._clock()
        manager.hear(event)
        self.gaps = self.gaps or isinstance(event, JournalNotWritten)
        if isinstance(event, Begun):
            self.reporters.append(Reporter(event, at))
        elif self.reporters:
            self.reporters[-1].hear(event, at)
        self.journal(event)
        self.tell(event)

    def say(self, sentence: str) -> None:
        """What it came to; said at the end."""
        self.sentences.append(sentence)

    def tell(self, event: Event) -> None:
        """Say what there is to say of it at once."""

    def end(self, reports: list[Report]) -> None:
        """Say the rest."""

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """While the command runs."""
        yield


class Sentences(Teller):
    """Lines for people, and for logs."""

    def __init__(self, journal: Journalled) -> None:
        super().__init__(journal)
        self._running = Running()
        self._hearing = threading.Lock()

    def tell(self, event: Event) -> None:
        with self._hearing:
            lines = self._running.lines(event, time.monotonic())
        for line in lines:
            self.line(line, event)

    def line(self, line: str, _event: Event) -> None:
        screen.say(line)

    def end(self, reports: list[Report]) -> None:
        for line in (*map(text.report, reports), *self.sentences):
            screen.say(line)


class OnTerminal(Sentences):
    """The same, with what is going on in a line below them."""

    def __init__(self, journal: Journalled) -> None:
        super().__init__(journal)
        self._status: screen.StatusLine | None = None
        self._colours = screen.may_colour()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        with screen.status_line(self._words) as line:
            self._status = line
            try:
                yield
            finally:
                self._status = None

    def tell(self, event: Event) -> None:
        super().tell(event)
        if self._status is not None:
            self._status.redraw()

    def line(self, line: str, event: Event) -> None:
        colour = _RED if isinstance(event, StepNotDone) else _YELLOW if isinstance(event, _WARNINGS) else ""
        painted = f"{colour}{line}{_PLAIN}" if colour and self._colours else line
        if self._status is None:
            screen.say(painted)
        else:
            self._status.say(painted)

    def _words(self) -> str:
        with self._hearing:
            return self._running.words(time.monotonic(), time.time())


class EventLines(Teller):
    """``--events``."""

    def tell(self, event: Event) -> None:
        screen.say(document.line(as_object(event)))


class Document(Teller):
    """``--json``."""

    def __init__(self, verb: str, service: str | None, journal: Journalled) -> None:
        super().__init__(journal)
        self._verb = verb
        self._service = service

    def end(self, reports: list[Report]) -> None:
        each = [self._about(report.service, report.outcome, report_as_object(report)) for report in reports]
        if self._service is None:
            found: dict[str, Any] = {"verb": self._verb, "error": self.error, "runs": each}
        elif each:
            found = each[-1] | {"error": self.error}
        else:  # refused, failed or not needed, before a run began
            found = self._about(self._service, Outcome.UNTOUCHED, None) | {"error": self.error}
        screen.say(document.whole(found))

    def _about(self, service: str, outcome: Outcome | None, report: dict[str, Any] | None) -> dict[str, Any]:
        error = report["error"] or None if report else None
        return {"service": service, "verb": self._verb, "outcome": outcome, "error": error, "report": report}


def teller(arguments: argparse.Namespace, verb: str) -> Teller:
    """As the arguments and the terminal ask for."""
    journal = Journalled(verb, arguments.service or "")
    if arguments.events:
        return EventLines(journal)
    if arguments.json:
        return Document(verb, arguments.service, journal)
    if journald.takes(sys.stdout):
        return Teller(journal)
    return OnTerminal(journal) if screen.is_terminal() else Sentences(journal)


def hearing(journal: Journalled) -> Sink:
    """For what goes on without end: each event is told to the journal, and by a line where that is elsewhere."""

    def hear(event: Event) -> None:
        journal(event)
        if not journald.takes(sys.stderr):
            print(text.line(event), file=sys.stderr, flush=True)

    return hear


@contextmanager
def telling(config: Config, arguments: argparse.Namespace, verb: str) -> Iterator[Teller]:
    """Tell of one command, whatever it ends with."""
    tell = teller(arguments, verb)
    try:
        with tell.at_work(), failures(tell.journal, arguments):
            yield tell
    except BaseException as error:
        tell.error = str(error) or "interrupted"
        raise
    finally:
        reports = [_report(config, reporter, tell) for reporter in tell.reporters]
        for report in reports:
            tell.journal.report(report)
        if not reports:
            for sentence in tell.sentences:
                tell.journal.note(sentence)
        tell.end(reports)


def _report(config: Config, reporter: Reporter, tell: Teller) -> Report:
    """With how long clients waited, as far as earlier journals say when that began."""
    found = reporter.report()
    if found.address_up is None or found.outcome is not Outcome.SERVED or tell.gaps:
        return found
    return reporter.report(_before(config, reporter.begun))


def _before(config: Config, begun: Begun) -> AddressDown | None:
    """When the last owner took the address down. What keeps it from being known must not fail a run that is over."""
    with suppress(NlmfoError, OSError):
        runs = config.service(begun.service).state / "runs"
        look = partial(_last_address_down, runs, begun)
        return in_child(f"reading {runs}", look, deadline=READ)
    return None


def _last_address_down(runs: Path, begun: Begun) -> AddressDown | None:
    journals = journal.several(runs, begun.service, last=EARLIER)
    return last_address_down((lines for _, lines in reversed(journals)), begun)
