# SPDX-License-Identifier: GPL-2.0-or-later
"""The hands that do each action of a plan on this node, and see that it is done: what both isolations share."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from nlmfo import run
from nlmfo.agent import Agent
from nlmfo.config import Config, Partition, Service
from nlmfo.deadline import Deadline
from nlmfo.errors import NlmfoError, Refused
from nlmfo.failover import reclaims, watch
from nlmfo.failover.events import ClientNotTold, ClientQuiet, LocksMissing, Sink
from nlmfo.failover.keeper import Keeper, my_name
from nlmfo.failover.plan import Action, Step
from nlmfo.failover.watch import Watch
from nlmfo.host import addresses, daemons, keeper_process, libmount, mmp, own_mounts, partitions, probe, view
from nlmfo.host.addresses import Address
from nlmfo.host.node import Node
from nlmfo.host.probe import Silence
from nlmfo.host.surroundings import Surroundings
from nlmfo.kernel import dropping, sockdiag, syscalls
from nlmfo.ownership import copy
from nlmfo.ownership.proof import Proof, Word
from nlmfo.ownership.record import OwnerRecord, Standing, boot_id
from nlmfo.ownership.registry import Registry
from nlmfo.records import ledger
from nlmfo.records.callout import CalloutEntry, Mode
from nlmfo.records.connections import Remembered, read_connections, write_connections

#: Seconds for a lock to leave /proc/locks after it was dropped.
UNLOCK = 10.0
#: Seconds for a device to be free that an earlier run unmounted.
FREE = 10.0
#: Seconds in which whoever has one of the addresses has to answer: the second, where the last owner has let go itself.
LISTEN, LISTEN_RECORDED = 0.6, 0.2
#: Seconds for any work with the records, thousands of them on slow storage included.
STORE = 60.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Standpoint:
    """What a run stands on. ``proof`` is what a claim needs; ``word`` what the operator vouched for.

    ``known_state`` is the NSM state number that the last owner noted, 0 when there was none.
    """

    word: Word = field(default_factory=Word)
    proof: Proof | None = None
    known_state: int = 0


class Actions(ABC):
    """One service on this node, in one run."""

    def __init__(
        self,
        config: Config,
        service: Service,
        registry: Registry,
        standpoint: Standpoint,
        place: Surroundings,
        keeper: Keeper,
        sink: Sink,
    ) -> None:
        self.config = config
        self.service = service
        self.registry = registry
        self.standpoint = standpoint
        self.place = place
        self.keeper = keeper
        self.sink = sink
        self._connections: tuple[Remembered, ...] = ()
        self._prepared = False
        self._silence: Silence | None = None
        self._found: dict[Partition, Path] = {}
        self._proved_free: set[Partition] = set()
        self._store = Agent(f"service '{service.name}': work in {service.state}", _nothing)
        self._does: dict[Action, Callable[[Step, Deadline], str]] = {
            Action.STOP_KEEPER: self._stop_keeper,
            Action.VERIFY_UNLOCKED: self._verify_unlocked,
            Action.COLLECT: self._collect,
            Action.NOTE_LOCKS: self._note_locks,
            Action.UMOUNT: self._unmount,
            Action.DISOWN: self._disown,
            Action.PROVE: self._look_for_another_server,
            Action.CLAIM: self._claim,
            Action.MOUNT: self._mount,
            Action.RECORDS: self._open_records,
            Action.ANSWER: self._answer,
            Action.NOTIFY: self._notify,
            Action.RECLAIM: self._await_reclaims,
            Action.KEEP: self._keep,
        } | self._own_ways()

    @abstractmethod
    def _own_ways(self) -> dict[Action, Callable[[Step, Deadline], str]]:
        """What this isolation does in its own way."""

    @abstractmethod
    def _who_is_told(self) -> Sequence[Keeper]:
        """The records of everybody who may have to reclaim: this service's, and of others that share its nfsd."""

    def prepare(self) -> None:
        """Load what the steps will need, while the service still runs: clients wait from the first step on."""
        if not self._prepared:
            self._prepared = True
            addresses.load_library()
            run.load()
            self._store.start()
            with suppress(NlmfoError, OSError):
                self._store.call(partial(_rehearse, self.service), deadline=STORE)
            self._get_ready()
            syscalls.reserve_memory()  # once all agents live: each fork shares ours anew

    @abstractmethod
    def _get_ready(self) -> None:
        """What this isolation has to prepare of its own."""

    def stand_by(self) -> None:
        """While another node serves: do what would only take time from clients once it has let go.

        Ask whether it still does, so that it need not be asked then; and have the agent mount once, but for mounting.
        """
        self._silence = Silence(self.service.interface, self.service.addresses, seconds=LISTEN_RECORDED)
        for partition, device in self._devices().items():
            with suppress(NlmfoError, OSError):  # whatever stands against a mount, the mount will say
                self._with_store(partial(partitions.rehearse_mount, partition, device))

    def close(self) -> None:
        """End what ``prepare`` and ``stand_by`` began."""
        if self._silence is not None:
            self._silence.close()
        self._store.close()

    def do(self, step: Step, limit: Deadline) -> str:
        return self._does[step.action](step, limit)

    # -- release -------------------------------------------------------------------------------------------

    def _stop_keeper(self, _: Step, __: Deadline) -> str:
        keeper_process.stop(self.place)
        return ""

    def _verify_unlocked(self, step: Step, limit: Deadline) -> str:
        """Whatever the kernel answered when it was told to drop them: its lock table decides."""
        mountpoint = self._partition(step).mountpoint
        device = partitions.lock_device(self._partition(step))
        if device is not None:
            dropping.verify({device: mountpoint}, seconds=min(UNLOCK, limit.remaining()))
        return ""

    def _note_connections(self) -> str:
        """Which connections clients have, for the next node: those whose list is lost come back some seconds later."""
        try:
            return f"{self.place.call(partial(_note_connections, self.service))} connections"
        except (NlmfoError, OSError) as error:
            return f"its connections are not noted: {error}"

    def _note_locks(self, _: Step, limit: Deadline) -> str:
        """What clients hold, for the next node to compare with: nothing can be added any more."""
        noted = self._with_store(partial(reclaims.note, self.service, self.keeper.shared), limit)
        return f"{len(noted.locks)} locks"

    def _collect(self, _: Step, limit: Deadline) -> str:
        """Bring to shared storage what is on this node only: the callout has ended, nothing comes after this."""
        brought = self._with_store(partial(_collected, self.keeper, self._own_record()), limit)
        return f"{brought} brought in"

    def _unmount(self, step: Step, limit: Deadline) -> str:
        partition = self._partition(step)
        seconds = min(partitions.UMOUNT, limit.remaining())
        partitions.unmount(partition, self._store.call, deadline=seconds)
        self._proved_free.add(partition)
        return ""

    def _disown(self, _: Step, limit: Deadline) -> str:
        """Our own record only, of this boot or an earlier one: who was believed to be down may have a successor.

        Not while this node still has a device in use: of an unmount that was cut off before its own proof, nothing is
        left to be planned. A disk that this node does not see is for whoever sees it to judge.
        """
        soon = Deadline(min(FREE, limit.remaining()))
        for partition in set(self.service.partitions) - self._proved_free:
            with suppress(partitions.PartitionNotThere):
                partitions.prove_free(partitions.find(partition.uuid), soon, partition.mountpoint)
        record = self.registry.read(self.service.name)
        if record is not None and record.node == self.config.node:
            self.registry.update(record._replace(standing=Standing.RELEASED, since=time.time()))
        return ""

    # -- takeover ------------------------------------------------------------------------------------------

    def _look_for_another_server(self, _: Step, limit: Deadline) -> str:
        """Evidence wins over anybody's word; what cannot be told is no evidence, and refused as well."""
        mounted = own_mounts.of([a.ip for a in self.service.addresses], self.service.names)
        if mounted and "own-client" not in self.standpoint.word.forced:
            raise Refused(
                "own-client",
                f"service '{self.service.name}': this node is a client of it, at {', '.join(map(str, mounted))}",
                hint="unmount it: a node cannot reach a service that it serves itself, and would hang",
                forcible=True,
            )
        # Asked all at once: most of it is waiting, and clients wait as well.
        devices = self._devices()
        with ThreadPoolExecutor(1 + len(devices)) as pool:
            heard = pool.submit(self._who_answers)
            list(pool.map(partial(_refuse_if_used, limit), devices, devices.values()))
            answered = heard.result()
        for address, hardware in answered.items():
            raise Refused(
                "address-answers",
                f"address {address}: somebody on the network has it ({hardware})",
                hint="find out who ('ip neigh' on its other clients) and release the service there, or fence it",
            )
        return "nobody has the device, nobody answers"

    def _who_answers(self) -> dict[Address, str]:
        """Who has one of the addresses; not asked again where nobody answered just now, and a release is on record."""
        recorded = self.standpoint.proof is not None and self.standpoint.proof.recorded
        if self._silence is not None:
            self._silence.end()
            if recorded and self._silence.lasts():
                return {}
        seconds = LISTEN_RECORDED if recorded else LISTEN
        return probe.answering(self.service.interface, self.service.addresses, seconds=seconds)

    def _claim(self, _: Step, __: Deadline) -> str:
        proof = self.standpoint.proof
        if proof is None:
            raise NlmfoError("nothing is claimed without a proof")
        self.registry.claim(
            OwnerRecord(
                self.service.name,
                self.config.node,
                boot_id(),
                proof.epoch,
                time.time(),
                Standing.SERVING,
                self.standpoint.known_state,
            )
        )
        return f"epoch {proof.epoch}"

    def _mount(self, step: Step, limit: Deadline) -> str:
        partition = self._partition(step)
        self._with_store(partial(partitions.make_ready, partition.mountpoint), limit)
        device = self._devices()[partition]
        if not partitions.is_still(partition, device):
            device = partitions.find(partition.uuid)
        partitions.mount(partition, device, self._store.call, deadline=limit.remaining())
        return partition.uuid

    def _open_records(self, _: Step, limit: Deadline) -> str:
        opened = self._with_store(
            partial(
                _opened,
                self.keeper,
                self.standpoint,
                self._own_record(),
                self._copies(),
                has_registry=self.config.registry is not None,
            ),
            limit,
        )
        self._connections = opened.connections
        if opened.record is not None:
            # Which generation of the records is the newest: an older copy of them will be known.
            self.registry.update(opened.record)
        return f"{opened.clients} clients on record{opened.told}, NSM state {opened.state}"

    def _answer(self, _: Step, __: Deadline) -> str:
        wanted = daemons.programs(self.service)
        for address in self.service.addresses:
            daemons.answering(self.place, wanted, address.ip)
        return ", ".join(program.name for program in wanted)

    def _keep(self, _: Step, __: Deadline) -> str:
        for keeper in self._who_is_told():
            keeper_process.start(self._place_of(keeper), self.config.directory)
        return ""

    def _notify(self, _: Step, limit: Deadline) -> str:
        """Have everybody told who may hold a lock, by the keepers, while reclaims are granted."""
        watches = self._watches()
        for each in watches:
            each.until_told(limit)
        for waiting in (waiting for each in watches for waiting in each.of(ledger.Standing.UNREACHABLE)):
            self.sink(ClientNotTold(waiting.client, waiting.detail))
        told = {each.service: each.told() for each in watches}
        if len(told) == 1:
            return f"{sum(told.values())} clients told"
        return ", ".join(f"{service}: {clients} clients told" for service, clients in told.items())

    def _await_reclaims(self, _: Step, limit: Deadline) -> str:
        """Watch them come back, until grace has ended or nothing happens any more: the keepers go on without us.

        So whoever interrupts this has seen enough, and does not want the service down.
        """
        watches = self._watches()
        with suppress(KeyboardInterrupt):
            for each in watches:
                each.until_quiet(limit)
        for each in watches:
            for waiting in (*each.of(ledger.Standing.ANSWERED), *each.of(ledger.Standing.TOLD)):
                self.sink(ClientQuiet(waiting.client))
            locks = each.progress.locks
            if locks is not None and locks.back < locks.total:
                self.sink(LocksMissing(locks.total - locks.back, locks.total, locks.exact, locks.missing))
        return "; ".join(filter(None, (watch.in_words(each.progress) for each in watches)))

    def _watches(self) -> list[Watch]:
        found = []
        for keeper in self._who_is_told():
            place = self._place_of(keeper)
            number = self._with_store(keeper.shared.state_number)
            runs = partial(keeper_process.runs, place)
            found.append(Watch(keeper.service.name, keeper.place, number, runs, self.sink))
        return found

    def _place_of(self, keeper: Keeper) -> Surroundings:
        return self.place if keeper is self.keeper else Node(keeper.service.name)

    def _copies(self) -> list[Path]:
        """Where the records would be by default, if they were there before the configuration moved them."""
        if self.config.registry is None:
            return []
        default = self.config.registry / "services" / self.service.name / "state"
        return [default] if default.is_dir() and default != self.service.state else []

    # -- shared --------------------------------------------------------------------------------------------

    def _own_record(self) -> OwnerRecord | None:
        """The owner record, if it is this node's in this boot."""
        record = self.registry.read(self.service.name)
        ours = record is not None and (record.node, record.boot_id) == (self.config.node, boot_id())
        return record if ours else None

    def _with_store(self, work: Callable[[], T], limit: Deadline | None = None) -> T:
        """Do something with the records, in a process that can be left behind when their storage hangs."""
        deadline = STORE if limit is None else min(STORE, limit.remaining())
        return self._store.call(work, deadline=deadline)

    def _devices(self) -> dict[Partition, Path]:
        """The device of each partition, looked for once in a run: before anybody waits, where there is time."""
        if not self._found:
            self._found = {partition: partitions.find(partition.uuid) for partition in self.service.partitions}
        return self._found

    def _partition(self, step: Step) -> Partition:
        return next(p for p in self.service.partitions if p.mountpoint == Path(step.subject))


