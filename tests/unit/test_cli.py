# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: exit statuses, what is said where, and that nobody who stops listening can stop a run."""

from __future__ import annotations

import argparse
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nlmfo import __version__
from nlmfo.cli import arguments, completion, text
from nlmfo.cli.main import main, named
from nlmfo.config import Service
from nlmfo.errors import (
    CommandFailed,
    DeadlineExceeded,
    ExitCode,
    Incomplete,
    NlmfoError,
    NotOwned,
    Refused,
    StepFailed,
)
from nlmfo.failover import events, plan, runs, status
from nlmfo.failover.plan import Action, Step
from nlmfo.failover.runs import Outlook
from nlmfo.failover.verbs import Outcome, Verb
from nlmfo.host import node_server
from nlmfo.ownership.proof import Proof, Word
from nlmfo.ownership.registry import DirectoryRegistry
from tests.bench.status import PROGRAM
from tests.unit import shapes
from tests.unit.shapes import EARLIER_BOOT, THERE

CHECKOUT = Path(__file__).parents[2]
SECONDS = 60

HOME = """\
addresses = ["10.10.0.100/24"]
interface = "eth0"
[[partition]]
uuid = "11111111-2222-3333-4444-555555555555"
mountpoint = "/srv/unit-test/{name}"
[[export]]
path = "/srv/unit-test/{name}"
fsid = 1234
clients = {{ "*" = "rw" }}
"""


