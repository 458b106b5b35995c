# SPDX-License-Identifier: GPL-2.0-or-later
"""What looks after a service mends what it can, leaves alone what is not its own, and knows when that is not enough."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from nlmfo.config import Config, Isolation, Service
from nlmfo.errors import NlmfoError, NotOwned
from nlmfo.failover import health, mending, supervise
from nlmfo.failover.events import Event, Mended, StartedAgain, Troubled
from nlmfo.failover.health import Trouble
from nlmfo.failover.runs import Busy
from nlmfo.failover.supervise import PATIENCE, TRIES, BeyondMending, Supervisor
from tests.unit import shapes


class Scene:
    """A service with ``ill`` parts, which mending makes well unless it is ``broken``; ``said`` is what was told."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.service = shapes.service()
        self.ill: list[str] = []
        self.broken: set[str] = set()
        self.useless: set[str] = set()
        self.busy = False
        self.said: list[str] = []
        self.noted = 0
        self.supervisor = Supervisor("home", self.hear)
        patch.setattr(health, "troubles", lambda *_: tuple(Trouble(part, f"{part} is ill") for part in self.ill))
        patch.setattr(mending, "mend", self.mend)
        patch.setattr(mending, "note", self.note)
        patch.setattr(supervise, "alone", self.alone)

    def mend(self, _config: Config, _service: Service, part: str) -> None:
        if part in self.broken:
            raise NlmfoError("no disk")
        if part not in self.useless:
            self.ill.remove(part)

    def note(self, _: Service) -> None:
        self.noted += 1

    @contextmanager
    def alone(self, _: Service) -> Iterator[None]:
        if self.busy:
            raise Busy("at work")
        yield

    def round(self) -> list[str]:
        """The parts that are ill still."""
        config = shapes.config(None, {"home": self.service})
        return [trouble.part for trouble in self.supervisor.round(config)]

    def hear(self, event: Event) -> None:
        match event:
            case Troubled(_, reason):
                self.said.append(reason)
            case StartedAgain(_, part):
                self.said.append(f"mended {part}")
            case Mended():
                self.said.append("well")


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch)


def test_while_all_is_well_nothing_is_said_and_what_mending_needs_is_noted(scene: Scene) -> None:
    assert (scene.round(), scene.round()) == ([], [])
    assert (scene.said, scene.noted) == ([], 2)


def test_what_died_is_started_again_in_the_order_of_need(scene: Scene) -> None:
    scene.ill = ["keeper", "rpc.mountd", "rpcbind"]
    assert scene.round() == []
    assert [word for word in scene.said if word.startswith("mended")] == [
        "mended rpcbind",
        "mended rpc.mountd",
        "mended keeper",
    ]
    assert scene.said[-1] == "well"


def test_a_trouble_that_lasts_is_said_once(scene: Scene) -> None:
    scene.ill = ["storage"]
    for _ in range(PATIENCE + 2):  # and a takeover would not mend it
        assert scene.round() == ["storage"]
    scene.ill = []
    scene.round()
    assert scene.said == ["storage is ill", "well"]


@pytest.mark.parametrize("part", ["nfsd", "mount", "address", "export", "lockd"])
def test_what_only_a_takeover_mends_ends_it_when_it_was_seen_twice(scene: Scene, part: str) -> None:
    scene.ill = [part]
    assert scene.round() == [part]
    with pytest.raises(BeyondMending, match=f"{part} is ill") as raised:
        scene.round()
    assert "nlmfo takeover home" in str(raised.value.hint)


def test_a_moment_of_weakness_is_no_reason_for_a_takeover(scene: Scene) -> None:
    for _ in range(3):
        scene.ill = ["lockd"]
        scene.round()
        scene.ill = []
        scene.round()


def test_what_cannot_be_started_is_said_and_comes_to_a_takeover(scene: Scene) -> None:
    scene.ill, scene.broken = ["rpc.statd"], {"rpc.statd"}
    assert scene.round() == ["rpc.statd"]
    assert scene.said == ["rpc.statd is ill", "rpc.statd cannot be started again: no disk"]
    with pytest.raises(BeyondMending):
        scene.round()


def test_starting_a_daemon_again_that_stays_silent_is_given_up(scene: Scene) -> None:
    scene.ill, scene.useless = ["rpc.statd"], {"rpc.statd"}
    assert scene.round() == ["rpc.statd"]
    assert scene.said.count("mended rpc.statd") == TRIES


def test_nothing_is_touched_while_another_nlmfo_is_at_work(scene: Scene) -> None:
    scene.ill, scene.busy = ["rpcbind", "nfsd", "address"], True
    for _ in range(PATIENCE + 1):
        assert scene.round() == scene.ill
    assert scene.said == []


def test_what_another_node_owns_is_neither_mended_nor_taken_over_again(scene: Scene) -> None:
    scene.ill = ["owner", "rpcbind"]
    with pytest.raises(NotOwned, match="owner is ill"):
        scene.round()
    assert "mended rpcbind" not in scene.said


def test_while_nobody_can_tell_that_is_said_once_and_nothing_is_done(scene: Scene) -> None:
    for _ in range(PATIENCE + 1):
        assert [trouble.part for trouble in scene.supervisor.cannot_tell(NlmfoError("no registry"))] == ["unknown"]
    assert scene.round() == []
    assert scene.said == ["nobody can tell how it is: no registry", "well"]


@pytest.mark.parametrize(("part", "mended"), [("keeper", True), ("rpc.statd", False), ("rpcbind", False)])
def test_in_host_isolation_the_daemons_are_the_nodes(scene: Scene, part: str, mended: bool) -> None:
    scene.service = scene.service._replace(isolation=Isolation.HOST)
    scene.ill = [part]
    for _ in range(PATIENCE + 1):
        assert scene.round() == ([] if mended else [part])
