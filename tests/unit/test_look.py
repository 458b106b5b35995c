# SPDX-License-Identifier: GPL-2.0-or-later
"""What is seen of a service on this node, where it does not take a kernel with nfsd: whose it is, and what is up."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TypeVar

import pytest

from nlmfo.config import Config, Isolation, Service
from nlmfo.errors import Refused
from nlmfo.failover import look as looking
from nlmfo.failover import neighbours
from nlmfo.failover import owner as owners
from nlmfo.failover.look import look
from nlmfo.failover.observe import Observed
from nlmfo.host import (
    addresses,
    exports,
    keeper_process,
    mounts,
    node_addresses,
    node_exports,
    view,
)
from nlmfo.host.namespaces import Namespaces
from nlmfo.kernel import grace, lockd, locks, nfsd, proposed, syscalls
from nlmfo.ownership.record import OwnerRecord, Standing
from nlmfo.ownership.registry import DirectoryRegistry, Registry
from nlmfo.records.callout import CalloutEntry, callout_config, write_callout_config
from nlmfo.records.layout import directory_name
from nlmfo.records.store import Store
from tests.unit import namespaced, shapes
from tests.unit.shapes import EARLIER_BOOT, HERE, THERE

T = TypeVar("T")


@pytest.fixture
def registry(tmp_path: Path) -> DirectoryRegistry:
    (tmp_path / "registry/services").mkdir(parents=True)
    return DirectoryRegistry(tmp_path / "registry")


def records(service: Service, *, told: bool) -> None:
    """The service's records, of a generation whose clients were told or were not."""
    service.state.mkdir(parents=True)
    store = Store(service.state, [address.ip for address in service.addresses])
    store.prepare(os.geteuid(), os.getegid())
    store.begin_generation()
    if told:
        store.mark_told()


# Whose it is


@pytest.mark.parametrize("isolation", list(Isolation))
@pytest.mark.parametrize(
    ("record", "owned", "listed"),
    [
        (shapes.record(1), True, True),
        (shapes.record(1, boot=EARLIER_BOOT), False, True),
        (shapes.record(1, THERE), False, False),
        (shapes.record(1, standing=Standing.RELEASED), False, False),
        (None, False, False),
    ],
    ids=["ours", "of an earlier boot", "another's", "released", "nobody's"],
)
def test_an_owner_of_an_earlier_boot_is_listed_and_owns_nothing_any_more(
    registry: DirectoryRegistry, isolation: Isolation, record: OwnerRecord | None, owned: bool, listed: bool
) -> None:
    if record is not None:
        registry.claim(record)
    service = shapes.service(isolation=isolation)
    seen = look(shapes.config(registry.directory), service, registry)
    assert (seen.owner, seen.owned, seen.listed) == (record, owned, listed)
    assert not seen.anything()


@pytest.mark.parametrize("isolation", list(Isolation))
def test_where_the_registry_cannot_be_read_nothing_is_said_of_the_owner(tmp_path: Path, isolation: Isolation) -> None:
    with pytest.raises(Refused, match="nobody can tell who serves"):
        look(shapes.config(tmp_path), shapes.service(isolation=isolation), DirectoryRegistry(tmp_path))


@pytest.mark.timeout(30)
def test_a_registry_that_hangs_is_one_that_cannot_be_read(
    registry: DirectoryRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owners, "READ", 0.2)
    service = shapes.service()
    owner = registry.directory / "services" / service.name / "owner"
    owner.mkdir(parents=True)
    os.mkfifo(owner / "000001")  # nobody writes to it, so whoever reads it waits
    with pytest.raises(Refused, match="nobody can tell who serves") as refused:
        look(shapes.config(registry.directory), service, registry)
    assert refused.value.code == "registry-unavailable"


def test_a_service_that_another_node_claimed_since_is_superseded_while_anything_of_it_is_mounted() -> None:
    service = shapes.service()
    for mounted, owner, superseded in (
        (1, shapes.record(7, THERE), True),
        (1, shapes.record(7, THERE, Standing.RELEASED), True),
        (1, shapes.record(7, HERE, boot=EARLIER_BOOT), False),
        (1, None, False),
        (0, shapes.record(7, THERE), False),
    ):
        assert shapes.observed(service, mounted=mounted, owner=owner).superseded(HERE) is superseded


# Whether reclaims are granted


