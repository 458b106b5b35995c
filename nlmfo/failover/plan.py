# SPDX-License-Identifier: GPL-2.0-or-later
"""What a release and a takeover consist of, in which order, and why that order: pure functions of what is there.

The order of 2006 was A: address down, unexport, drop locks, umount; B: mount, set grace, notify, address up,
re-export. Two of those places lose locks on real kernels. A Linux client tries to reclaim each lock exactly once per
SM_NOTIFY, so everything has to answer before the notice goes out; and a clean stop of nfsd makes kernels >= 6.4 take
every client off statd's list, so the records are frozen before it.

Whatever a run that was killed left behind, the next plan starts from what is there and ends in the same two places:
all of the service up and everybody told, or nothing of it left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import groupby
from pathlib import Path

from nlmfo.config import Isolation, Partition, Service
from nlmfo.failover.observe import Observed


class Action(StrEnum):
    """Everything that a plan can consist of."""

    FREEZE = "freeze records"
    STOP_KEEPER = "stop the keeper"
    ADDRESS_DOWN = "address down"
    UNEXPORT = "unexport"
    NOTE_LOCKS = "note the locks held"
    REVIVE = "run nfsd once more"
    UNLOCK = "drop locks"
    STOP_NFSD = "stop nfsd"
    VERIFY_UNLOCKED = "verify no lock is left"
    STOP_DAEMONS = "stop daemons"
    DETACH = "detach from the node's callout"
    COLLECT = "collect records"
    UNISOLATE = "remove namespaces"
    UMOUNT = "unmount"
    DISOWN = "owner: released"

    PROVE = "look for another server"
    CLAIM = "claim"
    MOUNT = "mount"
    RECORDS = "open records"
    ISOLATE = "make namespaces"
    EXPORT = "export"
    START_DAEMONS = "start daemons"
    SET_UP_NFSD = "set up nfsd"
    START_NFSD = "start nfsd in grace"
    GRACE = "put the node's nfsd into grace"
    ADDRESS_UP = "address up"
    ANSWER = "everything answers"
    NOTIFY = "notify clients"
    RECLAIM = "await reclaims"
    KEEP = "keep records and notify"
    THAW = "thaw records"


#: For the reader of a plan: what each action is good for.
WHY: dict[Action, str] = {
    Action.FREEZE: "a clean stop of nfsd makes statd forget its clients; their records have to outlive that",
    Action.STOP_KEEPER: "it notes what is held now, and from here on that is the release's to do",
    Action.ADDRESS_DOWN: "no client may take a lock again that is about to be dropped",
    Action.UNEXPORT: "the kernel's export caches keep the file system busy",
    Action.NOTE_LOCKS: "the next node ends grace when each of them is held again, and names those that are not",
    Action.REVIVE: "some kernels leave locks behind when nfsd is stopped, and only one that runs can drop them",
    Action.UNLOCK: "locks keep the file system busy, and some kernels leave them behind when nfsd stops",
    Action.STOP_NFSD: "what is left of locks and open files goes with it",
    Action.VERIFY_UNLOCKED: "a lock that stays here while another node grants it is corruption",
    Action.STOP_DAEMONS: "nothing may write records any more",
    Action.DETACH: "the node's callout must not write below a mount point that is about to be empty",
    Action.COLLECT: "records that are on this node only are brought to the shared storage",
    Action.UNISOLATE: "a namespace that lives on keeps the file system mounted",
    Action.UMOUNT: "the next node must find a clean file system that nobody else has mounted",
    Action.DISOWN: "from here on another node may take over",
    Action.PROVE: "evidence that somebody serves it wins over anybody's word",
    Action.CLAIM: "one node can have this epoch, and no second",
    Action.MOUNT: "",
    Action.RECORDS: "everybody on record may hold a lock, and is owed a notice from now on",
    Action.ISOLATE: "the service is an NFS server of its own: its grace and its locks are nobody else's",
    Action.START_DAEMONS: "lockd grants nothing while statd cannot put the client on record",
    Action.SET_UP_NFSD: "versions, times and ports; without threads nobody is answered, and no grace begins",
    Action.EXPORT: "a reclaim that finds no export is lost",
    Action.START_NFSD: "grace is on before the first packet can arrive",
    Action.GRACE: "only in grace are reclaims granted and other requests refused",
    Action.ADDRESS_UP: "comes last, because clients talk to it at once",
    Action.ANSWER: "a client tries each reclaim once: everything has to answer before it is told to",
    Action.KEEP: "notices are sent by a process that outlives this command",
    Action.NOTIFY: "",
    Action.RECLAIM: "grace ends early once every lock is held again",
    Action.THAW: "an interrupted release had frozen them",
}


@dataclass(frozen=True, slots=True)
class Step:
    """One action on one object, for the reader's eye and for the engine."""

    action: Action
    subject: str

    def __str__(self) -> str:
        return f"{self.action}: {self.subject}" if self.subject else str(self.action)


