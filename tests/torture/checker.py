# SPDX-License-Identifier: GPL-2.0-or-later
"""Judges a history: was every lock exclusive, every acknowledged write kept, nobody's lock lost unseen, and who got on?

Pure functions of what the clients logged; each violation comes with the shortest history that shows it.
"""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import TypeVar

from tests.torture.history import History, Hold, Read, Write

#: Increments of one register that are missing at the most in the log of a client that was cut off: one of each of its
#: processes that count there.
UNLOGGED = 2


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise, and the operations that show it, by time."""

    what: str
    shown_by: tuple[tuple[float, str], ...]

    def __str__(self) -> str:
        return "\n".join([self.what, *(f"  {at:.3f}  {text}" for at, text in sorted(self.shown_by))])


@dataclass(frozen=True, slots=True)
class Outage:
    """While a service could not be expected to answer: from when it was disturbed until it was served again."""

    service: str
    begun: float
    ended: float


def violations(history: History) -> list[Violation]:
    """All of them but what ``stalled`` finds, in the order of the checks."""
    return [
        *two_holders(history),
        *lost_increments(history),
        *stale_reads(history),
        *values_of_nobody(history),
        *miscounted(history),
        *unseen_losses(history),
        *(Violation(f"{wrong.who}: {wrong.text}", ((wrong.at, wrong.text),)) for wrong in history.wrongs),
    ]


# -- locks -------------------------------------------------------------------------------------------------


def two_holders(history: History) -> Iterator[Violation]:
    """Conflicting locks that were held at the same time."""
    for file, those in _by_file(history.holds).items():
        active: list[tuple[float, int, Hold]] = []
        for number, hold in enumerate(sorted(those, key=lambda h: h.granted)):
            while active and active[0][0] <= hold.granted:
                heapq.heappop(active)
            for _, _, other in active:
                together = min(other.ended, hold.ended) - hold.granted
                error = 0.0 if hold.client == other.client else history.clocks
                if hold.conflicts(other) and together > error:
                    shown = (*_in_words(other), *_in_words(hold))
                    yield Violation(f"{file}: two processes hold conflicting locks for {together:.3f} s", shown)
            heapq.heappush(active, (hold.ended, number, hold))


def unseen_losses(history: History) -> Iterator[Violation]:
    """A lock that its process holds, and that the server does not know of."""
    by_file = _by_file(history.holds)
    for probe in history.probes:
        if probe.locked:
            continue
        for hold in by_file.get(probe.file, ()):
            covered = hold.granted + history.clocks < probe.asked and probe.answered < hold.ended - history.clocks
            if covered and hold.first <= probe.last and probe.first <= hold.last and hold.process != probe.process:
                shown = (*_in_words(hold), (probe.asked, f"{probe.process} asks: nobody has it"))
                yield Violation(f"{probe.file}: a process holds a lock that the server does not know of", shown)


# -- registers ---------------------------------------------------------------------------------------------


def lost_increments(history: History) -> Iterator[Violation]:
    """Two acknowledged increments from one value: the second did not see the first, or overwrote it."""
    for (file, slot), writes in _by_slot(history.writes()).items():
        seen: dict[int, Write] = {}
        for write in writes:
            if write.synced is None:
                continue
            other = seen.setdefault(write.value, write)
            if other is not write:
                shown = (*_write_in_words(other), *_write_in_words(write))
                yield Violation(f"{file}, slot {slot}: value {write.value} was written twice", shown)


def stale_reads(history: History) -> Iterator[Violation]:
    """A read, under a lock, that began after a higher value was acknowledged."""
    reads = _by_slot(history.reads())
    for (file, slot), writes in _by_slot(history.writes()).items():
        acknowledged = [(synced, write) for write in writes if (synced := write.synced) is not None]
        kept = deque(sorted(acknowledged, key=lambda each: each[0]))
        highest: Write | None = None
        for read in sorted(reads.get((file, slot), ()), key=lambda r: r.asked):
            while kept and kept[0][0] + history.clocks < read.asked:
                write = kept.popleft()[1]
                highest = write if highest is None or write.value > highest.value else highest
            if highest is not None and read.value < highest.value:
                shown = (*_write_in_words(highest), _read_in_words(read))
                yield Violation(f"{file}, slot {slot}: an acknowledged write is lost", shown)


def values_of_nobody(history: History) -> Iterator[Violation]:
    """What was read and nobody can have written: damage, or a write out of turn."""
    writes, until = _by_slot(history.writes()), history.whole_until()
    for (file, slot), reads in _by_slot(read for read in history.reads() if read.at <= until).items():
        written = {(write.value, write.process) for write in writes.get((file, slot), ())}
        values = {value for value, _ in written} | {0}
        for read in reads:
            known = read.value == 0 or (read.value, read.by) in written
            if not known and not _may_be_unlogged(history, read, values):
                what = f"{file}, slot {slot}: nobody can have written {read.value} of '{read.by}'"
                yield Violation(what, (_read_in_words(read),))


def _may_be_unlogged(history: History, read: Read, values: Set[int]) -> bool:
    """Whether the writer's client was cut off before this, so that its log lacks what it did last."""
    cut_off = any(last <= read.at + history.clocks for last in history.cut_off.get(read.by.partition("/")[0], ()))
    return cut_off and any(read.value - more in values for more in range(1, UNLOGGED + 1))


