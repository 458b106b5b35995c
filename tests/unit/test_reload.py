# SPDX-License-Identifier: GPL-2.0-or-later
"""A reload brings exports to the configuration, in both isolations, or changes nothing and says why."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from nlmfo.cli.commands import reload as telling
from nlmfo.config import Config, Consistency, Export, Isolation, Service
from nlmfo.errors import NlmfoError, NotOwned, Refused
from nlmfo.failover import last_run, neighbours, place, runs
from nlmfo.failover import reload as reloading
from nlmfo.failover.observe import Observed
from nlmfo.failover.reload import Reloaded, reload
from nlmfo.host import exports, mounts, node_exports, view
from nlmfo.host.surroundings import Surroundings
from nlmfo.kernel import caches, exportable
from nlmfo.ownership.record import boot_id
from nlmfo.records.callout import callout_addresses, callout_entries_at
from tests.unit import shapes
from tests.unit.kernel_fake import FakeKernel
from tests.unit.shapes import EARLIER_BOOT, HERE

T = TypeVar("T")
DATA, MORE = Path("/srv/other/data"), Path("/srv/other/more")
OTHERS = "/srv/mine\t*(rw,sync,fsid=7)\n"


class Place:
    """Namespaces, or the node: everything is called here."""

    home = Path()

    def __init__(self, service: str) -> None:
        self.service = service

    @property
    def directory(self) -> Path:
        return self.home / self.service

    def exist(self) -> bool:
        return True

    def call(self, function: Callable[[], T], *, deadline: float = 0) -> T:
        del deadline
        return function()


def exporting(service: Service, *found: tuple[Path, int, str]) -> Service:
    return service._replace(exports=tuple(Export(path, str(fsid), (("*", given),)) for path, fsid, given in found))


def as_exportfs_makes_it(_: Surroundings, service: Service, text: str) -> str:
    """exportfs -r, as far as this needs it: every path for every client, with defaults spelled out."""
    assert text == exports.render(service, guarded=service.isolation is Isolation.HOST)
    return "".join(
        f"{export.path}\t{client}({options},sync,fsid={export.fsid})\n"
        for export in service.exports
        for client, options in export.clients
    )


class Scene:
    """A service that is served here with one export, ``DATA``, read and write."""

    def __init__(self, home: Path, patch: pytest.MonkeyPatch, isolation: Isolation) -> None:
        self.home = home
        self.host = isolation is Isolation.HOST
        self.kernel = FakeKernel()
        self.proved: list[Path] = []
        self.service = exporting(
            shapes.service(isolation=isolation, state=Path("/srv/other/.nlmfo")), (DATA, 1, "rw,no_subtree_check")
        )
        self.seen = shapes.all_up(self.service)
        self.mounted: set[Path] = set()
        self.etab = home / "etab"
        self.file = (home / "exports.d/nlmfo-home.exports") if self.host else home / "exports"
        self.callout = home / "callout.conf" if self.host else home / "run/home/run/nlmfo/callout.conf"
        self.callout.parent.mkdir(parents=True, exist_ok=True)
        patch.setattr(Place, "home", home / "run")
        for module in (runs, neighbours, place):
            patch.setattr(module, "RUN", home / "run")
        patch.setattr(last_run, "RUNS", home / "runs")
        patch.setattr(view, "CALLOUT_CONFIG", self.callout if self.host else Path("/run/nlmfo/callout.conf"))
        patch.setattr(view, "SPOOL", home / "spool" if self.host else view.SPOOL)
        patch.setattr(view, "STATD_HOMES", (home,))
        patch.setattr(exports, "ETAB", self.etab)
        patch.setattr(exports, "FILE", home / "exports")
        patch.setattr(node_exports, "DIRECTORY", home / "exports.d")
        patch.setattr(exports, "made", as_exportfs_makes_it)
        patch.setattr(exportable, "prove", self.proved.append)
        patch.setattr(caches, "flush", partial(caches.flush, files=self.kernel))
        patch.setattr(node_exports, "in_child", lambda _what, work, **_: work())
        patch.setattr(mounts, "at", lambda path: path if path in self.mounted else None)
        patch.setattr(reloading, "look", lambda *_: self.seen)
        for name in ("Namespaces", "Node"):
            patch.setattr(reloading, name, Place)
        if self.host:
            patch.setattr(Place, "exist", lambda _: False)
            neighbours.mark("home").parent.mkdir(parents=True)
            neighbours.mark("home").touch()
            node_exports._write(self.file, exports.render(self.service, guarded=True))
        table = as_exportfs_makes_it(Place("home"), self.service, exports.render(self.service, guarded=self.host))  # type: ignore[arg-type]
        self.etab.write_text((OTHERS if self.host else "") + table)
        self.served = _Of(self.config(self.service), self.host)
        self.served.tell_callout(self.service)

    def config(self, service: Service) -> Config:
        return shapes.config(None, {"home": service})

    def reload(self, service: Service) -> Reloaded:
        return reload(self.config(service), service)

    def lines(self) -> list[str]:
        return sorted(self.etab.read_text().splitlines())

    def known(self) -> set[tuple[str, Path]]:
        """The fsids that the callout knows."""
        return {known for entry in callout_entries_at(self.callout) for known in entry.exports}

    def everything(self) -> tuple[bytes, bytes, bytes, dict[str, int]]:
        file = self.file.read_bytes() if self.file.exists() else b""
        return self.etab.read_bytes(), self.callout.read_bytes(), file, dict(self.kernel.flushed)


def _Of(config: Config, host: bool) -> reloading._Served:
    return reloading._OnNode(config) if host else reloading._InNamespaces()


@pytest.fixture(params=list(Isolation))
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Scene:
    return Scene(tmp_path, monkeypatch, request.param)


def test_an_export_that_is_new_one_with_other_options_and_one_that_is_gone(scene: Scene) -> None:
    first = exporting(scene.service, (DATA, 1, "rw"), (MORE, 2, "rw"))
    assert scene.reload(first) == Reloaded("home", added=(f"*:{MORE}",), changed=(f"*:{DATA}",))
    before = dict(scene.kernel.flushed)
    found = scene.reload(exporting(scene.service, (MORE, 2, "ro"), (Path("/srv/other/last"), 3, "rw")))
    assert found == Reloaded("home", added=("*:/srv/other/last",), changed=(f"*:{MORE}",), removed=(f"*:{DATA}",))
    others = [OTHERS.strip()] if scene.host else []
    assert scene.lines() == sorted([*others, f"{MORE}\t*(ro,sync,fsid=2)", "/srv/other/last\t*(rw,sync,fsid=3)"])
    assert all(scene.kernel.flushed[name] > before[name] for name in caches.ORDER)
    assert "/srv/other/last" in scene.file.read_text()
    assert str(DATA) not in scene.file.read_text()


def test_a_second_reload_changes_nothing(scene: Scene) -> None:
    changed = exporting(scene.service, (DATA, 1, "ro"), (MORE, 2, "rw"))
    scene.reload(changed)
    before = scene.everything()
    assert scene.reload(changed) == Reloaded("home")
    assert scene.everything() == before


def test_the_callout_knows_of_every_export_that_a_client_can_mount_at_any_moment(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who mounts one that it does not know is noted as a client of the others only."""
    meanwhile: list[set[tuple[str, Path]]] = []
    flush = caches.flush

    def flushing() -> None:
        meanwhile.append(scene.known())
        flush()

    monkeypatch.setattr(caches, "flush", flushing)
    scene.reload(exporting(scene.service, (MORE, 2, "rw")))
    assert meanwhile == [{("1", DATA), ("2", MORE)}]
    assert scene.known() == {("2", MORE)}
    assert not any(callout_addresses(scene.callout).values()), "nothing is frozen"


