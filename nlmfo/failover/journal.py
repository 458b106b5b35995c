# SPDX-License-Identifier: GPL-2.0-or-later
"""The journal of a run, as a listener to its events: each is durable on the node, and beside the records, before the
next thing happens.

The copy beside the records begins when their storage is mounted, with everything so far, and ends before it is
unmounted: an open file would keep it busy.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

from nlmfo.config import Service
from nlmfo.errors import NlmfoError
from nlmfo.failover.events import Ended, Event, JournalNotWritten, Sink, StepDone, StepStarted
from nlmfo.failover.last_run import RUNS
from nlmfo.failover.plan import Action, Step
from nlmfo.failover.progress import Progress
from nlmfo.records import journal
from nlmfo.records.journal_file import JournalFile, SharedJournal

_WORD = re.compile(r"(?<!^)(?=[A-Z])")


class Journal:
    """Writes down every event, and passes it on to ``sink``."""

    def __init__(self, service: Service, sink: Sink, *, attached: bool, runs: Path = RUNS) -> None:
        """``attached``: the service's state directory is there already; else its writer waits, which took time."""
        self._state = service.state
        self._leaves = service.state_partition is not None
        self._sink = sink
        self._name = journal.new_name(service.name, _earlier(runs, service))
        self._lines: list[bytes] = []
        self._own: JournalFile | None = None
        self._shared: SharedJournal | None = None
        self._spare: SharedJournal | None = SharedJournal(self._state / "runs", self._name)
        self.ended = False
        try:
            self._own = JournalFile(runs, self._name)
            journal.prune(runs, service.name)
        except NlmfoError as error:
            self._trouble(error)
        if attached:
            self.attach()

    def __call__(self, event: Event) -> None:
        if self._leaves and isinstance(event, StepStarted) and event.step.action is Action.UMOUNT:
            self.detach()
        self._write(event)
        self.ended = self.ended or isinstance(event, Ended)
        if isinstance(event, StepDone) and event.step.action is Action.RECORDS:
            self.attach()
        self._sink(event)

    @property
    def run(self) -> str:
        """What the run is called: its journal's name, without the suffix."""
        return self._name.removesuffix(journal.SUFFIX)

    def attach(self) -> None:
        """Begin the copy on shared storage, with what has happened so far."""
        if self._shared is None:
            self._shared = self._spare or SharedJournal(self._state / "runs", self._name)
            self._spare = None
            self._share(b"".join(self._lines))

    def detach(self) -> None:
        """End the copy on shared storage, which may be unmounted then."""
        if self._shared is not None:
            self._shared.close()
            self._shared = None

    def close(self) -> None:
        self.detach()
        if self._spare is not None:
            self._spare.close()
        if self._own is not None:
            self._own.close()
            self._own = None

    def _write(self, event: Event) -> None:
        line = json.dumps(as_object(event), ensure_ascii=True).encode() + b"\n"
        self._lines.append(line)
        try:
            if self._own is not None:
                self._own.append(line)
        except NlmfoError as error:
            self._own.close()  # type: ignore[union-attr]
            self._own = None
            self._trouble(error)
        self._share(line)

    def _share(self, lines: bytes) -> None:
        try:
            if self._shared is not None and lines:
                self._shared.append(lines)
        except NlmfoError as error:
            self.detach()
            self._trouble(error)

    def _trouble(self, error: NlmfoError) -> None:
        """Say so, once for each place."""
        self._sink(JournalNotWritten(str(error)))


def _earlier(runs: Path, service: Service) -> tuple[str, ...]:
    try:
        return journal.names(runs, service.name)
    except NlmfoError:  # whatever it is, opening the new one will say so
        return ()


def as_object(event: Event) -> dict[str, Any]:
    """An event as JSON has it: its name in small letters, when it came (seconds since 1970), and its fields."""
    return {"event": name_of(type(event)), "at": round(time.time(), 3)} | {
        field.name: _plain(getattr(event, field.name)) for field in fields(event)
    }


def name_of(kind: type[Event]) -> str:
    """What a journal calls an event."""
    return _WORD.sub("-", kind.__name__).lower()


def _plain(value: Any) -> Any:
    if isinstance(value, Step):
        return {"action": str(value.action), "subject": value.subject}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value.plain() if isinstance(value, Progress) else value
