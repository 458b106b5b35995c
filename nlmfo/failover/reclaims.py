# SPDX-License-Identifier: GPL-2.0-or-later
"""What came back after a takeover: the locks of before, compared with those that are held, and the end of grace."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from nlmfo.child import in_child
from nlmfo.config import Service
from nlmfo.errors import NlmfoError
from nlmfo.failover.accounting import READINGS, Account, gathered, held, in_words, named
from nlmfo.failover.grace import Known, why_it_may_end
from nlmfo.failover.progress import Locks, Progress, Waiting
from nlmfo.host import partitions
from nlmfo.kernel import grace, inodes, lockd_settings, locks, nfsd
from nlmfo.records.ledger import SETTLED, Entry
from nlmfo.records.locks import HeldLock, LockSnapshot, write_locks
from nlmfo.records.store import Store

#: Readings of the lock table: that have to show a lock as held again, because one alone may show it twice; and that a
#: release notes all locks from, because one alone may leave some out (see nlmfo.failover.accounting).
COMPARED = 3
#: Clients that are named in the progress.
NAMED = 50
#: Seconds without another lock coming back, after which those that are missing are named, and to find their files.
STILL, PATHS = 3.0, 20.0


class Reclaims:
    """One generation of one service, from its takeover on. Runs where ``nlmfo keep`` does."""

    def __init__(self, service: Service, number: int, before: LockSnapshot, *, complete: bool) -> None:
        """``before``: the locks that the server before this one knew of; ``complete``: its records are all there."""
        self.number = number
        self._service = service
        self._complete = complete
        self._known = before.taken > 0
        self._account = Account(before)
        self._since = time.time()
        self._may_since: float | None = None
        self._back, self._back_since = -1, 0.0
        self._begun = self._over = False
        self._ended = ""
        self._words: tuple[tuple[HeldLock, ...], tuple[str, ...]] = ((), ())

    def look(self, standings: Mapping[str, Entry], *, told: bool, in_grace: bool) -> bool:
        """Compare the locks while reclaims are granted, and end grace if it may end; whether it is on still.

        ``told``: everything answers, and whoever is on record has been sent a notice.
        """
        # A second grace, as after a restart of nfsd by hand, is not ours to judge: the locks went once more.
        self._begun = self._begun or in_grace
        self._over = self._over or (self._begun and not in_grace)
        if self._over or not in_grace:
            return in_grace
        if self._account.missing:
            readings = [held_now(self._service) for _ in range(COMPARED)]
            in_grace = grace.on()  # still: out of it a lock may be held by anybody
            if not in_grace:
                return False
            self._account.update(*readings)
        why = self._why_it_may_end(standings) if told and not self._v4_clients_reclaim() else ""
        if not why:
            self._may_since = None
            return True
        self._may_since = self._may_since or time.monotonic()
        # What /proc/locks cannot show, such as share reservations (NLM_SHARE), is reclaimed in the same breath.
        if time.monotonic() - self._may_since < self._service.settle:
            return True
        grace.end()
        self._ended = why
        print(f"grace ended early: {why}", file=sys.stderr, flush=True)
        return False

    def progress(self, standings: Mapping[str, Entry], *, told: bool, in_grace: bool, problem: str) -> Progress:
        """What there is to say, for whoever watches. Missing locks are named once no more have come for a while."""
        if self._back != self._account.back:
            self._back, self._back_since = self._account.back, time.monotonic()
        quiet = told and time.monotonic() - self._back_since >= STILL
        waiting = [entry for entry in standings.values() if entry.standing not in SETTLED]
        return Progress(
            state=self.number,
            told=told,
            in_grace=in_grace,
            grace_until=round(self._since + self._grace_seconds(), 1) if in_grace else 0.0,
            ended=self._ended,
            problem=problem,
            clients=dict(Counter(entry.standing for entry in standings.values())),
            waiting=tuple(Waiting(e.client, e.standing, e.detail) for e in waiting[:NAMED]),
            locks=self._locks(name=quiet) if self._known else None,
        )

    @property
    def all_back(self) -> bool:
        """Whether every lock of an exact account is held again."""
        return self._account.all_back

    def _v4_clients_reclaim(self) -> bool:
        """NFSv4 clients say by themselves when they are done (RECLAIM_COMPLETE), and nfsd then ends its grace."""
        return any(version.startswith("4") for version in self._service.versions) and not nfsd.v4_grace_ended()

    def _why_it_may_end(self, standings: Mapping[str, Entry]) -> str:
        account = self._account
        return why_it_may_end(
            self._service,
            Known(
                standings=frozenset(entry.standing for entry in standings.values()),
                locks=account.total if self._known else None,
                exact=account.exact,
                missing=len(account.missing),
                complete=self._complete,
            ),
        )

    def _locks(self, *, name: bool) -> Locks:
        account = self._account
        missing = tuple(account.missing)
        if name and self._words[0] != missing:
            paths = paths_of(self._service, named(missing))
            self._words = missing, tuple(in_words(missing, paths, mountpoints_of(self._service)))
        return Locks(account.total, account.back, account.exact, self._words[1] if name else ())

    def _grace_seconds(self) -> float:
        """How long lockd's grace lasts at most, as it was set when it began."""
        return float(self._service.grace or lockd_settings.next_grace())


def held_now(service: Service) -> tuple[HeldLock, ...]:
    """The locks that NFS clients hold on the service's partitions, by one reading of the kernel's table."""
    devices = {partitions.lock_device(partition): partition.uuid for partition in service.partitions}
    known = {device: uuid for device, uuid in devices.items() if device is not None}
    return held(known, locks.held_by_clients(set(known)))


def mountpoints_of(service: Service) -> dict[str, Path]:
    return {partition.uuid: partition.mountpoint for partition in service.partitions}


def paths_of(service: Service, missing: Iterable[HeldLock]) -> dict[tuple[str, int], Path]:
    """The names of files, as far as they are found in time: for people, so nothing depends on it."""
    where, wanted = mountpoints_of(service), list(missing)

    def look() -> dict[tuple[str, int], Path]:
        return {
            (uuid, inode): path
            for uuid in where
            for inode, path in inodes.paths(where[uuid], {lock.inode for lock in wanted if lock.uuid == uuid}).items()
        }

    with suppress(NlmfoError):
        return in_child(f"service '{service.name}': looking for files", look, deadline=PATHS)
    return {}


def note(service: Service, store: Store) -> LockSnapshot:
    """Write down the locks that are held, once nothing can be added: what a release leaves for the next owner.

    What a release noted that was cut off stays noted (write_locks).
    """
    found = gathered([held_now(service) for _ in range(READINGS)])
    noted = LockSnapshot(store.state_number(), time.time(), exact=True, locks=found)
    write_locks(service.state, noted)
    return noted
