# SPDX-License-Identifier: GPL-2.0-or-later
"""A node in memory: what a service's steps do to it, and what an observation sees of it.

It is strict where the kernel is: a busy partition does not unmount, an address needs its link, namespaces that are
there already are not made twice. A step may be told to fail, before or after it has had its effect.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from nlmfo.config import Config, Service
from nlmfo.errors import NlmfoError
from nlmfo.failover.events import Event, Sink
from nlmfo.failover.observe import Observed
from nlmfo.failover.plan import Action, Step
from nlmfo.ownership.proof import Proof
from nlmfo.ownership.record import OwnerRecord, Standing, boot_id
from nlmfo.ownership.registry import Registry


@dataclass
class Node:
    """One node that can serve one service."""

    service: Service
    mounted: set[str] = field(default_factory=set)
    isolated: bool = False
    link: bool = False
    exported: bool = False
    daemons: bool = False
    threads: int = 0
    addresses: bool = False
    frozen: bool = False
    #: Raised by a step instead of doing it, or once it is done; every time, until it is taken away.
    instead: dict[Action, BaseException] = field(default_factory=dict)
    afterwards: dict[Action, BaseException] = field(default_factory=dict)
    #: Every step that began.
    begun: list[Action] = field(default_factory=list)

    def observe(self, service: Service, name: str, registry: Registry) -> Observed:
        """Stands in for nlmfo.failover.observe.observe."""
        owner = registry.read(service.name)
        return Observed(
            owner=owner,
            owned=owner is not None
            and (owner.node, owner.boot_id, owner.standing) == (name, boot_id(), Standing.SERVING),
            mounted=frozenset(self.mounted),
            isolated=self.isolated,
            traces=self.isolated,
            threads=self.threads,
            in_grace=self.threads > 0,
            exported=frozenset(str(e.path) for e in service.exports) if self.exported else frozenset(),
            addresses=frozenset(a.ip for a in service.addresses) if self.addresses else frozenset(),
        )

    def serves(self) -> bool:
        up = (self.isolated, self.link, self.exported, self.daemons, self.threads > 0, self.addresses)
        return all(up) and self.mounted == {p.uuid for p in self.service.partitions}

    def empty(self) -> bool:
        up = (self.isolated, self.link, self.exported, self.daemons, self.threads > 0, self.addresses)
        return not any(up) and not self.mounted


class Hands:
    """Stands in for nlmfo.failover.actions.Actions, on a Node."""

    def __init__(self, node: Node, config: Config, service: Service, registry: Registry) -> None:
        self.node = node
        self.config = config
        self.service = service
        self.registry = registry
        self.proof: Proof | None = None

    def prepare(self) -> None:
        """There is nothing to load."""

    def thaw(self) -> None:
        self.node.frozen = False

    def do(self, step: Step) -> str:
        node = self.node
        node.begun.append(step.action)
        if step.action in node.instead:
            raise node.instead[step.action]
        effect = getattr(self, f"_{step.action.name.lower()}", None)
        if effect is not None:
            effect(step)
        if step.action in node.afterwards:
            raise node.afterwards[step.action]
        return ""

    def _claim(self, _: Step) -> None:
        assert self.proof is not None
        record = OwnerRecord(
            self.service.name, self.config.node, boot_id(), self.proof.epoch, 1_000_000_000.0, Standing.SERVING
        )
        self.registry.claim(record)

    def _mount(self, step: Step) -> None:
        uuid = self._uuid(step)
        _need(uuid not in self.node.mounted, "already mounted")
        self.node.mounted.add(uuid)

    def _isolate(self, _: Step) -> None:
        _need(not self.node.isolated, "namespaces exist already")
        self.node.isolated = self.node.link = True
        self.node.frozen = False

    def _export(self, _: Step) -> None:
        _need(self.node.isolated, "no namespaces")
        self.node.exported = True

    def _start_daemons(self, _: Step) -> None:
        _need(self.node.isolated, "no namespaces")
        self.node.daemons = True

    def _start_nfsd(self, _: Step) -> None:
        _need(self.node.daemons, "no daemons")
        self.node.threads = self.service.threads

    def _address_up(self, _: Step) -> None:
        _need(self.node.link, "no link")
        self.node.addresses = True

    def _freeze(self, _: Step) -> None:
        self.node.frozen = True

    def _address_down(self, _: Step) -> None:
        self.node.addresses = self.node.link = False

    def _unexport(self, _: Step) -> None:
        self.node.exported = False

    def _stop_nfsd(self, _: Step) -> None:
        _need(self.node.frozen, "records would be emptied")
        self.node.threads = 0

    def _stop_daemons(self, _: Step) -> None:
        self.node.daemons = False

    def _unisolate(self, _: Step) -> None:
        _need(not self.node.link and not self.node.daemons, "namespaces in use")
        self.node.isolated = False

    def _umount(self, step: Step) -> None:
        _need(not self.node.exported and not self.node.threads, "target is busy")
        self.node.mounted.remove(self._uuid(step))

    def _disown(self, _: Step) -> None:
        record = self.registry.read(self.service.name)
        assert record is not None
        assert record.node == self.config.node
        self.registry.update(replace(record, standing=Standing.RELEASED))

    def _uuid(self, step: Step) -> str:
        return next(p.uuid for p in self.service.partitions if str(p.mountpoint) == step.subject)


def hands_of(node: Node) -> Callable[[Config, Service, Registry, Sink], Hands]:
    """What takes the place of the class Actions."""
    return lambda config, service, registry, _sink: Hands(node, config, service, registry)


def _need(condition: bool, otherwise: str) -> None:
    if not condition:
        raise NlmfoError(otherwise)


@dataclass
class Log:
    """A sink that remembers, and may call something when an event comes."""

    events: list[Event] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]
