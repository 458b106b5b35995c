# SPDX-License-Identifier: GPL-2.0-or-later
"""``nlmfo locks``: each lock that is held, on which file, and which of the clients on record may have it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nlmfo.cli import tables
from nlmfo.cli.commands import records
from nlmfo.cli.main import main
from nlmfo.config import Config, Export, Service
from nlmfo.errors import NotOwned
from nlmfo.failover import held
from nlmfo.failover.clients import ClientOnRecord, ClientState
from nlmfo.failover.held import LockOnFile, held_on
from nlmfo.records.locks import EOF, HeldLock
from tests.unit import shapes
from tests.unit.test_config import HOME, write

SERVICE = shapes.service()._replace(
    exports=(Export(Path("/srv/home/a"), "1", (("*", "rw"),)), Export(Path("/srv/home/b"), "2", (("*", "rw"),))),
)
CONFIG = shapes.config(Path("/registry"))
UUID = SERVICE.partitions[0].uuid


def client(name: str, *fsids: str, state: ClientState = ClientState.CURRENT) -> ClientOnRecord:
    return ClientOnRecord("home", name, ("10.0.0.100",), fsids, 0.0, state, intact=True)


class Scene:
    """What the kernel shows, who is on record, and the names that are found."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.locks: list[tuple[HeldLock, ...]] = []
        self.clients: tuple[ClientOnRecord, ...] = ()
        self.paths: dict[tuple[str, int], Path] = {}
        patch.setattr(held, "held_now", lambda _: self.locks.pop(0) if len(self.locks) > 1 else self.locks[0])
        patch.setattr(held, "on_record", lambda *_: self.clients)
        patch.setattr(held, "paths_of", lambda *_: self.paths)

    def found(self) -> tuple[LockOnFile, ...]:
        return held_on(CONFIG, SERVICE)


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch)


def lock(inode: int, first: int = 0, last: int = EOF, *, exclusive: bool = True) -> HeldLock:
    return HeldLock(UUID, inode, first, last, exclusive)


def test_a_lock_has_its_file_and_who_may_hold_it_by_the_export_that_it_is_below(scene: Scene) -> None:
    scene.locks = [(lock(13, 100, 199),)]
    scene.paths = {(UUID, 13): Path("/srv/home/a/mail")}
    scene.clients = (client("c3"), client("c1", "1"), client("c2", "2"), client("c4", "1", state=ClientState.OWED))
    (found,) = scene.found()
    assert (found.path, found.first, found.last, found.exclusive) == ("/srv/home/a/mail", 100, 199, True)
    assert found.clients == ("c1", "c3", "c4"), "c3 may use any export"


def test_whoever_holds_nothing_any_more_is_not_named(scene: Scene) -> None:
    scene.locks = [(lock(13),)]
    scene.clients = (client("c1", state=ClientState.GONE),)
    assert scene.found()[0].clients == ()


@pytest.mark.parametrize("path", [None, Path("/srv/home/elsewhere")])
def test_where_the_export_is_not_known_anybody_may_hold_it(scene: Scene, path: Path | None) -> None:
    scene.locks = [(lock(13),)]
    scene.paths = {} if path is None else {(UUID, 13): path}
    scene.clients = (client("c1", "1"), client("c2", "2"))
    (found,) = scene.found()
    assert found.path == (None if path is None else str(path))
    assert found.last is None
    assert found.clients == ("c1", "c2")


def test_what_several_share_is_one_line_with_their_number(scene: Scene) -> None:
    shared = lock(13, exclusive=False)
    scene.locks = [(shared, shared)]
    (found,) = scene.found()
    assert (found.holders, found.exclusive) == (2, False)


def test_a_lock_that_one_reading_leaves_out_is_there_all_the_same(scene: Scene) -> None:
    scene.locks = [(), (lock(13),), ()]
    assert [each.inode for each in scene.found()] == [13]


ON_FILE = LockOnFile("home", "/srv/home", 13, "/srv/home/a/ma\x1bil", 0, None, True, 1, ("c1", "c2"))


def test_the_table_has_a_line_for_each_lock_and_is_fit_for_a_terminal() -> None:
    other = replace(ON_FILE, path=None, first=5, last=9, exclusive=False, clients=())
    lines = tables.locks([ON_FILE, other]).split("\n")
    assert lines[1].split() == ["home", "/srv/home/a/ma?il", "0-end", "exclusive", "1", "c1,", "c2"]
    assert "inode 13 of /srv/home" in lines[2]
    assert lines[2].endswith("nobody on record")
    assert tables.locks([]) == "no client holds a lock here, as far as the kernel shows"


def test_the_command_lists_the_services_that_are_served_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, home=HOME)

    def look(_: Config, service: Service) -> tuple[LockOnFile, ...]:
        assert service.name == "home"
        return (ON_FILE,)

    def elsewhere(_: Config, service: Service) -> tuple[LockOnFile, ...]:
        raise NotOwned(f"service '{service.name}' is not served here")

    monkeypatch.setattr(records, "held_on", look)
    assert main(["--config", str(tmp_path), "locks", "home", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["locks"]
    assert (found["path"], found["last"], found["clients"]) == ("/srv/home/a/ma\x1bil", None, ["c1", "c2"])
    monkeypatch.setattr(records, "held_on", elsewhere)
    assert main(["--config", str(tmp_path), "locks"]) == 0
    assert main(["--config", str(tmp_path), "locks", "home"]) == 5
