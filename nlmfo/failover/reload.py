# SPDX-License-Identifier: GPL-2.0-or-later
"""Brings what is exported of a service that is served here to what its configuration says now.

Clients notice nothing: there is no grace, no lock is dropped, and the kernel is shown the new table in one step, so
that no export is away for a moment. Everything else that differs from what is served needs a release and a takeover;
it is named, and nothing is changed. Done twice, the second time changes nothing.

What is served is asked of where it can be seen: the export table, the mounts, the addresses, the journals of this
node's runs, and the callout's configuration, which says where the records are. The callout learns of new exports
before clients can mount them, and forgets old ones after nobody can: what it writes down of who uses what may be too
much for a moment, never too little.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from nlmfo.config import Config, Export, Isolation, Service
from nlmfo.errors import NlmfoError, Refused
from nlmfo.failover import last_run, neighbours, netns, shared
from nlmfo.failover.actions import callout_entries
from nlmfo.failover.keeper import Keeper
from nlmfo.failover.look import look
from nlmfo.failover.observe import Observed
from nlmfo.failover.owner import registry_of
from nlmfo.failover.place import Place
from nlmfo.failover.plan import Action
from nlmfo.failover.runs import not_served, only_run
from nlmfo.failover.verbs import Outcome
from nlmfo.host import exports, mounts, node_exports, view
from nlmfo.host.namespaces import Namespaces
from nlmfo.host.node import Node
from nlmfo.host.surroundings import Surroundings
from nlmfo.ownership.record import boot_id
from nlmfo.records import journal as journals
from nlmfo.records.callout import CalloutEntry, callout_entries_at

_FSID = re.compile(r"(?:^|,)fsid=([^,]+)")


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What was done, each as CLIENT:PATH. ``later``: what the configuration says and the next takeover will bring."""

    service: str
    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    later: tuple[str, ...] = ()


def reload(config: Config, service: Service) -> Reloaded:
    """Bring the exports of ``service`` to its configuration.

    NotOwned where it is not served; Refused when something else has changed that a reload cannot bring, or an fsid:
    clients' handles have it in them. Until the whole new table was made and judged, nothing is changed.
    """
    with only_run(service):
        seen = look(config, service, registry_of(config))
        _refuse_if_not_whole(service, seen)
        served: _Served = _OnNode(config) if service.isolation is Isolation.HOST else _InNamespaces()
        _refuse_other_changes(service, seen, served)
        before, wanted = served.exported(service), served.made(service)
        old, new = exports.table(before), exports.table(wanted)
        _refuse_changed_fsids(service, old, new)
        exports.prove(served.place(service), service)
        if old != new:
            served.tell_callout(service._replace(exports=_of_both(service, old)))
            served.put(service, wanted)
            if exports.table(served.exported(service)) != new:
                raise NlmfoError(
                    f"service '{service.name}': the export table is not what was put there",
                    hint="somebody else has changed it at the same time: try again",
                )
        served.tell_callout(service)
    return Reloaded(
        service.name,
        added=_named(new.keys() - old.keys()),
        changed=_named({entry for entry in new.keys() & old.keys() if new[entry] != old[entry]}),
        removed=_named(old.keys() - new.keys()),
        later=tuple(_later(service, seen)),
    )


class _Served(Protocol):
    """How the exports of a service are seen and changed in its isolation."""

    def place(self, service: Service) -> Surroundings:
        """Where its server is."""

    def told(self, service: Service) -> tuple[CalloutEntry, ...]:
        """What the callout was told of the service."""

    def wants(self, service: Service) -> list[CalloutEntry]:
        """What it would be told now."""

    def exported(self, service: Service) -> str:
        """Its part of the export table."""

    def made(self, service: Service) -> str:
        """The same, as the configuration has it."""

    def put(self, service: Service, table: str) -> None:
        """Serve that from now on."""

    def tell_callout(self, service: Service) -> None:
        """Have the callout know the exports of ``service``."""


class _InNamespaces:
    def place(self, service: Service) -> Namespaces:
        return Namespaces(service.name)

    def told(self, service: Service) -> tuple[CalloutEntry, ...]:
        return callout_entries_at(view.on_node(self.place(service), view.CALLOUT_CONFIG))

    def wants(self, service: Service) -> list[CalloutEntry]:
        return callout_entries(self._keeper(service), frozen=False)

    def exported(self, service: Service) -> str:
        return exports.now(self.place(service))

    def made(self, service: Service) -> str:
        return exports.made(self.place(service), service, exports.render(service))

    def put(self, service: Service, table: str) -> None:
        exports.replace(self.place(service), service, table)

    def tell_callout(self, service: Service) -> None:
        netns.tell_callout(self.place(service), self._keeper(service))

    def _keeper(self, service: Service) -> Keeper:
        return Keeper(service, Place.on_node(self.place(service)))


@dataclass(frozen=True, slots=True)
class _OnNode:
    config: Config

    def place(self, service: Service) -> Node:
        return Node(service.name)

    def told(self, service: Service) -> tuple[CalloutEntry, ...]:
        """Those with an address of the service, or with records in its state directory."""
        ours = {address.ip for address in service.addresses}
        found = callout_entries_at(view.CALLOUT_CONFIG)
        return tuple(each for each in found if each.address in ours or each.directory.parent == service.state)

    def wants(self, service: Service) -> list[CalloutEntry]:
        return [entry for keeper in shared.keepers([service]) for entry in callout_entries(keeper, frozen=False)]

    def exported(self, service: Service) -> str:
        return node_exports.of(service)

    def made(self, service: Service) -> str:
        return exports.made(self.place(service), service, exports.render(service, guarded=True))

    def put(self, service: Service, table: str) -> None:
        node_exports.replace(service, table)

    def tell_callout(self, service: Service) -> None:
        services = MappingProxyType({**self.config.services, service.name: service})
        shared.tell_callout(self.config._replace(services=services))