@dataclass(frozen=True, slots=True)
class Count:
    """All registers together: what is there at the end, and what was acknowledged."""

    registers: int
    final: int
    acknowledged: int
    unknown: int


def count(history: History) -> Count:
    """Of each register the highest value that anybody read, or was told to be on disk."""
    until = history.whole_until()
    writes = _by_slot(write for write in history.writes() if write.begun <= until)
    reads = _by_slot(read for read in history.reads() if read.at <= until)
    final = acknowledged = unknown = 0
    for slot in writes.keys() | reads.keys():
        mine = writes.get(slot, [])
        kept = [write.value for write in mine if write.synced is not None]
        seen = {(read.value, read.by) for read in reads.get(slot, ()) if read.value > 0}
        unlogged = {value for value, _ in seen - {(write.value, write.process) for write in mine}}
        # What a client that was cut off wrote before that, and nobody read.
        hidden = {value - more for value in unlogged for more in range(1, UNLOGGED)} - {0}
        hidden -= {write.value for write in mine} | {value for value, _ in seen}
        acknowledged += len(kept)
        unknown += len(mine) - len(kept) + len(unlogged) + len(hidden)
        final += max((*kept, *(value for value, _ in seen)), default=0)
    return Count(len(writes), final, acknowledged, unknown)


def miscounted(history: History) -> Iterator[Violation]:
    """The counters are the acknowledged increments, and at the most those of which nobody knows."""
    found = count(history)
    if not found.acknowledged <= found.final <= found.acknowledged + found.unknown:
        yield Violation(f"the counters do not add up: {found}", ())


# -- progress ----------------------------------------------------------------------------------------------


def stalled(history: History, outages: Sequence[Outage], end: float, patience: float) -> Iterator[Violation]:
    """Processes that did not get on for ``patience`` seconds in which their service was served.

    Each outage within makes them wait anew. Who holds a long lock is busy as long as he holds it.
    """
    by_service: dict[str, list[Outage]] = defaultdict(list)
    for outage in outages:
        by_service[outage.service].append(outage)
    for process, times in history.progress.items():
        service = process.split("/")[1]
        points = sorted(times)
        for begun, ended in zip(points, [*points[1:], end], strict=True):
            inside = [o for o in by_service[service] if o.begun < ended and o.ended > begun]
            served = ended - begun - sum(min(o.ended, ended) - max(o.begun, begun) for o in inside)
            if served > patience * (1 + len(inside)):
                shown = ((begun, "the last that it did"), (ended, "the next, or the end"))
                what = f"{process} did not get on for {served:.0f} s in which {service} was served"
                yield Violation(what, shown)


# -- in words ----------------------------------------------------------------------------------------------


def _in_words(hold: Hold) -> Iterator[tuple[float, str]]:
    kind = "exclusive" if hold.exclusive else "shared"
    yield hold.granted, f"{hold.process} is granted {hold.file}, slots {hold.first} to {hold.last}, {kind}"
    yield hold.ended, f"{hold.process} has it still"


def _read_in_words(read: Read) -> tuple[float, str]:
    return read.asked, f"{read.process} reads {read.value} in slot {read.slot}, by '{read.by}'"


def _write_in_words(write: Write) -> Iterator[tuple[float, str]]:
    yield write.begun, f"{write.process} begins to write {write.value} to slot {write.slot}"
    if write.synced is not None:
        yield write.synced, f"{write.process} is told that {write.value} is on disk"


def _by_file(holds: Iterable[Hold]) -> dict[str, list[Hold]]:
    found: dict[str, list[Hold]] = defaultdict(list)
    for hold in holds:
        found[hold.file].append(hold)
    return found


T = TypeVar("T", Read, Write)


def _by_slot(accesses: Iterable[T]) -> dict[tuple[str, int], list[T]]:
    found: dict[tuple[str, int], list[T]] = defaultdict(list)
    for access in accesses:
        found[access.file, access.slot].append(access)
    return found
