# SPDX-License-Identifier: GPL-2.0-or-later
"""Which locks clients hold on a service through NFSv3 now, on which files, and who may be the holder.

The kernel does not show which client has which NLM lock: in /proc/locks all are lockd's. So beside each lock stand
the clients on record that may have it, those that are known to use the export that the file is below.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from nlmfo.config import Config, Export, Service
from nlmfo.failover.accounting import READINGS, gathered
from nlmfo.failover.clients import ClientOnRecord, ClientState, on_record
from nlmfo.failover.reclaims import held_now, mountpoints_of, paths_of
from nlmfo.records.locks import EOF


@dataclass(frozen=True, slots=True)
class LockOnFile:
    """Bytes ``first`` to ``last`` (None: to the end) of a file. ``path`` is None where it was not found in time.

    ``holders``: how many hold it; ``clients``: who may be among them.
    """

    service: str
    mountpoint: str
    inode: int
    path: str | None
    first: int
    last: int | None
    exclusive: bool
    holders: int
    clients: tuple[str, ...]


def held_on(config: Config, service: Service) -> tuple[LockOnFile, ...]:
    """Every lock that is held, by file and place in it. NotOwned where the service is not served."""
    known = [client for client in on_record(config, service) if client.state is not ClientState.GONE]
    found = Counter(gathered([held_now(service) for _ in range(READINGS)]))
    paths, mountpoints = paths_of(service, found), mountpoints_of(service)
    return tuple(
        LockOnFile(
            service=service.name,
            mountpoint=str(mountpoints[lock.uuid]),
            inode=lock.inode,
            path=str(path) if (path := paths.get((lock.uuid, lock.inode))) else None,
            first=lock.first,
            last=None if lock.last == EOF else lock.last,
            exclusive=lock.exclusive,
            holders=found[lock],
            clients=_who_may(service, known, path),
        )
        for lock in sorted(found)
    )


def _who_may(service: Service, known: list[ClientOnRecord], path: Path | None) -> tuple[str, ...]:
    """A file that is below no export, by the name that was found, may have another name that is."""
    exports = [export for export in service.exports if path is not None and path.is_relative_to(export.path)]
    return tuple(sorted({client.client for client in known if not exports or _may_use(client, exports)}))


def _may_use(client: ClientOnRecord, exports: list[Export]) -> bool:
    return any(client.may_use(export.fsid) for export in exports)
