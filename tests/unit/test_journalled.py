# SPDX-License-Identifier: GPL-2.0-or-later
"""What the system journal is told of a run, by a keeper, and of a refusal; and that the catalog explains it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from nlmfo.cli import journalled
from nlmfo.cli.journalled import Journalled, Message
from nlmfo.cli.main import main
from nlmfo.config import Service
from nlmfo.errors import ExitCode, Incomplete, NlmfoError, Refused, StepFailed
from nlmfo.failover import reload as reloading
from nlmfo.failover import runs
from nlmfo.failover.events import (
    Begun,
    ClientNotTold,
    ClientQuiet,
    Ended,
    Event,
    ExportLeftOut,
    LocksMissing,
    Mended,
    Planned,
    Progressed,
    RollingBack,
    Sink,
    StartedAgain,
    StepDone,
    StepNotDone,
    StepStarted,
    StoodDown,
    Troubled,
)
from nlmfo.failover.plan import Action, Step
from nlmfo.failover.progress import Locks, Progress
from nlmfo.failover.reload import Reloaded
from nlmfo.failover.report import Reporter
from nlmfo.failover.verbs import Outcome, Verb
from nlmfo.host import journald
from tests.lab import root
from tests.unit.test_config import HOME, with_registry, write

CATALOG = Path(__file__).parents[2] / "systemd/nlmfo.catalog"
PAGE = Path(__file__).parents[2] / "docs/monitoring.md"
BEGUN = Begun(Verb.TAKEOVER, "home", "node1", "boot", run="20261121T091500.123456Z-home")
MOUNT = Step(Action.MOUNT, "/srv/home")
SERVED = (
    BEGUN,
    Planned((MOUNT,)),
    StepStarted(MOUNT),
    StepDone(MOUNT, 0.25, "uuid"),
    Ended(Outcome.SERVED),
)


class Journal:
    """What arrived."""

    def __init__(self) -> None:
        self.entries: list[Mapping[str, str]] = []

    def take(self, fields: Mapping[str, str]) -> bool:
        assert journald.encoded(fields)
        self.entries.append(fields)
        return True

    def messages(self) -> list[str]:
        return [entry["MESSAGE"] for entry in self.entries]

    def ids(self) -> list[str]:
        names = {message.value: message.name for message in Message}
        return [names[entry["MESSAGE_ID"]] for entry in self.entries if "MESSAGE_ID" in entry]


@pytest.fixture
def journal() -> Journal:
    return Journal()


def hear(journal: Journal, *events: Event, verb: str = "takeover") -> Journalled:
    found = Journalled(verb, "home", send=journal.take)
    for event in events:
        found(event)
    return found


def test_a_run_is_told_step_by_step_each_with_what_it_belongs_to(journal: Journal) -> None:
    hear(journal, *SERVED)
    assert journal.messages()[:2] == ["home: takeover begun on node1", "home: 0.25 s  mount: /srv/home  (uuid)"]
    assert re.fullmatch(r"home: takeover: served after \d\.\d\d s", journal.messages()[2])
    for entry in journal.entries:
        assert (entry["NLMFO_SERVICE"], entry["NLMFO_VERB"]) == ("home", "takeover")
        assert entry["NLMFO_RUN"] == "20261121T091500.123456Z-home"
        assert entry["OBJECT_SYSTEMD_UNIT"] == "nlmfo@home.service"
    begun, step, ended = journal.entries
    assert (step["NLMFO_STEP"], step["NLMFO_SUBJECT"], step["NLMFO_DURATION_USEC"]) == ("mount", "/srv/home", "250000")
    assert (begun["PRIORITY"], step["PRIORITY"], ended["PRIORITY"]) == ("5", "6", "5")
    assert ended["NLMFO_OUTCOME"] == "served"
    assert journal.ids() == ["TAKEOVER_BEGUN", "SERVED"]


@pytest.mark.parametrize(
    ("verb", "outcome", "message", "priority"),
    [
        (Verb.TAKEOVER, Outcome.TAKEN_DOWN, "TAKEN_DOWN", "3"),
        (Verb.TAKEOVER, Outcome.INCOMPLETE, "INCOMPLETE", "2"),
        (Verb.RELEASE, Outcome.RELEASED, "RELEASED", "5"),
        (Verb.RELEASE, Outcome.INCOMPLETE, "INCOMPLETE", "2"),
        (Verb.ABORT, Outcome.RELEASED, "RELEASED", "5"),
        (Verb.ABORT, Outcome.SERVED, "SERVED", "5"),
    ],
)
def test_every_end_has_its_id_and_how_bad_it_is(
    journal: Journal, verb: Verb, outcome: Outcome, message: str, priority: str
) -> None:
    hear(journal, Begun(verb, "home", "node1", "boot"), Ended(outcome, "mount: busy"))
    begun = "TAKEOVER_BEGUN" if verb is Verb.TAKEOVER else "RELEASE_BEGUN"
    assert journal.ids() == [begun, message]
    ended = journal.entries[-1]
    assert (ended["PRIORITY"], ended["NLMFO_OUTCOME"], ended["NLMFO_ERROR"]) == (priority, str(outcome), "mount: busy")
    assert ended["MESSAGE"].endswith(": mount: busy")


@pytest.mark.parametrize(
    ("event", "message", "priority"),
    [
        (ClientNotTold("192.0.2.7", "no answer"), "CLIENT_NOT_TOLD", "4"),
        (LocksMissing(1, 4, True, ("/srv/home/data/file 0-end exclusive",)), "LOCKS_MISSING", "3"),
        (Troubled("home", "the storage is stale"), "TROUBLED", "3"),
        (StartedAgain("home", "rpc.statd"), "STARTED_AGAIN", "4"),
        (Mended("home"), "MENDED", "5"),
        (StoodDown("home", "node2", 7), "STOOD_DOWN", "2"),
        (StepNotDone(MOUNT, 1.0, "busy"), None, "3"),
        (RollingBack("home"), None, "4"),
        (ExportLeftOut("unknown.example:/srv/home"), None, "4"),
        (ClientQuiet("192.0.2.7"), None, "6"),
    ],
)
def test_what_an_operator_has_to_know_of_is_told_with_its_weight(
    journal: Journal, event: Event, message: str | None, priority: str
) -> None:
    hear(journal, event)
    (entry,) = journal.entries
    assert (journal.ids(), entry["PRIORITY"]) == ([message] if message else [], priority)


def test_what_clients_wait_for_is_told_once(journal: Journal) -> None:
    found = Progress(3, told=True, in_grace=True, locks=Locks(4, 4, exact=True))
    hear(journal, BEGUN, Progressed("home", found), Progressed("home", found))
    assert journal.messages()[1:] == ["home: nobody had to be told", "home: 4 of 4 locks are held again"]


def test_what_a_client_calls_itself_forges_nothing(journal: Journal) -> None:
    hear(journal, ClientNotTold("evil\nPRIORITY=0\x1b[2J", "no\nanswer\x07"))
    (entry,) = journal.entries
    assert entry["MESSAGE"] == (
        "home: warning: client evil?PRIORITY=0?[2J was not told: no?answer?; it stays on record"
    )
    assert entry["PRIORITY"] == "4"
    assert "\x1b" not in entry["NLMFO_CLIENT"]


def test_a_refusal_has_its_code_and_the_hint(journal: Journal) -> None:
    cause = Refused("address-answers", "somebody has it", hint="find out who")
    for error in (cause, StepFailed("prove: home", cause)):
        error.__cause__ = cause if error is not cause else None
        hear(journal).failed(error)
    for entry in journal.entries:
        assert (entry["NLMFO_REFUSED"], entry["PRIORITY"]) == ("address-answers", "3")
        assert entry["MESSAGE"].startswith("home: refused (address-answers): ")
        assert entry["MESSAGE"].endswith("\nhint: find out who")
    assert journal.ids() == ["REFUSED", "REFUSED"]


def test_why_a_run_failed_is_told_once_and_what_to_do_as_well(journal: Journal) -> None:
    found = hear(journal, BEGUN, Ended(Outcome.INCOMPLETE, "mount: busy"))
    found.failed(Incomplete("mount: busy", hint="resume"))
    assert journal.messages()[2:] == ["home: hint: resume"]
    hear(journal).failed(NlmfoError("this needs root", hint="sudo"))
    assert journal.messages()[3:] == ["home: this needs root\nhint: sudo"]
    assert journal.ids() == ["TAKEOVER_BEGUN", "INCOMPLETE"]


def test_the_report_follows_without_the_line_that_was_told_already(journal: Journal) -> None:
    reporter = Reporter(BEGUN, 1.0)
    for event in SERVED[1:]:
        reporter.hear(event, 2.0)
    reporter.hear(Progressed("home", Progress(3, told=True, in_grace=False)), 2.0)
    hear(journal).report(reporter.report())
    (message,) = journal.messages()
    assert message.splitlines()[0] == "home: report of the takeover:"
    assert "served after" not in message


# Where a unit runs it, and where somebody types it


@pytest.fixture
def nlmfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, journal: Journal) -> Iterator[Callable[..., int]]:
    (tmp_path / "registry").mkdir()
    write(tmp_path, with_registry(tmp_path / "registry"), home=HOME)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    defaults = dict(Journalled.__init__.__kwdefaults__ or {}) | {"send": journal.take}
    monkeypatch.setattr(Journalled.__init__, "__kwdefaults__", defaults)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield lambda *words: main(["--config", str(tmp_path), *words])
    for number, handler in before.items():
        signal.signal(number, handler)


def release_with(monkeypatch: pytest.MonkeyPatch, events: Sequence[Event], ends: Exception | None = None) -> None:
    def act(_config: object, _service: Service, sink: Sink) -> None:
        for event in events:
            sink(event)
        if ends is not None:
            raise ends

    monkeypatch.setattr(runs, "release", act)


RELEASE = (
    Begun(Verb.RELEASE, "home", "node1", "boot"),
    StepDone(Step(Action.ADDRESS_DOWN, "10.10.0.100/24"), 0.25, ""),
    Ended(Outcome.RELEASED),
)


def unit(monkeypatch: pytest.MonkeyPatch, stream: tempfile._TemporaryFileWrapper[str]) -> None:
    """Standard output and standard error are the journal's, as systemd makes it."""
    found = os.fstat(stream.fileno())
    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(f"sys.{name}", stream)