def _refuse_if_used(limit: Deadline, partition: Partition, device: Path) -> None:
    """By this node, or, as far as its file system can tell, by another."""
    partitions.refuse_if_held(partition, device)
    holder = mmp.holder(device, deadline=limit.remaining())
    if holder is not None:
        raise partitions.mmp_in_use(partition, holder)


def _rehearse(service: Service) -> None:
    """What an agent does for the first time takes it many times as long as later, and clients wait then."""
    libmount.library()
    reclaims.held_now(service)


def _nothing() -> None:
    """What an agent enters that works on the node itself."""


def _note_connections(service: Service) -> int:
    ours = {address.ip for address in service.addresses}
    found = [each for each in sockdiag.established() if each.local in ours]
    write_connections(service.state, found)
    return len(found)


def _collected(keeper: Keeper, record: OwnerRecord | None) -> int:
    """How many records were brought to the shared storage, and the owner record says there that we have let go."""
    brought = keeper.keep(())
    if record is not None:
        copy.write(keeper.service.state, record._replace(standing=Standing.RELEASED, since=time.time()))
    return brought


@dataclass(frozen=True, slots=True)
class _Opened:
    """What was found when the records were opened. ``record``: the owner record as it is from now on."""

    state: int
    told: str
    clients: int
    record: OwnerRecord | None
    connections: tuple[Remembered, ...]