Plan = tuple[Step, ...]

#: Each pair: wherever both occur in a plan, the first comes before the second. Breaking one of these loses a lock,
#: serves a file system twice, or ends in a busy unmount.
ORDER: tuple[tuple[Action, Action], ...] = (
    (Action.FREEZE, Action.STOP_NFSD),
    (Action.FREEZE, Action.UNLOCK),
    (Action.FREEZE, Action.NOTE_LOCKS),
    (Action.STOP_KEEPER, Action.ADDRESS_DOWN),
    (Action.STOP_KEEPER, Action.NOTE_LOCKS),
    (Action.STOP_KEEPER, Action.DETACH),
    (Action.STOP_KEEPER, Action.COLLECT),
    (Action.STOP_KEEPER, Action.UMOUNT),
    (Action.ADDRESS_DOWN, Action.UNEXPORT),
    (Action.ADDRESS_DOWN, Action.NOTE_LOCKS),
    (Action.ADDRESS_DOWN, Action.UNLOCK),
    (Action.ADDRESS_DOWN, Action.STOP_NFSD),
    (Action.ADDRESS_DOWN, Action.VERIFY_UNLOCKED),
    (Action.ADDRESS_DOWN, Action.REVIVE),
    (Action.UNEXPORT, Action.REVIVE),
    (Action.REVIVE, Action.UNLOCK),
    (Action.REVIVE, Action.STOP_NFSD),
    (Action.UNEXPORT, Action.UNLOCK),
    (Action.UNEXPORT, Action.UMOUNT),
    (Action.NOTE_LOCKS, Action.UNLOCK),
    (Action.NOTE_LOCKS, Action.STOP_NFSD),
    (Action.UNLOCK, Action.STOP_NFSD),
    (Action.UNLOCK, Action.VERIFY_UNLOCKED),
    (Action.STOP_NFSD, Action.VERIFY_UNLOCKED),
    (Action.STOP_NFSD, Action.STOP_DAEMONS),
    (Action.VERIFY_UNLOCKED, Action.UMOUNT),
    (Action.STOP_DAEMONS, Action.COLLECT),
    (Action.DETACH, Action.COLLECT),
    (Action.STOP_DAEMONS, Action.UMOUNT),
    (Action.DETACH, Action.UMOUNT),
    (Action.COLLECT, Action.UNISOLATE),
    (Action.COLLECT, Action.UMOUNT),
    (Action.COLLECT, Action.DISOWN),
    (Action.STOP_DAEMONS, Action.UNISOLATE),
    (Action.UNISOLATE, Action.UMOUNT),
    (Action.ADDRESS_DOWN, Action.DISOWN),
    (Action.UNISOLATE, Action.DISOWN),
    (Action.UMOUNT, Action.DISOWN),
    (Action.ISOLATE, Action.START_DAEMONS),
    (Action.PROVE, Action.CLAIM),
    (Action.CLAIM, Action.MOUNT),
    (Action.MOUNT, Action.RECORDS),
    (Action.MOUNT, Action.EXPORT),
    (Action.RECORDS, Action.EXPORT),
    (Action.ISOLATE, Action.EXPORT),
    (Action.EXPORT, Action.START_NFSD),
    (Action.EXPORT, Action.GRACE),
    (Action.START_DAEMONS, Action.SET_UP_NFSD),
    (Action.SET_UP_NFSD, Action.START_NFSD),
    (Action.START_NFSD, Action.ADDRESS_UP),
    (Action.EXPORT, Action.KEEP),
    (Action.KEEP, Action.GRACE),
    (Action.GRACE, Action.ADDRESS_UP),
    (Action.ADDRESS_UP, Action.ANSWER),
    (Action.KEEP, Action.NOTIFY),
    (Action.ANSWER, Action.NOTIFY),
    (Action.GRACE, Action.NOTIFY),
    (Action.NOTIFY, Action.RECLAIM),
)
#: What looks after the records of a service that is served.
KEEPER = "nlmfo keep"
#: Actions that go side by side on objects that do not lie in one another.
SIDE_BY_SIDE = frozenset({Action.MOUNT, Action.UNLOCK, Action.UMOUNT})


