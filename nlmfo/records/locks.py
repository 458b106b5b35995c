# SPDX-License-Identifier: GPL-2.0-or-later
"""The locks that clients held through NFS, as the server before saw them: what a takeover compares with.

One file in the state directory, ``locks``, of root's::

    nlmfo-locks 1
    state 7                                            the NSM state number that they were granted under
    taken 1795179814.75                                seconds since the epoch
    exact yes                                          by a release, when nothing could change any more; else no
    partition 11111111-2222-3333-4444-555555555555     the file system that the lines below are on
    exclusive 13 100 199                               type, inode, first and last byte
    shared 131073 0 end
    shared 131073 0 end                                two clients share the same bytes
    sha256 <64 hex digits>                             of everything above (nlmfo.records.sealed)

A release writes it when the address is down. While the service runs, the keeper writes what it sees every few
seconds: after a crash that is an estimate, by which grace ends early only where the operator chose so. So only what
is whole, of the right state number and of a release is ever called exact; of everything else the reader is told why
it is not, and goes on. A release that is called off discards it before clients can lock again.
"""

from __future__ import annotations

import fcntl
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from nlmfo.records.directory import Directory, StoreError
from nlmfo.records.sealed import seal, unseal

LOCKS = "locks"
#: A million locks with numbers as they are; what is longer was not written by us, or is of no use in time.
MAX_LOCKS_BYTES = 64 << 20
#: The last byte of a lock that reaches to the end of the file, as in nlmfo.kernel.locks.
EOF = -1

_HEAD = re.compile(
    r"nlmfo-locks 1\nstate (?P<state>\d{1,10})\ntaken (?P<taken>\d{1,15}(\.\d{1,9})?)\nexact (?P<exact>yes|no)\n",
    re.ASCII,
)
_PARTITION = re.compile(r"partition (?P<uuid>[0-9A-Za-z-]{1,64})", re.ASCII)
_LOCK = re.compile(r"(exclusive|shared) (\d{1,20}) (\d{1,19}) (\d{1,19}|end)", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class HeldLock:
    """Bytes ``first`` to ``last`` (both locked; EOF is -1) of a file, on the partition with that UUID."""

    uuid: str
    inode: int
    first: int
    last: int
    exclusive: bool


@dataclass(frozen=True, slots=True)
class LockSnapshot:
    """Every lock held at one moment, as often as it was held: several clients may share the same bytes.

    ``state``: the NSM state number they were granted under; ``taken``: seconds since the epoch. ``exact``: nothing
    could change any more, so grace may end when all of them are held again; ``doubt`` says why it is not.
    """

    state: int
    taken: float
    exact: bool
    locks: tuple[HeldLock, ...]
    doubt: str = ""


def write_locks(state: Path, snapshot: LockSnapshot) -> bool:
    """Put the snapshot into the state directory, durably: a crash leaves the one before, or this one.

    What a release saw stays until it is discarded: no estimate takes its place (then False is returned), and what a
    further release sees is added to it. A release that was cut off may have dropped locks already, and what the next
    one finds is the rest. Raises StoreError, also when there are too many to be read again; the one before is then
    still there. A keeper and a release may write at once: they take turns.
    """
    with Directory.open(state) as files:
        fcntl.flock(files.fd, fcntl.LOCK_EX)  # until it is closed
        earlier = _read(files, snapshot.state)
        if earlier.exact:
            if not snapshot.exact:
                return False
            both = Counter(earlier.locks) | Counter(snapshot.locks)
            snapshot = replace(snapshot, locks=tuple(both.elements()))
        content = seal("".join(_lines(snapshot)))
        if len(content) > MAX_LOCKS_BYTES:
            raise StoreError(f"{state / LOCKS}: {len(snapshot.locks)} locks are more than can be accounted for")
        files.replace(LOCKS, content, 0o600, verify=True)
    return True


def read_locks(state: Path, number: int) -> LockSnapshot:
    """The locks that were held under the NSM state number ``number``: the records', before a generation begins.

    It does not fail for what is in the file: where that cannot be used, no lock is known and nothing is exact.
    Raises StoreError when the directory is not there.
    """
    with Directory.open(state) as files:
        return _read(files, number)


def _read(files: Directory, number: int) -> LockSnapshot:
    content = files.read(LOCKS, MAX_LOCKS_BYTES)
    if content is None:
        there = LOCKS in files.names()
        return _unknown(number, "it cannot be read: no regular file, or too long" if there else "there is none")
    text, intact = unseal(content)
    found = _parse(text) if intact else None
    if found is None:
        return _unknown(number, "it is damaged")
    if found.state != number:
        return _unknown(number, f"it is of NSM state {found.state}, and the records are of {number}")
    return found if found.exact else replace(found, doubt="it was taken while clients could still lock and unlock")


def discard_locks(state: Path) -> None:
    """Remove the snapshot, durably: before clients are served again under the state number that it was taken under.

    What a release saw is exact only until then. Raises StoreError.
    """
    with Directory.open(state) as files:
        files.remove(LOCKS)
        files.sync()


def _unknown(number: int, doubt: str) -> LockSnapshot:
    return LockSnapshot(number, 0.0, exact=False, locks=(), doubt=doubt)


def _lines(snapshot: LockSnapshot) -> Iterator[str]:
    yield f"nlmfo-locks 1\nstate {snapshot.state}\ntaken {snapshot.taken:.6f}\n"
    yield f"exact {'yes' if snapshot.exact else 'no'}\n"
    for uuid, locks in groupby(sorted(snapshot.locks), key=attrgetter("uuid")):
        yield f"partition {uuid}\n"
        yield from map(_line, locks)


def _line(lock: HeldLock) -> str:
    last = "end" if lock.last == EOF else lock.last
    return f"{'exclusive' if lock.exclusive else 'shared'} {lock.inode} {lock.first} {last}\n"


def _parse(text: str) -> LockSnapshot | None:
    """None unless every line is one that we write."""
    head = _HEAD.match(text)
    if head is None or not text.endswith("\n"):
        return None
    try:
        locks = tuple(_locks(text[head.end() : -1].split("\n") if head.end() < len(text) else ()))
    except ValueError:
        return None
    return LockSnapshot(int(head["state"]), float(head["taken"]), head["exact"] == "yes", locks)


def _locks(lines: Iterable[str]) -> Iterator[HeldLock]:
    """Raises ValueError for what is no lock."""
    uuid = ""
    for line in lines:
        if partition := _PARTITION.fullmatch(line):
            uuid = partition["uuid"]
            continue
        found = _LOCK.fullmatch(line)
        if found is None or not uuid:
            raise ValueError(line)
        kind, inode, first, last = found.groups()
        lock = HeldLock(uuid, int(inode), int(first), EOF if last == "end" else int(last), kind == "exclusive")
        if lock.last != EOF and lock.last < lock.first:
            raise ValueError(line)
        yield lock
