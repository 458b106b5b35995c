# SPDX-License-Identifier: GPL-2.0-or-later
"""The hands of ``host`` isolation: the service shares the node's own NFS server with others.

No stock kernel has a grace period for one address or file system, so the way into grace is a restart of the node's
nfsd, if the configuration allows it: the clients of all services here lose their locks, are told, and reclaim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nlmfo.config import Config, Service
from nlmfo.deadline import Deadline
from nlmfo.errors import Refused
from nlmfo.failover import neighbours, shared
from nlmfo.failover.actions import STORE, Actions, Standpoint, announced
from nlmfo.failover.events import ExportLeftOut, Sink
from nlmfo.failover.keeper import Keeper
from nlmfo.failover.plan import Action, Step
from nlmfo.host import node_addresses, node_exports, node_locks, node_restart, view
from nlmfo.host.node import Node
from nlmfo.host.tickle import tickle
from nlmfo.kernel import proposed
from nlmfo.ownership.registry import Registry
from nlmfo.records.locks import discard_locks


class HostActions(Actions):
    """One service on the node's NFS server."""

    def __init__(
        self, config: Config, service: Service, registry: Registry, standpoint: Standpoint, sink: Sink
    ) -> None:
        (keeper,) = shared.keepers([service])
        super().__init__(config, service, registry, standpoint, Node(service.name), keeper, sink)

    def _own_ways(self) -> dict[Action, Callable[[Step, Deadline], str]]:
        return {
            Action.FREEZE: self._freeze,
            Action.ADDRESS_DOWN: self._address_down,
            Action.UNEXPORT: self._unexport,
            Action.UNLOCK: self._unlock,
            Action.DETACH: self._detach,
            Action.EXPORT: self._export,
            Action.GRACE: self._grace,
            Action.ADDRESS_UP: self._address_up,
            Action.THAW: self._thaw,
        }

    def _get_ready(self) -> None:
        """It has no agent."""

    def _neighbours(self) -> tuple[Keeper, ...]:
        return shared.keepers(neighbours.of(self.config, self.service))

    def _who_is_told(self) -> Sequence[Keeper]:
        own = [self.keeper] if neighbours.mark(self.service.name).exists() else []
        return (*own, *self._neighbours())

    def _freeze(self, _: Step, __: Deadline) -> str:
        shared.tell_callout(self.config, frozen=[self.service.name])
        return self._note_connections()

    def _thaw(self, _: Step, __: Deadline) -> str:
        self._with_store(lambda: discard_locks(self.service.state))
        shared.tell_callout(self.config)
        return ""

    def _address_down(self, _: Step, __: Deadline) -> str:
        node_addresses.take_down(self.service.interface, self.service.addresses)
        return ""

    def _unexport(self, _: Step, __: Deadline) -> str:
        node_exports.unload(self.service)
        return ""

    def _unlock(self, step: Step, limit: Deadline) -> str:
        mountpoint = self._partition(step).mountpoint
        self.place.call(lambda: node_locks.drop_locks(mountpoint), deadline=limit.remaining())
        return ""

    def _detach(self, _: Step, __: Deadline) -> str:
        shared.detach(self.config, self.service)
        return ""

    def _export(self, _: Step, __: Deadline) -> str:
        for left_out in node_exports.load(self.service):
            self.sink(ExportLeftOut(left_out))
        shared.attach(self.config, self.service, view.statd_user())
        return ""

    def _grace(self, _: Step, __: Deadline) -> str:
        if proposed.can_start_grace():
            for address in self.service.addresses:
                node_locks.start_grace_of(address.ip)
            return "of its addresses only"
        if not self.config.restart_nfsd:
            raise no_way_into_grace(self.service)
        others, everybody = self._neighbours(), self._who_is_told()
        clients = sum(len(self._with_store(keeper.on_record)) for keeper in everybody)
        # A clean stop makes statd forget everybody, on kernels >= 6.4: nothing of that may reach the records. And
        # no keeper may tell its clients before the restart is over: some kernels leave locks behind, which are dropped
        # once nfsd runs again, and what was reclaimed by then would go with them.
        shared.tell_callout(self.config, frozen=[keeper.service.name for keeper in everybody])
        try:
            node_restart.restart(
                self.place,
                grace=max((k.service.grace for k in everybody if k.service.grace), default=None),
                between=lambda: self._begin_generations(others),
                clients=clients,
                mountpoints=[p.mountpoint for keeper in everybody for p in keeper.service.partitions],
            )
        finally:
            shared.tell_callout(self.config)
        named = ", ".join(keeper.service.name for keeper in others)
        return f"the locks of {named} were dropped with it" if others else "lockd is in grace"

    def _begin_generations(self, others: Sequence[Keeper]) -> None:
        """Their locks are gone: everybody on record is owed a notice, whatever becomes of this run."""
        user = view.statd_user()
        for keeper in others:
            self._with_store(lambda keeper=keeper: keeper.begin(user), Deadline(STORE))  # type: ignore[misc]

    def _address_up(self, _: Step, __: Deadline) -> str:
        node_addresses.bring_up(self.service.interface, self.service.addresses)
        ended = tickle(self._connections)
        return announced(ended)


def no_way_into_grace(service: Service) -> Refused:
    """Why a takeover ends before it begins: nothing would keep others from the locks of its clients."""
    return Refused(
        "no-grace",
        f"service '{service.name}': this node's nfsd cannot be put into grace without a restart, "
        "which drops the locks of every service on it",
        hint='allow it with "restart_nfsd = true" in [cluster], or set isolation = "netns", which needs no restart',
    )