@pytest.mark.parametrize(
    ("lockd_in_grace", "threads", "v4_ended", "in_grace"),
    [
        (False, 0, True, False),
        (True, 8, True, True),
        (False, 8, True, False),
        # lockd asks both keepers before it grants: NFSv4's holds it in grace as well.
        (False, 8, False, True),
        # Of an nfsd that does not run, nothing is left that could hold it.
        (False, 0, False, False),
    ],
)
def test_grace_is_on_while_either_keeper_holds_it(
    monkeypatch: pytest.MonkeyPatch, lockd_in_grace: bool, threads: int, v4_ended: bool, in_grace: bool
) -> None:
    monkeypatch.setattr(lockd, "in_grace", lambda **_: lockd_in_grace)
    monkeypatch.setattr(nfsd, "threads", lambda **_: threads)
    monkeypatch.setattr(nfsd, "v4_grace_ended", lambda **_: v4_ended)
    assert grace.on() is in_grace


# In namespaces of its own


def test_namespaces_that_a_killed_run_had_only_begun_are_a_trace_and_no_server(
    registry: DirectoryRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Inside, the node's own files would be seen: its export table is not this service's.
    monkeypatch.setattr(exports, "ETAB", Path("/proc/self/status"))
    monkeypatch.setattr(nfsd, "threads", lambda: 8)
    with namespaced.own_mounts(), namespaced.made() as namespaces:
        service = shapes.service(name=namespaces.service)
        seen = look(shapes.config(registry.directory), service, registry)
        assert seen == shapes.observed(service, traces=True)
        assert seen.anything()
        syscalls.umount(namespaces.uts)
        assert look(shapes.config(registry.directory), service, registry) == seen


class InPlace(Namespaces):
    """Namespaces that need not be there: what is seen of them is what the tests put in place."""

    home = Path()

    @property
    def directory(self) -> Path:
        return self.home

    def exist(self) -> bool:
        return True

    def traces(self) -> bool:
        return True

    def call(self, function: Callable[[], T], *, deadline: float = 0) -> T:
        del deadline
        return function()


class Isolated:
    """A service of two partitions and two addresses that is up in its namespaces, whole, as far as is seen."""

    def __init__(self, directory: Path, patch: pytest.MonkeyPatch, registry: Registry) -> None:
        self.service = shapes.service(2, 2, state=directory / "state")
        self.config = shapes.config(directory / "registry")
        self.registry = registry
        self.patch = patch
        self.mounted = {p.uuid for p in self.service.partitions}
        self.up = {address.ip for address in self.service.addresses}
        self.callout = directory / "run/nlmfo/callout.conf"
        self.callout.parent.mkdir(parents=True)
        (directory / "etab").write_text("".join(f"{e.path}\t*(rw)\n" for e in self.service.exports))
        patch.setattr(InPlace, "home", directory)
        patch.setattr(looking, "Namespaces", InPlace)
        patch.setattr(view, "put_in_place_already", lambda: True)
        (directory / "exports").write_text(exports.render(self.service))
        patch.setattr(exports, "ETAB", directory / "etab")
        patch.setattr(exports, "FILE", directory / "exports")
        patch.setattr(grace, "on", lambda: True)
        patch.setattr(addresses, "is_up", lambda _, address: address in self.up)
        patch.setattr(mounts, "is_mounted", lambda partition: partition.uuid in self.mounted)
        patch.setattr(keeper_process, "runs", lambda place: place.service == "home")
        freeze(self.callout, self.service, frozen=False)
        self.threads(8)

    def threads(self, number: int) -> None:
        self.patch.setattr(nfsd, "threads", lambda **_: number)
        self.set_up(bool(number))

    def set_up(self, yes: bool) -> None:
        self.patch.setattr(nfsd, "is_set_up", lambda **_: yes)

    def look(self) -> Observed:
        return look(self.config, self.service, self.registry)


@pytest.fixture
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: DirectoryRegistry) -> Isolated:
    return Isolated(tmp_path, monkeypatch, registry)


def test_a_service_that_is_up_in_its_namespaces_is_seen_whole(isolated: Isolated) -> None:
    records(isolated.service, told=True)
    isolated.registry.claim(shapes.record())
    seen = isolated.look()
    assert seen == replace(shapes.all_up(isolated.service), in_grace=True)
    assert seen.serves(isolated.service)


def test_what_is_missing_of_it_is_seen_to_be_missing(isolated: Isolated) -> None:
    records(isolated.service, told=True)
    isolated.up.pop()
    isolated.mounted.pop()
    exports.ETAB.write_text("/srv/elsewhere\t*(rw)\n")
    seen = isolated.look()
    assert seen.addresses == isolated.up
    assert seen.mounted == isolated.mounted
    assert seen.exported == {"/srv/elsewhere"}
    assert seen.to_export == {str(export.path) for export in isolated.service.exports}
    assert not seen.serves(isolated.service)


