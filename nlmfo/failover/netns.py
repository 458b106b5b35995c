# SPDX-License-Identifier: GPL-2.0-or-later
"""The hands of ``netns`` isolation: the service is an NFS server of its own, in namespaces of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from nlmfo.config import Config, Service
from nlmfo.deadline import Deadline
from nlmfo.errors import NlmfoError
from nlmfo.failover.actions import Actions, Standpoint, announced, callout_entries
from nlmfo.failover.events import Sink
from nlmfo.failover.keeper import Keeper
from nlmfo.failover.place import Place
from nlmfo.failover.plan import Action, Step
from nlmfo.host import addresses, daemons, exports, keeper_process, own_nfsd, partitions, view
from nlmfo.host.namespaces import Namespaces
from nlmfo.host.tickle import tickle
from nlmfo.kernel import dropping, locks, nfsd, syscalls
from nlmfo.ownership.registry import Registry
from nlmfo.records.callout import callout_config, write_callout_config
from nlmfo.records.locks import discard_locks


class NetnsActions(Actions):
    """One service in its namespaces."""

    def __init__(
        self, config: Config, service: Service, registry: Registry, standpoint: Standpoint, sink: Sink
    ) -> None:
        self.namespaces = Namespaces.with_agent(service.name)
        keeper = Keeper(service, Place.on_node(self.namespaces))
        self._routes: tuple[addresses.Route, ...] = ()
        super().__init__(config, service, registry, standpoint, self.namespaces, keeper, sink)

    def _get_ready(self) -> None:
        if self.namespaces.exist():
            self._rehearse()

    def close(self) -> None:
        super().close()
        self.namespaces.leave()

    def _rehearse(self) -> None:
        """Have the agent there, and ready, before it is needed."""
        self.namespaces.enter()
        with suppress(NlmfoError, OSError):
            self.namespaces.call(_rehearse)

    def _own_ways(self) -> dict[Action, Callable[[Step, Deadline], str]]:
        return {
            Action.FREEZE: self._freeze,
            Action.ADDRESS_DOWN: self._address_down,
            Action.UNEXPORT: self._unexport,
            Action.UNLOCK: self._unlock,
            Action.STOP_NFSD: self._stop_nfsd,
            Action.STOP_DAEMONS: self._stop_daemons,
            Action.UNISOLATE: self._unisolate,
            Action.REVIVE: self._revive,
            Action.ISOLATE: self._isolate,
            Action.EXPORT: self._export,
            Action.START_DAEMONS: self._start_daemons,
            Action.SET_UP_NFSD: self._set_up_nfsd,
            Action.START_NFSD: self._start_nfsd,
            Action.ADDRESS_UP: self._address_up,
            Action.THAW: self._thaw,
        }

    def _who_is_told(self) -> Sequence[Keeper]:
        return (self.keeper,)

    def _freeze(self, _: Step, __: Deadline) -> str:
        """From here on statd's forgetting deletes no record: kernels >= 6.4 make it forget all when nfsd stops."""
        self._write_callout_config(frozen=True)
        return self._note_connections()

    def _address_down(self, _: Step, __: Deadline) -> str:
        addresses.take_down(self.namespaces)
        return ""

    def _unexport(self, _: Step, __: Deadline) -> str:
        exports.unload(self.namespaces)
        return ""

    def _revive(self, _: Step, __: Deadline) -> str:
        """Nobody reaches it: the address is down. lockd starts only while rpcbind and statd answer."""
        for program in (daemons.RPCBIND, daemons.NSM):
            if not daemons.answer(self.namespaces, [program], daemons.LOOPBACK):
                daemons.start_again(self.namespaces, self.service, program)
        own_nfsd.prepare(self.namespaces, self.service)
        own_nfsd.start(self.namespaces, self.service)
        return ""

    def _unlock(self, step: Step, limit: Deadline) -> str:
        """Kernels before 6.4 leave a namespace's locks behind when nfsd stops there, if lockd serves another."""
        mountpoint, device = self._partition(step).mountpoint, partitions.lock_device(self._partition(step))
        if device is None:
            raise NlmfoError(f"{mountpoint} is not mounted any more", hint="see who unmounted it, and release again")
        drop = partial(dropping.drop_of_filesystem, mountpoint, device)
        dropped = self.namespaces.call(drop, deadline=limit.remaining())
        return f"{dropped.before} locks, by {dropped.way}"

    def _stop_nfsd(self, _: Step, limit: Deadline) -> str:
        if not self.namespaces.call(nfsd.threads):  # it was only set up: its records may be another node's
            own_nfsd.stop(self.namespaces, 0)
            return "it had not been started"
        clients = len(self._with_store(self.keeper.on_record, limit))
        own_nfsd.stop(self.namespaces, clients)
        return f"{clients} clients on record"

    def _stop_daemons(self, _: Step, __: Deadline) -> str:
        self.namespaces.leave()
        daemons.stop(self.namespaces)
        return ""

    def _unisolate(self, _: Step, __: Deadline) -> str:
        self.namespaces.destroy()
        view.clean(self.namespaces)
        return ""

    def _isolate(self, _: Step, __: Deadline) -> str:
        user = view.statd_user()
        self.namespaces.create()
        view.prepare(self.namespaces, self.service, user, view.callout_program())
        exports.prepare(self.namespaces, self.service)
        addresses.create_link(self.namespaces, self.service.interface)
        self._devices()
        self._routes = addresses.routes_of(self.service.interface)
        self._rehearse()
        syscalls.reserve_memory()
        return ""

    def _start_daemons(self, _: Step, __: Deadline) -> str:
        keeper_process.start(self.namespaces, self.config.directory)
        daemons.start(self.namespaces, self.service)
        if not self._tracking_moves():
            daemons.start_tracking(self.namespaces, daemons.tracking_of(self.service))
        return ""

    def _set_up_nfsd(self, _: Step, __: Deadline) -> str:
        own_nfsd.prepare(self.namespaces, self.service)
        return ""

    def _export(self, _: Step, __: Deadline) -> str:
        """Also the callout and the keeper go to work: the records are there, and of this generation."""
        self.keeper.open_live(view.statd_user())
        self._write_callout_config(frozen=False)
        exports.load(self.namespaces, self.service)
        return ""

    def _start_nfsd(self, _: Step, __: Deadline) -> str:
        if self._tracking_moves():
            daemons.start_tracking(self.namespaces, daemons.tracking_of(self.service))
        own_nfsd.start(self.namespaces, self.service)
        return "lockd is in grace"

    def _tracking_moves(self) -> bool:
        """Whether nfsdcld's list is on storage that is not mounted before clients wait."""
        return daemons.tracking_of(self.service) != view.NFSDCLD

    def _address_up(self, _: Step, __: Deadline) -> str:
        addresses.bring_up(self.namespaces, self.service.addresses, self._routes)
        ended = self.namespaces.call(partial(tickle, self._connections)) if self._connections else 0
        return announced(ended)

    def _thaw(self, _: Step, __: Deadline) -> str:
        self._with_store(partial(discard_locks, self.service.state))
        self._write_callout_config(frozen=False)
        return ""

    def _write_callout_config(self, *, frozen: bool) -> None:
        tell_callout(self.namespaces, self.keeper, frozen=frozen)


def tell_callout(namespaces: Namespaces, keeper: Keeper, *, frozen: bool = False) -> None:
    """Write down where the records of the service go; of those ``frozen`` none is deleted."""
    entries = callout_entries(keeper, frozen=frozen)
    text = callout_config(entries, frozen=frozen, node=os.uname().nodename, spool=view.SPOOL)
    write_callout_config(view.on_node(namespaces, view.CALLOUT_CONFIG), text)


def _rehearse() -> None:
    """Runs in the agent: the release will ask the same of it while clients wait."""
    addresses.rehearse()
    dropping.family(dropping.Kernel())
    locks.held_by_clients(set())
