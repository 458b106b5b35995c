# SPDX-License-Identifier: GPL-2.0-or-later
"""``nlmfo monitor`` judges each part of a service by what it answers, names what is wrong, and never hangs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nlmfo.cli.commands import common
from nlmfo.cli.main import main
from nlmfo.config import Isolation
from nlmfo.errors import DeadlineExceeded, NotOwned
from nlmfo.failover import health
from nlmfo.failover.health import Trouble, troubles
from nlmfo.host import daemons
from nlmfo.host.addresses import Address
from nlmfo.host.daemons import Program
from nlmfo.host.surroundings import Surroundings
from tests.unit import shapes
from tests.unit.test_config import HOME, write

SERVICE = shapes.service(partitions=2, addresses=2)
WELL = replace(shapes.all_up(SERVICE), set_up=True)
CONFIG = shapes.config(Path("/registry"))


class Scene:
    """A service that is well, as it is seen; each test makes something of it ill."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.service, self.seen = SERVICE, WELL
        self.silent: set[tuple[str, str]] = set()
        self.tracked = True
        self.asked: list[tuple[str, str]] = []
        self.flags: dict[str, int] = {}
        self.patch = patch
        patch.setattr(health, "look", lambda *_: self.seen)
        patch.setattr(health, "registry_of", lambda _: None)
        patch.setattr(daemons, "answer", self.answer)
        patch.setattr(daemons, "tracks", lambda _: self.tracked)
        patch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=self.flags.get(str(path), 0)))

    def answer(self, _: Surroundings, programs: Iterable[Program], address: Address) -> bool:
        (program,) = programs
        self.asked.append((program.name, str(address)))
        return self.asked[-1] not in self.silent

    def found(self) -> tuple[Trouble, ...]:
        return troubles(CONFIG, self.service)

    def sees(self, **changes: Any) -> None:
        self.seen = replace(self.seen, **changes)


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch)


def test_of_a_service_that_is_well_nothing_is_said_and_every_program_was_asked_at_each_address(scene: Scene) -> None:
    assert scene.found() == ()
    names = ("rpcbind", "rpc.statd", "rpc.mountd", "nfsd", "lockd")
    assert sorted(scene.asked) == sorted((name, str(a.ip)) for name in names for a in SERVICE.addresses)


def test_a_program_that_does_not_answer_is_named_with_its_address(scene: Scene) -> None:
    address = str(SERVICE.addresses[1].ip)
    scene.silent = {("rpc.statd", address)}
    (trouble,) = scene.found()
    assert (trouble.part, trouble.text) == ("rpc.statd", f"rpc.statd does not answer at {address}")


@pytest.mark.parametrize(
    ("changes", "part", "said"),
    [
        ({"owned": False, "owner": shapes.record(9, "b")}, "owner", "names b (serving)"),
        ({"owned": False, "owner": None}, "owner", "names nobody"),
        (
            {"mounted": frozenset({SERVICE.partitions[0].uuid})},
            "mount",
            f"{SERVICE.partitions[1].mountpoint} is not mounted",
        ),
        (
            {"exported": frozenset(str(export.path) for export in SERVICE.exports[1:])},
            "export",
            f"{SERVICE.exports[0].path} is not exported",
        ),
        ({"threads": 0}, "nfsd", "does not run"),
        ({"frozen": True, "kept": False}, "records", "nlmfo resume"),
        ({"kept": False}, "keeper", "nlmfo takeover"),
    ],
)
def test_each_part_that_is_missing_is_named(scene: Scene, changes: dict[str, Any], part: str, said: str) -> None:
    scene.sees(**changes)
    (trouble,) = {found for found in scene.found() if found.part == part}
    assert said in trouble.text
    assert {found.part for found in scene.found()} == {part}