def test_a_unit_says_everything_once_and_with_fields(
    nlmfo: Callable[..., int], monkeypatch: pytest.MonkeyPatch, journal: Journal
) -> None:
    release_with(monkeypatch, RELEASE)
    with tempfile.NamedTemporaryFile("w+") as stream:
        unit(monkeypatch, stream)
        assert nlmfo("release", "home") == ExitCode.OK
        assert Path(stream.name).read_text() == ""
    assert journal.messages()[:2] == ["home: release begun on node1", "home: 0.25 s  address down: 10.10.0.100/24"]
    assert journal.ids() == ["RELEASE_BEGUN", "RELEASED"]


def test_why_a_unit_fails_is_said_once_and_with_fields(
    nlmfo: Callable[..., int], monkeypatch: pytest.MonkeyPatch, journal: Journal
) -> None:
    release_with(monkeypatch, [], Refused("superseded", "b has taken it over", hint="restart"))
    with tempfile.NamedTemporaryFile("w+") as stream:
        unit(monkeypatch, stream)
        assert nlmfo("release", "home") == ExitCode.REFUSED
        assert Path(stream.name).read_text() == ""
    assert journal.messages() == ["home: refused (superseded): b has taken it over\nhint: restart"]


def test_where_the_journal_takes_nothing_a_unit_still_says_why_it_fails(
    nlmfo: Callable[..., int], monkeypatch: pytest.MonkeyPatch, journal: Journal
) -> None:
    monkeypatch.setattr(journal, "take", lambda _: False)
    monkeypatch.setattr(Journalled.__init__, "__kwdefaults__", {"send": journal.take})
    release_with(monkeypatch, [], NlmfoError("no such interface"))
    with tempfile.NamedTemporaryFile("w+") as stream:
        unit(monkeypatch, stream)
        assert nlmfo("release", "home") == ExitCode.FAILED
        stream.flush()
        assert Path(stream.name).read_text() == "nlmfo: no such interface\n"