@pytest.mark.parametrize("told", [True, False])
def test_whether_the_clients_were_told_is_read_from_the_records(isolated: Isolated, told: bool) -> None:
    records(isolated.service, told=told)
    seen = isolated.look()
    assert (seen.told, seen.unread) == (told, ())


@pytest.mark.parametrize("missing", ["threads", "partition"])
def test_records_that_nobody_serves_from_are_not_touched(isolated: Isolated, missing: str) -> None:
    """Their storage may not be there: a look at what is left of a run must not fail for that."""
    assert not isolated.service.state.exists()
    if missing == "threads":
        isolated.threads(0)
    else:
        isolated.mounted.pop()
    seen = isolated.look()
    assert (seen.told, seen.unread) == (False, ())


def test_locks_that_are_left_without_an_nfsd_are_seen(isolated: Isolated, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[set[str]] = []

    def held(devices: set[str]) -> tuple[str, ...]:
        asked.append(devices)
        return ("a lock",)

    monkeypatch.setattr(mounts, "at", lambda path: mounts.Mount("7:1", "/", path, "ext4", "/dev/x"))
    monkeypatch.setattr(locks, "held_by_clients", held)
    assert not isolated.look().stranded  # they are in use
    assert asked == []
    isolated.threads(0)
    assert isolated.look().stranded
    assert asked == [{"7:1"}]


def test_an_nfsd_without_threads_is_there_once_it_is_set_up(isolated: Isolated) -> None:
    isolated.threads(0)
    assert not isolated.look().set_up
    isolated.set_up(True)
    seen = isolated.look()
    assert (seen.threads, seen.set_up) == (0, True)


@pytest.mark.parametrize("frozen", [True, False])
def test_records_that_a_release_froze_are_seen_in_what_the_callout_is_told(isolated: Isolated, frozen: bool) -> None:
    records(isolated.service, told=True)
    assert isolated.look().frozen is False
    freeze(isolated.callout, isolated.service, frozen=frozen)
    assert isolated.look().frozen is frozen


def test_a_service_is_attached_while_its_callout_is_told_of_it(isolated: Isolated) -> None:
    """Until then there is nothing for a release to freeze, and nothing that it could collect."""
    records(isolated.service, told=True)
    isolated.callout.unlink()
    seen = isolated.look()
    assert (seen.attached, seen.frozen) == (False, False)
    freeze(isolated.callout, isolated.service, frozen=False)
    assert isolated.look().attached is True
    freeze(isolated.callout, isolated.service)
    assert isolated.look().attached is True


def hang(patch: pytest.MonkeyPatch, *services: Service) -> None:
    """The storage of these services' records takes every process with it that touches it."""
    told, hanging = Store.told, {service.state for service in services}
    patch.setattr(looking, "READ", 0.2)
    patch.setattr(Store, "told", lambda store: signal.pause() if store.state in hanging else told(store))


def test_records_on_a_storage_that_hangs_do_not_say_that_the_clients_were_told(isolated: Isolated) -> None:
    """A release has to be possible then: the address comes down before anything needs the records."""
    records(isolated.service, told=True)
    isolated.registry.claim(shapes.record())
    hang(isolated.patch, isolated.service)
    assert isolated.look() == replace(shapes.all_up(isolated.service), in_grace=True, told=False, unread=("home",))


def test_records_that_are_gone_while_they_are_served_do_not_say_that_the_clients_were_told(isolated: Isolated) -> None:
    isolated.registry.claim(shapes.record())
    assert isolated.look() == replace(shapes.all_up(isolated.service), in_grace=True, told=False, unread=("home",))


def freeze(path: Path, *services: Service, frozen: bool = True) -> None:
    entries = [
        CalloutEntry(a.ip, s.state / directory_name(a.ip), s.name, frozen=frozen) for s in services for a in s.addresses
    ]
    write_callout_config(path, callout_config(entries, frozen=False))


# On the node's own server


class Shared:
    """``home`` and its neighbours ``mail`` and ``web`` on one node's server; ``other`` has namespaces of its own."""

    def __init__(self, directory: Path, patch: pytest.MonkeyPatch, registry: Registry) -> None:
        self.run = directory / "run"
        self.registry = registry
        self.services = {
            name: shapes.service(name=name, isolation=isolation, state=directory / name)._replace(
                addresses=(shapes.service(2, 2).addresses[0] + number,),
            )
            for number, (name, isolation) in enumerate(
                [*product(("home", "mail", "web"), [Isolation.HOST]), ("other", Isolation.NETNS)]
            )
        }
        self.service = self.services["home"]
        self.config = Config(directory, HERE, directory / "registry", self.services, ())
        self.exported = {Path("/srv/mine"), *(export.path for export in self.service.exports)}
        self.callout = directory / "callout.conf"
        patch.setattr(neighbours, "RUN", self.run)
        patch.setattr(looking, "CALLOUT_CONFIG", self.callout)
        patch.setattr(nfsd, "threads", lambda: 8)
        patch.setattr(grace, "on", lambda: True)
        patch.setattr(mounts, "is_mounted", lambda _: True)
        patch.setattr(node_exports, "table", lambda: self.exported)
        patch.setattr(node_exports, "written", lambda service: {export.path for export in service.exports})
        patch.setattr(node_exports, "traces", lambda service: service is self.service)
        patch.setattr(node_addresses, "is_up", lambda address: address == self.service.addresses[0].ip)
        patch.setattr(proposed, "can_start_grace", lambda: False)
        patch.setattr(keeper_process, "runs", lambda place: place.service == "home")

    def attach(self, name: str, *, told: bool = True) -> None:
        neighbours.mark(name).parent.mkdir(parents=True)
        neighbours.mark(name).touch()
        records(self.services[name], told=told)

    def look(self) -> Observed:
        return look(self.config, self.service, self.registry)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: DirectoryRegistry) -> Shared:
    return Shared(tmp_path, monkeypatch, registry)