def takeover(service: Service, seen: Observed) -> tuple[Plan, Plan]:
    """What brings a service up on a node that may serve it: what goes first of a run that did not end, and the rest.

    Both are empty when the service is up and everybody was told.
    """
    if seen.serves(service) and (seen.in_grace or (seen.told and not seen.untold)):
        return (), _checked(*_to_finish(service, seen))
    # Whoever owns it goes on owning it: between a release and a claim another node could come.
    return release(service, replace(seen, owned=False, listed=False)), _checked(*_to_begin(service, seen))


def release(service: Service, seen: Observed) -> Plan:
    """The steps that take down whatever is there of a service, be it all of it or the rest of a failed run."""
    if service.isolation is Isolation.HOST:
        return _checked(*_off_the_node(service, seen))
    return _checked(*_out_of_namespaces(service, seen))


def prelude(steps: Plan) -> tuple[Plan, Plan]:
    """A takeover's steps in two: what can be done while another node still serves, and what needs the proof."""
    first = next((n for n, step in enumerate(steps) if step.action is Action.PROVE), 0)
    return steps[:first], steps[first:]


def amends(seen: Observed) -> Plan:
    """What the other services on this node are owed after a restart of their nfsd that was cut off (host isolation)."""
    if not seen.neighbours or (seen.threads and not seen.untold):
        return ()
    others = ", ".join(seen.neighbours)
    grace = [] if seen.threads and seen.in_grace else [Step(Action.GRACE, _whom(seen))]
    keep = Step(Action.KEEP, others)
    return _checked(keep, *grace, Step(Action.NOTIFY, others), Step(Action.RECLAIM, others))


def _to_begin(service: Service, seen: Observed) -> Iterator[Step]:
    addresses, exports = _addresses(service), _exports(service)
    host = service.isolation is Isolation.HOST
    if not host:
        # What needs no partition comes first: clients have been waiting since the address went down elsewhere.
        yield Step(Action.ISOLATE, service.interface)
        yield Step(Action.START_DAEMONS, f"rpcbind, statd, mountd, {KEEPER}")
        yield Step(Action.SET_UP_NFSD, f"NFS version {', '.join(service.versions)}")
    yield Step(Action.PROVE, addresses)
    yield Step(Action.CLAIM, service.name)
    for partition in service.mount_order:
        yield Step(Action.MOUNT, str(partition.mountpoint))
    yield Step(Action.RECORDS, str(service.state))
    yield Step(Action.EXPORT, exports)
    if host:
        yield Step(Action.KEEP, str(service.state))
        yield Step(Action.GRACE, _whom(seen))
    else:
        yield Step(Action.START_NFSD, f"{service.threads} threads")
    yield Step(Action.ADDRESS_UP, addresses)
    yield Step(Action.ANSWER, addresses)
    yield from _to_tell(service, seen)


def _to_finish(service: Service, seen: Observed) -> Iterator[Step]:
    """What a takeover that was killed late still owes: nobody may find out by himself that his locks are gone."""
    if seen.frozen:
        yield Step(Action.THAW, str(service.state))
    if not seen.kept or seen.untold:
        yield Step(Action.KEEP, str(service.state))
    if not seen.told or seen.untold:
        yield Step(Action.ANSWER, _addresses(service))
        yield from _to_tell(service, seen)


def _to_tell(service: Service, seen: Observed) -> Iterator[Step]:
    others = () if seen.per_address else seen.neighbours
    whom = ", ".join((service.name, *others))
    yield Step(Action.NOTIFY, whom)
    yield Step(Action.RECLAIM, whom)


def _out_of_namespaces(service: Service, seen: Observed) -> Iterator[Step]:
    mounted = _mounted(service, seen)
    if seen.attached:
        yield Step(Action.FREEZE, str(service.state))
    if seen.kept:
        yield Step(Action.STOP_KEEPER, KEEPER)
    if seen.isolated:
        yield Step(Action.ADDRESS_DOWN, _addresses(service))
        yield Step(Action.UNEXPORT, _exports(service))
        if seen.stranded:
            yield Step(Action.REVIVE, f"{service.threads} threads")
        if seen.threads:
            yield from _to_note(service, seen)
        if seen.threads or seen.stranded:
            yield from _each(Action.UNLOCK, [p for p in mounted if _within_reach(service, p)])
        if seen.set_up or seen.stranded:
            yield Step(Action.STOP_NFSD, f"{seen.threads or service.threads} threads")
    yield from _each(Action.VERIFY_UNLOCKED, mounted)
    if seen.isolated:
        yield Step(Action.STOP_DAEMONS, "")
    if seen.attached:
        # Not before: without it the records are another node's, or not even mounted.
        yield Step(Action.COLLECT, str(service.state))
    if seen.isolated or seen.traces:
        yield Step(Action.UNISOLATE, "")
    yield from _each(Action.UMOUNT, mounted)
    if seen.owned or seen.listed:
        yield Step(Action.DISOWN, service.name)


