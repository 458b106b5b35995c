# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a service that is served here is well: each part judged by what it answers, and not by a process id.

It only looks. A cluster manager asks it every few seconds (``nlmfo monitor``), so everything has a deadline, and what
hangs is left behind.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from nlmfo.child import in_child
from nlmfo.config import Config, Partition, Service
from nlmfo.errors import NlmfoError
from nlmfo.failover.look import look
from nlmfo.failover.observe import Observed
from nlmfo.failover.owner import registry_of
from nlmfo.failover.runs import not_served
from nlmfo.host import daemons
from nlmfo.host.addresses import Address
from nlmfo.host.daemons import Program
from nlmfo.host.namespaces import Namespaces
from nlmfo.host.node import surroundings_of
from nlmfo.host.surroundings import Surroundings

#: Seconds for a file system to say how it is.
STORAGE = 5.0


@dataclass(frozen=True, slots=True)
class Trouble:
    """``part`` is stable, for programs; ``text`` says what is wrong with it, and what to do."""

    part: str
    text: str


def troubles(config: Config, service: Service) -> tuple[Trouble, ...]:
    """What is wrong with a service that is served here; empty when it is well. NotOwned where nothing of it is here."""
    seen = look(config, service, registry_of(config))
    if not seen.anything() and not seen.owned:
        raise not_served(service, seen.owner)
    return (*_of_what_is_seen(service, seen), *_of_storage(service, seen), *_of_programs(service, seen))


def _of_what_is_seen(service: Service, seen: Observed) -> Iterator[Trouble]:
    if not seen.owned:
        by = f"{seen.owner.node} ({seen.owner.standing})" if seen.owner else "nobody"
        yield Trouble("owner", f"the owner record names {by}, not this node")
    for partition in service.partitions:
        if partition.uuid not in seen.mounted:
            yield Trouble("mount", f"{partition.mountpoint} is not mounted")
    for address in service.addresses:
        if address.ip not in seen.addresses:
            yield Trouble("address", f"address {address.ip} is not up")
    for path in (str(export.path) for export in service.exports):
        # What was added to the service's file since waits for a reload: that is no reason to serve it anew.
        if path not in seen.exported and path in (seen.to_export or {path}):
            yield Trouble("export", f"{path} is not exported")
    if not seen.threads:
        yield Trouble("nfsd", "nfsd does not run")
    if seen.frozen:
        yield Trouble("records", f"its records are frozen: a release was cut off ('nlmfo resume {service.name}')")
    elif not seen.kept:
        yield Trouble("keeper", f"'nlmfo keep' has ended: 'nlmfo takeover {service.name}' starts it again")


def _of_storage(service: Service, seen: Observed) -> Iterator[Trouble]:
    """A file system that met an error may have become read-only, and a disk that is gone may not answer at all."""
    there = [partition for partition in service.partitions if partition.uuid in seen.mounted]
    with ThreadPoolExecutor(max(1, len(there))) as pool:
        for partition, problem in zip(there, pool.map(_storage, there), strict=True):
            if problem:
                yield Trouble("storage", f"{partition.mountpoint} {problem}")


def _storage(partition: Partition) -> str:
    mountpoint = partition.mountpoint
    try:
        flags = in_child(f"looking at {mountpoint}", lambda: os.statvfs(mountpoint).f_flag, deadline=STORAGE)
    except (NlmfoError, OSError) as error:
        return f"does not answer: {error}"
    wanted_so = "ro" in partition.options.split(",")
    return "has become read-only: see 'dmesg'" if flags & os.ST_RDONLY and not wanted_so else ""


def _of_programs(service: Service, seen: Observed) -> Iterator[Trouble]:
    """Each program at each address that is up, all at once: one that hangs keeps nobody from being asked."""
    place = surroundings_of(service)
    if isinstance(place, Namespaces) and not seen.isolated:
        return
    if isinstance(place, Namespaces) and seen.threads and not daemons.tracks(place):
        yield Trouble(daemons.TRACKER, f"{daemons.TRACKER} has ended")
    asked = [(program, ip) for program in daemons.programs(service) for ip in sorted(seen.addresses, key=str)]
    with ThreadPoolExecutor(max(1, len(asked))) as pool:
        answers = pool.map(lambda one: _answers(place, *one), asked)
        for (program, ip), answered in zip(asked, answers, strict=True):
            if not answered:
                yield Trouble(program.name, f"{program.name} does not answer at {ip}{_log(place, program)}")


def _answers(place: Surroundings, program: Program, ip: Address) -> bool:
    return daemons.answer(place, [program], ip)


def _log(place: Surroundings, program: Program) -> str:
    log = Path(place.directory) / "log" / f"{program.name}.log"
    return f": see {log}" if log.exists() else ""
