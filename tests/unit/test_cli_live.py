# SPDX-License-Identifier: GPL-2.0-or-later
"""What a run shows while it goes on: on a terminal, in a pipe, as events and as a document; and what status adds."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fcntl import ioctl
from pathlib import Path
from typing import Any

import pytest

from nlmfo.cli import screen, states, telling, text
from nlmfo.cli.main import main
from nlmfo.cli.running import Running, standing
from nlmfo.config import Config, Service
from nlmfo.deadline import Deadline
from nlmfo.errors import ExitCode, Incomplete, NlmfoError, Refused
from nlmfo.failover import journal, progress, runs
from nlmfo.failover import status as status_of
from nlmfo.failover.events import (
    AwaitingRelease,
    Begun,
    ClientNotTold,
    ClientQuiet,
    Ended,
    Event,
    LocksMissing,
    Progressed,
    Sink,
    StepDone,
    StepNotDone,
    StepStarted,
)
from nlmfo.failover.journal import Journal
from nlmfo.failover.observe import Observed
from nlmfo.failover.place import Place
from nlmfo.failover.plan import Action, Step
from nlmfo.failover.progress import Locks, Progress, Waiting
from nlmfo.failover.status import ServiceStatus
from nlmfo.failover.verbs import Outcome, Verb
from nlmfo.ownership.record import OwnerRecord
from nlmfo.records import journal as on_disk
from nlmfo.records.ledger import Standing
from tests.unit import shapes
from tests.unit.test_config import with_registry, write

CHECKOUT = Path(__file__).parents[2]
SECONDS = 30.0
#: Where a service's records are by default.
STATE = "registry/services/home/state"
MOUNT = Step(Action.MOUNT, "/srv/unit-test/home")
NOTIFY = Step(Action.NOTIFY, "home")
BEGUN = Begun(Verb.TAKEOVER, "home", "node1", "boot-1")

FIRST = Progress(
    7, told=False, in_grace=True, clients={Standing.PENDING: 2, Standing.TOLD: 1}, locks=Locks(4, 0, exact=True)
)
TOLD = replace(
    FIRST,
    told=True,
    clients={Standing.ANSWERED: 1, Standing.BACK: 1, Standing.UNREACHABLE: 1},
    waiting=(Waiting("192.0.2.7", Standing.UNREACHABLE, "no answer"),),
)
BACK = replace(TOLD, locks=Locks(4, 4, exact=True))
OVER = replace(BACK, in_grace=False, ended="every lock is held again")


# The words


def test_the_step_that_runs_is_named_with_how_long_it_takes_so_far() -> None:
    running = Running()
    assert running.words(0.0, 0.0) == ""
    running.hear(StepStarted(MOUNT), 10.0)
    assert running.words(12.34, 0.0) == "   2.3 s  mount: /srv/unit-test/home"
    running.hear(StepDone(MOUNT, 2.5, ""), 12.5)
    assert running.words(12.5, 0.0) == ""


@pytest.mark.parametrize("last", [StepDone(MOUNT, 1.0, ""), StepNotDone(MOUNT, 1.0, "busy"), Ended(Outcome.INCOMPLETE)])
def test_nothing_runs_once_a_step_or_the_run_has_ended(last: Event) -> None:
    running = Running()
    running.hear(StepStarted(MOUNT), 10.0)
    running.hear(last, 11.0)
    assert running.words(12.0, 0.0) == ""


def test_of_several_steps_side_by_side_the_one_that_takes_longest_is_named() -> None:
    running, other = Running(), Step(Action.MOUNT, "/srv/other")
    running.hear(StepStarted(MOUNT), 10.0)
    running.hear(StepStarted(other), 11.0)
    assert running.words(12.0, 0.0) == "   2.0 s  mount: /srv/unit-test/home (and 1 more)"
    running.hear(StepDone(MOUNT, 2.0, ""), 12.0)
    assert running.words(12.0, 0.0) == "   1.0 s  mount: /srv/other"


def test_waiting_for_another_nodes_release_is_shown_until_the_next_step() -> None:
    running = Running()
    running.hear(AwaitingRelease("home", "node2"), 10.0)
    assert running.words(75.0, 0.0) == "  65.0 s  waiting for node2 to release it"
    running.hear(StepStarted(MOUNT), 76.0)
    assert "waiting" not in running.words(76.0, 0.0)


def test_from_the_notices_on_the_clients_the_locks_and_the_grace_are_shown() -> None:
    running = Running()
    running.hear(StepStarted(NOTIFY), 10.0)
    running.hear(Progressed("home", replace(TOLD, grace_until=1000.0)), 11.0)
    assert running.words(12.0, 990.5) == (
        "   2.0 s  notify clients: home | 3 of 3 clients told, 2 answered, 1 back, 1 unreachable"
        " | 0 of 4 locks held again | 10 s of grace left"
    )
    running.hear(Progressed("also", FIRST), 12.0)
    assert "| home: 3 of 3 clients" in running.words(12.0, 0.0)
    assert "| also: 1 of 3 clients" in running.words(12.0, 0.0)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (FIRST, "in grace"),
        (replace(FIRST, grace_until=999.0), "in grace"),
        (replace(FIRST, grace_until=1000.2), "1 s of grace left"),
        (OVER, "grace ended"),
        (replace(FIRST, locks=None), "1 of 3 clients told, 0 answered, 0 back | in grace"),
        (replace(FIRST, locks=Locks(0, 0, exact=True)), "0 back | in grace"),
        (replace(FIRST, locks=Locks(4, 1, exact=False)), "1 of 4 locks held again (estimate) | in grace"),
    ],
)
def test_the_standing_says_what_is_known(found: Progress, said: str) -> None:
    assert standing(found, 1000.0).endswith(said)


def test_what_clients_wait_for_is_a_line_once_for_each_service() -> None:
    running = Running()

    def reached(found: Progress, service: str = "home") -> list[str]:
        return running.hear(Progressed(service, found), 0.0)

    assert reached(FIRST) == []
    assert reached(TOLD) == ["home: 3 clients told, 2 answered; 1 did not answer"]
    assert reached(replace(TOLD, clients={Standing.BACK: 3})) == []
    assert reached(BACK) == ["home: 4 of 4 locks are held again"]
    assert reached(OVER) == ["home: grace ended early: every lock is held again"]
    assert reached(OVER) == []
    assert reached(replace(OVER, clients={}, ended="", locks=Locks(1, 1, exact=False)), "also") == [
        "also: nobody had to be told",
        "also: 1 of 1 locks are held again (estimate: those seen at the last look before the crash)",
        "also: grace is over",
    ]


@pytest.mark.parametrize(
    ("line", "columns", "shown"),
    [
        ("as it is", 8, "as it is"),
        ("it is longer", 8, "it is..."),
        ("\u6f22" * 4, 8, "\u6f22" * 4),
        ("\u6f22" * 5, 8, "\u6f22" * 2 + "..."),
        ("e\u0301" * 8, 8, "e\u0301" * 8),
        ("abc", 2, ".."),
        ("abc", 0, ""),
    ],
)
def test_a_line_is_cut_to_the_columns_there_are(line: str, columns: int, shown: str) -> None:
    assert screen.cut(line, columns) == shown


def test_what_clients_are_called_reaches_no_terminal_as_it_is() -> None:
    for event in (
        ClientNotTold("\x1b[2J", "no\x1b[31m answer"),
        ClientQuiet("\x1b[2J"),
        LocksMissing(1, 1, exact=True, named=("\x1b]0;x\x07",)),
    ):
        assert "\x1b" not in (text.line(event) or "\x1b")


# A terminal

#: The command line, with a run that the test writes: ``act`` gets the sink.
PROGRAM = """
import fcntl, os, signal, sys, termios, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it, as nohup does
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # whose Ctrl-C it hears
from nlmfo.cli import main as cli
from nlmfo.cli.commands import common
from nlmfo.failover import runs
from nlmfo.failover.events import *
from nlmfo.errors import *
from nlmfo.host import journald
from tests.unit.test_cli_live import *
journald.SOCKET = Path("/nonexistent/journal")  # no test writes into the journal of the machine that it runs on
common.need_root = lambda: None

