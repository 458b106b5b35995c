# SPDX-License-Identifier: GPL-2.0-or-later
"""What must hold between the keys of a service, and between services: any two may meet on one node."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from nlmfo.config.model import Address, Export, Notifier, Partition, Service
from nlmfo.errors import ConfigError


class Place(NamedTuple):
    """Where a value stands; keys count from 1, as people do."""

    file: Path
    key: str

    def within(self, key: str) -> Place:
        return Place(self.file, f"{self.key}.{key}")

    def seen_from(self, other: Place) -> str:
        return self.key if self.file == other.file else f"{self.key} in {self.file}"

    def error(self, reason: str, hint: str) -> ConfigError:
        return ConfigError(self.file, self.key, reason, hint=hint)


def check(services: Sequence[Service], registry: Path | None) -> None:
    """Raise ConfigError for the first rule that is broken."""
    for service in services:
        _exports_lie_on_partitions(service)
        _fsid_0_is_for_nfsv4(service)
        _export_paths_differ(service)
        _sm_notify_has_a_name(service)
    _addresses_differ(services)
    _partitions_differ(services)
    _fsids_differ(services)
    _states_differ(services)
    _registry_is_out_of_clients_reach(services, registry)
    for service in services:
        _state_is_out_of_clients_reach(service, services)


def warnings(services: Iterable[Service], registry: Path | None) -> tuple[str, ...]:
    """What is allowed but deserves a second thought, each naming file and key."""
    found = ((service, _doubt_about_state(service, registry)) for service in services)
    return tuple(f"{service.file}: state: {doubt}" for service, doubt in found if doubt)


def _exports_lie_on_partitions(service: Service) -> None:
    for place, export in _exports([service]):
        if service.partition_of(export.path) is None:
            reason = f"'{export.path}' is on none of the service's partitions"
            mountpoints = ", ".join(str(partition.mountpoint) for partition in service.partitions)
            hint = f"export a directory at or below {mountpoints}, or add the [[partition]] that holds it"
            raise place.within("path").error(reason, hint)


def _fsid_0_is_for_nfsv4(service: Service) -> None:
    """exports(5): fsid=0 is another word for fsid=root, the root of all exports in NFSv4's view."""
    if any(version.startswith("4") for version in service.versions):
        return
    for place, export in _exports([service]):
        if export.fsid == "0":
            reason = "0 means the root of NFSv4, which this service does not serve"
            raise place.within("fsid").error(reason, "write another number, or add a 4 to versions")


def _sm_notify_has_a_name(service: Service) -> None:
    if service.notifier is Notifier.SM_NOTIFY and not service.names:
        reason = "sm-notify sends a host name, and the service has none"
        hint = 'give the service the name that clients mount it by: names = ["nfs.example"], or leave the notifier out'
        raise ConfigError(service.file, "notifier", reason, hint=hint)


def _export_paths_differ(service: Service) -> None:
    paths = ((export.path, place.within("path")) for place, export in _exports([service]))
    _all_differ("path", paths, "export it once, with all its clients")


def _addresses_differ(services: Sequence[Service]) -> None:
    addresses = ((address.ip, place) for place, address in _addresses(services))
    _all_differ("address", addresses, "give every address to one service, once")


def _partitions_differ(services: Sequence[Service]) -> None:
    uuids = ((partition.uuid, place.within("uuid")) for place, partition in _partitions(services))
    _all_differ("uuid", uuids, "list every file system once, in one service")
    mountpoints = ((item.mountpoint, place.within("mountpoint")) for place, item in _partitions(services))
    _all_differ("mountpoint", mountpoints, "give every partition a mountpoint of its own")


def _fsids_differ(services: Sequence[Service]) -> None:
    fsids = ((export.fsid, place.within("fsid")) for place, export in _exports(services))
    _all_differ("fsid", fsids, "give every export of every service an fsid of its own")


def _states_differ(services: Sequence[Service]) -> None:
    states = ((service.state, Place(service.file, "state")) for service in services)
    _all_differ("directory", states, "give every service a state directory of its own")


def _registry_is_out_of_clients_reach(services: Sequence[Service], registry: Path | None) -> None:
    """Who can write to the registry over NFS could say who owns what."""
    for place, export in _exports(services):
        if registry is not None and registry.is_relative_to(export.path):
            reason = f"the registry '{registry}' lies in '{export.path}': clients could change who owns what"
            raise place.within("path").error(reason, "keep the registry outside every exported directory")


def _all_differ(what: str, found: Iterable[tuple[Hashable, Place]], hint: str) -> None:
    """Refuse a value that stands in two places, and name both."""
    first: dict[Hashable, Place] = {}
    for value, place in found:
        if value in first:
            raise place.error(f"the {what} '{value}' is already at {first[value].seen_from(place)}", hint)
        first[value] = place


def _state_is_out_of_clients_reach(service: Service, services: Iterable[Service]) -> None:
    """Who can write to the state directory over NFS could remove a client's record, or add one."""
    state, place = service.state, Place(service.file, "state")
    hint = "put it on a small partition of its own, outside every exported directory"
    for exporter, export in _exports(services):
        by = exporter.seen_from(place)
        if state.is_relative_to(export.path):
            raise place.error(f"'{state}' is exported by {by}: clients could read and change it", hint)
        if export.path.is_relative_to(state):
            raise place.error(f"below '{state}' lies '{export.path}', exported by {by}", hint)


def _doubt_about_state(service: Service, registry: Path | None) -> str | None:
    state, partition = service.state, service.state_partition
    if partition is None:
        if registry and state.is_relative_to(registry):
            return None
        where = f"'{state}' is neither on a partition of the service nor below the registry"
        return f"{where}: make sure that every node sees the same directory there"
    if any(service.partition_of(export.path) == partition for export in service.exports):
        where = f"'{state}' is on '{partition.mountpoint}', a file system that is also exported"
        return f"{where}: a client can forge a handle to anything on it; a small partition of its own is safer"
    return None


def _addresses(services: Iterable[Service]) -> Iterator[tuple[Place, Address]]:
    for service in services:
        for n, address in enumerate(service.addresses, start=1):
            yield Place(service.file, f"addresses[{n}]"), address


def _partitions(services: Iterable[Service]) -> Iterator[tuple[Place, Partition]]:
    for service in services:
        for n, partition in enumerate(service.partitions, start=1):
            yield Place(service.file, f"partition[{n}]"), partition


def _exports(services: Iterable[Service]) -> Iterator[tuple[Place, Export]]:
    for service in services:
        for n, export in enumerate(service.exports, start=1):
            yield Place(service.file, f"export[{n}]"), export
