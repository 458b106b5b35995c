# SPDX-License-Identifier: GPL-2.0-or-later
"""What clients did, from their logs (see workload.py). Times are by the host's clock."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

#: Seconds by which the times of two clients differ at the least: each reads its clock a moment after the fact.
CLOCKS = 0.01
#: Seconds by which something that a client says may come before what another of its processes has said earlier.
OVERTAKES = 3.0


@dataclass(frozen=True, slots=True)
class Read:
    """The value of one slot, and whom it named, under a lock: it was there at some moment from ``asked`` to ``at``."""

    process: str
    file: str
    slot: int
    value: int
    by: str
    asked: float
    at: float


@dataclass(slots=True)
class Write:
    """A value given to one slot; ``synced``: when fsync had returned, None when nobody knows whether it has."""

    process: str
    file: str
    slot: int
    value: int
    begun: float
    synced: float | None = None


@dataclass(slots=True)
class Hold:
    """A lock that was granted. It was held at least from ``granted`` to ``ended``, by the process's own word."""

    process: str
    number: int
    file: str
    first: int
    last: int
    exclusive: bool
    asked: float
    granted: float
    ended: float
    freed: float | None = None
    reads: list[Read] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)

    @property
    def client(self) -> str:
        return self.process.partition("/")[0]

    def conflicts(self, other: Hold) -> bool:
        overlap = self.first <= other.last and other.first <= self.last
        return overlap and (self.exclusive or other.exclusive) and self.process != other.process


@dataclass(frozen=True, slots=True)
class Probe:
    """Asked whether anybody else holds a lock on these slots."""

    process: str
    file: str
    first: int
    last: int
    locked: bool
    asked: float
    answered: float


@dataclass(frozen=True, slots=True)
class Wrong:
    """What a process saw, or its kernel said, that must not be."""

    who: str
    text: str
    at: float


@dataclass(slots=True)
class History:
    """Everything that the clients say."""

    holds: list[Hold] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)
    wrongs: list[Wrong] = field(default_factory=list)
    #: When each process said that an operation of its had ended, whatever it was.
    progress: dict[str, list[float]] = field(default_factory=dict)
    #: Until when each client's log is there: it comes a moment late.
    logged: dict[str, float] = field(default_factory=dict)
    #: Of each life of a client that was cut off, when the last was that is logged: it may have done a little more.
    cut_off: dict[str, list[float]] = field(default_factory=dict)
    #: Seconds by which the times of two clients may differ: what overlaps for less is no evidence.
    clocks: float = CLOCKS
    refusals: dict[str, int] = field(default_factory=dict)

    def whole_until(self) -> float:
        """Before this, what any client did is known, if it was not cut off."""
        return min(self.logged.values(), default=0.0) - OVERTAKES

    def reads(self) -> list[Read]:
        return [read for hold in self.holds for read in hold.reads]

    def writes(self) -> list[Write]:
        return [write for hold in self.holds for write in hold.writes]


class Reader:
    """Makes a history of one client's log, a line after another. Its clock is compared with the host's now and then."""

    def __init__(self, client: str, history: History) -> None:
        self._client = client
        self._history = history
        self._clock: float | None = None
        self._open: dict[tuple[str, int], Hold] = {}

    def read(self, lines: Iterable[str]) -> None:
        for line in lines:
            event = json.loads(line)
            if "begun" in event:
                if self._clock is not None:
                    last = self._history.logged.get(self._client, 0.0)
                    self._history.cut_off.setdefault(self._client, []).append(last)
                self._clock = None
                self._open.clear()  # nobody of before lives
            elif "clock" in event:
                self._compared(event["clock"], event["within"])
            else:
                self._take(event)

    def _compared(self, clock: float, within: float) -> None:
        """The first comparison counts; what later ones find else is an error of all that this client says."""
        if self._clock is None:
            self._clock = clock
        error = abs(clock - self._clock) + within
        self._history.clocks = max(self._history.clocks, 2 * error)

    def _by_host(self, at: float) -> float:
        assert self._clock is not None, f"client {self._client} says something before it has compared clocks"
        return at + self._clock

    def _take(self, event: dict[str, Any]) -> None:
        at = self._by_host(event["at"])
        self._history.logged[self._client] = at
        if "kernel" in event:
            self._history.wrongs.append(Wrong(f"the kernel of client {self._client}", event["kernel"], at))
            return
        process = event["p"]
        if event.keys() & {"held", "refused", "freed", "probe", "alive", "synced", "read"}:
            self._history.progress.setdefault(process, []).append(at)
        if "wrong" in event:
            self._history.wrongs.append(Wrong(process, event["wrong"], at))
        elif "probe" in event:
            file = _file(process, event["probe"])
            asked = self._by_host(event["asked"])
            probe = Probe(process, file, event["first"], event["last"], event["locked"], asked, at)
            self._history.probes.append(probe)
        elif "refused" in event:
            self._history.refusals[event["refused"]] = self._history.refusals.get(event["refused"], 0) + 1
        elif "held" in event:
            self._hold(process, event, at)
        elif "n" in event:
            self._go_on(self._open[process, event["n"]], event, at)

    def _hold(self, process: str, event: dict[str, Any], at: float) -> None:
        asked = self._by_host(event["asked"])
        file, number = _file(process, event["held"]), event["n"]
        hold = Hold(
            process, number, file, event["first"], event["last"], event["x"], asked, at, self._by_host(event["at"])
        )
        self._open[process, number] = hold
        self._history.holds.append(hold)

    def _go_on(self, hold: Hold, event: dict[str, Any], at: float) -> None:
        if "freed" in event:
            hold.freed = at
            del self._open[hold.process, hold.number]
            return
        hold.ended = self._by_host(event["at"])
        if "read" in event:
            asked = self._by_host(event["asked"])
            read = Read(hold.process, hold.file, event["slot"], event["read"], event["by"], asked, at)
            hold.reads.append(read)
        elif "write" in event:
            hold.writes.append(Write(hold.process, hold.file, event["slot"], event["write"], at))
        elif "synced" in event:
            for write in hold.writes:
                write.synced = at


def _file(process: str, name: str) -> str:
    """Of the service that the process works on."""
    return f"{process.split('/')[1]}/{name}"