def _refuse_if_not_whole(service: Service, seen: Observed) -> None:
    if not seen.owned:
        raise not_served(service, seen.owner, hint="reload it on the node that serves it")
    past = last_run.newest(last_run.RUNS, service.name)
    if seen.frozen or (past is not None and not past.finished):
        raise NlmfoError(
            f"service '{service.name}': a run was cut off here",
            hint=f"'nlmfo resume {service.name}' goes on, 'nlmfo abort {service.name}' goes back; then reload",
        )


def _refuse_other_changes(service: Service, seen: Observed, served: _Served) -> None:
    found = tuple(_other_isolation(service)) or tuple(_other_changes(service, seen, served))
    if found:
        raise Refused(
            "not-by-reload",
            f"service '{service.name}': a reload brings exports only, and more differs from what is served here: "
            + "; ".join(found),
            hint=f"put that back as it was; to change it, then 'nlmfo release {service.name}', change it, and "
            f"'nlmfo takeover {service.name}'",
        )


def _other_isolation(service: Service) -> Iterator[str]:
    if service.isolation is Isolation.NETNS and neighbours.mark(service.name).exists():
        yield 'isolation: it is served with "host"'
    if service.isolation is Isolation.HOST and Namespaces(service.name).exist():
        yield 'isolation: it is served with "netns"'


def _other_changes(service: Service, seen: Observed, served: _Served) -> Iterator[str]:
    for partition in service.partitions:
        if partition.uuid not in seen.mounted:
            yield f"partition {partition.uuid} is not mounted at {partition.mountpoint}"
    for mountpoint in sorted(_mounted_here(service) - {partition.mountpoint for partition in service.partitions}):
        yield f"{mountpoint} is mounted for it, and no partition says so"
    for address in service.addresses:
        if address.ip not in seen.addresses:
            yield f"address {address.ip} is not up"
    wanted = {entry.address: entry for entry in served.wants(service)}
    for entry in served.told(service):
        if entry.address not in wanted:
            yield f"address {entry.address} is up, and not configured"
        else:
            yield from _of_records(entry, wanted[entry.address])
    if not seen.threads:
        yield "nfsd does not run"


def _of_records(told: CalloutEntry, wanted: CalloutEntry) -> Iterator[str]:
    if told.mode != wanted.mode:
        yield f'consistency: its records are written in mode "{told.mode}"'
    elif told.directory != wanted.directory:
        yield f"state: its records are in {told.directory.parent}"
    if told.name != wanted.name:
        yield f"names: its clients know it as {told.name}"


def _mounted_here(service: Service) -> set[Path]:
    """What this node's runs have mounted for the service in this boot, since it was last let go, and is there still."""
    found: set[Path] = set()
    for _, lines in journals.several(last_run.RUNS, service.name):
        for line in lines:
            if line.get("event") == "begun" and line.get("boot_id") != boot_id():
                break
            step = line.get("step")
            if line.get("event") == "step-done" and isinstance(step, dict) and step.get("action") == Action.MOUNT:
                found.add(Path(str(step.get("subject"))))
            if line.get("outcome") in (Outcome.RELEASED, Outcome.TAKEN_DOWN):
                found.clear()
    return {mountpoint for mountpoint in found if mounts.at(mountpoint) is not None}


def _later(service: Service, seen: Observed) -> Iterator[str]:
    if service.isolation is Isolation.NETNS and seen.threads != service.threads:
        yield f"threads: {seen.threads} run, {service.threads} are configured"


def _refuse_changed_fsids(service: Service, old: Mapping[exports.Entry, str], new: Mapping[exports.Entry, str]) -> None:
    """An fsid stands for one path, in each file handle that clients have."""
    before, after = _fsids(old), _fsids(new)
    for path, fsid in after.items():
        if before.get(path, fsid) != fsid:
            raise Refused(
                "fsid-changed",
                f"service '{service.name}': {path} is exported with fsid {before[path]}, not {fsid}: with another one "
                "every file handle that clients have becomes stale",
                hint=f"leave its fsid {before[path]}; to change it, have all clients unmount it, and release and take "
                "over the service",
            )
        earlier = next((other for other, its in before.items() if its == fsid and other != path), None)
        if earlier is not None:
            raise Refused(
                "fsid-reused",
                f"service '{service.name}': {path} would get fsid {fsid}, by which clients know {earlier}",
                hint="give it an fsid that was never used",
            )


def _fsids(table: Mapping[exports.Entry, str]) -> dict[Path, str]:
    found = ((path, _FSID.search(given)) for (path, _), given in table.items())
    return {path: match[1] for path, match in found if match}


def _of_both(service: Service, old: Mapping[exports.Entry, str]) -> tuple[Export, ...]:
    """The exports that are configured, and those of before, as far as the callout needs to know of them."""
    wanted = {export.path for export in service.exports}
    gone = (Export(path, fsid, ()) for path, fsid in _fsids(old).items() if path not in wanted)
    return (*service.exports, *gone)


def _named(entries: set[exports.Entry]) -> tuple[str, ...]:
    return tuple(sorted(node_exports.argument(path, client) for path, client in entries))
