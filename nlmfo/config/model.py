# SPDX-License-Identifier: GPL-2.0-or-later
"""What the configuration says, as data.

Paths are compared as text, part by part: nothing may be mounted yet, so there is nothing to resolve.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path
from typing import NamedTuple

from nlmfo.config.hints import did_you_mean
from nlmfo.errors import ConfigError

Address = IPv4Interface | IPv6Interface


class Isolation(StrEnum):
    """How a service shares a node with other services."""

    NETNS = "netns"
    HOST = "host"


class Consistency(StrEnum):
    """When a client's record becomes durable.

    ``sync``: before statd answers the kernel; ``async``: soon after; ``snapshot``: all at once, now and then.
    """

    SYNC = "sync"
    ASYNC = "async"
    SNAPSHOT = "snapshot"


class EndGrace(StrEnum):
    """When the grace period may end before its time; see nlmfo.failover.grace.

    ``reclaimed``: after a planned move, once every lock is held again; ``estimate``: after a crash as well, judged by
    the last look at the locks before it, which may miss some; ``never``.
    """

    RECLAIMED = "reclaimed"
    ESTIMATE = "estimate"
    NEVER = "never"


class Notifier(StrEnum):
    """Who sends SM_NOTIFY: nlmfo itself, or sm-notify of nfs-utils."""

    NLMFO = "nlmfo"
    SM_NOTIFY = "sm-notify"


class Partition(NamedTuple):
    """A file system, known by its UUID and never by a device name.

    ``uuid`` is udev's ID_FS_UUID in lower case (udev itself writes vfat's in upper case).
    """

    uuid: str
    mountpoint: Path
    options: str = "defaults"


class Export(NamedTuple):
    """A directory that clients mount.

    ``fsid`` is a decimal number or a dashed UUID in lower case. ``clients`` are pairs of a client pattern
    and its options, exports(5), in the order of the file.
    """

    path: Path
    fsid: str
    clients: tuple[tuple[str, str], ...]


class Service(NamedTuple):
    """What fails over as one: floating addresses, partitions and exports.

    ``grace`` is in seconds, None for the kernel's own default; ``threads`` is the number of nfsd threads.
    ``settle``: seconds between the last lock's return and the end of grace, for what the lock table cannot show.
    ``retry_for``: seconds for which a client that does not answer is tried again; ``forget_after``: seconds after which
    it is taken for gone, 0 for never.
    Partitions, exports and addresses keep the order of the file, so that ``export[2]`` is ``exports[1]``.
    """

    name: str
    file: Path
    addresses: tuple[Address, ...]
    interface: str
    names: tuple[str, ...]
    isolation: Isolation
    state: Path
    versions: tuple[str, ...]
    partitions: tuple[Partition, ...]
    exports: tuple[Export, ...]
    grace: int | None
    threads: int
    consistency: Consistency
    notifier: Notifier
    end_grace: EndGrace
    settle: float
    retry_for: int
    forget_after: int

    def partition_of(self, path: Path) -> Partition | None:
        """The partition that ``path`` lies on: of the mountpoints that contain it, the longest."""
        holders = (partition for partition in self.partitions if path.is_relative_to(partition.mountpoint))
        return max(holders, key=_depth, default=None)

    @property
    def state_partition(self) -> Partition | None:
        """The partition that the state directory lies on; None when it is on none of this service."""
        return self.partition_of(self.state)

    @property
    def mount_order(self) -> tuple[Partition, ...]:
        """The partitions with every parent mountpoint before what is mounted below it."""
        return tuple(sorted(self.partitions, key=_depth))


class Config(NamedTuple):
    """Everything that one configuration directory says; ``services`` is sorted by name and read-only.

    ``fence`` is the command that turns a node off, with ``{node}`` in the place of its name, empty when there is none;
    ``fence_deadline`` is in seconds. ``restart_nfsd``: host isolation may restart the nfsd of the node.
    """

    directory: Path
    node: str
    registry: Path | None
    services: Mapping[str, Service]
    warnings: tuple[str, ...]
    fence: tuple[str, ...] = ()
    fence_deadline: float = 60.0
    restart_nfsd: bool = False

    def service(self, name: str) -> Service:
        """The service called ``name``; ConfigError that helps to find the right name when there is none."""
        if name in self.services:
            return self.services[name]
        where = self.directory / "services.d"
        known = f"; the services are: {', '.join(self.services)}" if self.services else ""
        hint = did_you_mean(name, self.services) if self.services else f"describe it in {where}/NAME.toml"
        raise ConfigError(where, None, f"there is no service {name!r}{known}", hint=hint)


def _depth(partition: Partition) -> int:
    return len(partition.mountpoint.parts)