def test_a_reload_that_was_cut_off_before_the_callout_forgot_is_finished_by_the_next(scene: Scene) -> None:
    scene.served.tell_callout(exporting(scene.service, (DATA, 1, "rw"), (MORE, 2, "rw")))
    scene.reload(scene.service)
    assert scene.known() == {("1", DATA)}


def refused(scene: Scene, service: Service, code: str) -> str:
    before = scene.everything()
    with pytest.raises(Refused) as caught:
        scene.reload(service)
    assert caught.value.code == code
    assert caught.value.hint
    assert scene.everything() == before
    return str(caught.value)


def test_another_fsid_for_a_path_is_refused_because_clients_handles_have_the_first_one(scene: Scene) -> None:
    said = refused(scene, exporting(scene.service, (DATA, 5, "rw"), (MORE, 2, "rw")), "fsid-changed")
    assert "fsid 1, not 5" in said


def test_the_fsid_of_another_path_is_refused_because_clients_would_get_at_the_wrong_files(scene: Scene) -> None:
    assert f"by which clients know {DATA}" in refused(scene, exporting(scene.service, (MORE, 1, "rw")), "fsid-reused")


def test_a_mistake_in_an_option_is_found_before_anything_is_changed(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> str:
        raise NlmfoError('unknown keyword "rww"')

    monkeypatch.setattr(exports, "made", refuse)
    before = scene.everything()
    with pytest.raises(NlmfoError, match="rww"):
        scene.reload(exporting(scene.service, (DATA, 1, "rww")))
    assert scene.everything() == before


def test_a_directory_that_is_not_there_is_found_before_anything_is_changed(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise NlmfoError(f"exporting {path}: there is no such directory")

    monkeypatch.setattr(exportable, "prove", refuse)
    before = scene.everything()
    with pytest.raises(NlmfoError, match="service 'home': exporting /srv/other/data: there is no such directory"):
        scene.reload(exporting(scene.service, (DATA, 1, "rw"), (MORE, 2, "rw")))
    assert scene.everything() == before


def change(**changes: object) -> Callable[[Service], Service]:
    return lambda service: service._replace(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (change(addresses=shapes.service(1, 2).addresses), "address fd00::100 is not up"),
        (change(addresses=shapes.service(1, 2).addresses[1:]), "address 10.10.0.100 is up, and not configured"),
        (change(names=("other.example",)), "names: its clients know it as nfs100.example"),
        (change(state=Path("/srv/elsewhere")), "state: its records are in /srv/other/.nlmfo"),
        (change(consistency=Consistency.ASYNC), 'consistency: its records are written in mode "sync"'),
        (
            lambda s: s._replace(partitions=(*s.partitions, shapes.partition(9, "/srv/new"))),
            "partition 00000009-0000-4000-8000-000000000000 is not mounted at /srv/new",
        ),
    ],
)
def test_what_a_reload_cannot_bring_is_named_and_nothing_is_changed(
    scene: Scene, changed: Callable[[Service], Service], said: str
) -> None:
    assert said in refused(scene, changed(exporting(scene.service, (MORE, 2, "rw"))), "not-by-reload")


def test_another_isolation_is_named_and_nothing_is_changed(scene: Scene) -> None:
    other = Isolation.NETNS if scene.host else Isolation.HOST
    said = refused(scene, scene.service._replace(isolation=other), "not-by-reload")
    assert f'isolation: it is served with "{"host" if scene.host else "netns"}"' in said


def journal_of(scene: Scene, name: str, *lines: dict[str, object], boot: str | None = None) -> None:
    (scene.home / "runs").mkdir(exist_ok=True)
    begun = {"event": "begun", "verb": "takeover", "node": HERE, "boot_id": boot or boot_id()}
    text = "".join(json.dumps(line) + "\n" for line in (begun, *lines))
    (scene.home / f"runs/{name}-home.jsonl").write_text(text)


def mounted(mountpoint: str) -> dict[str, object]:
    return {"event": "step-done", "step": {"action": "mount", "subject": mountpoint}}


def ended(outcome: str) -> dict[str, object]:
    return {"event": "ended", "outcome": outcome}


def test_a_partition_that_was_taken_out_of_the_configuration_is_named_while_it_is_mounted(scene: Scene) -> None:
    """A release would leave it mounted, and say that another node may take over."""
    scene.mounted = {Path("/srv/gone"), Path("/srv/before"), Path("/srv/released")}
    journal_of(scene, "20260101T000000.000000Z", mounted("/srv/before"), boot=EARLIER_BOOT)
    journal_of(scene, "20260102T000000.000000Z", mounted("/srv/released"), ended("served"))
    journal_of(scene, "20260103T000000.000000Z", ended("released"))
    journal_of(scene, "20260104T000000.000000Z", mounted("/srv/gone"), mounted("/srv/unmounted"), ended("served"))
    said = refused(scene, exporting(scene.service, (MORE, 2, "rw")), "not-by-reload")
    assert said.endswith("what is served here: /srv/gone is mounted for it, and no partition says so")


def test_after_a_run_that_was_cut_off_that_comes_first(scene: Scene) -> None:
    journal_of(scene, "20260101T000000.000000Z", mounted("/srv/other"))
    before = scene.everything()
    with pytest.raises(NlmfoError, match="a run was cut off here") as caught:
        scene.reload(exporting(scene.service, (MORE, 2, "rw")))
    assert "nlmfo resume home" in str(caught.value.hint)
    assert scene.everything() == before


@pytest.mark.parametrize("owner", [None, shapes.record(1, shapes.THERE)])
def test_where_it_is_not_served_there_is_nothing_to_reload(scene: Scene, owner: object) -> None:
    scene.seen = replace(shapes.observed(scene.service), owner=owner)  # type: ignore[arg-type]
    assert isinstance(scene.seen, Observed)
    with pytest.raises(NotOwned):
        scene.reload(scene.service)


def test_while_another_run_is_at_work_on_the_service_it_waits_for_nothing_and_says_so(scene: Scene) -> None:
    with runs.only_run(scene.service), pytest.raises(NlmfoError, match="another nlmfo is at work on it"):
        scene.reload(scene.service)


def test_a_table_that_somebody_else_changed_meanwhile_is_an_error(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caches, "flush", lambda: scene.etab.write_text(f"{MORE}\t*(rw,sync,fsid=9)\n"))
    with pytest.raises(NlmfoError, match="is not what was put there"):
        scene.reload(exporting(scene.service, (MORE, 2, "rw")))


def test_threads_are_told_to_come_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(tmp_path, monkeypatch, Isolation.NETNS)
    found = scene.reload(scene.service._replace(threads=16))
    assert found.later == ("threads: 8 run, 16 are configured",)
    assert telling.told(found).endswith("from the next takeover on only: threads: 8 run, 16 are configured")


def test_what_was_done_is_told_line_by_line() -> None:
    found = Reloaded("home", ("*:/new",), ("*:/other",), ("*:/old",))
    assert telling.told(found).splitlines() == [
        "home: exported: *:/new",
        "home: exported with other options: *:/other",
        "home: not exported any more: *:/old",
    ]
    assert telling.told(Reloaded("home")) == "home: what is exported is what is configured"
