# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether every lock that was held before is held again, and which one is not, by file and range.

The kernel's table names no owner: all locks of NFS clients belong to lockd. And a lock need not come back in the form
it had: the kernel joins ranges of one owner that touch, and what an owner locks anew replaces what he held there
(posix_lock_inode in fs/locks.c). So not lines are compared but bytes. An owner holds a byte at most once, so the
locks that cover it count its owners. In grace only owners of before can lock, and nobody can unlock; so where as many
hold a byte as held it then, all of them are back. Where it is fewer nobody can tell who is missing: all who had it
count as missing. Exclusive locks are counted once more by themselves, because a shared one is not what was held.

Everything here errs on the side of missing: that costs the rest of grace, the other side costs a lock.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from nlmfo.kernel.locks import Lock
from nlmfo.plain import plain
from nlmfo.records.locks import EOF, HeldLock, LockSnapshot

#: Readings of the lock table that a snapshot is made of; see ``gathered``.
READINGS = 5
#: Of these, so many have to show a lock twice before it counts twice.
ENOUGH = 2
#: Locks to spell out for people; the rest are counted.
NAMED = 20

#: A file of a partition: UUID and inode.
File = tuple[str, int]
#: Bytes from the first to before the second.
Span = tuple[int, int]
#: Above every byte that can be locked, and above the end of the file.
_END = 1 << 64


def held(partitions: Mapping[str, str], locks: Iterable[Lock]) -> tuple[HeldLock, ...]:
    """The locks on a service's ``partitions``: device, MAJOR:MINOR, to UUID. Devices are this node's; UUIDs stay."""
    return tuple(
        HeldLock(partitions[lock.device], lock.inode, lock.first, lock.last, lock.exclusive)
        for lock in locks
        if lock.device in partitions
    )


def gathered(readings: Sequence[Iterable[HeldLock]]) -> tuple[HeldLock, ...]:
    """What was held while these readings of the lock table were taken, and nothing could change: all that any shows.

    A reading of /proc/locks is not of one moment: each read(2) gives one page, and the next goes on by the position in
    the list (locks_start in fs/locks.c). When anybody on the node locks or unlocks in between, on whatever file, locks
    that are held all the time are left out, or come twice. Two clients do share the same bytes, so a shared lock counts
    as often as ``ENOUGH`` readings show it. The pages must begin elsewhere in each reading: else a neighbour that
    locks and unlocks all the time hides the same lock each time (seen in half of the readings of Linux 6.18).
    """
    counts = [Counter(reading) for reading in readings]
    return tuple(
        lock for lock in sorted(set().union(*counts)) for _ in range(_times_held(lock, [each[lock] for each in counts]))
    )


def missing(before: Sequence[HeldLock], now: Iterable[HeldLock]) -> tuple[HeldLock, ...]:
    """Which of the locks held ``before`` may not be held ``now``, in their order and as often as they are there."""
    files, current = _by_file(before), _by_file(now)
    short = {file: _short(locks, current.get(file, ())) for file, locks in files.items()}
    return tuple(lock for lock in before if _touches(lock, *short[lock.uuid, lock.inode]))


class Account:
    """The locks of a snapshot, and which of them were seen held again."""

    def __init__(self, snapshot: LockSnapshot) -> None:
        self.snapshot = snapshot
        self.missing = snapshot.locks

    @property
    def exact(self) -> bool:
        """Whether these are the locks that clients will reclaim; else an estimate, which may lack some."""
        return self.snapshot.exact

    @property
    def total(self) -> int:
        return len(self.snapshot.locks)

    @property
    def back(self) -> int:
        return self.total - len(self.missing)

    @property
    def all_back(self) -> bool:
        """Whether nobody has anything left to reclaim, for certain."""
        return self.exact and not self.missing

    def update(self, reading: Iterable[HeldLock], *more: Iterable[HeldLock]) -> None:
        """Count what all these readings of the lock table show. What was back once stays so.

        All were taken in grace, and grace was still on afterwards: later, an owner can unlock what he reclaimed, and
        somebody else can lock it. Give it several: one reading can show a lock twice (see ``gathered``).
        """
        absent = {lock for locks in (reading, *more) for lock in missing(self.snapshot.locks, locks)}
        self.missing = tuple(lock for lock in self.missing if lock in absent)


