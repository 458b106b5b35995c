# SPDX-License-Identifier: GPL-2.0-or-later
"""What the system journal is told of a run, and by a keeper: sentences for people, with fields and stable ids.

``journalctl NLMFO_SERVICE=home`` has all of it, whoever ran the command. Where a unit runs nlmfo, its output is the
journal already: then these entries are all that is said there (nlmfo.cli.telling). Those of a command that was typed
name the unit as what they are about, so ``journalctl -u nlmfo@home`` has them as well.

What each id means, and what is to be done, is in systemd/nlmfo.catalog (``journalctl -x``).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum

from nlmfo.cli import text, words
from nlmfo.cli.running import Running
from nlmfo.failover.events import (
    Begun,
    ClientNotTold,
    ClientQuiet,
    Ended,
    Event,
    ExportLeftOut,
    JournalNotWritten,
    LocksMissing,
    Mended,
    RollingBack,
    StartedAgain,
    StepDone,
    StepNotDone,
    StoodDown,
    Troubled,
)
from nlmfo.failover.plan import Step
from nlmfo.failover.report import Report
from nlmfo.failover.verbs import Outcome, Verb
from nlmfo.host import journald
from nlmfo.host.journald import Priority
from nlmfo.plain import plain


class Message(Enum):
    """The MESSAGE_IDs. They never change: alerts ask for them."""

    TAKEOVER_BEGUN = "5e86d3ff14e245cba0f8cd24e09355bc"
    SERVED = "7f88b8d04d864aa5ae7db03fd1d883b5"
    RELEASE_BEGUN = "a07e855952794480864ffa5d8f4135d5"
    RELEASED = "895e3fbc0f664107b433f37b4c36e302"
    TAKEN_DOWN = "0cccf83e7d3c41dc84d3c5eeb2ca5b7e"
    INCOMPLETE = "ce0fd8ec3fd643ed9dc5adf1386a7ec7"
    REFUSED = "8bcc5b5107d6486bb085ff3184910042"
    CLIENT_NOT_TOLD = "f9c2a7a49e5d4615b497bfb590f66739"
    LOCKS_MISSING = "d5e51e8f8cf34d0fb90b032f1f70fb9e"
    STOOD_DOWN = "23b5627c38b844b987ab5940c861b72b"
    TROUBLED = "8b361d8dc851482ba3a3aa8b9d880dd6"
    BEYOND_MENDING = "e61c1111c58d4c7cad1fa71b54292417"
    STARTED_AGAIN = "b1c40c62a38c4f65a9d8f3bd3c31cb1f"
    MENDED = "abeb1fe5e0a745e097b398e72d413a71"


_ENDS = {
    Outcome.SERVED: (Message.SERVED, Priority.NOTICE),
    Outcome.RELEASED: (Message.RELEASED, Priority.NOTICE),
    Outcome.TAKEN_DOWN: (Message.TAKEN_DOWN, Priority.ERROR),
    Outcome.INCOMPLETE: (Message.INCOMPLETE, Priority.CRITICAL),
    Outcome.UNTOUCHED: (None, Priority.WARNING),
}
_KINDS: Mapping[type[Event], tuple[Message | None, Priority]] = {
    ClientNotTold: (Message.CLIENT_NOT_TOLD, Priority.WARNING),
    LocksMissing: (Message.LOCKS_MISSING, Priority.ERROR),
    StoodDown: (Message.STOOD_DOWN, Priority.CRITICAL),
    Troubled: (Message.TROUBLED, Priority.ERROR),
    StartedAgain: (Message.STARTED_AGAIN, Priority.WARNING),
    Mended: (Message.MENDED, Priority.NOTICE),
    StepNotDone: (None, Priority.ERROR),
    RollingBack: (None, Priority.WARNING),
    ExportLeftOut: (None, Priority.WARNING),
    JournalNotWritten: (None, Priority.WARNING),
}
#: Failures that alerts ask for by their classes: none, but for who says so.
_UNKNOWN: Mapping[type[BaseException], Message] = {}


class Journalled:
    """Hears the events of one command. ``service`` may be empty until a run begins."""

    def __init__(
        self, verb: str, service: str = "", *, send: Callable[[Mapping[str, str]], bool] = journald.send
    ) -> None:
        self._send = send
        self._about = {"NLMFO_VERB": verb} | _of_service(service)
        self._running = Running()
        self._begun = time.monotonic()
        self._told = False

    def __call__(self, event: Event) -> None:
        match event:
            case Begun():
                self._begin(event)
            case Ended():
                self._end(event)
            case _:
                message, priority = _KINDS.get(type(event), (None, Priority.INFO))
                for line in self._running.lines(event, time.monotonic()):
                    self._tell(line, priority, message, _fields(event))

    def note(self, sentence: str) -> None:
        """Something that is worth to be known, and no event."""
        self._tell(sentence, Priority.NOTICE, None, {})

    def report(self, found: Report) -> None:
        """What a run came to, but for its first line: how it ended has been told when it did."""
        _, *more = text.report(found).splitlines()
        if more:
            self._tell("\n".join([f"{found.service}: report of the {found.verb}:", *more]), Priority.INFO, None, {})

    def failed(self, error: BaseException, message: Message | None = None) -> bool:
        """Why a command fails, where no event has said so, and what to do; whether the journal has it all now.

        ``message``: what it is known as, for a failure that is no refusal.
        """
        said, hints = words.failure(error)
        whole = "\n".join([said or "interrupted", *hints])
        if refused := words.refusal(error):
            about = {"NLMFO_REFUSED": refused.code, "NLMFO_ERROR": str(error)}
            return self._tell(whole, Priority.ERROR, Message.REFUSED, about)
        if not self._told:
            return self._tell(whole, Priority.ERROR, message, {"NLMFO_ERROR": str(error)})
        return not hints or self._tell("\n".join(hints), Priority.ERROR, None, {})

    def _begin(self, event: Begun) -> None:
        self._begun, self._told = time.monotonic(), False
        self._about = {"NLMFO_VERB": str(event.verb), "NLMFO_NODE": event.node} | _of_service(event.service)
        self._about |= {"NLMFO_RUN": event.run} if event.run else {}
        message = Message.TAKEOVER_BEGUN if event.verb is Verb.TAKEOVER else Message.RELEASE_BEGUN
        self._tell(f"{event.service}: {event.verb} begun on {event.node}", Priority.NOTICE, message, {})

    def _end(self, event: Ended) -> None:
        self._told = bool(event.error)
        seconds = time.monotonic() - self._begun
        message, priority = _ENDS[event.outcome]
        said = f"{self._about['NLMFO_VERB']}: {event.outcome} after {seconds:.2f} s"
        fields = {"NLMFO_OUTCOME": str(event.outcome)} | _took(seconds)
        if event.error:
            said, fields = f"{said}: {event.error}", fields | {"NLMFO_ERROR": event.error}
        self._tell(said, priority, message, fields)

    def _tell(self, said: str, priority: Priority, message: Message | None, more: Mapping[str, str]) -> bool:
        service = self._about.get("NLMFO_SERVICE", "")
        line = said.strip()
        prefixed = line if not service or line.startswith(f"{service}: ") else f"{service}: {line}"
        fields = {"MESSAGE": prefixed, "PRIORITY": str(int(priority)), **self._about, **more}
        fields |= {} if message is None else {"MESSAGE_ID": message.value}
        return self._send({name: "\n".join(map(plain, value.split("\n"))) for name, value in fields.items()})


@contextmanager
def failures(
    journal: Journalled, arguments: argparse.Namespace, known: Mapping[type[BaseException], Message] = _UNKNOWN
) -> Iterator[None]:
    """Have the journal know why a command fails; ``arguments.told`` where standard error would say it there again.

    ``known``: the ids of failures that have one of their own.
    """
    try:
        yield
    except BaseException as error:
        if journal.failed(error, known.get(type(error))) and journald.takes(sys.stderr):
            arguments.told = True
        raise


def _of_service(service: str) -> dict[str, str]:
    """journalctl -u takes an entry of root's with OBJECT_SYSTEMD_UNIT as one about that unit."""
    return {"NLMFO_SERVICE": service, "OBJECT_SYSTEMD_UNIT": f"nlmfo@{service}.service"} if service else {}


def _fields(event: Event) -> dict[str, str]:
    found: dict[str, str] = {}
    match event:
        case StepDone(step, seconds):
            found = _of_step(step) | _took(seconds)
        case StepNotDone(step, seconds, error):
            found = _of_step(step) | {"NLMFO_ERROR": error} | _took(seconds)
        case ClientNotTold(client) | ClientQuiet(client):
            found = {"NLMFO_CLIENT": client}
        case StoodDown(_, node):
            found = {"NLMFO_SUCCESSOR": node}
        case StartedAgain(_, part):
            found = {"NLMFO_PART": part}
        case Troubled(_, reason) | JournalNotWritten(reason):
            found = {"NLMFO_ERROR": reason}
    return found


def _of_step(step: Step) -> dict[str, str]:
    return {"NLMFO_STEP": str(step.action), "NLMFO_SUBJECT": step.subject}


def _took(seconds: float) -> dict[str, str]:
    return {"NLMFO_DURATION_USEC": str(round(seconds * 1e6))}
