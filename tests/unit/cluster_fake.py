# SPDX-License-Identifier: GPL-2.0-or-later
"""Two nodes, their shared storage, a registry and clients that hold locks, in memory; nlmfo can be killed anywhere.

The fake is strict where kernels are: a busy partition does not unmount, namespaces that exist are not made twice, a
clean stop of nfsd makes statd forget everybody whose record is not frozen (kernels >= 6.4), a client tries a reclaim
once per notice, a restart of the node's nfsd drops the locks of every service on it. At each system call that could be
the last it looks whether a promise was broken; ``Broken`` is what a test has to see none of.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from nlmfo.config import Config, Isolation, Service
from nlmfo.deadline import Deadline
from nlmfo.errors import NlmfoError, Refused
from nlmfo.failover import journal, runs
from nlmfo.failover.actions import Standpoint
from nlmfo.failover.events import Event, Outcome
from nlmfo.failover.observe import Observed
from nlmfo.failover.plan import Action, Step
from nlmfo.host import node_server, own_mounts
from nlmfo.host.node_server import Unfit
from nlmfo.ownership.proof import Word
from nlmfo.ownership.record import OwnerRecord, Standing
from nlmfo.records import journal as on_disk

E = TypeVar("E", bound=Event)

CLIENTS = ("192.0.2.17", "192.0.2.18")


class Killed(BaseException):
    """SIGKILL: nothing that this nlmfo would still do happens."""


class Broken(AssertionError):
    """A promise was broken."""


@dataclass
class Log:
    """A sink that remembers."""

    events: list[Event] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]


@dataclass
class Records:
    """What a service has on shared storage."""

    current: set[str] = field(default_factory=set)
    owed: set[str] = field(default_factory=set)
    state: int = 1
    told_state: int = 1

    def begin_generation(self) -> None:
        self.owed |= self.current
        self.current = set()
        self.state += 2

    @property
    def told(self) -> bool:
        return self.told_state == self.state


@dataclass
class Spot:
    """What one node has of one service. ``threads`` and ``grace`` are its own server's (netns)."""

    mounted: set[str] = field(default_factory=set)
    isolated: bool = False
    link: bool = False
    exported: bool = False
    daemons: bool = False
    addresses: bool = False
    attached: bool = False
    frozen: bool = False
    kept: bool = False
    threads: int = 0
    grace: bool = False
    locks: set[str] = field(default_factory=set)

    def empty(self) -> bool:
        return self == Spot(frozen=self.frozen)


