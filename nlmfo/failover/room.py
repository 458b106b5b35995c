# SPDX-License-Identifier: GPL-2.0-or-later
"""How much room is left on every file system that a takeover here depends on, and for how long.

Each look leaves a sample for the next ones (nlmfo.host.space). A file system that does not answer has none, and no look
fails because of that: whoever needs the storage finds out.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nlmfo.child import in_child
from nlmfo.config import Config
from nlmfo.errors import NlmfoError
from nlmfo.failover.forecast import DAY, HOUR, is_enough, used_up_in
from nlmfo.failover.last_run import RUNS
from nlmfo.host import mounts, space
from nlmfo.host.space import Measured, Sample

#: The subject of what is no service's.
NODE = "node"
#: Seconds for storage to answer.
ANSWER = 5.0


@dataclass(frozen=True, slots=True)
class Place:
    """A path that something of ``subject`` (a service, or "node") lies at. ``name``: of its samples."""

    name: str
    subject: str
    path: Path
    what: str


@dataclass(frozen=True, slots=True)
class Room:
    """What is free at a place. Seconds until there are no bytes or inodes left: None where they get no fewer.

    ``since``: seconds for which it is known; ``enough``: whether that says anything.
    """

    place: Place
    now: Sample
    since: float
    enough: bool
    bytes_in: float | None
    inodes_in: float | None

    @property
    def full_in(self) -> float | None:
        """Seconds until either is used up."""
        return min((each for each in (self.bytes_in, self.inodes_in) if each is not None), default=None)


def look(config: Config) -> tuple[Room, ...]:
    """Every file system once, the node's first. Takes root."""
    now, places = time.time(), tuple(_places(config))
    with ThreadPoolExecutor(len(places)) as pool:
        measured = list(pool.map(lambda place: _measured(place, now), places))
    first = {found.device: place for place, found in reversed(list(zip(places, measured, strict=True))) if found}
    return tuple(
        _remembered(place, found.sample)
        for place, found in zip(places, measured, strict=True)
        if found is not None and first[found.device] is place
    )


def span(seconds: float) -> str:
    """A time in whole hours, or days where there are several."""
    hours, days = int(seconds / HOUR), int(seconds / DAY)
    if days >= 2:
        return f"{days} days"
    return "an hour" if hours <= 1 else f"{hours} hours"


def _places(config: Config) -> Iterator[Place]:
    """The partitions of a service count where they are mounted: where it is served."""
    yield Place("node", NODE, RUNS.parent, "the journals of runs")
    if config.registry is not None:
        yield Place("registry", NODE, config.registry, "owner records")
    for service in config.services.values():
        for partition in filter(mounts.is_mounted, service.partitions):
            holds = "the records" if partition == service.state_partition else "the files"
            name = f"partition-{partition.uuid}"
            yield Place(name, service.name, partition.mountpoint, f"{holds} of its clients")
        if service.state_partition is None:
            yield Place(f"state-{service.name}", service.name, service.state, "the records of its clients")


def _measured(place: Place, now: float) -> Measured | None:
    with suppress(NlmfoError, OSError):
        return in_child(f"looking at {place.path}", lambda: space.measure(place.path, now), deadline=ANSWER)
    return None


def _remembered(place: Place, latest: Sample) -> Room:
    """With what was seen before, to which it is added."""
    samples: tuple[Sample, ...] = (latest,)
    with suppress(NlmfoError, OSError):
        samples = space.remembered(place.name, latest)
        space.remember(place.name, samples)
    of_bytes = [(float(each.at), float(each.free)) for each in samples]
    of_inodes = [(float(each.at), float(each.inodes)) for each in samples if each.inodes is not None]
    since = latest.at - samples[0].at
    return Room(place, latest, since, is_enough(of_bytes), used_up_in(of_bytes), used_up_in(of_inodes))
