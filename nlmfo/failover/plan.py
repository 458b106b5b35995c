# SPDX-License-Identifier: GPL-2.0-or-later
"""What a release and a takeover consist of, in which order, and why that order: pure functions of what is there.

The order of 2006 was A: address down, unexport, drop locks, umount; B: mount, set grace, notify, address up,
re-export. Two of those places lose locks on real kernels. A Linux client tries to reclaim each lock exactly once per
SM_NOTIFY, so everything has to answer before the notice goes out; and a clean stop of nfsd makes kernels >= 6.4 take
every client off statd's list, so the records are frozen before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from nlmfo.config import Service
from nlmfo.failover.observe import Observed


class Action(StrEnum):
    """Everything that a plan can consist of."""

    FREEZE = "freeze records"
    ADDRESS_DOWN = "address down"
    UNEXPORT = "unexport"
    UNLOCK = "drop locks"
    STOP_NFSD = "stop nfsd"
    VERIFY_UNLOCKED = "verify no lock is left"
    STOP_DAEMONS = "stop daemons"
    COLLECT = "collect records"
    UNISOLATE = "remove namespaces"
    UMOUNT = "unmount"
    DISOWN = "owner: released"

    CLAIM = "claim"
    MOUNT = "mount"
    RECORDS = "open records"
    ISOLATE = "make namespaces"
    EXPORT = "export"
    START_DAEMONS = "start daemons"
    START_NFSD = "start nfsd in grace"
    ADDRESS_UP = "address up"
    ANSWER = "everything answers"
    NOTIFY = "notify clients"
    RECLAIM = "await reclaims"
    KEEP = "keep records"


@dataclass(frozen=True, slots=True)
class Step:
    """One action on one object, for the reader's eye and for the engine."""

    action: Action
    subject: str

    def __str__(self) -> str:
        return f"{self.action}: {self.subject}" if self.subject else str(self.action)


#: Each pair: wherever both occur in a plan, the first comes before the second. Breaking one of these loses a lock,
#: serves a file system twice, or ends in a busy unmount.
ORDER: tuple[tuple[Action, Action], ...] = (
    (Action.FREEZE, Action.STOP_NFSD),
    (Action.FREEZE, Action.UNLOCK),
    (Action.ADDRESS_DOWN, Action.UNEXPORT),
    (Action.ADDRESS_DOWN, Action.UNLOCK),
    (Action.ADDRESS_DOWN, Action.STOP_NFSD),
    (Action.UNLOCK, Action.STOP_NFSD),
    (Action.STOP_NFSD, Action.VERIFY_UNLOCKED),
    (Action.STOP_NFSD, Action.STOP_DAEMONS),
    (Action.VERIFY_UNLOCKED, Action.UMOUNT),
    (Action.STOP_DAEMONS, Action.COLLECT),
    (Action.COLLECT, Action.UNISOLATE),
    (Action.COLLECT, Action.UMOUNT),
    (Action.STOP_DAEMONS, Action.UNISOLATE),
    (Action.UNISOLATE, Action.UMOUNT),
    (Action.ADDRESS_DOWN, Action.DISOWN),
    (Action.UNISOLATE, Action.DISOWN),
    (Action.UMOUNT, Action.DISOWN),
    (Action.CLAIM, Action.MOUNT),
    (Action.MOUNT, Action.RECORDS),
    (Action.MOUNT, Action.EXPORT),
    (Action.RECORDS, Action.START_DAEMONS),
    (Action.ISOLATE, Action.EXPORT),
    (Action.EXPORT, Action.ADDRESS_UP),
    (Action.START_DAEMONS, Action.START_NFSD),
    (Action.START_NFSD, Action.ADDRESS_UP),
    (Action.ADDRESS_UP, Action.ANSWER),
    (Action.ANSWER, Action.NOTIFY),
    (Action.NOTIFY, Action.RECLAIM),
    (Action.RECLAIM, Action.KEEP),
)


def takeover(service: Service) -> tuple[Step, ...]:
    """The steps that bring a service up on a node where nothing of it is left and nobody else serves it."""
    addresses = ", ".join(str(address) for address in service.addresses)
    return _checked(
        Step(Action.CLAIM, service.name),
        *(Step(Action.MOUNT, str(partition.mountpoint)) for partition in service.mount_order),
        Step(Action.RECORDS, str(service.state)),
        Step(Action.ISOLATE, service.interface),
        Step(Action.EXPORT, ", ".join(str(export.path) for export in service.exports)),
        Step(Action.START_DAEMONS, "rpcbind, statd, mountd, nfsdcld"),
        Step(Action.START_NFSD, f"{service.threads} threads"),
        Step(Action.ADDRESS_UP, addresses),
        Step(Action.ANSWER, addresses),
        Step(Action.NOTIFY, ""),
        Step(Action.RECLAIM, ""),
        Step(Action.KEEP, str(service.state)),
    )


def release(service: Service, observed: Observed) -> tuple[Step, ...]:
    """The steps that take down whatever is there of a service, be it all of it or the rest of a failed run."""
    mounted = [partition for partition in reversed(service.mount_order) if partition.uuid in observed.mounted]
    steps: list[Step] = []
    if observed.isolated:
        steps += [
            Step(Action.FREEZE, str(service.state)),
            Step(Action.ADDRESS_DOWN, ", ".join(str(address) for address in service.addresses)),
            Step(Action.UNEXPORT, ", ".join(str(export.path) for export in service.exports)),
        ]
        if observed.threads:
            steps += [Step(Action.UNLOCK, str(partition.mountpoint)) for partition in mounted]
            steps += [Step(Action.STOP_NFSD, f"{observed.threads} threads")]
    steps += [Step(Action.VERIFY_UNLOCKED, str(partition.mountpoint)) for partition in mounted]
    if observed.isolated:
        steps += [Step(Action.STOP_DAEMONS, ""), Step(Action.COLLECT, str(service.state))]
    if observed.isolated or observed.traces:
        steps += [Step(Action.UNISOLATE, "")]
    steps += [Step(Action.UMOUNT, str(partition.mountpoint)) for partition in mounted]
    if observed.owned:
        steps += [Step(Action.DISOWN, service.name)]
    return _checked(*steps)


class InvalidPlan(AssertionError):
    """A plan in which something happens too early: a mistake in this module, never carried out."""


def check(steps: tuple[Step, ...]) -> None:
    """Raise InvalidPlan when any prefix of the plan has a step whose prerequisite comes after it."""
    for position, step in enumerate(steps):
        later = {other.action for other in steps[position + 1 :]}
        for first, second in ORDER:
            if second is step.action and first in later and first is not second:
                raise InvalidPlan(f"'{second}' is planned before '{first}'")


def _checked(*steps: Step) -> tuple[Step, ...]:
    check(steps)
    return steps