def _off_the_node(service: Service, seen: Observed) -> Iterator[Step]:
    mounted = _mounted(service, seen)
    if seen.attached:
        yield Step(Action.FREEZE, str(service.state))
    if seen.kept:
        yield Step(Action.STOP_KEEPER, KEEPER)
    if seen.addresses:
        yield Step(Action.ADDRESS_DOWN, _addresses(service))
    if seen.attached or seen.exported or seen.traces:
        yield Step(Action.UNEXPORT, _exports(service))
    if seen.threads:
        yield from _to_note(service, seen)
        yield from _each(Action.UNLOCK, mounted)
    yield from _each(Action.VERIFY_UNLOCKED, mounted)
    if seen.attached:
        yield Step(Action.DETACH, service.name)
        yield Step(Action.COLLECT, str(service.state))
    yield from _each(Action.UMOUNT, mounted)
    if seen.owned or seen.listed:
        yield Step(Action.DISOWN, service.name)


def _to_note(service: Service, seen: Observed) -> Iterator[Step]:
    """Only of a whole service, out of grace, whose clients were told: what they can still reclaim is theirs as well."""
    if seen.owned and seen.told and not seen.in_grace and len(seen.mounted) == len(service.partitions):
        yield Step(Action.NOTE_LOCKS, str(service.state))


def waves(steps: Iterable[Step]) -> tuple[Plan, ...]:
    """The steps in order, those that may go side by side together."""
    found: list[Plan] = []
    for action, group in groupby(steps, key=lambda step: step.action):
        if action in SIDE_BY_SIDE:
            found += _apart(group)
        else:
            found += [(step,) for step in group]
    return tuple(found)


def _apart(steps: Iterable[Step]) -> list[Plan]:
    """Split where a step's mount point lies in, or holds, one that comes before it."""
    found: list[list[Step]] = [[]]
    for step in steps:
        if any(_nested(step.subject, other.subject) for other in found[-1]):
            found.append([])
        found[-1].append(step)
    return [tuple(group) for group in found]


def _nested(one: str, other: str) -> bool:
    return Path(one).is_relative_to(other) or Path(other).is_relative_to(one)


class InvalidPlan(AssertionError):
    """A plan in which something happens too early: a mistake in this module, never carried out."""


def check(steps: Plan) -> None:
    """Raise InvalidPlan when any prefix of the plan has a step whose prerequisite comes after it."""
    for position, step in enumerate(steps):
        later = {other.action for other in steps[position + 1 :]}
        for first, second in ORDER:
            if second is step.action and first in later and first is not second:
                raise InvalidPlan(f"'{second}' is planned before '{first}'")


def _checked(*steps: Step) -> Plan:
    check(steps)
    return steps


def _mounted(service: Service, seen: Observed) -> list[Partition]:
    return [partition for partition in reversed(service.mount_order) if partition.uuid in seen.mounted]


def _each(action: Action, partitions: Iterable[Partition]) -> Iterator[Step]:
    return (Step(action, str(partition.mountpoint)) for partition in partitions)


def _within_reach(service: Service, partition: Partition) -> bool:
    """Whether clients can come to files on it: an export is on it, or above it (crossmnt)."""
    top = partition.mountpoint
    return any(e.path.is_relative_to(top) or top.is_relative_to(e.path) for e in service.exports)


def _addresses(service: Service) -> str:
    return ", ".join(str(address) for address in service.addresses)


def _exports(service: Service) -> str:
    return ", ".join(str(export.path) for export in service.exports)


def _whom(seen: Observed) -> str:
    """Whose locks a step puts at stake: said beforehand, in the plan."""
    if seen.per_address:
        return "of this service's addresses only"
    if not seen.neighbours:
        return "node-wide; no other service is served here"
    return f"node-wide: the clients of {', '.join(seen.neighbours)} lose their locks too, are told, and reclaim"