class CommandLine:
    """``nlmfo`` with a configuration of its own: node1, a registry, and the services home and mail."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        registry = directory / "registry"
        (registry / "services").mkdir(parents=True)
        (directory / "services.d").mkdir()
        self.registry = DirectoryRegistry(registry)
        self.write("nlmfo.toml", f'[node]\nname = "node1"\n[cluster]\nregistry = "{registry}"\n')
        home = HOME.format(name="home")
        self.write("services.d/home.toml", home)
        mail = HOME.format(name="mail").replace("1111-", "1112-").replace("0.100", "0.101").replace("1234", "1235")
        self.write("services.d/mail.toml", mail)

    def write(self, name: str, content: str) -> None:
        (self.directory / name).write_text(content, encoding="utf-8")

    def __call__(self, *words: str) -> int:
        return main(["--config", str(self.directory), *words])


@pytest.fixture
def nlmfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CommandLine]:
    monkeypatch.setattr(status, "RUNS", tmp_path / "no-runs")
    before = signal.getsignal(signal.SIGTERM)
    yield CommandLine(tmp_path)
    signal.signal(signal.SIGTERM, before)


def takeover_that(monkeypatch: pytest.MonkeyPatch, act: Callable[..., bool]) -> None:
    monkeypatch.setattr(runs, "takeover", act)
    monkeypatch.setattr(os, "geteuid", lambda: 0)


def fails_with(error: BaseException) -> Callable[..., bool]:
    def act(*_: object, **__: object) -> bool:
        raise error

    return act


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NlmfoError("trouble"), 1),
        (CommandFailed(["mount"], 32, "trouble"), 1),
        (OSError(errno.ESTALE, "trouble", "/cluster"), 1),
        (KeyboardInterrupt(), 1),
        (Refused("still-served", "trouble"), 3),
        (StepFailed("claim", Refused("claim-lost", "trouble")), 3),
        (Incomplete("trouble"), 4),
        (NotOwned("trouble"), 5),
        (DeadlineExceeded("trouble", 3), 124),
    ],
    ids=repr,
)
def test_each_kind_of_failure_has_its_documented_exit_status(
    nlmfo: CommandLine,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    status: int,
) -> None:
    takeover_that(monkeypatch, fails_with(error))
    assert nlmfo("takeover", "home") == status
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("nlmfo: ")
    assert "trouble" in said.err or "interrupted" in said.err


def test_a_hint_follows_on_a_line_of_its_own(
    nlmfo: CommandLine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    takeover_that(monkeypatch, fails_with(Refused("no-proof", "nothing proves it", hint="fence it")))
    nlmfo("takeover", "home")
    assert capsys.readouterr().err == "nlmfo: refused (no-proof): nothing proves it\nnlmfo: hint: fence it\n"


@pytest.mark.parametrize(("done", "said"), [(True, "served here now"), (False, "served here already")])
def test_a_takeover_that_worked_or_was_not_needed_is_a_success(
    nlmfo: CommandLine,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    done: bool,
    said: str,
) -> None:
    takeover_that(monkeypatch, lambda *_, **__: done)
    assert nlmfo("takeover", "home") == ExitCode.OK
    assert capsys.readouterr().out == f"home: {said}\n"


@pytest.mark.parametrize(
    ("words", "word"),
    [
        ((), Word()),
        (("--fenced", "node2"), Word(fenced="node2")),
        (("--released-by", "node2"), Word(released_by="node2")),
    ],
)
def test_what_the_operator_vouches_for_reaches_the_proof(
    nlmfo: CommandLine, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], word: Word
) -> None:
    heard: list[object] = []

    def act(_config: object, service: Service, given: Word, _sink: object, *, wait: float) -> bool:
        heard.extend((service.name, given, wait))
        return True

    takeover_that(monkeypatch, act)
    nlmfo("takeover", "home", *words)
    assert heard == ["home", word, 0]


def test_how_long_a_takeover_waits_for_the_other_nodes_release_reaches_it(
    nlmfo: CommandLine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    heard: list[float] = []

    def act(*_: object, wait: float) -> bool:
        heard.append(wait)
        return True

    takeover_that(monkeypatch, act)
    assert nlmfo("takeover", "home", "--wait", "2.5") == ExitCode.OK
    assert heard == [2.5]
    # Without a registry it would wait for what it can never see.
    nlmfo.write("nlmfo.toml", '[node]\nname = "node1"\n')
    (nlmfo.directory / "services.d/mail.toml").unlink()
    nlmfo.write("services.d/home.toml", 'state = "/srv/unit-test/state"\n' + HOME.format(name="home"))
    assert nlmfo("takeover", "home", "--wait", "2.5") == ExitCode.FAILED
    assert "without a registry nobody can tell" in capsys.readouterr().err
    assert heard == [2.5]


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("takeover",),
        ("takeover", "home", "--fenced"),
        ("takeover", "home", "--fenced", "node2", "--released-by", "node3"),
        ("takeover", "home", "--fenc", "node2"),
        ("release", "home", "--conf", "/etc"),
        ("status", "--js"),
        ("takeover", "home", "--force"),
        ("destroy", "home"),
    ],
)
def test_words_that_make_no_sense_end_with_status_2(nlmfo: CommandLine, words: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as caught:
        nlmfo(*words)
    assert caught.value.code == ExitCode.USAGE


def test_a_configuration_error_ends_with_status_2_and_names_file_and_key(
    nlmfo: CommandLine, capsys: pytest.CaptureFixture[str]
) -> None:
    nlmfo.write("services.d/home.toml", HOME.format(name="home").replace("uuid", "uid"))
    assert nlmfo("status") == ExitCode.USAGE
    said = capsys.readouterr()
    assert said.out == ""
    assert f"{nlmfo.directory}/services.d/home.toml: partition[1].uid" in said.err
    assert "uuid" in said.err


def test_a_configuration_that_is_not_there_ends_with_status_2(
    tmp_path: Path, nlmfo: CommandLine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nlmfo.directory
    assert main(["--config", str(tmp_path / "missing"), "status"]) == ExitCode.USAGE
    assert str(tmp_path / "missing/nlmfo.toml") in capsys.readouterr().err


@pytest.mark.parametrize("command", ["status", "takeover", "release"])
def test_a_service_that_nobody_knows_is_answered_with_those_that_are_known(
    nlmfo: CommandLine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert nlmfo(command, "hone") == ExitCode.USAGE
    said = capsys.readouterr().err
    assert "there is no service 'hone'; the services are: home, mail" in said
    assert "home" in said.splitlines()[-1]


def test_a_warning_about_the_configuration_goes_to_standard_error(
    nlmfo: CommandLine, capsys: pytest.CaptureFixture[str]
) -> None:
    nlmfo.write("services.d/home.toml", 'state = "/srv/elsewhere"\n' + HOME.format(name="home"))
    assert nlmfo("status", "--json") == ExitCode.OK
    said = capsys.readouterr()
    assert said.err.startswith("nlmfo: warning: ")
    assert json.loads(said.out)


@pytest.mark.parametrize(
    "words",
    ["takeover home", "release home", "resume", "abort home", "plan takeover home", "check", "clients"],
)
def test_what_changes_or_looks_at_kernels_needs_root_and_says_so_before_it_begins(
    nlmfo: CommandLine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    for name in ("takeover", "release", "resume", "abort", "outlook"):
        monkeypatch.setattr(runs, name, fails_with(AssertionError()))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert nlmfo(*words.split()) == ExitCode.FAILED
    assert "needs root" in capsys.readouterr().err


SERVICE = shapes.service()


def outlook_that(monkeypatch: pytest.MonkeyPatch, outlook: Outlook) -> list[Word]:
    words: list[Word] = []

    def look(*given: object) -> Outlook:
        assert isinstance(given[3], Word)
        words.append(given[3])
        return outlook

    monkeypatch.setattr(runs, "outlook", look)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return words


def test_a_plan_is_printed_step_by_step_with_the_reasons(
    nlmfo: CommandLine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, steps = plan.takeover(SERVICE, shapes.observed(SERVICE, mounted=1))
    outlook_that(monkeypatch, Outlook(Verb.TAKEOVER, first, steps, proof=Proof("node2 released it (epoch 7)", 8)))
    assert nlmfo("plan", "takeover", "home") == ExitCode.OK
    said = capsys.readouterr().out
    assert "home: may be served here: node2 released it (epoch 7)" in said
    assert "first, what a run that did not end has left here:\n  1  verify no lock is left: /srv/other" in said
    number = len(first) + 1 + [step.action for step in steps].index(plan.Action.CLAIM)
    assert f"{number:3}  claim: home\n       one node can have this epoch, and no second" in said


def test_a_plan_that_would_be_refused_is_printed_all_the_same_and_ends_with_3(
    nlmfo: CommandLine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = plan.takeover(SERVICE, shapes.observed(SERVICE))[1]
    refused = Refused("still-served", "node2 serves it", hint="release it there")
    words = outlook_that(monkeypatch, Outlook(Verb.TAKEOVER, (), steps, refused=refused))
    assert nlmfo("plan", "takeover", "home", "--json", "--fence", "node2") == ExitCode.REFUSED
    found = json.loads(capsys.readouterr().out)
    assert found["refused"] == {"code": "still-served", "text": "node2 serves it", "hint": "release it there"}
    assert [step["action"] for step in found["steps"]] == [str(step.action) for step in steps]
    # Planned as if it were done; nobody is fenced for a look.
    assert words == [Word(fenced="node2")]
    assert nlmfo("plan", "takeover", "home") == ExitCode.REFUSED
    assert "home: would be refused (still-served): node2 serves it\nhint: release it there" in capsys.readouterr().out


def test_where_nothing_is_to_be_done_the_plan_says_so(
    nlmfo: CommandLine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outlook_that(monkeypatch, Outlook(Verb.TAKEOVER, (), ()))
    assert nlmfo("plan", "takeover", "home") == ExitCode.OK
    assert "nothing to do" in capsys.readouterr().out


def test_resume_goes_through_all_services_and_names_those_that_it_went_on_with(
    nlmfo: CommandLine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(runs, "resume", lambda _, service, *__: service.name == "mail")
    assert nlmfo("resume") == ExitCode.OK
    assert capsys.readouterr().out == "mail: done\n"
    assert nlmfo("resume", "home") == ExitCode.OK
    assert "nothing to resume" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("outcome", "said"),
    [(Outcome.SERVED, "home: served here, as before\n"), (Outcome.RELEASED, "home: nothing of it is left here\n")],
)
def test_abort_says_where_it_ended(
    nlmfo: CommandLine,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    outcome: Outcome,
    said: str,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(runs, "abort", lambda *_: outcome)
    assert nlmfo("abort", "home") == ExitCode.OK
    assert capsys.readouterr().out == said


def test_without_a_hook_nobody_is_fenced(
    nlmfo: CommandLine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    takeover_that(monkeypatch, fails_with(AssertionError()))
    assert nlmfo("takeover", "home", "--fence", "node2") == ExitCode.FAILED
    assert "there is no fence hook to fence node2 with" in capsys.readouterr().err


def test_a_node_that_the_hook_fenced_is_as_good_as_one_that_the_operator_names(
    nlmfo: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words: list[Word] = []

    def act(*given: object, **_: object) -> bool:
        assert isinstance(given[2], Word)
        words.append(given[2])
        return True

    takeover_that(monkeypatch, act)
    monkeypatch.setattr(runs, "FENCE_LOG", tmp_path / "fence.log")
    main_file = (nlmfo.directory / "nlmfo.toml").read_text(encoding="utf-8")
    nlmfo.write("nlmfo.toml", main_file + 'fence = ["/bin/echo", "{node}"]\n')
    assert nlmfo("takeover", "home", "--fence", "node2", "--force=stale-records") == ExitCode.OK
    assert words == [Word(fenced="node2", forced=frozenset({"stale-records"}))]
    assert "fencing node2" in (tmp_path / "fence.log").read_text(encoding="utf-8")


def test_a_refusal_that_can_be_forced_names_the_way_also_from_within_a_step(
    nlmfo: CommandLine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cause = Refused("stale-records", "an old copy", hint="find the disk", forcible=True)
    error = StepFailed("open records", cause)
    error.__cause__ = cause
    takeover_that(monkeypatch, fails_with(error))
    assert nlmfo("takeover", "home") == ExitCode.REFUSED
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "nlmfo: refused (stale-records): open records: an old copy",
        "nlmfo: hint: find the disk",
        "nlmfo: hint: if you know that it does no harm: --force=stale-records",
    ]


@pytest.mark.parametrize("code", ["mmp-in-use", "address-answers", "device-held", "still-served", "everything"])
def test_evidence_cannot_be_forced_away(nlmfo: CommandLine, code: str) -> None:
    with pytest.raises(SystemExit) as caught:
        nlmfo("takeover", "home", f"--force={code}")
    assert caught.value.code == 2


def test_status_is_a_line_for_each_service(nlmfo: CommandLine, capsys: pytest.CaptureFixture[str]) -> None:
    assert nlmfo("status") == ExitCode.OK
    assert capsys.readouterr().out == "home  not served anywhere yet\nmail  not served anywhere yet\n"


def test_status_as_json_is_one_document_with_the_owner_and_what_is_here(
    nlmfo: CommandLine, capsys: pytest.CaptureFixture[str]
) -> None:
    nlmfo.registry.claim(shapes.record(1, THERE, boot=EARLIER_BOOT))
    nothing = {"waiting": 0, "stalled": None, "refused": 0}
    no_trouble = nothing | {"untold": False, "unread": False, "unfinished": None, "superseded": False, "progress": None}
    assert nlmfo("status", "--json") == ExitCode.OK
    assert json.loads(capsys.readouterr().out) == {
        "version": 1,
        "node": "node1",
        "services": [
            {
                "service": "home",
                "owner": {
                    "service": "home",
                    "node": "node2",
                    "boot_id": EARLIER_BOOT,
                    "epoch": 1,
                    "since": 1_000_000_001.0,
                    "standing": "serving",
                    "state": 0,
                },
                "here": "no",
                "in_grace": False,
                "problem": None,
                **no_trouble,
            },
            {"service": "mail", "owner": None, "here": "no", "in_grace": False, "problem": None, **no_trouble},
        ],
    }


def test_asked_about_one_service_status_says_with_5_that_it_is_not_served_here(
    nlmfo: CommandLine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nlmfo("status", "mail") == 5
    assert capsys.readouterr().out == "mail  not served anywhere yet\n"


def test_a_registry_that_is_not_mounted_is_a_problem_that_status_shows(
    nlmfo: CommandLine, capsys: pytest.CaptureFixture[str]
) -> None:
    (nlmfo.registry.directory / "services").rmdir()
    assert nlmfo("status", "home", "--json") == ExitCode.NOT_OWNED
    (service,) = json.loads(capsys.readouterr().out)["services"]
    assert "nobody can tell who serves" in service["problem"]


def test_sigterm_ends_a_run_like_ctrl_c_so_that_it_takes_down_what_it_began(
    nlmfo: CommandLine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def terminated(*_: object, **__: object) -> bool:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        raise KeyboardInterrupt

    takeover_that(monkeypatch, terminated)
    assert nlmfo("takeover", "home") == ExitCode.FAILED
    assert capsys.readouterr().err == "nlmfo: interrupted\n"


STEP = Step(Action.MOUNT, "/srv/home")


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (events.Proved("home", "node2 released it (epoch 7)", 8), "may be served here: node2 released it (epoch 7)"),
        (events.CleaningUp("home"), "left here by an earlier run"),
        (events.StepDone(STEP, 0.123, "11111111"), "  0.12 s  mount: /srv/home  (11111111)"),
        (events.StepDone(STEP, 12.5, ""), " 12.50 s  mount: /srv/home"),
        (events.StepNotDone(STEP, 1, "busy"), "mount: /srv/home  FAILED"),
        (events.RollingBack("home"), "taking down what was begun"),
        (events.JournalNotWritten("no space left"), "the journal of this run has gaps: no space left"),
        (events.AwaitingRelease("home", "node2"), "ready; waiting for node2 to release it"),
        (events.LocksMissing(1, 30, exact=True, named=()), "warning: 1 of 30 locks are not held again"),
        (events.LocksMissing(1, 30, exact=False, named=()), "(of those seen at the last look before the crash)"),
        (events.ExportLeftOut("gone.example:/srv/home"), "gone.example:/srv/home is not exported"),
        (events.ClientNotTold("192.0.2.17", "no route"), "client 192.0.2.17 was not told: no route"),
        (events.ClientQuiet("192.0.2.17"), "client 192.0.2.17 has asked for no lock again"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, events.Event) else "",
)
def test_events_are_told_in_sentences(event: events.Event, said: str) -> None:
    line = text.line(event)
    assert line is not None
    assert said in line
    assert "\n" not in line


def test_locks_that_are_missing_are_named_each_on_a_line_of_its_own() -> None:
    """What stands there comes from names of files, which clients choose."""
    line = text.line(events.LocksMissing(2, 30, exact=True, named=("/srv/a bytes 0-9 shared", "/srv/b\x1b[2J\nc")))
    assert line is not None
    assert [each.strip() for each in line.split("\n")[1:]] == ["/srv/a bytes 0-9 shared", "/srv/b?[2J?c"]


def test_the_beginning_of_a_step_needs_no_line() -> None:
    assert text.line(events.StepStarted(STEP)) is None


def python(script: str, *words: str, stdout: int) -> subprocess.CompletedProcess[str]:
    """Its output is buffered, as it is for whoever installs it."""
    argv = ["env", "--unset=PYTHONUNBUFFERED", sys.executable, "-c", script, *words]
    return subprocess.run(
        argv, cwd=CHECKOUT, text=True, timeout=SECONDS, check=False, stdout=stdout, stderr=subprocess.PIPE
    )


#: A takeover whose every line of output finds nobody who reads it; it writes a file when it has come to its end.
UNHEARD = """
import sys
from pathlib import Path
from nlmfo.cli import main as cli
from nlmfo.cli.commands import common
from nlmfo.failover import events, runs

