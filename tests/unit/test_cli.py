# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: exit statuses, what is said where, and that nobody who stops listening can stop a run."""

from __future__ import annotations

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
from nlmfo.cli import main as cli
from nlmfo.cli import text
from nlmfo.cli.main import main
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
from nlmfo.failover import events, runs
from nlmfo.failover.plan import Action, Step
from nlmfo.ownership.proof import Word
from nlmfo.ownership.registry import DirectoryRegistry
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
def nlmfo(tmp_path: Path) -> Iterator[CommandLine]:
    before = signal.getsignal(signal.SIGTERM)
    yield CommandLine(tmp_path)
    signal.signal(signal.SIGTERM, before)


def takeover_that(monkeypatch: pytest.MonkeyPatch, act: Callable[..., bool]) -> None:
    monkeypatch.setattr(runs, "takeover", act)
    monkeypatch.setattr(os, "geteuid", lambda: 0)


def fails_with(error: BaseException) -> Callable[..., bool]:
    def act(*_: object) -> bool:
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
    takeover_that(monkeypatch, lambda *_: done)
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

    def act(_config: object, service: Service, given: Word, _sink: object) -> bool:
        heard.extend((service.name, given))
        return True

    takeover_that(monkeypatch, act)
    nlmfo("takeover", "home", *words)
    assert heard == ["home", word]


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("takeover",),
        ("takeover", "home", "--fenced"),
        ("takeover", "home", "--fenced", "node2", "--released-by", "node3"),
        ("takeover", "home", "--fence", "node2"),
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


@pytest.mark.parametrize("command", ["takeover", "release"])
def test_changing_anything_needs_root_and_says_so_before_it_begins(
    nlmfo: CommandLine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    takeover_that(monkeypatch, fails_with(AssertionError()))
    monkeypatch.setattr(runs, "release", fails_with(AssertionError()))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert nlmfo(command, "home") == ExitCode.FAILED
    assert "needs root" in capsys.readouterr().err


def test_status_is_a_line_for_each_service(nlmfo: CommandLine, capsys: pytest.CaptureFixture[str]) -> None:
    assert nlmfo("status") == ExitCode.OK
    assert capsys.readouterr().out == "home  not served anywhere yet\nmail  not served anywhere yet\n"


def test_status_as_json_is_one_document_with_the_owner_and_what_is_here(
    nlmfo: CommandLine, capsys: pytest.CaptureFixture[str]
) -> None:
    nlmfo.registry.claim(shapes.record(1, THERE, boot=EARLIER_BOOT))
    no_trouble = {"waiting": 0, "stalled": None, "refused": 0}
    assert nlmfo("status", "--json") == ExitCode.OK
    assert json.loads(capsys.readouterr().out) == {
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
    def terminated(*_: object) -> bool:
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


def test_the_beginning_of_a_step_needs_no_line() -> None:
    assert text.line(events.StepStarted(STEP)) is None


def python(script: str, *words: str, stdout: int) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", script, *words]
    return subprocess.run(
        argv, cwd=CHECKOUT, text=True, timeout=SECONDS, check=False, stdout=stdout, stderr=subprocess.PIPE
    )


#: A takeover whose every line of output finds nobody who reads it; it writes a file when it has come to its end.
UNHEARD = """
import sys
from pathlib import Path
from nlmfo.cli import main as cli
from nlmfo.failover import events, runs

def takeover(config, service, word, sink):
    for _ in range(3):
        sink(events.RollingBack(service.name))
    Path(sys.argv[1]).touch()
    return True

runs.takeover = takeover
cli._need_root = lambda: None
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


def test_status_loads_none_of_the_libraries_that_only_a_change_needs(nlmfo: CommandLine) -> None:
    script = (
        "import sys; from nlmfo.cli.main import main; status = main(sys.argv[1:]); "
        "print(sorted({'pyroute2', 'pyudev', 'asyncio'} & set(sys.modules)), file=sys.stderr); sys.exit(status)"
    )
    ended = python(script, "--config", str(nlmfo.directory), "status", stdout=subprocess.DEVNULL)
    assert ended.stderr == "[]\n"
    assert ended.returncode == ExitCode.OK


def test_the_module_can_be_run_and_knows_its_version() -> None:
    words = [sys.executable, "-m", "nlmfo", "--version"]
    said = subprocess.run(words, cwd=CHECKOUT, capture_output=True, text=True, timeout=SECONDS, check=True)
    assert said.stdout == f"nlmfo {__version__}\n"


def test_the_default_configuration_is_where_the_documentation_says() -> None:
    assert str(cli.CONFIG) == "/etc/nlmfo"


def test_the_configuration_may_be_named_from_where_one_stands_and_the_work_is_done_from_the_root(
    nlmfo: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    where: list[Path] = []
    monkeypatch.setattr(runs, "release", lambda *_: where.append(Path.cwd()))
    monkeypatch.chdir(nlmfo.directory.parent)
    assert main(["--config", nlmfo.directory.name, "release", "home"]) == ExitCode.OK
    assert where == [Path("/")]
    assert Path.cwd() == nlmfo.directory.parent