def step(sink, which=MOUNT):
    sink(StepStarted(which))

def done(sink, which=MOUNT):
    sink(StepDone(which, 1.0, ""))

def wait():
    sys.stdin.readline()

def takeover(config, service, word, sink, *, wait=0.0):
    sink(BEGUN)
    act(sink)
    sink(Ended(Outcome.SERVED))
    return True

{act}

runs.takeover = takeover
status = cli.main(sys.argv[1:])
assert threading.enumerate() == [threading.main_thread()], threading.enumerate()
sys.exit(status)
"""


class Terminal:
    """A program on a terminal of its own. ``seen``: every byte that it wrote."""

    def __init__(self, master: int, process: subprocess.Popen[bytes]) -> None:
        self.master = master
        self.process = process
        self.seen = b""

    def until(self, there: Callable[[bytes], bool]) -> bytes:
        """Read until what was seen is as wanted."""
        limit = Deadline(SECONDS)
        while not there(self.seen):
            assert select.select([self.master], [], [], limit.remaining())[0], f"only {self.seen!r}"
            self.seen += self._read()
        return self.seen

    def end(self) -> int:
        """Read to the end; the exit status."""
        limit = Deadline(SECONDS)
        while select.select([self.master], [], [], limit.remaining())[0]:
            part = self._read()
            if not part:
                break
            self.seen += part
        return self.process.wait(SECONDS)

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def _read(self) -> bytes:
        try:
            return os.read(self.master, 4096)
        except OSError:  # EIO: nobody has it open any more
            return b""

    def screen(self) -> list[str]:
        """What it shows, line by line, as a terminal that knows CR, LF and EL makes of it."""
        lines, column = [""], 0
        content = self.seen.decode()
        while content:
            if content.startswith("\x1b[K"):
                lines[-1], content = lines[-1][:column], content[3:]
                continue
            character, content = content[0], content[1:]
            if character == "\r":
                column = 0
            elif character == "\n":
                lines.append("")
                column = 0
            else:
                assert character.isprintable(), repr(character)
                lines[-1] = lines[-1][:column] + character + lines[-1][column + 1 :]
                column += 1
        return lines


@contextmanager
def on_terminal(
    directory: Path, act: str, *, columns: int = 120, environment: dict[str, str] | None = None
) -> Iterator[Terminal]:
    configure(directory)
    master, slave = pty.openpty()
    ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    settings = termios.tcgetattr(slave)
    settings[3] &= ~termios.ECHO
    termios.tcsetattr(slave, termios.TCSANOW, settings)
    settings = termios.tcgetattr(slave)
    words = [sys.executable, "-c", PROGRAM.format(act=act), "--config", str(directory), "takeover", "home"]
    process = subprocess.Popen(
        words,
        cwd=CHECKOUT,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=os.environ | {"TERM": "xterm", "NO_COLOR": "1"} | (environment or {}),
        start_new_session=True,
    )
    os.close(slave)
    try:
        yield Terminal(master, process)
        assert termios.tcgetattr(master) == settings, "the terminal is not as it was"
    finally:
        process.kill()
        process.wait()
        os.close(master)


def configure(directory: Path) -> None:
    (directory / STATE).mkdir(parents=True)
    home = (
        'addresses = ["10.10.0.100/24"]\ninterface = "eth0"\n'
        '[[partition]]\nuuid = "11111111-2222-3333-4444-555555555555"\nmountpoint = "/srv/unit-test/home"\n'
        '[[export]]\npath = "/srv/unit-test/home"\nfsid = 1234\nclients = { "*" = "rw" }\n'
    )
    write(directory, with_registry(directory / "registry"), home=home)


def drawn(content: bytes) -> list[bytes]:
    """Everything that was drawn at the beginning of a line and not finished by a line feed."""
    return [part for part in content.split(b"\r") if b" s  mount" in part and b"\n" not in part]


def test_on_a_terminal_the_running_step_is_drawn_in_place_again_and_again_and_cleared_at_the_end(
    tmp_path: Path,
) -> None:
    act = "def act(sink):\n  step(sink)\n  wait()\n  done(sink)"
    with on_terminal(tmp_path, act) as terminal:
        # Of itself, without any event: its seconds run.
        seen = terminal.until(lambda seen: len(set(drawn(seen))) >= 3)
        assert b"\n" not in seen
        assert terminal.screen()[-1].endswith(" s  mount: /srv/unit-test/home")
        terminal.type(b"\n")
        assert terminal.end() == 0
        shown = terminal.screen()
    assert shown[0] == "  1.00 s  mount: /srv/unit-test/home"
    assert shown[1].startswith("home: takeover: served after ")
    assert shown[-2:] == ["home: served here now", ""]
    assert len(shown) == 4


def test_on_a_terminal_the_clients_are_shown_as_they_come_back(tmp_path: Path) -> None:
    act = (
        "def act(sink):\n  step(sink, NOTIFY)\n  sink(Progressed('home', TOLD))\n  wait()\n"
        "  sink(Progressed('home', OVER))\n  done(sink, NOTIFY)"
    )
    with on_terminal(tmp_path, act, columns=200) as terminal:
        wanted = b"3 of 3 clients told, 2 answered, 1 back, 1 unreachable | 0 of 4 locks held again | in grace"
        terminal.until(lambda seen: wanted in seen)
        terminal.type(b"\n")
        assert terminal.end() == 0
        shown = terminal.screen()
    assert shown[:4] == [
        "home: 3 clients told, 2 answered; 1 did not answer",
        "home: 4 of 4 locks are held again",
        "home: grace ended early: every lock is held again",
        "  1.00 s  notify clients: home",
    ]


def test_a_line_that_is_wider_than_the_terminal_stays_one_line(tmp_path: Path) -> None:
    act = "def act(sink):\n  step(sink)\n  wait()\n  done(sink)"
    with on_terminal(tmp_path, act, columns=20) as terminal:
        terminal.until(lambda seen: b"mount:...\x1b[K" in seen)
        assert all(len(line) < 20 for line in terminal.screen())
        terminal.type(b"\n")
        assert terminal.end() == 0


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (lambda terminal: terminal.type(b"\x03"), "nlmfo: interrupted"),
        (lambda terminal: terminal.process.send_signal(signal.SIGTERM), "nlmfo: interrupted"),
        (lambda terminal: terminal.type(b"\n"), "nlmfo: it went wrong"),
    ],
    ids=["ctrl-c", "sigterm", "failure"],
)
def test_the_terminal_is_whole_again_whatever_ends_the_run(
    tmp_path: Path, how: Callable[[Terminal], None], said: str
) -> None:
    act = "def act(sink):\n  step(sink)\n  wait()\n  raise NlmfoError('it went wrong')"
    with on_terminal(tmp_path, act) as terminal:
        terminal.until(lambda seen: len(drawn(seen)) >= 2)
        how(terminal)
        assert terminal.end() == ExitCode.FAILED
        shown = terminal.screen()
    # The status line is gone, and what follows stands on lines of its own. Ctrl-C may have left a mark before it.
    assert shown[-2:] == [said, ""]
    assert not any(" s  mount" in line for line in shown)


def test_a_signal_that_is_blocked_does_not_come_in_by_the_thread_that_draws(tmp_path: Path) -> None:
    """What is not to be stopped half-way (nlmfo.failover.engine.uninterrupted) would be."""
    act = (
        "def act(sink):\n  from nlmfo.failover.engine import uninterrupted\n  step(sink)\n"
        "  with uninterrupted():\n    wait()\n    done(sink)"
    )
    with on_terminal(tmp_path, act) as terminal:
        terminal.until(lambda seen: len(drawn(seen)) >= 2)
        terminal.process.send_signal(signal.SIGTERM)
        count = len(drawn(terminal.seen))
        terminal.until(lambda seen: len(drawn(seen)) >= count + 2)
        terminal.type(b"\n")
        assert terminal.end() == ExitCode.FAILED
        assert "  1.00 s  mount: /srv/unit-test/home" in terminal.screen()


def test_a_terminal_that_is_stopped_holds_up_no_status_line(tmp_path: Path) -> None:
    """Ctrl-S: the run goes on to its next line, and to its end once the terminal goes on."""
    act = (
        "def act(sink):\n  step(sink)\n  wait()\n  time.sleep(3 * 0.2)\n  step(sink, NOTIFY)\n"
        "  open(sys.argv[2] + '/far', 'w').close()\n  wait()\n  done(sink)"
    )
    with on_terminal(tmp_path, act) as terminal:
        terminal.until(lambda seen: len(drawn(seen)) >= 1)
        terminal.type(b"\x13\n")
        limit = Deadline(SECONDS)
        while not (tmp_path / "far").exists():
            assert not limit.passed()
            time.sleep(0.05)
        terminal.type(b"\x11\n")
        assert terminal.end() == 0


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [({"NO_COLOR": ""}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb", "NO_COLOR": ""}, False)],
)
def test_colours_are_for_terminals_and_for_those_who_want_them(
    tmp_path: Path, environment: dict[str, str], coloured: bool
) -> None:
    act = "def act(sink):\n  sink(StepNotDone(MOUNT, 1.0, 'busy'))\n  sink(ClientNotTold('192.0.2.7', 'no answer'))"
    with on_terminal(tmp_path, act, environment=environment) as terminal:
        assert terminal.end() == 0
    assert (b"\x1b[31m" in terminal.seen, b"\x1b[33m" in terminal.seen) == (coloured, coloured)


def test_a_dumb_terminal_gets_plain_lines(tmp_path: Path) -> None:
    act = "def act(sink):\n  step(sink)\n  time.sleep(0.5)\n  done(sink)"
    with on_terminal(tmp_path, act, environment={"TERM": "dumb"}) as terminal:
        assert terminal.end() == 0
    assert b"\x1b" not in terminal.seen
    assert terminal.seen.startswith(b"  1.00 s  mount: /srv/unit-test/home\r\n")


# A pipe, events, a document


@pytest.fixture
def nlmfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    configure(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield lambda *words: main(["--config", str(tmp_path), *words])
    for number, handler in before.items():
        signal.signal(number, handler)


EVENTS: Sequence[Event] = (
    BEGUN,
    StepStarted(Step(Action.CLAIM, "home")),
    StepDone(Step(Action.CLAIM, "home"), 0.0, "epoch 2"),
    StepDone(Step(Action.ADDRESS_UP, "10.10.0.100/24"), 0.0, ""),
    StepStarted(NOTIFY),
    *(Progressed("home", each) for each in (FIRST, TOLD, TOLD, BACK, OVER)),
    StepDone(NOTIFY, 1.0, "2 clients told"),
)


def takeover_with(
    monkeypatch: pytest.MonkeyPatch, events: Sequence[Event] = EVENTS, ends: BaseException | None = None
) -> None:
    def act(_config: object, _service: Service, _word: object, sink: Sink, **_: object) -> bool:
        for event in events:
            sink(event)
        if ends is not None:
            raise ends
        return bool(events)

    monkeypatch.setattr(runs, "takeover", act)


SERVED = (*EVENTS, Ended(Outcome.SERVED))


def test_in_a_pipe_there_is_a_line_for_what_is_done_and_none_for_what_goes_on(
    nlmfo: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    takeover_with(monkeypatch, SERVED)
    assert nlmfo("takeover", "home") == 0
    said = capsys.readouterr().out
    assert "\r" not in said
    assert "\x1b" not in said
    lines = said.splitlines()
    assert lines[:6] == [
        "  0.00 s  claim: home  (epoch 2)",
        "  0.00 s  address up: 10.10.0.100/24",
        "home: 3 clients told, 2 answered; 1 did not answer",
        "home: 4 of 4 locks are held again",
        "home: grace ended early: every lock is held again",
        "  1.00 s  notify clients: home  (2 clients told)",
    ]
    assert lines[6].startswith("home: takeover: served after ")
    assert "  did not answer: 192.0.2.7" in lines
    assert lines[-1] == "home: served here now"


def test_a_run_that_failed_is_reported_as_well(
    nlmfo: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    events = (BEGUN, StepNotDone(MOUNT, 1.0, "busy"), Ended(Outcome.TAKEN_DOWN, "mount: busy"))
    takeover_with(monkeypatch, events, NlmfoError("mount: busy"))
    assert nlmfo("takeover", "home") == ExitCode.FAILED
    said = capsys.readouterr()
    assert "home: takeover: taken down after " in said.out
    assert said.err == "nlmfo: mount: busy\n"


def test_events_are_lines_of_json_and_nothing_else(
    nlmfo: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    takeover_with(monkeypatch, SERVED)
    assert nlmfo("takeover", "home", "--events") == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(found) == len(SERVED)
    assert [each.get("version") for each in found] == [1] * len(SERVED)
    for each, event in zip(found, SERVED, strict=True):
        each.pop("version", None)
        wanted = json.loads(json.dumps(journal.as_object(event)))
        assert abs(each["at"] - wanted["at"]) < SECONDS
        assert each | {"at": 0} == wanted | {"at": 0}


def test_of_a_run_that_fails_the_events_are_those_that_there_were(
    nlmfo: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    takeover_with(monkeypatch, (), Refused("still-served", "node2 serves it", hint="release it there"))
    assert nlmfo("takeover", "home", "--events") == ExitCode.REFUSED
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("nlmfo: refused (still-served)")


def document(nlmfo: Callable[..., int], capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> Any:
    assert nlmfo(*words, "--json") == status
    return json.loads(capsys.readouterr().out)


def test_a_document_has_the_outcome_and_the_report(
    nlmfo: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    takeover_with(monkeypatch, SERVED)
    found = document(nlmfo, capsys, "takeover", "home")
    report = found.pop("report")
    assert found == {"version": 1, "service": "home", "verb": "takeover", "outcome": "served", "error": None}
    assert report["services"][0]["clients"]["unreachable_names"] == ["192.0.2.7"]
    assert report["services"][0]["grace"]["ended"] == "every lock is held again"
    assert report["pause"]["exact"] is False


@pytest.mark.parametrize(
    ("events", "error", "status", "outcome"),
    [
        ((BEGUN, Ended(Outcome.TAKEN_DOWN, "busy")), NlmfoError("busy"), ExitCode.FAILED, "taken down"),
        ((BEGUN, Ended(Outcome.INCOMPLETE, "busy")), Incomplete("busy"), ExitCode.INCOMPLETE, "incomplete"),
        ((), Refused("still-served", "busy"), ExitCode.REFUSED, "untouched"),
    ],
)
def test_there_is_a_document_also_when_the_run_fails_and_the_error_is_said_as_ever(
    nlmfo: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    events: Sequence[Event],
    error: NlmfoError,
    status: int,
    outcome: str,
) -> None:
    takeover_with(monkeypatch, events, error)
    assert nlmfo("takeover", "home", "--json") == status
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert (found["outcome"], found["error"], found["verb"]) == (outcome, "busy", "takeover")
    assert (found["report"] is None) is (not events)
    assert "busy" in said.err


def test_interrupted_there_is_a_document_too(
    nlmfo: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    takeover_with(monkeypatch, (BEGUN,), KeyboardInterrupt())
    found = document(nlmfo, capsys, "takeover", "home", status=ExitCode.FAILED)
    assert (found["outcome"], found["error"]) == (None, "interrupted")


def test_where_nothing_was_to_be_done_a_document_says_so_and_events_are_none(
    nlmfo: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    takeover_with(monkeypatch, ())
    assert document(nlmfo, capsys, "takeover", "home") == {
        "version": 1, "service": "home", "verb": "takeover", "outcome": "untouched", "error": None, "report": None,
    }  # fmt: skip
    assert nlmfo("takeover", "home", "--events") == 0
    assert capsys.readouterr().out == ""


def test_what_is_resumed_of_all_services_is_a_list_in_one_document(
    nlmfo: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def resume(_config: object, service: Service, _word: object, sink: Sink) -> bool:
        sink(Begun(Verb.RELEASE, service.name, "node1", "boot-1"))
        sink(Ended(Outcome.RELEASED))
        return True

    monkeypatch.setattr(runs, "resume", resume)
    found = document(nlmfo, capsys, "resume")
    assert (found["version"], found["verb"], found["error"]) == (1, "resume", None)
    (run,) = found["runs"]
    assert (run["service"], run["verb"], run["outcome"]) == ("home", "resume", "released")
    assert run["report"]["verb"] == "release"
    assert document(nlmfo, capsys, "resume", "home")["outcome"] == "released"


@pytest.mark.parametrize("command", ["takeover", "release", "resume", "abort"])
def test_one_of_both_forms_for_programs_is_enough(nlmfo: Callable[..., int], command: str) -> None:
    with pytest.raises(SystemExit) as caught:
        nlmfo(command, "home", "--json", "--events")
    assert caught.value.code == ExitCode.USAGE


@pytest.mark.parametrize(("command", "said"), [("release", "released"), ("abort", "untouched")])
def test_release_and_abort_have_their_documents(
    nlmfo: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    said: str,
) -> None:
    def release(_config: object, _service: Service, sink: Sink) -> None:
        sink(Begun(Verb.RELEASE, "home", "node1", "boot-1"))
        sink(Ended(Outcome.RELEASED))

    monkeypatch.setattr(runs, "release", release)
    monkeypatch.setattr(runs, "abort", lambda *_: Outcome.RELEASED)
    found = document(nlmfo, capsys, command, "home")
    assert (found["verb"], found["outcome"]) == (command, said)


# The journals beside the records


def released_earlier(directory: Path) -> None:
    """A release by node2, as its journal beside the records has it."""
    log = Journal(shapes.service(), lambda _: None, attached=False, runs=directory / STATE / "runs")
    log(Begun(Verb.RELEASE, "home", "node2", "boot-2"))
    log(StepDone(Step(Action.ADDRESS_DOWN, "10.10.0.100/24"), 0.0, ""))
    log.close()


def test_the_pause_is_reckoned_from_the_release_that_another_node_wrote_beside_the_records(
    nlmfo: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    released_earlier(tmp_path)
    takeover_with(monkeypatch, SERVED)
    pause = document(nlmfo, capsys, "takeover", "home")["report"]["pause"]
    assert (pause["exact"], pause["node"]) == (True, "node2")
    assert 0 <= pause["seconds"] < SECONDS


@pytest.mark.parametrize("trouble", [OSError(5, "Input/output error"), NlmfoError("the storage is stale"), None])
def test_journals_that_do_not_answer_fail_no_run(
    nlmfo: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    trouble: Exception | None,
) -> None:
    def names(*_: object) -> tuple[str, ...]:
        if trouble is not None:
            raise trouble
        os.read(os.pipe()[0], 1)
        return ()

    released_earlier(tmp_path)
    takeover_with(monkeypatch, SERVED)
    monkeypatch.setattr(telling, "READ", 0.2)
    monkeypatch.setattr(on_disk, "names", names)
    assert document(nlmfo, capsys, "takeover", "home")["report"]["pause"]["exact"] is False


# Status


def status(found: Progress | None, *, in_grace: bool = True) -> str:
    state = ServiceStatus("home", shapes.record(), "serving", in_grace=in_grace, problem=None)
    return states.status([state._replace(progress=found)])


def test_in_grace_status_says_how_far_the_clients_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "localtime", time.gmtime)
    found = replace(TOLD, grace_until=1_000_000_050.0, locks=Locks(4, 1, exact=False), clients={Standing.BACK: 3})
    assert status(found).endswith(
        ", here, in grace until 01:47:30 at the latest: 3 of 3 clients told, 3 back, 1 of 4 locks held again (estimate)"
    )
    assert status(replace(found, locks=None, grace_until=0.0)).endswith(", in grace: 3 of 3 clients told, 3 back")
    assert status(None).endswith(", here, in grace")
    assert status(found, in_grace=False).endswith(", here")


@pytest.mark.parametrize(("count", "said"), [(1, "1 client unreachable"), (3, "3 clients unreachable")])
def test_clients_that_do_not_answer_are_a_warning_with_what_to_do(count: int, said: str) -> None:
    found = status(replace(OVER, clients={Standing.UNREACHABLE: count}), in_grace=False)
    assert found.endswith(f"; WARNING: {said}, told again when seen: see 'nlmfo clients home'")


@pytest.mark.parametrize(
    ("here", "generation", "shown"), [("serving", 7, True), ("serving", 5, False), ("partly", 7, False)]
)
def test_status_believes_the_keeper_of_the_generation_that_is_served_here(
    nlmfo: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    here: str,
    generation: int,
    shown: bool,
) -> None:
    place = shapes.place(tmp_path)
    progress.write(place.progress, replace(TOLD, state=generation))

    def look(_config: Config, service: Service, _owner: OwnerRecord | None) -> Observed:
        seen = replace(shapes.all_up(service), owner=shapes.record()._replace(state=7))
        return seen if here == "serving" else replace(seen, threads=0)

    monkeypatch.setattr(status_of, "_is_nowhere_here", lambda *_: False)
    monkeypatch.setattr(status_of, "_look", look)
    monkeypatch.setattr(Place, "on_node", lambda _: place)
    assert nlmfo("status", "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)["services"]
    assert found["here"] == here
    assert (found["progress"] is not None) is shown
    if shown:
        assert found["progress"]["clients"] == {"answered": 1, "back": 1, "unreachable": 1}
    assert nlmfo("status") == 0
    assert ("1 client unreachable" in capsys.readouterr().out) is shown


def test_no_thread_is_left() -> None:
    """Of those that drew a line."""
    assert not [thread for thread in threading.enumerate() if thread.name == "status line"]
