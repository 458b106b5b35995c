# SPDX-License-Identifier: GPL-2.0-or-later
"""The hands that do each action of a plan on this node, and see that it is done."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TypeVar

from nlmfo.child import in_child
from nlmfo.config import Config, Partition, Service
from nlmfo.deadline import Deadline, poll_until
from nlmfo.errors import DeadlineExceeded, NlmfoError
from nlmfo.failover.events import ClientNotTold, ClientQuiet, RecordsNotKept, Sink
from nlmfo.failover.keeper import Keeper, Place, my_name
from nlmfo.failover.plan import Action, Step
from nlmfo.host import addresses, daemons, exports, partitions, view
from nlmfo.host.namespaces import Namespaces
from nlmfo.kernel import lockd, locks, nfsd
from nlmfo.notify import Notice, Outcome, notify
from nlmfo.ownership.proof import Proof
from nlmfo.ownership.record import OwnerRecord, Standing, boot_id
from nlmfo.ownership.registry import Registry
from nlmfo.records import CalloutEntry, Mode, callout_config, write_callout_config

#: Seconds for a lock to leave /proc/locks after it was dropped.
UNLOCK = 10.0
#: Seconds to tell every client, and for those told to come back. Both end early when there is nobody left to wait
#: for; they are shorter than the shortest grace period, because nothing can be reclaimed after it.
NOTIFY = 8.0
RECLAIM = 5.0
#: Seconds for any work with the records, thousands of them on slow storage included.
STORE = 60.0

T = TypeVar("T")


class Actions:
    """One service on this node, in one run. ``proof`` is what a claim stands on.

    ``known_state`` is the NSM state number that the last owner noted, 0 when there was none.
    """

    def __init__(self, config: Config, service: Service, registry: Registry, sink: Sink) -> None:
        self.config = config
        self.service = service
        self.registry = registry
        self.sink = sink
        self.proof: Proof | None = None
        self.known_state = 0
        self.namespaces = Namespaces(service.name)
        self.keeper = Keeper(service, Place.on_node(self.namespaces))
        self._does: dict[Action, Callable[[Step], str]] = {
            Action.FREEZE: self._freeze,
            Action.ADDRESS_DOWN: self._address_down,
            Action.UNEXPORT: self._unexport,
            Action.UNLOCK: self._unlock,
            Action.STOP_NFSD: self._stop_nfsd,
            Action.VERIFY_UNLOCKED: self._verify_unlocked,
            Action.STOP_DAEMONS: self._stop_daemons,
            Action.COLLECT: self._collect,
            Action.UNISOLATE: self._unisolate,
            Action.UMOUNT: self._unmount,
            Action.DISOWN: self._disown,
            Action.CLAIM: self._claim,
            Action.MOUNT: self._mount,
            Action.RECORDS: self._open_records,
            Action.ISOLATE: self._isolate,
            Action.EXPORT: self._export,
            Action.START_DAEMONS: self._start_daemons,
            Action.START_NFSD: self._start_nfsd,
            Action.ADDRESS_UP: self._address_up,
            Action.ANSWER: self._answer,
            Action.NOTIFY: self._notify,
            Action.RECLAIM: self._await_reclaims,
            Action.KEEP: self._keep_records,
        }

    def prepare(self) -> None:
        """Load what the steps will need, while the service still runs: clients wait from the first step on."""
        addresses.load_library()

    def do(self, step: Step) -> str:
        return self._does[step.action](step)

    def thaw(self) -> None:
        """Let the callout delete records again."""
        self._write_callout_config(frozen=False)

    # -- release -------------------------------------------------------------------------------------------

    def _freeze(self, _: Step) -> str:
        """From here on statd's forgetting deletes no record: kernels >= 6.4 make it forget all when nfsd stops."""
        self._write_callout_config(frozen=True)
        return ""

    def _address_down(self, _: Step) -> str:
        addresses.take_down(self.namespaces)
        return ""

    def _unexport(self, _: Step) -> str:
        exports.unload(self.namespaces)
        return ""

    def _unlock(self, step: Step) -> str:
        """Kernels before 6.4 leave a namespace's locks behind when nfsd stops there, if lockd serves another."""
        mountpoint = self._partition(step).mountpoint
        self.namespaces.call(lambda: nfsd.unlock_filesystem(mountpoint))
        return ""

    def _stop_nfsd(self, _: Step) -> str:
        clients = self._with_store(self.keeper.on_record)
        daemons.stop_nfsd(self.namespaces, len(clients))
        return f"{len(clients)} clients on record"

    def _verify_unlocked(self, step: Step) -> str:
        device = partitions.lock_device(self._partition(step))
        left: tuple[locks.Lock, ...] = ()

        def none_left() -> bool:
            nonlocal left
            left = locks.held_by_clients({device} if device else set())
            return not left

        try:
            poll_until(f"{step.subject}: the locks to go", none_left, Deadline(UNLOCK))
        except DeadlineExceeded as error:
            inodes = ", ".join(sorted({str(lock.inode) for lock in left}))
            raise NlmfoError(
                f"{step.subject}: {len(left)} NFS locks are still held, on inodes {inodes}",
                hint=f"'find {step.subject} -xdev -inum N' names the file; /proc/locks shows the lock",
            ) from error
        return ""

    def _stop_daemons(self, _: Step) -> str:
        daemons.stop(self.namespaces)
        return ""

    def _collect(self, _: Step) -> str:
        """Bring to shared storage what is on this node only: the callout has ended, nothing comes after this."""
        brought = self._with_store(lambda: self.keeper.keep(()))
        return f"{brought} brought in"

    def _unisolate(self, _: Step) -> str:
        self.namespaces.destroy()
        view.clean(self.namespaces)
        return ""

    def _unmount(self, step: Step) -> str:
        partitions.unmount(self._partition(step))
        return ""

    def _disown(self, _: Step) -> str:
        """Our own record only: who was believed to be down may have a successor by now."""
        record = self.registry.read(self.service.name)
        if record is not None and (record.node, record.boot_id) == (self.config.node, boot_id()):
            self.registry.update(replace(record, standing=Standing.RELEASED, since=time.time()))
        return ""

    # -- takeover ------------------------------------------------------------------------------------------

    def _claim(self, _: Step) -> str:
        if self.proof is None:
            raise NlmfoError("nothing is claimed without a proof")
        for partition in self.service.partitions:
            partitions.refuse_if_held(partition)
        epoch = self.proof.epoch
        self.registry.claim(
            OwnerRecord(
                self.service.name, self.config.node, boot_id(), epoch, time.time(), Standing.SERVING, self.known_state
            )
        )
        return f"epoch {epoch}"

    def _mount(self, step: Step) -> str:
        partition = self._partition(step)
        partitions.mount(partition)
        return partition.uuid

    def _open_records(self, _: Step) -> str:
        user = view.statd_user()
        state, told = self._with_store(lambda: self.keeper.begin(user, self.known_state, self._copies()))
        self._remember(state)
        return f"{len(self._owed())} clients on record{told}, NSM state {state}"

    def _isolate(self, _: Step) -> str:
        self.namespaces.create()
        view.prepare(self.namespaces, self.service, view.statd_user(), view.callout_program())
        self.keeper.open_live(view.statd_user())
        addresses.create_link(self.namespaces, self.service.interface)
        self._write_callout_config(frozen=False)
        return ""

    def _export(self, _: Step) -> str:
        exports.load(self.namespaces, self.service)
        return ""

    def _start_daemons(self, _: Step) -> str:
        daemons.start(self.namespaces, self.service)
        return ""

    def _start_nfsd(self, _: Step) -> str:
        daemons.start_nfsd(self.namespaces, self.service)
        return "lockd is in grace"

    def _address_up(self, _: Step) -> str:
        addresses.bring_up(self.namespaces, self.service.interface, self.service.addresses)
        return "announced"

    def _answer(self, _: Step) -> str:
        wanted = daemons.programs(self.service)
        for address in self.service.addresses:
            daemons.answering(self.namespaces, wanted, address.ip)
        return ", ".join(program.name for program in wanted)

    def _notify(self, _: Step) -> str:
        """Tell everybody who may hold a lock, from the address they know us by, while reclaims are granted."""
        if not self.namespaces.call(lockd.in_grace):
            raise NlmfoError(
                "grace ended before the clients could be told: their reclaims would be refused",
                hint="set a longer 'grace' for the service",
            )
        owed, state = self._with_store(self.keeper.notices)

        def notify_from(address: addresses.Interface) -> tuple[Notice, ...]:
            return notify(
                owed[address.ip],
                source=address.ip,
                names=[*self.service.names, str(address.ip)],
                state=state,
                deadline=NOTIFY,
                open_socket=self.namespaces.open_socket,
            )

        # Side by side, so that an unreachable client of one address takes no time from those of another.
        with ThreadPoolExecutor(len(self.service.addresses)) as pool:
            notices = list(chain.from_iterable(pool.map(notify_from, self.service.addresses)))
        for notice in notices:
            if notice.outcome is not Outcome.TOLD:
                self.sink(ClientNotTold(notice.client, notice.detail))
        return f"{sum(notice.outcome is Outcome.TOLD for notice in notices)} clients told"

    def _await_reclaims(self, _: Step) -> str:
        """Watch the clients come back on record, which lockd sees to before it grants a reclaim."""
        back: set[str] = set()

        def all_back() -> bool:
            back.update(self._with_store(self.keeper.settle))
            return not self._owed()

        try:
            poll_until("all clients to come back", all_back, Deadline(RECLAIM), interval=0.2)
        except DeadlineExceeded:
            for client in sorted(self._owed()):
                self.sink(ClientQuiet(client))
        return f"{len(back)} clients are back"

    def _keep_records(self, _: Step) -> str:
        try:
            daemons.start_keeper(self.namespaces, self.config.directory)
        except NlmfoError as error:
            # No reason to take down a service that serves.
            self.sink(RecordsNotKept(str(error)))
        return ""

    def _copies(self) -> list[Path]:
        """Where the records would be by default, if they were there before the configuration moved them."""
        if self.config.registry is None:
            return []
        default = self.config.registry / "services" / self.service.name / "state"
        return [default] if default.is_dir() and default != self.service.state else []

    def _remember(self, state: int) -> None:
        """Note in the owner record which generation of the records is the newest: an older copy will be known."""
        record = self.registry.read(self.service.name)
        if record is not None and (record.node, record.boot_id) == (self.config.node, boot_id()):
            self.registry.update(replace(record, state=state))

    # -- shared --------------------------------------------------------------------------------------------

    def _with_store(self, work: Callable[[], T]) -> T:
        """Do something with the records, in a process that can be left behind when their storage hangs."""
        return in_child(f"service '{self.service.name}': work in {self.service.state}", work, deadline=STORE)

    def _owed(self) -> set[str]:
        return self._with_store(self.keeper.owed)

    def _partition(self, step: Step) -> Partition:
        return next(p for p in self.service.partitions if p.mountpoint == Path(step.subject))

    def _write_callout_config(self, *, frozen: bool) -> None:
        entries = [
            CalloutEntry(
                address=address.ip,
                directory=self.keeper.callout_directory(address.ip),
                name=my_name(self.service, address.ip),
                mode=Mode(self.service.consistency),
                exports=tuple((export.fsid, export.path) for export in self.service.exports),
            )
            for address in self.service.addresses
        ]
        write_callout_config(
            view.on_node(self.namespaces, view.CALLOUT_CONFIG),
            callout_config(entries, frozen=frozen, node=os.uname().nodename, spool=view.SPOOL),
        )
