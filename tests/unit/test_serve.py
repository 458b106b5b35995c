# SPDX-License-Identifier: GPL-2.0-or-later
"""What systemd's unit runs: it ends in a release, hears signals between its rounds, and its watchdog of real rounds."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from nlmfo.cli.commands import common, serve
from nlmfo.cli.journalled import Journalled, Message
from nlmfo.cli.main import main
from nlmfo.config import Config
from nlmfo.errors import ExitCode, NlmfoError, NotOwned
from nlmfo.failover import runs
from nlmfo.failover.health import Trouble
from nlmfo.failover.supervise import BeyondMending, Supervisor
from nlmfo.host import mounts, systemd
from nlmfo.ownership.record import Standing
from nlmfo.ownership.registry import DirectoryRegistry
from tests.unit import shapes
from tests.unit.test_config import HOME, WITH_REGISTRY, write
from tests.unit.test_journalled import unit

#: What BeyondMending says here.
IS_ILL = "service 'home': nfsd does not run"


class Executed(Exception):
    """The process would be another program from here on."""


class Scene:
    """A service whose rounds the test writes: each may end in a signal to this very process."""

    def __init__(self, directory: Path, patch: pytest.MonkeyPatch) -> None:
        self.directory, self.patch = directory, patch
        self.told: list[dict[str, str | int]] = []
        self.rounds: list[Callable[[Config], tuple[Trouble, ...]]] = []
        self.became: list[str] = []
        write(directory, WITH_REGISTRY.replace("/cluster/nlmfo", str(directory / "registry")), home=HOME)
        (directory / "registry/services").mkdir(parents=True)
        patch.setattr(common, "need_root", lambda: None)
        patch.setattr(runs, "takeover", lambda *_: True)
        patch.setattr(serve, "EACH", 0.01)
        patch.setattr(serve, "DISKS", 0.0)
        patch.setattr(mounts, "BY_UUID", directory)
        self.entries: list[Mapping[str, str]] = []
        patch.setattr(Journalled.__init__, "__kwdefaults__", {"send": self.take})
        patch.setattr(systemd, "notify", lambda **variables: self.told.append(variables))
        patch.setattr(Supervisor, "round", lambda _, config: self.rounds.pop(0)(config))
        patch.setattr(os, "execv", self.execv)

    def take(self, fields: Mapping[str, str]) -> bool:
        """In the place of the journal."""
        self.entries.append(fields)
        return True

    def execv(self, program: str, argv: list[str]) -> None:
        assert program == sys.executable
        self.became = argv
        raise Executed

    def serve(self) -> int:
        return main(["--config", str(self.directory), "serve", "home"])

    def statuses(self) -> list[str]:
        """What the manager was told with each sign of life."""
        return [str(variables["STATUS"]) for variables in self.told if "WATCHDOG" in variables]


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(tmp_path, monkeypatch)


def well(_: Config) -> tuple[Trouble, ...]:
    return ()


def ends(number: signal.Signals) -> Callable[[Config], tuple[Trouble, ...]]:
    def round_with_a_signal(_: Config) -> tuple[Trouble, ...]:
        os.kill(os.getpid(), number)
        return ()

    return round_with_a_signal


def fails(error: Exception) -> Callable[[Config], tuple[Trouble, ...]]:
    def round_that_fails(_: Config) -> tuple[Trouble, ...]:
        raise error

    return round_that_fails


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_is_ready_when_it_is_served_and_a_signal_ends_in_a_release(scene: Scene, number: signal.Signals) -> None:
    handlers: list[object] = []

    def takeover(*_: object) -> bool:
        handlers.append(signal.getsignal(number))
        return True

    scene.patch.setattr(runs, "takeover", takeover)
    scene.rounds = [well, lambda _: (Trouble("storage", "/srv/home is slow"),), ends(number)]
    with pytest.raises(Executed):
        scene.serve()
    assert scene.became[1:] == ["-m", "nlmfo", "--config", str(scene.directory), "release", "home"]
    assert {"READY": 1, "STATUS": "served here"} in scene.told
    assert scene.statuses() == ["served here; all is well", "/srv/home is slow", "served here; all is well"]
    assert scene.told[-1]["STOPPING"] == 1
    assert [signal.getsignal(number)] == handlers  # as it was before the rounds


def test_after_a_hangup_it_goes_by_the_configuration_as_it_is_then(scene: Scene) -> None:
    grace: list[int | None] = []

    def look(config: Config) -> tuple[Trouble, ...]:
        grace.append(config.service("home").grace)
        if len(grace) == 1:
            file = scene.directory / "services.d/home.toml"
            file.write_text(f"grace = 70\n{file.read_text()}")
        return ends(signal.SIGHUP if len(grace) == 1 else signal.SIGTERM)(config)

    scene.rounds = [look, look]
    with pytest.raises(Executed):
        scene.serve()
    assert grace[1] == 70 != grace[0]


def test_a_registry_that_is_away_ends_nothing(scene: Scene) -> None:
    scene.rounds = [fails(NlmfoError("the registry is away")), ends(signal.SIGTERM)]
    with pytest.raises(Executed):
        scene.serve()
    assert scene.statuses()[0] == "nobody can tell how it is: the registry is away"


def test_a_mistake_in_the_configuration_is_said_and_it_goes_on_with_what_it_has(scene: Scene) -> None:
    def spoil(config: Config) -> tuple[Trouble, ...]:
        (scene.directory / "services.d/home.toml").write_text("grase = 10\n")
        return ends(signal.SIGHUP)(config)

    scene.rounds = [spoil, ends(signal.SIGTERM)]
    with pytest.raises(Executed):
        scene.serve()
    assert "grase" in scene.statuses()[1]


def test_what_only_a_takeover_mends_ends_it_so_that_systemd_begins_anew(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    scene.rounds = [fails(BeyondMending("home", [Trouble("nfsd", "nfsd does not run")]))]
    assert scene.serve() == ExitCode.FAILED
    assert "nfsd does not run" in capsys.readouterr().err
    told = scene.entries[-1]
    assert (told["MESSAGE_ID"], told["PRIORITY"]) == (Message.BEYOND_MENDING.value, "3")
    assert (told["NLMFO_VERB"], told["NLMFO_SERVICE"], told["NLMFO_ERROR"]) == ("serve", "home", IS_ILL)
    assert told["MESSAGE"].startswith(f"home: {IS_ILL}\nhint: 'nlmfo takeover home' takes down what is left")


def test_in_a_unit_what_only_a_takeover_mends_is_said_once_and_with_its_id(scene: Scene) -> None:
    scene.rounds = [fails(BeyondMending("home", [Trouble("nfsd", "nfsd does not run")]))]
    with tempfile.NamedTemporaryFile("w+") as stream:
        unit(scene.patch, stream)
        assert scene.serve() == ExitCode.FAILED
        assert Path(stream.name).read_text() == ""
    assert [each.get("MESSAGE_ID") for each in scene.entries].count(Message.BEYOND_MENDING.value) == 1
    assert [IS_ILL in each["MESSAGE"] for each in scene.entries].count(True) == 1


@pytest.mark.parametrize(
    ("standing", "node", "status"),
    [
        (Standing.RELEASED, None, ExitCode.OK),
        (Standing.RELEASED, "node2", ExitCode.NOT_OWNED),
        (Standing.SERVING, "node2", ExitCode.NOT_OWNED),
    ],
)
def test_a_release_by_hand_is_a_good_end_and_another_owner_is_not(
    scene: Scene, standing: Standing, node: str | None, status: ExitCode
) -> None:
    def released(config: Config) -> tuple[Trouble, ...]:
        registry = DirectoryRegistry(scene.directory / "registry")
        registry.claim(shapes.record(1, node or config.node, standing))
        raise NotOwned("service 'home' is not served here")

    scene.rounds = [released]
    assert scene.serve() == status
    assert scene.became == []
