# SPDX-License-Identifier: GPL-2.0-or-later
"""What the hands of host isolation do with the server that several services share, and with the records of all."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from nlmfo.config import Config, Isolation, Service
from nlmfo.deadline import Deadline
from nlmfo.errors import DeadlineExceeded, NlmfoError, Refused
from nlmfo.failover import host, neighbours, place, progress, runs, shared
from nlmfo.failover.actions import Standpoint
from nlmfo.failover.events import ExportLeftOut
from nlmfo.failover.host import HostActions
from nlmfo.failover.place import Place
from nlmfo.failover.plan import Action, Step
from nlmfo.host import keeper_process, node_addresses, node_exports, node_locks, node_restart, view
from nlmfo.host.node import Node
from nlmfo.host.view import StatdUser
from nlmfo.kernel import proposed
from nlmfo.ownership.registry import DirectoryRegistry
from nlmfo.records.callout import callout_addresses
from nlmfo.records.layout import Address
from nlmfo.records.store import Store
from tests.unit import shapes
from tests.unit.cluster_fake import Log
from tests.unit.shapes import HERE

CLIENT = "192.0.2.17"
ME = StatdUser(os.geteuid(), os.getegid())
GRACE, NOTIFY = Step(Action.GRACE, ""), Step(Action.NOTIFY, "")


class Scene:
    """``home`` is about to be served beside ``mail`` and ``web``, which are attached and have a client each."""

    def __init__(self, directory: Path, patch: pytest.MonkeyPatch) -> None:
        self.callout = directory / "callout.conf"
        self.restarts: list[dict[str, object]] = []
        self.frozen_meanwhile: set[Address] = set()
        self.told_meanwhile: dict[str, bool] = {}
        self.trouble: Exception | None = None
        self.made = ExitStack()
        patch.setattr(neighbours, "RUN", directory / "run")
        patch.setattr(place, "RUN", directory / "run")
        patch.setattr(view, "CALLOUT_CONFIG", self.callout)
        patch.setattr(view, "SPOOL", directory / "spool")
        patch.setattr(view, "STATD_HOMES", (directory,))
        patch.setattr(node_restart, "restart", self._restart)
        patch.setattr(proposed, "can_start_grace", lambda: False)
        self.services = {
            name: shapes.service(name=name, isolation=Isolation.HOST, state=directory / name)._replace(
                addresses=(shapes.service().addresses[0] + number,),
                grace=grace,
            )
            for number, (name, grace) in enumerate([("home", 30), ("mail", 60), ("web", None)])
        }
        (directory / "services").mkdir()
        self.config = Config(directory, HERE, directory, self.services, (), restart_nfsd=True)
        for name, service in self.services.items():
            service.state.mkdir()
            store = self.store(name)
            store.prepare(*ME_IDS)
            store.begin_generation()
            store.mark_told()
            if name != "home":
                store.add(service.addresses[0].ip, CLIENT, name)
                shared.attach(self.config, service, ME)

    def store(self, name: str) -> Store:
        service = self.services[name]
        return Store(service.state, [address.ip for address in service.addresses])

    def hands(self) -> HostActions:
        registry = DirectoryRegistry(self.config.directory)
        found = runs.hands_of(self.config, self.services["home"], registry, Standpoint(), Log())
        assert isinstance(found, HostActions)
        return self.made.enter_context(closing(found))

    def address(self, name: str) -> Address:
        return self.services[name].addresses[0].ip

    def frozen(self) -> set[Address]:
        return {address for address, frozen in callout_addresses(self.callout).items() if frozen}

    def keeper_says(self, name: str, *, told: bool) -> None:
        found = progress.Progress(self.store(name).state_number(), told=told, in_grace=True)
        place = Place.of_node(name)
        place.progress.parent.mkdir(parents=True, exist_ok=True)
        progress.write(place.progress, found)

    def addresses_of_callout(self) -> list[str]:
        lines = self.callout.read_text().splitlines()
        return [line.removeprefix("address ") for line in lines if line.startswith("address ")]

    def _restart(self, _: object, *, between: Callable[[], None], **how: object) -> None:
        self.restarts.append(how)
        self.frozen_meanwhile = self.frozen()
        between()
        self.told_meanwhile = {name: self.store(name).told() for name in self.services}
        if self.trouble is not None:
            raise self.trouble


ME_IDS = (ME.uid, ME.gid)


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    scene = Scene(tmp_path, monkeypatch)
    with scene.made:
        yield scene


def do(hands: HostActions, step: Step) -> str:
    return hands.do(step, Deadline(30))


def test_without_permission_to_restart_there_is_no_way_into_grace(scene: Scene) -> None:
    scene.config = scene.config._replace(restart_nfsd=False)
    with pytest.raises(Refused, match="cannot be put into grace without a restart") as caught:
        do(scene.hands(), GRACE)
    assert caught.value.code == "no-grace"
    assert scene.restarts == []


def test_where_the_kernel_gives_an_address_its_grace_nobody_else_is_touched(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Address] = []
    monkeypatch.setattr(proposed, "can_start_grace", lambda: True)
    monkeypatch.setattr(node_locks, "start_grace_of", given.append)
    assert do(scene.hands(), GRACE) == "of its addresses only"
    assert given == [scene.address("home")]
    assert scene.restarts == []
    assert scene.store("mail").told()


def test_while_the_shared_server_restarts_no_record_of_anybody_is_deleted(scene: Scene) -> None:
    """A clean stop makes statd forget everybody, on kernels >= 6.4."""
    shared.attach(scene.config, scene.services["home"], ME)
    assert do(scene.hands(), GRACE) == "the locks of mail, web were dropped with it"
    assert scene.frozen_meanwhile == {scene.address(name) for name in scene.services}
    assert scene.frozen() == set()


def test_whoever_lost_locks_to_the_restart_is_owed_a_notice_before_the_server_is_up_again(scene: Scene) -> None:
    """Whatever becomes of this run. Who is to be served now has begun a generation already."""
    before = scene.store("home").state_number()
    shared.attach(scene.config, scene.services["home"], ME)
    do(scene.hands(), GRACE)
    assert scene.told_meanwhile == {"home": True, "mail": False, "web": False}
    assert scene.store("home").state_number() == before
    for name in ("mail", "web"):
        assert [record.client for record in scene.store(name).owed(scene.address(name))] == [CLIENT]
        assert scene.store(name).current(scene.address(name)) == ()


def test_the_restart_is_given_the_longest_grace_and_everybodys_clients_and_partitions(scene: Scene) -> None:
    shared.attach(scene.config, scene.services["home"], ME)
    scene.store("home").add(scene.address("home"), CLIENT, "home")
    do(scene.hands(), GRACE)
    (how,) = scene.restarts
    assert (how["grace"], how["clients"]) == (60, 3)
    mountpoints = how["mountpoints"]
    assert isinstance(mountpoints, list)
    assert mountpoints == [p.mountpoint for service in scene.services.values() for p in service.partitions]


def test_a_restart_that_fails_leaves_no_record_frozen(scene: Scene) -> None:
    scene.trouble = NlmfoError("nfsd does not start")
    with pytest.raises(NlmfoError, match="nfsd does not start"):
        do(scene.hands(), GRACE)
    assert scene.frozen_meanwhile
    assert scene.frozen() == set()
    assert not scene.store("mail").told()


def test_a_service_alone_on_its_node_takes_no_locks_from_others(scene: Scene) -> None:
    for name in ("mail", "web"):
        shared.detach(scene.config, scene.services[name])
    assert do(scene.hands(), GRACE) == "lockd is in grace"
    assert scene.store("mail").told()


@pytest.mark.parametrize("attached", [True, False])
def test_the_clients_of_all_who_share_the_server_are_told(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, attached: bool
) -> None:
    """Also by the rest of a run that takes its own service down: then of the others only."""
    if attached:
        shared.attach(scene.config, scene.services["home"], ME)
    asked: list[str] = []

    def keeper_runs(place: Node) -> bool:
        asked.append(place.service)
        return True

    monkeypatch.setattr(keeper_process, "runs", keeper_runs)
    told = {name for name in scene.services if name != "home" or attached}
    for name in told:
        scene.keeper_says(name, told=True)
    words = ", ".join(f"{name}: 0 clients told" for name in scene.services if name in told)
    assert do(scene.hands(), NOTIFY) == words
    # Each of them has to say so: one that does not is waited for, and a keeper that has ended is not.
    scene.keeper_says("web", told=False)
    with pytest.raises(DeadlineExceeded, match="service 'web': telling every client"):
        scene.hands().do(NOTIFY, Deadline(0.2))
    assert set(asked) == {"web"}
    monkeypatch.setattr(keeper_process, "runs", lambda _: False)
    with pytest.raises(NlmfoError, match="service 'web': the process that tells the clients"):
        do(scene.hands(), NOTIFY)


@pytest.mark.parametrize("attached", [True, False])
def test_the_keepers_of_all_who_share_the_server_are_started_where_they_do_not_run(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, attached: bool
) -> None:
    if attached:
        shared.attach(scene.config, scene.services["home"], ME)
    started: list[str] = []
    monkeypatch.setattr(keeper_process, "start", lambda place, _: started.append(place.service))
    do(scene.hands(), Step(Action.KEEP, ""))
    assert started == [*(["home"] if attached else []), "mail", "web"]


def test_a_release_freezes_and_thaws_its_own_records_and_no_others(scene: Scene) -> None:
    shared.attach(scene.config, scene.services["home"], ME)
    do(scene.hands(), Step(Action.FREEZE, ""))
    assert scene.frozen() == {scene.address("home")}
    do(scene.hands(), Step(Action.THAW, ""))
    assert scene.frozen() == set()


def test_an_export_that_is_left_out_is_told_and_the_service_attached_all_the_same(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_exports, "load", lambda _: ("gone.example:/srv/other",))
    hands = scene.hands()
    do(hands, Step(Action.EXPORT, ""))
    assert isinstance(hands.sink, Log)
    assert hands.sink.events == [ExportLeftOut("gone.example:/srv/other")]
    assert neighbours.mark("home").exists()
    assert scene.addresses_of_callout() == [str(scene.address(name)) for name in scene.services]


def test_exports_that_fail_leave_the_callout_as_it_was(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Service) -> tuple[str, ...]:
        raise NlmfoError("no such path")

    monkeypatch.setattr(node_exports, "load", fail)
    before = scene.callout.read_text()
    with pytest.raises(NlmfoError):
        do(scene.hands(), Step(Action.EXPORT, ""))
    assert not neighbours.mark("home").exists()
    assert scene.callout.read_text() == before


def test_detaching_takes_away_what_the_callout_knows_of_this_service_only(scene: Scene) -> None:
    shared.attach(scene.config, scene.services["home"], ME)
    for _ in range(2):  # also after a run that was killed in the midst of it
        do(scene.hands(), Step(Action.DETACH, ""))
        assert scene.addresses_of_callout() == [str(scene.address(name)) for name in ("mail", "web")]
    assert [service.name for service in neighbours.attached(scene.config)] == ["mail", "web"]


def test_addresses_exports_locks_and_keeper_that_go_are_those_of_this_service(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    did = tmp_path / "did"

    def note(what: str) -> Callable[..., None]:
        """In a file: some of it is done by a child process."""

        def write(*given: object) -> None:
            with did.open("a") as file:
                file.write(f"{what} {' '.join(str(getattr(each, 'name', each)) for each in given)}\n")

        return write

    monkeypatch.setattr(node_addresses, "take_down", lambda _, some: note("address down")(*some))
    monkeypatch.setattr(node_addresses, "bring_up", lambda _, some: note("address up")(*some))
    monkeypatch.setattr(node_exports, "unload", note("unexport"))
    monkeypatch.setattr(node_locks, "drop_locks", lambda mountpoint: note("unlock")(str(mountpoint)))
    monkeypatch.setattr(keeper_process, "stop", lambda place: note("stop keeper")(place.service))
    for action in (Action.ADDRESS_DOWN, Action.UNEXPORT, Action.UNLOCK, Action.STOP_KEEPER, Action.ADDRESS_UP):
        do(scene.hands(), Step(action, "/srv/other"))
    (address,) = scene.services["home"].addresses
    assert did.read_text().splitlines() == [
        f"address down {address}",
        "unexport home",
        "unlock /srv/other",
        "stop keeper home",
        f"address up {address}",
    ]


def test_the_refusal_names_both_ways_out() -> None:
    hint = str(host.no_way_into_grace(shapes.service()).hint)
    assert "restart_nfsd = true" in hint
    assert 'isolation = "netns"' in hint


def test_dropping_locks_takes_no_longer_than_is_left_of_the_time(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_locks, "drop_locks", lambda _: signal.pause())
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        scene.hands().do(Step(Action.UNLOCK, "/srv/other"), Deadline(0.3))
    assert time.monotonic() - began < 10
