# SPDX-License-Identifier: GPL-2.0-or-later
"""Every key of every document is on the page about them, and the page names none that does not occur."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from nlmfo.cli.main import main
from nlmfo.errors import NlmfoError, Refused
from nlmfo.failover import events, health, past, readiness, runs
from nlmfo.failover import reload as reloading
from nlmfo.failover.clients import ClientNotice, ClientOnRecord, ClientState, Forgotten
from nlmfo.failover.events import Begun, Ended, Event, Progressed, Sink, StepDone
from nlmfo.failover.health import Trouble
from nlmfo.failover.held import LockOnFile
from nlmfo.failover.journal import name_of
from nlmfo.failover.plan import Action, Step
from nlmfo.failover.progress import Locks, Progress, Waiting
from nlmfo.failover.readiness import Finding, Severity
from nlmfo.failover.reload import Reloaded
from nlmfo.failover.runs import Outlook
from nlmfo.failover.status import ServiceStatus
from nlmfo.failover.tell import ClientTold, Told
from nlmfo.failover.verbs import Outcome, Verb
from nlmfo.host import survey
from nlmfo.kernel.capabilities import Capability, Use
from nlmfo.kernel.version import Answer
from nlmfo.ownership.proof import Proof
from nlmfo.records.ledger import Standing
from tests.unit import shapes
from tests.unit.test_config import HOME, with_registry, write
from tests.unit.test_history import run

PAGE = Path(__file__).parents[2] / "docs/json.md"
Rows = dict[str, str]
Documents = list[tuple[str, dict[str, Any]]]

STEP = Step(Action.MOUNT, "/srv/home")
PROGRESS = Progress(
    3,
    told=True,
    in_grace=False,
    grace_until=1100.0,
    ended="every lock is held again",
    problem="no such interface",
    clients={Standing.BACK: 2, Standing.UNREACHABLE: 1},
    waiting=(Waiting("192.0.2.7", Standing.UNREACHABLE, "no answer"),),
    locks=Locks(4, 3, exact=True, missing=("/srv/home/file 0-end exclusive",)),
)
BEGUN = Begun(Verb.TAKEOVER, "home", "node1", "boot", run="20261121T091500.123456Z-home")
#: One of each kind that a run tells of.
EVENTS: tuple[Event, ...] = (
    BEGUN,
    events.Planned((STEP,)),
    events.JournalNotWritten("no space"),
    events.Proved("home", "released", 2),
    events.AwaitingRelease("home", "node2"),
    events.CleaningUp("home"),
    events.StepStarted(STEP),
    StepDone(STEP, 0.1, "uuid"),
    StepDone(Step(Action.ADDRESS_UP, "10.10.0.100/24"), 0.1, ""),
    StepDone(Step(Action.CLAIM, "home"), 0.1, ""),
    events.StepNotDone(STEP, 0.1, "busy"),
    events.RollingBack("home"),
    events.ClientNotTold("192.0.2.7", "no answer"),
    events.ClientQuiet("192.0.2.8"),
    Progressed("home", PROGRESS),
    events.LocksMissing(1, 4, True, ("/srv/home/file 0-end exclusive",)),
    events.ExportLeftOut("unknown.example:/srv/home"),
    Ended(Outcome.SERVED),
)
#: What a keeper tells of: no run has it in its journal.
OF_KEEPERS = {events.Troubled, events.StartedAgain, events.Mended, events.StoodDown}


def sections() -> dict[str, Rows]:
    """The tables of the page: under which heading, which key, and what is said of it."""
    found: dict[str, Rows] = {}
    heading = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if title := re.fullmatch(r"##+ (.*)", line):
            heading = title[1]
        elif row := re.fullmatch(r"\| `([^`]+)` \| (.*) \|", line):
            rows = found.setdefault(heading, {})
            assert row[1] not in rows, f"{heading}: {row[1]} is there twice"
            rows[row[1]] = row[2]
    return found


class Page:
    """The page, and which of its keys have been seen."""

    def __init__(self) -> None:
        self.rows = sections()
        self.seen: set[tuple[str, str]] = set()

    def check(self, section: str, value: object, path: str = "") -> None:
        """Every key below ``path`` is named in that section, or in the one that it sends the reader to."""
        if isinstance(value, list):
            for item in value:
                self.check(section, item, f"{path}[]" if path else path)
        elif isinstance(value, Mapping):
            for name, below in value.items():
                self._key(section, name, below, path)

    def _key(self, section: str, name: str, below: object, path: str) -> None:
        key = f"{path}.{name}".removeprefix(".")
        if f"{path}.*" in self.rows[section]:
            key = f"{path}.*"
        assert key in self.rows[section], f"docs/json.md, '{section}', does not name {key}"
        self.seen.add((section, key))
        elsewhere = re.search(
            r": \[\w+\]\(#(progress|report|events)\)|else \[report\]\(#(report)\)", self.rows[section][key]
        )
        if elsewhere is None:
            self.check(section, below, key)
        elif (target := elsewhere[1] or elsewhere[2]) == "events":
            for event in below:  # type: ignore[attr-defined]
                self.event(event)
        else:
            self.check(target, below)

    def event(self, found: dict[str, Any]) -> None:
        common = self.rows["events"].keys()
        self.check("events", {name: value for name, value in found.items() if name in common})
        self.check(found["event"], {name: value for name, value in found.items() if name not in common})

    def unseen(self) -> set[tuple[str, str]]:
        return {(section, key) for section, rows in self.rows.items() for key in rows} - self.seen


@pytest.fixture
def nlmfo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., str]]:
    """What a command prints; nothing is looked at but what the test puts in place."""
    (tmp_path / "registry").mkdir()
    write(tmp_path, with_registry(tmp_path / "registry"), home=HOME)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}

    def said(*words: str) -> str:
        main(["--config", str(tmp_path), *words])
        return capsys.readouterr().out

    yield said
    for number, handler in before.items():
        signal.signal(number, handler)


def looks(patch: pytest.MonkeyPatch, nlmfo: Callable[..., str]) -> Documents:
    """The documents of commands that look."""
    state = ServiceStatus("home", shapes.record(), "serving", in_grace=True, problem=None, progress=PROGRESS)
    patch.setattr("nlmfo.cli.commands.status.of_service", lambda *_: state)
    notice = ClientNotice(Standing.TOLD, 1.0, 1.0, ("nfs.example",), 1, "")
    client = ClientOnRecord("home", "192.0.2.7", ("10.10.0.100",), ("1",), 1.0, ClientState.OWED, True, notice)
    patch.setattr("nlmfo.cli.commands.records.on_record", lambda *_: (client,))
    forgotten = Forgotten("home", "192.0.2.7", ("10.10.0.100",))
    patch.setattr("nlmfo.cli.commands.records.forget", lambda *_: forgotten)
    lock = LockOnFile("home", "/srv/home", 13, "/srv/home/file", 0, None, True, 1, ("192.0.2.7",))
    patch.setattr("nlmfo.cli.commands.records.held_on", lambda *_: (lock,))
    outlook = Outlook(
        Verb.TAKEOVER,
        (STEP,),
        (STEP,),
        Proof("released", 2),
        Refused("still-served", "node2 serves it", hint="release"),
    )
    patch.setattr(runs, "outlook", lambda *_: outlook)
    capability = Capability("threads", Answer.YES, "/proc/fs/nfsd/threads", "", (Use.START_GRACE,))
    patch.setattr(survey, "of_kernel", lambda: (capability,))
    finding = Finding(Severity.ERROR, "home", "in-fstab", "/etc/fstab mounts it", "remove the line")
    patch.setattr(readiness, "findings", lambda _: (finding,))
    patch.setattr(health, "troubles", lambda *_: (Trouble("mount", "/srv/home is not mounted"),))
    patch.setattr(reloading, "reload", lambda *_: Reloaded("home", ("*:/a",), ("*:/b",), ("*:/c",), ("threads",)))
    told = Told("home", True, (ClientTold("192.0.2.7", Standing.UNREACHABLE, True, "no answer"),))
    patch.setattr("nlmfo.cli.commands.notify.tell", lambda *_: told)
    found = run(*((1000.0 + at, event) for at, event in enumerate(EVENTS[1:])), begun=BEGUN)
    patch.setattr(past, "runs", lambda *_: (found,))
    asked = {
        "nlmfo status": ["status"],
        "nlmfo locks": ["locks"],
        "nlmfo plan": ["plan", "takeover", "home"],
        "nlmfo check": ["check"],
        "nlmfo monitor": ["monitor", "home"],
        "nlmfo reload": ["reload", "home"],
        "nlmfo notify": ["notify", "home"],
        "nlmfo history": ["history"],
        "nlmfo history RUN": ["history", "last"],
    }
    documents = [(section, json.loads(nlmfo(*words, "--json"))) for section, words in asked.items()]
    forget = ["clients", "home", "--forget", "192.0.2.7"]
    return [*documents, *(("nlmfo clients", json.loads(nlmfo(*words, "--json"))) for words in (["clients"], forget))]


def ran(patch: pytest.MonkeyPatch, nlmfo: Callable[..., str]) -> Documents:
    """The documents of commands that run."""

    def act(_config: object, _service: object, _word: object, sink: Sink, **_: object) -> bool:
        for event in EVENTS:
            sink(event)
        return True

    patch.setattr(runs, "takeover", act)
    patch.setattr(runs, "resume", act)
    asked = (["takeover", "home"], ["resume"])
    section = "nlmfo takeover, release, resume, abort"
    return [(section, json.loads(nlmfo(*words, "--json"))) for words in asked]


def test_every_key_is_on_the_page_and_the_page_names_no_other(
    nlmfo: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Page()
    for section, document in [*looks(monkeypatch, nlmfo), *ran(monkeypatch, nlmfo)]:
        assert document["version"] == 1, section
        page.check(section, document)
    lines = [json.loads(line) for line in nlmfo("takeover", "home", "--events").splitlines()]
    assert [line["event"] for line in lines] == [name_of(type(event)) for event in EVENTS]
    for line in lines:
        assert line["version"] == 1
        page.event(line)
    assert page.unseen() == set()


def test_every_event_of_a_run_is_among_those_that_are_looked_at() -> None:
    assert {type(event) for event in EVENTS} == {kind for kind, _ in past._kinds().values()} - OF_KEEPERS


def test_a_key_that_the_page_does_not_name_is_noticed() -> None:
    page = Page()
    with pytest.raises(AssertionError, match=r"does not name services\[\].new"):
        page.check("nlmfo status", {"version": 1, "services": [{"new": 1}]})
    assert ("nlmfo status", "node") in page.unseen()


def test_a_document_is_there_with_its_version_also_when_a_run_is_refused(
    nlmfo: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> bool:
        raise NlmfoError("no such interface")

    monkeypatch.setattr(runs, "takeover", refuse)
    found = json.loads(nlmfo("takeover", "home", "--json"))
    assert (found["version"], found["outcome"], found["error"]) == (1, "untouched", "no such interface")