class Node:
    """One node. ``server`` stands for its own nfsd, which the services of host isolation share."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.boot = f"{name}-boot-1"
        self.up = True
        self.spots: dict[str, Spot] = {}
        self.server = Spot(threads=8)
        self.journals: dict[str, list[bytes]] = {}
        #: Raised by a step instead of doing it, or once it is done; every time, until it is taken away.
        self.instead: dict[Action, BaseException] = {}
        self.afterwards: dict[Action, BaseException] = {}
        #: Every step that began.
        self.begun: list[Action] = []

    def spot(self, service: str) -> Spot:
        return self.spots.setdefault(service, Spot())


class Registry:
    """The owner records, in memory, with the rules of the real one."""

    def __init__(self) -> None:
        self.records: dict[str, dict[int, OwnerRecord]] = {}

    def read(self, service: str) -> OwnerRecord | None:
        epochs = self.records.get(service, {})
        return epochs[max(epochs)] if epochs else None

    def claim(self, record: OwnerRecord) -> None:
        epochs = self.records.setdefault(record.service, {})
        if epochs and max(epochs) >= record.epoch:
            raise Refused("claim-lost", "another node was faster")
        epochs[record.epoch] = record

    def update(self, record: OwnerRecord) -> None:
        self.records[record.service][record.epoch] = record


class Cluster:
    """Everything that there is. ``moments`` counts those at which a kill makes a difference, in one run."""

    def __init__(self, services: list[Service], directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.services = {service.name: service for service in services}
        self.nodes = {name: Node(name) for name in ("node1", "node2")}
        self.registry = Registry()
        self.records = {name: Records() for name in self.services}
        #: The clients that hold a lock, as they believe.
        self.holding: dict[str, set[str]] = {name: set() for name in self.services}
        #: Nobody went on before grace was over: of a lock whose client was not told yet, another may have been granted.
        self.late = False
        #: Where the copies of journals beside the records are open, and how many of either kind are.
        self.shared_journals: set[Path] = set()
        self.open_journals = 0
        self.moments = 0
        self.kill_at: int | None = None
        self.dead = False
        self.at_work = "node1"
        self.log = Log()
        #: What is not the same in every cluster.
        self.registry_directory: Path | None = Path("/registry")
        self.restart_nfsd = True
        self.grace_per_address = False
        self.unfit: tuple[Unfit, ...] = ()
        self._directory = directory
        self._patch(monkeypatch)

    # -- what nlmfo sees instead of the real things ----------------------------------------------------------

    def _patch(self, patch: pytest.MonkeyPatch) -> None:
        cluster = self

        class File:
            def __init__(self, directory: Path, name: str) -> None:
                cluster.moment()
                self._lines = cluster.here.journals.setdefault(name, [])
                cluster.open_journals += 1
                assert directory

            def append(self, line: bytes) -> None:
                cluster.moment()
                self._lines.append(line)
                cluster.moment()

            def close(self) -> None:
                cluster.open_journals -= 1

        class Shared:
            def __init__(self, directory: Path, name: str) -> None:
                self.path = directory
                assert name
                cluster.shared_journals.add(directory)
                cluster.open_journals += 1

            def append(self, _: bytes) -> None:
                cluster.moment()

            def close(self) -> None:
                cluster.shared_journals.discard(self.path)
                cluster.open_journals -= 1

        numbers = iter(range(10**9))
        patch.setattr(journal, "JournalFile", File)
        patch.setattr(journal, "SharedJournal", Shared)
        patch.setattr(on_disk, "prune", lambda *_: None)
        patch.setattr(on_disk, "new_name", lambda service, _=(): f"{next(numbers):09d}-{service}")
        patch.setattr(journal, "newest", self._newest)
        patch.setattr(runs, "look", self.look)
        patch.setattr(runs, "hands_of", lambda *given: Hands(cluster, *given))
        patch.setattr(runs, "registry_of", lambda _: cluster.registry)
        patch.setattr(runs, "boot_id", lambda: cluster.here.boot)
        patch.setattr(own_mounts, "v3_clients", lambda: ())
        patch.setattr(node_server, "unfit", lambda *_: cluster.unfit)

    def _newest(self, _: Path, service: str) -> journal.Past | None:
        for name in sorted(self.here.journals, reverse=True):
            lines = tuple(on_disk._objects(b"".join(self.here.journals[name])))
            past = journal._past(name, lines) if name.endswith(f"-{service}") else None
            if past is not None:
                return past
        return None

    @property
    def here(self) -> Node:
        return self.nodes[self.at_work]

    def look(self, config: Config, service: Service, registry: Any) -> Observed:
        self.moment()
        node, spot, owner = self.here, self.here.spot(service.name), registry.read(service.name)
        host = service.isolation is Isolation.HOST
        server = node.server if host else spot
        others = self._attached(node, service) if host else []
        return Observed(
            owner=owner,
            owned=owner is not None
            and (owner.node, owner.boot_id, owner.standing) == (config.node, node.boot, Standing.SERVING),
            listed=owner is not None and (owner.node, owner.standing) == (config.node, Standing.SERVING),
            mounted=frozenset(spot.mounted),
            isolated=spot.isolated,
            traces=spot.isolated,
            threads=server.threads,
            in_grace=server.grace,
            exported=frozenset(str(e.path) for e in service.exports) if spot.exported else frozenset(),
            addresses=frozenset(a.ip for a in service.addresses) if spot.addresses else frozenset(),
            told=self.records[service.name].told,
            frozen=spot.frozen,
            kept=spot.kept,
            attached=spot.attached,
            neighbours=tuple(others),
            untold=tuple(name for name in others if not self.records[name].told),
            per_address=host and self.grace_per_address,
        )

    def _attached(self, node: Node, service: Service) -> list[str]:
        return [
            other.name
            for other in self.services.values()
            if other.name != service.name and other.isolation is Isolation.HOST and node.spot(other.name).attached
        ]

    # -- time, and what must never be ------------------------------------------------------------------------

    def moment(self) -> None:
        """Here nlmfo may be killed; here the promises are looked at."""
        if self.dead:
            raise Killed
        self.moments += 1
        if self.kill_at == self.moments:
            self.dead = True
            raise Killed
        self.look_for_broken_promises()

    def look_for_broken_promises(self) -> None:
        for name, service in self.services.items():
            records = self.records[name]
            missing = self.holding[name] - records.current - records.owed
            if missing:
                raise Broken(f"{name}: {missing} are on no record")
            spots = {node.name: node.spot(name) for node in self.nodes.values() if node.up}
            for what in ("mounted", "addresses"):
                there = [node for node, spot in spots.items() if getattr(spot, what)]
                if len(there) > 1:
                    raise Broken(f"{name}: {what} on {there}")
            for node, spot in spots.items():
                server = self.nodes[node].server if service.isolation is Isolation.HOST else spot
                lost = self.holding[name] - spot.locks
                if spot.addresses and server.threads and not server.grace and lost and not self.late:
                    raise Broken(f"{name}: {node} grants others the locks of {lost}")

    def grace_ends(self) -> None:
        """On every node, because it is a matter of time."""
        for node in self.nodes.values():
            for server in (node.server, *node.spots.values()):
                server.grace = False

    def power_cut(self, name: str) -> None:
        """The node is off, and certainly so: it may be fenced."""
        node = self.nodes[name]
        node.up = False
        node.spots, node.server = {}, Spot()

    def boot(self, name: str) -> None:
        node = self.nodes[name]
        node.up, node.boot, node.server = True, f"{node.boot}+", Spot(threads=8)

    # -- what operators do -----------------------------------------------------------------------------------

    def config(self, node: str) -> Config:
        registry, restart = self.registry_directory, self.restart_nfsd
        return Config(Path("/etc/nlmfo"), node, registry, self.services, (), restart_nfsd=restart)

    @contextmanager
    def _nlmfo(self, node: str, kill_at: int | None) -> Iterator[Config]:
        """One nlmfo on a node, killed at that moment of its life."""
        assert self.nodes[node].up
        self.at_work, self.dead, self.moments, self.kill_at = node, False, 0, kill_at
        run = self._directory / node
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runs, "RUN", run)
            try:
                yield self.config(node)
            finally:
                open_journals = 0 if self.dead else self.open_journals
                self.kill_at, self.dead = None, False
                self.shared_journals.clear()
                self.open_journals = 0
        if open_journals:
            raise Broken("a run has come to its end, and its journal is still open")
        self.look_for_broken_promises()

    def takeover(
        self,
        node: str,
        service: str,
        *,
        fenced: str | None = None,
        kill_at: int | None = None,
        forced: Iterable[str] = (),
    ) -> bool:
        with self._nlmfo(node, kill_at) as config:
            return runs.takeover(config, self.services[service], Word(fenced, None, frozenset(forced)), self.log)

    def release(self, node: str, service: str, *, kill_at: int | None = None) -> None:
        with self._nlmfo(node, kill_at) as config:
            runs.release(config, self.services[service], self.log)

    def resume(self, node: str, service: str, *, fenced: str | None = None, kill_at: int | None = None) -> bool:
        with self._nlmfo(node, kill_at) as config:
            return runs.resume(config, self.services[service], Word(fenced), self.log)

    def abort(self, node: str, service: str, *, kill_at: int | None = None) -> Outcome:
        with self._nlmfo(node, kill_at) as config:
            return runs.abort(config, self.services[service], self.log)

    def unfinished(self, node: str, service: str) -> bool:
        self.at_work = node
        past = self._newest(Path(), service)
        return past is not None and not past.finished

    # -- what is there in the beginning and in the end ---------------------------------------------------------

    def clients_lock(self, service: str, node: str) -> None:
        """Every client takes its locks, and is on record before it has them."""
        self.holding[service] = set(CLIENTS)
        self.records[service].current |= set(CLIENTS)
        self.nodes[node].spot(service).locks |= set(CLIENTS)

    def serving(self, service: str) -> list[str]:
        """The nodes on which all of a service is up."""
        found = []
        for node in self.nodes.values():
            spot, shape = node.spot(service), self.services[service]
            host = shape.isolation is Isolation.HOST
            threads = (node.server if host else spot).threads
            whole = spot.exported and spot.addresses and threads and len(spot.mounted) == len(shape.partitions)
            if node.up and whole:
                found.append(node.name)
        return found


class Hands:
    """Stands in for nlmfo.failover.actions.Actions."""

    def __init__(
        self, cluster: Cluster, config: Config, service: Service, registry: Registry, standpoint: Standpoint, _: object
    ) -> None:
        self.cluster = cluster
        self.config = config
        self.service = service
        self.registry = registry
        self.standpoint = standpoint
        self.node = cluster.here
        self.spot = self.node.spot(service.name)
        self.host = service.isolation is Isolation.HOST
        self.server = self.node.server if self.host else self.spot
        self.records = cluster.records[service.name]

    def prepare(self) -> None:
        self.cluster.moment()

    def do(self, step: Step, limit: Deadline) -> str:
        assert not limit.passed()
        self.cluster.moment()
        self.node.begun.append(step.action)
        if step.action in self.node.instead:
            raise self.node.instead[step.action]
        getattr(self, f"_{step.action.name.lower()}")(step)
        if step.action in self.node.afterwards:
            raise self.node.afterwards[step.action]
        self.cluster.moment()
        return ""

    def _freeze(self, _: Step) -> None:
        self.spot.frozen = True

    def _thaw(self, _: Step) -> None:
        self.spot.frozen = False

    def _address_down(self, _: Step) -> None:
        self.spot.addresses = self.spot.link = False

    def _unexport(self, _: Step) -> None:
        self.spot.exported = False

    def _unlock(self, _: Step) -> None:
        self.spot.locks.clear()

    def _stop_nfsd(self, _: Step) -> None:
        self._forget(self.spot, self.records)
        self.spot.threads, self.spot.grace = 0, False

    def _verify_unlocked(self, _: Step) -> None:
        _need(not self.spot.locks, "locks are left")

    def _stop_daemons(self, _: Step) -> None:
        self.spot.daemons = self.spot.kept = False

    def _detach(self, _: Step) -> None:
        self.spot.attached = self.spot.frozen = False

    def _collect(self, _: Step) -> None:
        _need(len(self.spot.mounted) > 0, "the records are not mounted")

    def _unisolate(self, _: Step) -> None:
        _need(not self.spot.link and not self.spot.daemons, "namespaces in use")
        self.spot.isolated = self.spot.frozen = False

    def _umount(self, step: Step) -> None:
        busy = self.spot.exported or self.spot.locks or self.spot.daemons or (not self.host and self.spot.threads)
        _need(not busy, "target is busy")
        _need(self.service.state / "runs" not in self.cluster.shared_journals, "target is busy: the journal is open")
        self.spot.mounted.remove(self._uuid(step))

    def _disown(self, _: Step) -> None:
        if not self.spot.empty():
            raise Broken(f"{self.service.name} is said to be released on {self.node.name}, but {self.spot} is left")
        record = self.registry.read(self.service.name)
        if record is not None and record.node == self.node.name:
            self.registry.update(replace(record, standing=Standing.RELEASED))

    def _prove(self, _: Step) -> None:
        for other in self.cluster.nodes.values():
            if other is not self.node and other.up and other.spot(self.service.name).addresses:
                raise Refused("address-answers", "somebody answers")

    def _claim(self, _: Step) -> None:
        assert self.standpoint.proof is not None
        node, epoch = self.node, self.standpoint.proof.epoch
        known = self.standpoint.known_state
        self.registry.claim(OwnerRecord(self.service.name, node.name, node.boot, epoch, 1e9, Standing.SERVING, known))

    def _mount(self, step: Step) -> None:
        _need(self._uuid(step) not in self.spot.mounted, "already mounted")
        self.spot.mounted.add(self._uuid(step))

    def _records(self, _: Step) -> None:
        self.records.begin_generation()

    def _isolate(self, _: Step) -> None:
        _need(not self.spot.isolated, "namespaces exist already")
        self.spot.isolated = self.spot.link = True

    def _export(self, _: Step) -> None:
        self.spot.exported = True
        self.spot.attached = self.host

    def _start_daemons(self, _: Step) -> None:
        _need(self.spot.isolated, "no namespaces")
        self.spot.daemons = True

    def _start_nfsd(self, _: Step) -> None:
        _need(self.spot.daemons, "no daemons")
        self.spot.threads, self.spot.grace = 8, True

    def _grace(self, _: Step) -> None:
        names = self.cluster._attached(self.node, self.service)
        others = [(self.node.spot(name), self.cluster.records[name]) for name in names]
        for spot, _records in others:
            spot.frozen = True
        self.cluster.moment()
        self.node.server.threads = 0
        for spot, records in [*others, (self.spot, self.records)]:
            self._forget(spot, records)
        self.cluster.moment()
        for _spot, records in others:
            records.begin_generation()
            self.cluster.moment()
        self.node.server.threads, self.node.server.grace = 8, True
        self.cluster.moment()
        for spot, _records in others:
            spot.frozen = False

    def _address_up(self, _: Step) -> None:
        _need(self.host or self.spot.link, "no link")
        self.spot.addresses = True

    def _answer(self, _: Step) -> None:
        up = (self.spot.addresses, self.spot.exported, self.server.threads)
        _need(all(up), "it does not answer")

    def _notify(self, _: Step) -> None:
        _need(self.server.grace, "grace is over")
        own = [self.service.name] if not self.host or self.spot.attached else []
        for name in (*own, *(self.cluster._attached(self.node, self.service) if self.host else ())):
            records, spot = self.cluster.records[name], self.node.spot(name)
            if not records.told:
                for client in sorted(records.owed):
                    self._reclaims(name, client, spot, records)
                records.told_state = records.state
                self.cluster.moment()

    def _reclaims(self, name: str, client: str, spot: Spot, records: Records) -> None:
        """Once, and for good: what does not answer it at this moment has lost it the lock."""
        up = (spot.addresses, spot.exported, self.server.threads, self.server.grace)
        if not all(up):
            raise Broken(f"{name}: {client} is told, but its reclaim fails: {spot}")
        records.current.add(client)
        spot.locks.add(client)
        self.cluster.moment()

    def _reclaim(self, _: Step) -> None:
        for records in self.cluster.records.values():
            records.owed -= records.current

    def _keep(self, _: Step) -> None:
        self.spot.kept = True

    def _forget(self, spot: Spot, records: Records) -> None:
        """A clean stop of nfsd: the locks go, and statd is told to forget who had them."""
        spot.locks.clear()
        if not spot.frozen:
            records.current.clear()

    def _uuid(self, step: Step) -> str:
        return next(p.uuid for p in self.service.partitions if str(p.mountpoint) == step.subject)


def _need(condition: bool, otherwise: str) -> None:
    if not condition:
        raise NlmfoError(otherwise)