def test_a_service_that_is_up_on_the_nodes_server_is_seen_whole_and_nothing_but_it(node: Shared) -> None:
    node.attach("home")
    node.registry.claim(shapes.record())
    seen = node.look()
    assert seen == replace(shapes.all_up(node.service), in_grace=True)
    assert seen.serves(node.service)


def test_a_service_that_is_not_attached_is_not_served_whatever_the_node_has_of_its_own(node: Shared) -> None:
    node.exported.clear()
    seen = node.look()
    assert (seen.attached, seen.told, seen.exported) == (False, False, frozenset())
    assert seen.threads == 8  # the node's


def test_the_neighbours_are_the_attached_ones_and_those_whose_clients_were_not_told_are_known(node: Shared) -> None:
    node.attach("home", told=False)
    assert (node.look().neighbours, node.look().told) == ((), False)
    node.attach("mail")
    node.attach("web", told=False)
    node.attach("other", told=False)
    seen = node.look()
    assert (seen.neighbours, seen.untold) == (("mail", "web"), ("web",))


def test_frozen_is_what_the_callout_was_told_of_this_service(node: Shared) -> None:
    node.attach("home")
    node.attach("mail")
    freeze(node.callout, node.services["mail"])
    assert node.look().frozen is False
    freeze(node.callout, node.services["mail"], node.service)
    assert node.look().frozen is True


def test_a_kernel_that_can_give_an_address_its_grace_is_noticed(node: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    assert node.look().per_address is False
    monkeypatch.setattr(proposed, "can_start_grace", lambda: True)
    assert node.look().per_address is True


def test_neighbours_whose_records_cannot_be_read_are_named_and_neither_told_nor_untold(node: Shared) -> None:
    """A takeover has to stop at them (nlmfo.failover.runs), and nobody is sent a notice from what was not read."""
    node.attach("mail")
    node.attach("web")
    (node.services["mail"].state / directory_name(node.services["mail"].addresses[0].ip)).rename(node.run / "away")
    node.attach("other", told=False)
    seen = node.look()
    assert (seen.neighbours, seen.untold, seen.unread) == (("mail", "web"), (), ("mail",))


def test_neighbours_whose_storage_hangs_are_named_and_hold_up_no_look_at_the_others(
    node: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.attach("home")
    node.attach("mail")
    node.attach("web", told=False)
    hang(monkeypatch, node.services["mail"])
    seen = node.look()
    assert (seen.told, seen.neighbours) == (True, ("mail", "web"))
    assert (seen.untold, seen.unread) == (("web",), ("mail",))


def test_where_this_services_own_storage_hangs_it_is_not_told_and_its_neighbours_are_looked_at(
    node: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.attach("home")
    node.attach("mail", told=False)
    hang(monkeypatch, node.service)
    seen = node.look()
    assert (seen.told, seen.untold, seen.unread) == (False, ("mail",), ("home",))