def named(locks: Iterable[HeldLock]) -> tuple[HeldLock, ...]:
    """The locks that ``in_words`` spells out: it pays to look for the paths of these only."""
    return tuple(sorted(set(locks))[:NAMED])


def in_words(
    locks: Iterable[HeldLock], path_of: Mapping[File, Path], mountpoints: Mapping[str, Path] | None = None
) -> list[str]:
    """A line for each lock, for people; ``path_of`` has the files that were found, ``mountpoints`` are by UUID."""
    holders = Counter(locks)
    spelt = named(holders)
    lines = sorted(
        f"{_file(lock, path_of, mountpoints or {})} {_range(lock)}{_how_many(holders[lock])}" for lock in spelt
    )
    rest = holders.total() - sum(holders[lock] for lock in spelt)
    return lines + [f"{rest} more"] * (rest > 0)


def _times_held(lock: HeldLock, shown: Sequence[int]) -> int:
    """At least once; an exclusive lock has one holder, however often it was shown."""
    return 1 if lock.exclusive else max(1, sorted(shown)[-min(ENOUGH, len(shown))])


def _by_file(locks: Iterable[HeldLock]) -> dict[File, list[HeldLock]]:
    found: defaultdict[File, list[HeldLock]] = defaultdict(list)
    for lock in locks:
        found[lock.uuid, lock.inode].append(lock)
    return found


def _short(before: Sequence[HeldLock], now: Sequence[HeldLock]) -> tuple[list[Span], list[Span]]:
    """Where fewer hold a byte than did: of any kind, and exclusively."""
    return _fewer(before, now), _fewer([b for b in before if b.exclusive], [n for n in now if n.exclusive])


def _fewer(before: Iterable[HeldLock], now: Iterable[HeldLock]) -> list[Span]:
    """The bytes that fewer locks cover now: spans in order, with gaps between them."""
    edges = sorted([*_edges(now, 1), *_edges(before, -1)])
    spans: list[Span] = []
    surplus = 0
    start = None
    for byte, changes in groupby(edges, key=lambda edge: edge[0]):
        surplus += sum(change for _, change in changes)
        if surplus < 0 and start is None:
            start = byte
        elif surplus >= 0 and start is not None:
            spans.append((start, byte))
            start = None
    return spans


def _edges(locks: Iterable[HeldLock], weight: int) -> Iterator[tuple[int, int]]:
    for lock in locks:
        start, end = _span(lock)
        yield start, weight
        yield end, -weight


def _span(lock: HeldLock) -> Span:
    return lock.first, _END if lock.last == EOF else lock.last + 1


def _touches(lock: HeldLock, any_kind: Sequence[Span], exclusive: Sequence[Span]) -> bool:
    return _overlaps(lock, any_kind) or (lock.exclusive and _overlaps(lock, exclusive))


def _overlaps(lock: HeldLock, spans: Sequence[Span]) -> bool:
    """The last span that begins before the lock's end decides: those before it end before it begins."""
    start, end = _span(lock)
    index = bisect_right(spans, (end - 1, _END)) - 1
    return index >= 0 and spans[index][1] > start


def _file(lock: HeldLock, path_of: Mapping[File, Path], mountpoints: Mapping[str, Path]) -> str:
    path = path_of.get((lock.uuid, lock.inode))
    if path is not None:
        return plain(os.fspath(path))
    return f"inode {lock.inode} of {plain(os.fspath(mountpoints.get(lock.uuid, lock.uuid)))}"


def _range(lock: HeldLock) -> str:
    last = "end" if lock.last == EOF else lock.last
    return f"bytes {lock.first}-{last} {'exclusive' if lock.exclusive else 'shared'}"


def _how_many(holders: int) -> str:
    return f", {holders} holders" if holders > 1 else ""