def _opened(
    keeper: Keeper, standpoint: Standpoint, claimed: OwnerRecord | None, copies: Sequence[Path], *, has_registry: bool
) -> _Opened:
    """Begin a generation, after the copy of the owner record that lies beside the records was heard as well."""
    service, epoch = keeper.service, 0
    found = copy.read(service.state)
    if claimed is not None and found is not None:
        copy.evidence(found, claimed, standpoint.word, has_registry=has_registry)
        epoch = 0 if has_registry else found.epoch + 1
    forced = "stale-records" in standpoint.word.forced
    state, told = keeper.begin(view.statd_user(), standpoint.known_state, copies, force=forced)
    record = None if claimed is None else claimed._replace(state=state, epoch=max(epoch, claimed.epoch))
    if record is not None:
        copy.write(service.state, record)
    connections = read_connections(service.state, keeper.shared.addresses)
    return _Opened(state, told, len(keeper.owed()), record, connections)


def announced(ended: int) -> str:
    """What there is to say of addresses that came up; ``ended``: connections that clients had with the last owner."""
    return f"announced; {ended} connections of before" if ended else "announced"


def callout_entries(keeper: Keeper, *, frozen: bool) -> list[CalloutEntry]:
    """What the callout is told about the addresses of one service."""
    service = keeper.service
    return [
        CalloutEntry(
            address=address.ip,
            directory=keeper.callout_directory(address.ip),
            name=my_name(service, address.ip),
            mode=Mode(service.consistency),
            exports=tuple((export.fsid, export.path) for export in service.exports),
            frozen=frozen,
        )
        for address in service.addresses
    ]
