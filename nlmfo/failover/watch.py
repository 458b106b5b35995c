# SPDX-License-Identifier: GPL-2.0-or-later
"""Watches, for a run, how the keeper of a service tells the clients, and how they come back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from nlmfo.deadline import Deadline
from nlmfo.errors import DeadlineExceeded, NlmfoError
from nlmfo.failover import keep, progress
from nlmfo.failover.events import Progressed, Sink
from nlmfo.failover.place import Place
from nlmfo.failover.progress import Progress, Waiting
from nlmfo.records.ledger import Standing

#: Seconds between two looks, and without any change after which watching is over: the keeper goes on by itself.
LOOK, QUIET = 0.05, 5.0
#: Seconds for a keeper to give a first sign of life: its process may just have been started.
ALIVE = 30.0


class Watch:
    """One service in one generation. ``progress`` is what its keeper said last."""

    def __init__(self, service: str, place: Place, number: int, keeper_runs: Callable[[], bool], sink: Sink) -> None:
        self.service = service
        self._place = place
        self._number = number
        self._keeper_runs = keeper_runs
        self._sink = sink
        self.progress = Progress(number, told=False, in_grace=True)

    def until_told(self, limit: Deadline) -> None:
        """Until everybody was sent a notice, and answered or did not. Raises NlmfoError when nobody does that."""
        keep.wake(self._place.wake, self._number)
        alive = Deadline(ALIVE)
        for heard in self._looks(limit):
            if self.progress.told:
                return
            if heard and not self.progress.in_grace:
                raise NlmfoError(
                    f"service '{self.service}': grace ended before the clients could be told: their reclaims would "
                    "be refused",
                    hint="set a longer 'grace' for the service",
                )
            if not self._keeper_runs() or (not heard and alive.passed()):
                raise NlmfoError(
                    f"service '{self.service}': the process that tells the clients ('nlmfo keep') has ended",
                    hint=f"see {self._place.progress.parent} and the service's log directory for what it said",
                )
        raise DeadlineExceeded(f"service '{self.service}': telling every client", limit.seconds)

    def until_quiet(self, limit: Deadline) -> None:
        """Until grace has ended, or everybody is back, or nothing has happened for a while."""
        last, since = self.progress, time.monotonic()
        for _ in self._looks(limit):
            now = self.progress
            if not now.in_grace or _nothing_to_come(now) or time.monotonic() - since > QUIET:
                return
            if now != last:
                last, since = now, time.monotonic()

    def told(self) -> int:
        """How many clients have acknowledged their notice."""
        return self.progress.everybody - self.progress.of(Standing.PENDING, Standing.TOLD, Standing.UNREACHABLE)

    def of(self, standing: Standing) -> Iterator[Waiting]:
        """The clients of one standing, as far as they are named."""
        return (waiting for waiting in self.progress.waiting if waiting.standing is standing)

    def _looks(self, limit: Deadline) -> Iterator[bool]:
        """Look again and again; whether the keeper has said anything of this generation."""
        while True:
            found = progress.read(self._place.progress)
            heard = found is not None and found.state == self._number
            if heard and found is not None and found != self.progress:
                self.progress = found
                self._sink(Progressed(self.service, found))
            yield heard
            if limit.passed():
                return
            time.sleep(LOOK)


def _nothing_to_come(now: Progress) -> bool:
    """Whether everybody is back while grace goes on all the same, as after a crash."""
    locks = now.locks
    settled = now.everybody > 0 and now.of(Standing.BACK, Standing.LEFT) == now.everybody
    return settled and (locks is None or (not locks.exact and locks.back == locks.total))


def in_words(found: Progress) -> str:
    """How the reclaims stand."""
    back = f"{found.of(Standing.BACK)} of {found.everybody} clients are back"
    if found.locks is not None:
        back += f", {found.locks.back} of {found.locks.total} locks{'' if found.locks.exact else ' (estimate)'}"
    return f"{back}; grace ended: {found.ended}" if found.ended else back