def test_an_export_that_waits_for_a_reload_is_no_trouble_and_one_that_is_gone_is(scene: Scene) -> None:
    """Between an edit of the file and the reload a cluster manager would restart the service for it."""
    before = frozenset(str(export.path) for export in SERVICE.exports)
    scene.sees(to_export=before)
    added = SERVICE.exports[0]._replace(path=Path("/srv/other/new"), fsid="7")
    scene.service = SERVICE._replace(exports=(*SERVICE.exports, added))
    assert scene.found() == ()
    scene.sees(exported=before - {str(SERVICE.exports[0].path)})
    assert [found.text for found in scene.found()] == [f"{SERVICE.exports[0].path} is not exported"]


def test_nfsdcld_which_answers_nobody_is_looked_for_while_nfsd_runs(scene: Scene) -> None:
    scene.tracked = False
    (trouble,) = scene.found()
    assert (trouble.part, trouble.text) == ("nfsdcld", "nfsdcld has ended")
    scene.sees(threads=0)
    assert {found.part for found in scene.found()} == {"nfsd"}


def test_an_address_that_is_down_is_named_and_nobody_is_asked_there(scene: Scene) -> None:
    first, second = (address.ip for address in SERVICE.addresses)
    scene.sees(addresses=frozenset({first}))
    assert [found.text for found in scene.found()] == [f"address {second} is not up"]
    assert {address for _, address in scene.asked} == {str(first)}


def test_a_file_system_that_has_become_read_only_is_named_and_one_that_is_meant_to_be_is_not(scene: Scene) -> None:
    mountpoint = SERVICE.partitions[0].mountpoint
    scene.flags = {str(mountpoint): os.ST_RDONLY}
    assert [found.text for found in scene.found()] == [f"{mountpoint} has become read-only: see 'dmesg'"]
    meant = SERVICE.partitions[0]._replace(options="ro,noatime")
    scene.service = SERVICE._replace(partitions=(meant, *SERVICE.partitions[1:]))
    assert scene.found() == ()


def test_storage_that_hangs_is_said_to_and_all_else_is_looked_at(scene: Scene) -> None:
    def hangs(what: str, *_: object, **__: object) -> int:
        raise DeadlineExceeded(what, health.STORAGE)

    scene.patch.setattr(health, "in_child", hangs)
    scene.silent = {("lockd", str(SERVICE.addresses[0].ip))}
    assert [found.part for found in scene.found()] == ["storage", "storage", "lockd"]


def test_where_nothing_of_it_is_there_it_is_not_served(scene: Scene) -> None:
    scene.seen = shapes.observed(SERVICE, owner=shapes.record(9, "b"))
    with pytest.raises(NotOwned, match=r"not served here: b has it \(serving\)"):
        scene.found()
    scene.seen = shapes.observed(SERVICE, owner=shapes.record(9), owned=True)
    assert {found.part for found in scene.found()} >= {"mount", "address", "nfsd"}


def test_without_namespaces_nobody_is_asked_in_them(scene: Scene) -> None:
    scene.seen = shapes.observed(SERVICE, owner=shapes.record(9), owned=True, mounted=2)
    scene.found()
    assert scene.asked == []


def test_in_host_isolation_the_nodes_own_programs_are_asked(scene: Scene) -> None:
    scene.service = SERVICE._replace(isolation=Isolation.HOST)
    scene.seen = replace(shapes.all_up(scene.service), isolated=False)
    assert scene.found() == ()
    assert scene.asked


@pytest.mark.parametrize(
    ("found", "status", "said"),
    [
        ((), 0, "home: all is well\n"),
        ((Trouble("nfsd", "nfsd does not \x1brun"),), 1, "home: nfsd does not ?run\n"),
    ],
)
def test_the_command_says_it_in_its_exit_status(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    found: tuple[Trouble, ...],
    status: int,
    said: str,
) -> None:
    write(tmp_path, home=HOME)
    monkeypatch.setattr(common, "need_root", lambda: None)
    monkeypatch.setattr(health, "troubles", lambda *_: found)
    assert main(["--config", str(tmp_path), "monitor", "home"]) == status
    assert capsys.readouterr().out == said
    assert main(["--config", str(tmp_path), "monitor", "home", "--json"]) == status
    document = json.loads(capsys.readouterr().out)
    assert [each["part"] for each in document["troubles"]] == [each.part for each in found]