@pytest.mark.parametrize("form", [(), ("--events",), ("--json",)])
def test_a_command_that_is_typed_says_it_where_it_is_typed_and_the_journal_has_it_too(
    nlmfo: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    journal: Journal,
    capsys: pytest.CaptureFixture[str],
    form: tuple[str, ...],
) -> None:
    release_with(monkeypatch, RELEASE)
    assert nlmfo("release", "home", *form) == ExitCode.OK
    assert "10.10.0.100" in capsys.readouterr().out
    assert journal.ids() == ["RELEASE_BEGUN", "RELEASED"]


def test_a_reload_is_told_in_a_unit_once_and_where_it_is_typed_in_both_places(
    nlmfo: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    journal: Journal,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(reloading, "reload", lambda *_: Reloaded("home", added=("*:/srv/home/new",)))
    assert nlmfo("reload", "home") == ExitCode.OK
    assert capsys.readouterr().out == "home: exported: *:/srv/home/new\n"
    with tempfile.NamedTemporaryFile("w+") as stream:
        unit(monkeypatch, stream)
        assert nlmfo("reload", "home") == ExitCode.OK
        assert Path(stream.name).read_text() == ""
    assert journal.messages() == ["home: exported: *:/srv/home/new"] * 2
    assert {entry["NLMFO_VERB"] for entry in journal.entries} == {"reload"}


def test_where_nothing_was_to_be_done_the_journal_has_that(
    nlmfo: Callable[..., int], monkeypatch: pytest.MonkeyPatch, journal: Journal
) -> None:
    monkeypatch.setattr(runs, "takeover", lambda *_, **__: False)
    assert nlmfo("takeover", "home") == ExitCode.OK
    assert journal.messages() == ["home: served here already"]


# The catalog


def explained() -> dict[str, str]:
    """Each id of the catalog with its text: its entries begin with "-- ID"."""
    _, *entries = re.split(r"^-- ", CATALOG.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {entry.partition("\n")[0]: entry.partition("\n")[2] for entry in entries}


def test_the_catalog_explains_every_id_once_and_no_other() -> None:
    text = CATALOG.read_text(encoding="utf-8")
    assert sorted(re.findall(r"^-- (.*)$", text, flags=re.MULTILINE)) == sorted(message.value for message in Message)


def test_the_page_about_watching_names_every_id_and_every_field() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert set(re.findall(r"`([0-9a-f]{32})`", page)) == {message.value for message in Message}
    sent = re.findall(r'"(NLMFO_[A-Z_]+)"', Path(journalled.__file__).read_text(encoding="utf-8"))
    assert set(sent) <= set(re.findall(r"NLMFO_[A-Z_]+", page))


def test_every_id_is_one_that_systemd_takes() -> None:
    assert all(re.fullmatch("[0-9a-f]{32}", message.value) for message in Message)
    assert len({message.value for message in Message}) == len(Message)


def test_every_explanation_has_a_subject_and_a_text_and_uses_fields_that_its_entries_have() -> None:
    known = set(re.findall(r'"((?:NLMFO|OBJECT)_[A-Z_]+)"', Path(journalled.__file__).read_text()))
    for entry in explained().values():
        head, _, body = entry.partition("\n\n")
        assert re.search(r"^Subject: \S", head, flags=re.MULTILINE)
        assert "Defined-By: nlmfo" in head
        assert len(body.strip()) > 40
        assert set(re.findall(r"@([A-Z_]+)@", entry)) <= known


def test_journalctl_takes_the_catalog_and_shows_it(tmp_path: Path) -> None:
    directory = tmp_path / "usr/lib/systemd/catalog"
    directory.mkdir(parents=True)
    shutil.copy(CATALOG, directory)
    program = shutil.which("journalctl") or root.tree() / "usr/bin/journalctl"
    subprocess.run([program, f"--root={tmp_path}", "--update-catalog"], check=True, timeout=60)
    listed = subprocess.run(
        [program, f"--root={tmp_path}", "--list-catalog"], check=True, timeout=60, capture_output=True, text=True
    )
    assert {line.split()[0] for line in listed.stdout.splitlines()} == {message.value for message in Message}