def takeover(config, service, word, sink, **_):
    for _ in range(3):
        sink(events.RollingBack(service.name))
    Path(sys.argv[1]).touch()
    return True

runs.takeover = takeover
common.need_root = lambda: None
sys.exit(cli.main(sys.argv[2:]))
"""


def test_a_run_goes_on_when_nobody_reads_what_it_says_any_more(nlmfo: CommandLine, tmp_path: Path) -> None:
    """``nlmfo takeover home | head -1`` must neither be rolled back nor stay half-served."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        words = (str(tmp_path / "done"), "--config", str(nlmfo.directory), "takeover", "home")
        ended = python(UNHEARD, *words, stdout=writing)
    finally:
        os.close(writing)
    assert (tmp_path / "done").exists()
    assert ended.returncode == ExitCode.OK
    assert ended.stderr == ""


@pytest.mark.parametrize("words", [("status",), ("status", "--json"), ("completion", "bash")])
def test_who_is_not_told_all_of_it_for_want_of_space_is_told_that(nlmfo: CommandLine, words: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        ended = python(PROGRAM, "--config", str(nlmfo.directory), *words, stdout=full.fileno())
    assert ended.stderr == "nlmfo: [Errno 28] No space left on device\n"
    assert ended.returncode == ExitCode.FAILED


#: Fails after it has said something.
FAILING = """
from nlmfo import __main__
from nlmfo.cli.commands import status
from nlmfo.errors import NlmfoError

def fail(*_):
    print("so far")
    raise {error}

status.status = fail
__main__.entry()
"""


@pytest.mark.parametrize("error", ["NlmfoError('no further')", "OSError('no further')"])
def test_what_a_command_said_before_it_failed_is_out(nlmfo: CommandLine, error: str) -> None:
    ended = python(FAILING.format(error=error), "--config", str(nlmfo.directory), "status", stdout=subprocess.PIPE)
    assert (ended.returncode, ended.stdout, ended.stderr) == (ExitCode.FAILED, "so far\n", "nlmfo: no further\n")


#: What takes long to load, of libraries and of ours, and is for those who change something, or look at more.
HEAVY = {
    *("pyroute2", "pyudev", "asyncio", "subprocess", "socket", "ctypes", "selectors", "shutil", "logging", "difflib"),
    *("dataclasses", "inspect"),
    *("nlmfo.agent", "nlmfo.helper", "nlmfo.host.namespaces", "nlmfo.failover.look", "nlmfo.failover.runs"),
}


def test_status_of_what_another_node_serves_loads_nothing_that_it_does_not_need(nlmfo: CommandLine) -> None:
    """A monitor asks it of each node every few seconds."""
    nlmfo.registry.claim(shapes.record(1, THERE))
    script = (
        "import sys; from nlmfo.cli.main import main; status = main(sys.argv[1:]); "
        f"print(sorted({HEAVY} & set(sys.modules)), file=sys.stderr); sys.exit(status)"
    )
    ended = python(script, "--config", str(nlmfo.directory), "status", stdout=subprocess.DEVNULL)
    assert ended.stderr == "[]\n"
    assert ended.returncode == ExitCode.OK


def test_what_a_start_loads_is_not_searched_for_garbage_and_what_comes_after_it_is() -> None:
    script = (
        "import gc, sys; from nlmfo import __main__, cli; sys.argv = ['nlmfo', '--version']\n"
        "try: __main__.entry()\n"
        "finally: print(gc.get_freeze_count() > 1000, gc.isenabled(), file=sys.stderr)"
    )
    assert python(script, stdout=subprocess.DEVNULL).stderr == "True True\n"


def test_the_module_can_be_run_and_knows_its_version() -> None:
    words = [sys.executable, "-m", "nlmfo", "--version"]
    said = subprocess.run(words, cwd=CHECKOUT, capture_output=True, text=True, timeout=SECONDS, check=True)
    assert said.stdout == f"nlmfo {__version__}\n"


def test_the_default_configuration_is_where_the_documentation_says() -> None:
    assert str(arguments.CONFIG) == "/etc/nlmfo"


def test_the_configuration_may_be_named_from_where_one_stands_and_the_work_is_done_from_the_root(
    nlmfo: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    where: list[Path] = []
    monkeypatch.setattr(runs, "release", lambda *_: where.append(Path.cwd()))
    monkeypatch.chdir(nlmfo.directory.parent)
    assert main(["--config", nlmfo.directory.name, "release", "home"]) == ExitCode.OK
    assert where == [Path("/")]
    assert Path.cwd() == nlmfo.directory.parent


@pytest.mark.parametrize("verb", list(Verb)[:2])
def test_what_is_planned_is_what_was_asked_for_with_all_that_was_vouched_for_and_forced(
    nlmfo: CommandLine, monkeypatch: pytest.MonkeyPatch, verb: Verb
) -> None:
    asked: list[tuple[Verb, Word]] = []

    def look(_config: object, _service: Service, wanted: Verb, word: Word) -> Outlook:
        asked.append((wanted, word))
        return Outlook(wanted, (), ())

    monkeypatch.setattr(runs, "outlook", look)
    words = ("--released-by", "node2", "--force=own-client", "--force=stale-records")
    assert nlmfo("plan", verb, "home", *words) == ExitCode.OK
    assert asked == [(verb, Word(None, "node2", frozenset({"own-client", "stale-records"})))]


def test_a_plan_as_json_gives_the_reason_of_each_step(
    nlmfo: CommandLine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, steps = plan.takeover(SERVICE, shapes.observed(SERVICE, mounted=1))
    outlook_that(monkeypatch, Outlook(Verb.TAKEOVER, first, steps, proof=Proof("node2 released it (epoch 7)", 8)))
    assert nlmfo("plan", "takeover", "home", "--json") == ExitCode.OK
    found = json.loads(capsys.readouterr().out)
    assert (found["service"], found["verb"], found["refused"]) == ("home", "takeover", None)
    assert found["proof"] == {"reason": "node2 released it (epoch 7)", "epoch": 8}
    for name, given in (("first", first), ("steps", steps)):
        assert found[name] == [
            {"action": str(step.action), "subject": step.subject, "why": plan.WHY[step.action]} for step in given
        ]


def test_a_plan_that_nobody_made_by_hand_is_printed_as_it_is(
    nlmfo: CommandLine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the real look at this node, where nothing of the service is, and the real registry."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert nlmfo("plan", "takeover", "home") == ExitCode.OK
    said = capsys.readouterr().out
    assert said.startswith("home: may be served here: it was never served before\ntakeover of home:\n  1  make names")
    assert nlmfo("plan", "release", "home") == ExitCode.NOT_OWNED
    nlmfo.registry.claim(shapes.record(1, THERE, boot=EARLIER_BOOT))
    assert nlmfo("plan", "takeover", "home") == ExitCode.REFUSED
    assert nlmfo("plan", "takeover", "home", "--fenced", THERE) == ExitCode.OK


@pytest.mark.parametrize("words", [(), ("--fenced", "node2")])
def test_what_is_forced_is_forced_whoever_vouches(
    nlmfo: CommandLine, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    heard: list[Word] = []

    def act(_config: object, _service: Service, word: Word, _sink: object, **_: object) -> bool:
        heard.append(word)
        return True

    takeover_that(monkeypatch, act)
    assert nlmfo("takeover", "home", *words, "--force=own-client") == ExitCode.OK
    assert [word.forced for word in heard] == [frozenset({"own-client"})]


@pytest.mark.parametrize("words", [("--fence", "node2", "--fenced", "node2"), ("--fence", "a", "--released-by", "a")])
def test_one_word_is_enough_and_two_are_a_mistake(nlmfo: CommandLine, words: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as caught:
        nlmfo("takeover", "home", *words)
    assert caught.value.code == ExitCode.USAGE


#: Those that a step finds out, not the look at the node's server: see test_actions.
BY_A_STEP = {"own-client", "stale-records"}


@pytest.mark.parametrize("code", sorted(set(arguments.FORCIBLE) - BY_A_STEP))
def test_each_code_that_can_be_forced_is_one_whose_refusal_says_so(
    nlmfo: CommandLine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: str
) -> None:
    def refuse(*_: object, **__: object) -> bool:
        node_server.refuse_if_unfit([node_server.Unfit(code, "trouble", "mend it")])
        return True

    takeover_that(monkeypatch, refuse)
    assert nlmfo("takeover", "home") == ExitCode.REFUSED
    assert capsys.readouterr().err.endswith(f"nlmfo: hint: if you know that it does no harm: --force={code}\n")


def test_each_command_leads_to_a_function() -> None:
    for _, does, _ in arguments.COMMANDS.values():
        assert callable(named(does))


@pytest.mark.parametrize("name", arguments.COMMANDS)
def test_a_command_that_is_named_says_what_it_takes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == ExitCode.OK
    assert capsys.readouterr().out == arguments.command(name).format_help()


def test_help_is_as_wide_as_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """As argparse has it by itself."""
    monkeypatch.delenv("COLUMNS", raising=False)
    for said in (None, "200", "0", "wide"):
        if said is not None:
            monkeypatch.setenv("COLUMNS", said)
        top = arguments.parser()
        ours = top.format_help()
        top.formatter_class = argparse.HelpFormatter
        assert ours == top.format_help()


def test_completion_is_offered_for_each_shell_that_it_is_made_for() -> None:
    assert set(arguments.SHELLS) == set(completion.SHELLS)


def test_what_may_be_forced_is_what_the_refusals_say_may_be_forced() -> None:
    assert set(arguments.FORCIBLE) == BY_A_STEP | node_server.FORCIBLE


@pytest.mark.parametrize("code", ["nfsd-down", "version-off", "statd-down", "v3-client-mount"])
def test_a_refusal_that_nothing_passes_names_no_way_past_it(
    nlmfo: CommandLine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: str
) -> None:
    def refuse(*_: object, **__: object) -> bool:
        node_server.refuse_if_unfit([node_server.Unfit(code, "trouble", "mend it")])
        return True

    takeover_that(monkeypatch, refuse)
    assert nlmfo("takeover", "home") == ExitCode.REFUSED
    assert "--force" not in capsys.readouterr().err
