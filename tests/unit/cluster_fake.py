# SPDX-License-Identifier: GPL-2.0-or-later
"""Two nodes, their shared storage, a registry and clients that hold locks, in memory; nlmfo can be killed anywhere.

The fake is strict where kernels are: a busy partition does not unmount, namespaces that exist are not made twice, a
clean stop of nfsd makes statd forget everybody whose record is not frozen (kernels >= 6.4), a client tries a reclaim
once per notice, a restart of the node's nfsd drops the locks of every service on it. At each system call that could be
the last it looks whether a promise was broken; ``Broken`` is what a test has to see none of.

A service's keeper (``nlmfo keep``) is a process of its own: it outlives an nlmfo that is killed, and works whenever it
gets the processor. ``quick`` ones do at every moment; the others when a run wakes them, and when time passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from nlmfo.config import Config, Isolation, Service
from nlmfo.deadline import Deadline
from nlmfo.errors import NlmfoError, Refused
from nlmfo.failover import journal, last_run, runs
from nlmfo.failover.actions import Standpoint
from nlmfo.failover.events import Event, Sink
from nlmfo.failover.observe import Observed
from nlmfo.failover.plan import Action, Step
from nlmfo.failover.verbs import Outcome
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
    """What a service has on shared storage. ``answered``: the ledger of this generation's notices.

    ``noted``: the locks that a release saw, when nothing could change any more, and under which state number.
    """

    current: set[str] = field(default_factory=set)
    owed: set[str] = field(default_factory=set)
    state: int = 1
    told_state: int = 1
    answered: set[str] = field(default_factory=set)
    noted: tuple[int, frozenset[str]] | None = None

    def begin_generation(self) -> None:
        self.owed |= self.current
        self.current = set()
        self.state += 2
        self.answered = set()

    def note(self, locks: Iterable[str]) -> None:
        """As write_locks: what a release saw that was cut off stays noted."""
        earlier = self.noted[1] if self.noted is not None and self.noted[0] == self.state else frozenset()
        self.noted = self.state, earlier | frozenset(locks)

    def all_back(self, locks: Iterable[str]) -> bool:
        """Whether every lock that the server before this one left is held again, for certain."""
        return self.noted is not None and self.noted[0] == self.state - 2 and self.noted[1] <= set(locks)

    @property
    def told(self) -> bool:
        return self.told_state == self.state


@dataclass
class Spot:
    """What one node has of one service. ``threads`` and ``grace`` are its own server's (netns).

    ``attached``: the callout here is told to write its records; ``frozen``: and to delete none. ``kept``: its keeper
    runs, which knows that everything answers in the generation ``ready``.
    """

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
    set_up: bool = False
    grace: bool = False
    locks: set[str] = field(default_factory=set)
    ready: int = field(default=0, compare=False)

    def keeper_ends(self) -> None:
        self.kept, self.ready = False, 0

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

    def __init__(
        self, services: list[Service], directory: Path, monkeypatch: pytest.MonkeyPatch, *, quick: bool = False
    ) -> None:
        self.quick = quick
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
        self.keepers_at_work = False
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
                cluster.open_journals += 1

            def append(self, _: bytes) -> None:
                cluster.shared_journals.add(self.path)
                cluster.moment()

            def close(self) -> None:
                cluster.shared_journals.discard(self.path)
                cluster.open_journals -= 1

        numbers = iter(range(10**9))
        patch.setattr(journal, "JournalFile", File)
        patch.setattr(journal, "SharedJournal", Shared)
        patch.setattr(on_disk, "prune", lambda *_: None)
        patch.setattr(on_disk, "new_name", lambda service, _=(): f"{next(numbers):09d}-{service}")
        patch.setattr(last_run, "newest", self._newest)
        patch.setattr(runs, "look", self.look)
        patch.setattr(runs, "hands_of", lambda *given: Hands(cluster, *given))
        patch.setattr(runs, "registry_of", lambda _: cluster.registry)
        patch.setattr(runs, "boot_id", lambda: cluster.here.boot)
        patch.setattr(own_mounts, "v3_clients", lambda: ())
        patch.setattr(node_server, "unfit", lambda *_: cluster.unfit)

    def _newest(self, _: Path, service: str) -> last_run.Past | None:
        for name in sorted(self.here.journals, reverse=True):
            lines = tuple(on_disk._objects(b"".join(self.here.journals[name])))
            past = last_run._past(name, lines) if name.endswith(f"-{service}") else None
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
        whole = len(spot.mounted) == len(service.partitions)
        readable = spot.attached if host else spot.threads > 0 and whole
        return Observed(
            owner=owner,
            owned=owner is not None
            and (owner.node, owner.boot_id, owner.standing) == (config.node, node.boot, Standing.SERVING),
            listed=owner is not None and (owner.node, owner.standing) == (config.node, Standing.SERVING),
            mounted=frozenset(spot.mounted),
            isolated=spot.isolated,
            traces=spot.isolated,
            threads=server.threads,
            set_up=spot.set_up,
            stranded=not host and bool(spot.locks) and not server.threads,
            in_grace=server.grace,
            exported=frozenset(str(e.path) for e in service.exports) if spot.exported else frozenset(),
            addresses=frozenset(a.ip for a in service.addresses) if spot.addresses else frozenset(),
            told=self.records[service.name].told and readable,
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
        if self.quick:
            self.keepers_work()
        self.look_for_broken_promises()

    def time_passes(self) -> None:
        """Enough of it for every keeper to do what it can, and not for grace to end by itself."""
        self.keepers_work()
        self.look_for_broken_promises()

    def keepers_work(self) -> None:
        """Every keeper does what it can; a run may be killed while they do, which does not stop them for good."""
        if self.keepers_at_work:
            return
        self.keepers_at_work = True
        try:
            for node in self.nodes.values():
                for name in list(node.spots) if node.up else ():
                    self._keep(node, name)
        finally:
            self.keepers_at_work = False

    def _keep(self, node: Node, name: str) -> None:
        """As nlmfo.failover.keep and notices: tell everybody who is owed a notice, settle, and end grace."""
        spot, records = node.spot(name), self.records[name]
        if not spot.kept or not spot.attached or spot.frozen:
            return
        host = self.services[name].isolation is Isolation.HOST
        server = node.server if host else spot
        records.owed -= records.answered & records.current
        if spot.ready != records.state:
            if not (spot.addresses and spot.exported and server.threads):
                return
            spot.ready = records.state
        if server.grace or records.told:
            for client in sorted(records.owed - records.answered):
                self._reclaims(name, client, spot, server)
                records.answered.add(client)
                self.moment()
        if records.owed <= records.answered:
            records.told_state = records.state
        if records.told and server.grace and not host and records.all_back(spot.locks):
            server.grace = False

    def _reclaims(self, name: str, client: str, spot: Spot, server: Spot) -> None:
        """Once, and for good: what does not answer it at this moment has lost it the lock."""
        if not (spot.addresses and spot.exported and server.threads and server.grace):
            raise Broken(f"{name}: {client} is told, but its reclaim fails: {spot}")
        self.records[name].current.add(client)
        spot.locks.add(client)
        self.moment()

    def keepers_die(self, name: str) -> None:
        """All those of a node, as when it is out of memory."""
        for spot in self.nodes[name].spots.values():
            spot.keeper_ends()

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
        """On every node, because it is a matter of time: of much more than a keeper needs."""
        self.keepers_work()
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
        wait: float = 0.0,
        sink: Sink | None = None,
    ) -> bool:
        word = Word(fenced, None, frozenset(forced))
        with self._nlmfo(node, kill_at) as config:
            return runs.takeover(config, self.services[service], word, sink or self.log, wait=wait)

    def meanwhile(self, command: Callable[[], object]) -> None:
        """Run a command in the middle of another node's."""
        mine = self.at_work, self.dead, self.moments, self.kill_at, self.shared_journals, self.open_journals
        self.shared_journals, self.open_journals = set(), 0
        try:
            command()
        finally:
            (self.at_work, self.dead, self.moments, self.kill_at, self.shared_journals, self.open_journals) = mine

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

    def stand_by(self) -> None:
        """There is nothing to be heard or rehearsed here."""

    def prepare(self) -> None:
        self.cluster.moment()

    def close(self) -> None:
        """What really ends a helper process, which a killed nlmfo takes with it."""

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
        self._tell_callout({self.service.name})

    def _stop_keeper(self, _: Step) -> None:
        self.spot.keeper_ends()

    def _thaw(self, _: Step) -> None:
        self.records.noted = None
        self._tell_callout(set())

    def _tell_callout(self, frozen: set[str]) -> None:
        """Its configuration is written anew: in namespaces this service's own, else that of all who are attached."""
        if not self.host:
            self.spot.attached, self.spot.frozen = True, bool(frozen)
            return
        for name in (self.service.name, *self.cluster._attached(self.node, self.service)):
            spot = self.node.spot(name)
            spot.frozen = spot.attached and name in frozen

    def _address_down(self, _: Step) -> None:
        self.spot.addresses = self.spot.link = False

    def _unexport(self, _: Step) -> None:
        self.spot.exported = False

    def _note_locks(self, _: Step) -> None:
        """What is not noted here is not waited for by the next owner."""
        self._need_records()
        missing = self.cluster.holding[self.service.name] - self.spot.locks
        noted = self.records.noted
        if missing - (noted[1] if noted is not None and noted[0] == self.records.state else frozenset()):
            raise Broken(f"{self.service.name}: the locks of {missing} are not noted")
        if self.spot.addresses or not self.spot.frozen:
            raise Broken(f"{self.service.name}: the locks are noted while clients can lock")
        self.records.note(self.spot.locks)

    def _revive(self, _: Step) -> None:
        _need(not self.spot.addresses, "clients would take locks that are about to be dropped")
        self.spot.threads, self.spot.grace, self.spot.set_up = 8, True, True

    def _unlock(self, _: Step) -> None:
        _need(self.host or self.spot.threads > 0, "no nfsd runs that could drop them")
        self.spot.locks.clear()

    def _stop_nfsd(self, _: Step) -> None:
        if self.spot.threads:
            self._need_records()
            self._forget(self.spot, self.records)
        self.spot.threads, self.spot.grace, self.spot.set_up = 0, False, False

    def _verify_unlocked(self, _: Step) -> None:
        _need(not self.spot.locks, "locks are left")

    def _stop_daemons(self, _: Step) -> None:
        self.spot.daemons = False
        self.spot.keeper_ends()

    def _detach(self, _: Step) -> None:
        self.spot.attached = False
        self._tell_callout(set())

    def _collect(self, _: Step) -> None:
        self._need_records()
        if not self.spot.attached and not self.host:
            raise Broken(f"{self.service.name}: another node's records are written here")

    def _need_records(self) -> None:
        state = self.service.state_partition
        _need(state is None or state.uuid in self.spot.mounted, "the records are not mounted")

    def _unisolate(self, _: Step) -> None:
        used = self.spot.link or self.spot.daemons or self.spot.kept or self.spot.set_up
        _need(not used, "namespaces in use")
        self.spot.isolated = self.spot.frozen = self.spot.attached = False

    def _umount(self, step: Step) -> None:
        spot = self.spot
        own = spot.daemons or spot.isolated or spot.threads or spot.set_up
        _need(not (spot.exported or spot.locks or spot.kept or (own and not self.host)), "target is busy")
        _need(self.service.state / "runs" not in self.cluster.shared_journals, "target is busy: the journal is open")
        self.spot.mounted.remove(self._uuid(step))

    def _disown(self, _: Step) -> None:
        if not self.spot.empty():
            raise Broken(f"{self.service.name} is said to be released on {self.node.name}, but {self.spot} is left")
        record = self.registry.read(self.service.name)
        if record is not None and record.node == self.node.name:
            self.registry.update(record._replace(standing=Standing.RELEASED))

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
        self._need_records()
        self.records.begin_generation()

    def _isolate(self, _: Step) -> None:
        _need(not self.spot.isolated, "namespaces exist already")
        self.spot.isolated = self.spot.link = True

    def _export(self, _: Step) -> None:
        """The callout goes to work, and the keeper with it: in this order on the node, in the other in namespaces."""
        self._need_records()
        if self.host:
            self.spot.exported = True
            self.cluster.moment()
            self.spot.attached = True
            self._tell_callout(set())
            return
        _need(self.spot.isolated, "no namespaces")
        self._tell_callout(set())
        self.cluster.moment()
        self.spot.exported = True

    def _start_daemons(self, _: Step) -> None:
        _need(self.spot.isolated, "no namespaces")
        self.spot.kept = True
        self.cluster.moment()
        self.spot.daemons = True

    def _set_up_nfsd(self, _: Step) -> None:
        _need(self.spot.daemons, "no daemons")
        self.spot.set_up = True

    def _start_nfsd(self, _: Step) -> None:
        _need(self.spot.set_up, "the kernel has no socket to listen on")
        _need(self.spot.exported, "nothing is exported")
        self.spot.threads, self.spot.grace = 8, True

    def _grace(self, _: Step) -> None:
        names = self.cluster._attached(self.node, self.service)
        others = [(self.node.spot(name), self.cluster.records[name]) for name in names]
        self._tell_callout({self.service.name, *names})
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
        self._tell_callout(set())

    def _address_up(self, _: Step) -> None:
        _need(self.host or self.spot.link, "no link")
        self.spot.addresses = True

    def _answer(self, _: Step) -> None:
        up = (self.spot.addresses, self.spot.exported, self.server.threads)
        _need(all(up), "it does not answer")

    def _told(self) -> list[str]:
        """The services whose clients may have to reclaim: whose keepers tell them."""
        own = [self.service.name] if not self.host or self.spot.attached else []
        return [*own, *(self.cluster._attached(self.node, self.service) if self.host else ())]

    def _notify(self, _: Step) -> None:
        for name in self._told():
            spot, records = self.node.spot(name), self.cluster.records[name]
            _need(spot.kept, "the process that tells the clients has ended")
            spot.ready = records.state
            self.cluster.keepers_work()
            _need(records.told, "grace ended before the clients could be told" if not self.server.grace else "deadline")

    def _reclaim(self, _: Step) -> None:
        self.cluster.keepers_work()

    def _keep(self, _: Step) -> None:
        for name in self._told():
            self.node.spot(name).kept = True
            self.cluster.moment()

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
