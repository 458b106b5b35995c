# SPDX-License-Identifier: GPL-2.0-or-later
"""Sends the notices that one service owes, and keeps the account of them.

The decision is durable before anything is sent, and costs a takeover nothing: whoever has a record of an earlier
generation is owed a notice (nlmfo.records.store). What is here works that off, however often it is begun anew:

- all who are due are told in one round, at most one at a time for each address; those who have come to the server by
  themselves come first, and who turns up while a round is under way is told at once, beside it;
- who does not answer is tried again, soon while reclaims are granted, ever more rarely later, and at once when it is
  seen again; it stays on record;
- a record goes when its client has answered and is on record with the new server (back), or is known to hold nothing
  (left). Who asked for a lock before it was told is told first: the locks that it had before are not those.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import TypeVar

from nlmfo.config import Service
from nlmfo.errors import NlmfoError
from nlmfo.failover.keeper import Keeper
from nlmfo.notify import Notice, Outcome
from nlmfo.records import ledger
from nlmfo.records.layout import Address
from nlmfo.records.ledger import SETTLED, Entry, Key, Ledger, Standing

T = TypeVar("T")
#: Sends a round: from this address, to these clients, with this NSM state number, within seconds, telling of each.
Send = Callable[[Address, Sequence[str], int, float, Callable[[Notice], None]], None]

#: Seconds for a round, and more of them for each client; and the share of a grace period that it may take at the most.
#: Whether everybody was told is known at its end: if grace were over by then, one dead client would fail a takeover.
ROUND, ROUND_EACH, SHARE = 8.0, 0.003, 0.4
#: Clients that are told beside a round at once.
ASIDE = 64
#: Seconds until a client is tried again: in grace; later, doubling each time, up to the longest.
SOON, LATER, LONGEST = 1.0, 15.0, 600.0
#: Seconds after its answer in which a client's reclaims have arrived, granted or not.
ARRIVED = 10.0


class Notices:
    """The notices of one service. Not for several threads: what the senders say is taken in by ``sweep``."""

    def __init__(
        self, keeper: Keeper, send: Send, *, start: Callable[[Callable[[], None]], None] | None = None
    ) -> None:
        """``start`` runs a round; in a thread that ends with the process unless a test says otherwise."""
        self.keeper = keeper
        self.service: Service = keeper.service
        self.number = 0
        self.told = False
        self._send = send
        self._start = start or _in_thread
        self._ledger: Ledger | None = None
        self._heard: queue.SimpleQueue[tuple[Address, int, Notice]] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[tuple[Address, bool, str]] = queue.SimpleQueue()
        self._rounds: dict[tuple[Address, bool], frozenset[Key]] = {}  # under way; true: beside the other
        self._in_flight: set[Key] = set()  # who is being told, and nothing was heard of it yet
        self._hurried: list[str] = []
        self._due: dict[Key, float] = {}
        self._seen: frozenset[Key] = frozenset()
        self._turned_up: set[Key] = set()
        self._tries: dict[Key, int] = {}
        self._owed: dict[Address, frozenset[str]] = {}
        self.problem = ""

    def sweep(self, seen: AbstractSet[Key], *, in_grace: bool, ready: bool) -> None:
        """Look at what is owed, take in what became of it, and begin what is due. Raises NlmfoError.

        ``seen``: clients that have come to the server by themselves; ``ready``: everything answers, so who is told
        now can reclaim. Before everybody has been sent a notice once, none is sent out of grace: a client tries each
        reclaim once, and a takeover that was cut off can still be done over (``nlmfo resume``).
        """
        self._look()
        self._take_in(in_grace=in_grace)
        self._settle(in_grace=in_grace)
        if ready and (in_grace or self.told):
            self._hurry()
            for address, clients in self._owed.items():
                self._tell(address, clients, seen)
            self._seen = frozenset(seen)
        if ready and not self.told and all(self._tried(key) for key in self._keys()):
            self.keeper.shared.mark_told()
            self.told = True

    def hurry(self, client: str = "") -> None:
        """At the next look tell this client, or everybody, without waiting for its turn, whatever became of it before.

        Who has answered is told no more, and who is being told at that moment is not told twice.
        """
        self._hurried.append(client)

    def standings(self) -> Mapping[str, Entry]:
        """Each client of this generation that was or is owed a notice, with what is left to do for it at most."""
        found: dict[str, list[Entry]] = {}
        for key in {*self._keys(), *(k for k, entry in self._entries().items() if entry.state == self.number)}:
            entry = self._entry(key)
            found.setdefault(entry.client, []).append(entry)
        return {client: ledger.overall(entries) for client, entries in sorted(found.items())}

    @property
    def owes_anybody(self) -> bool:
        return any(self._owed.values())

    def let_go_of_the_answered(self, detail: str) -> None:
        """Every lock is accounted for: who has answered and is not back holds none."""
        self._leave([key for key in self._keys() if self._entry(key).standing is Standing.ANSWERED], detail)

    def close(self) -> None:
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None

    # -- the account ---------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Whom we owe a notice now, and since which generation."""
        store = self.keeper.shared
        number = store.state_number()
        self._owed = {address: frozenset(store.owed_names(address)) for address in store.addresses}
        if number != self.number or self._ledger is None:
            self.close()
            self._ledger = Ledger(store.state, self._keys(), number)
            self.number, self.told = number, store.told()
            self._seen = frozenset()
            for forgotten in (self._due, self._tries, self._turned_up):
                forgotten.clear()
        self._see_who_is_gone()

    def _see_who_is_gone(self) -> None:
        """Records that went without us: ``nlmfo clients --forget``, or a crash before the line that says why."""
        owed = set(self._keys())
        gone = [
            entry
            for key, entry in self._entries().items()
            if entry.state == self.number and entry.standing not in SETTLED and key not in owed
        ]
        if not gone:
            return
        said, asking = ledger.read(self.keeper.shared.state), self.keeper.asking()
        for entry in gone:
            key = entry.address, entry.client
            last = said.get(key, entry)
            if last.standing not in SETTLED or last.state != self.number:
                standing, detail = (Standing.BACK, "") if key in asking else (Standing.LEFT, "its record is gone")
                last = replace(entry, standing=standing, at=time.time(), detail=detail)
            self._write([last])

    def _take_in(self, *, in_grace: bool) -> None:
        """What the senders have heard since the last time, durably."""
        changed = []
        for address, number, notice in _all_of(self._heard):
            key = (address, notice.client)
            self._in_flight.discard(key)
            if number != self.number or notice.client not in self._owed[address]:
                continue
            entry = self._after(self._entry(key), notice)
            if entry is None:
                continue
            changed.append(entry)
            if entry.standing is Standing.UNREACHABLE:
                self._tries[key] = tries = self._tries.get(key, 0) + 1
                self._due[key] = time.monotonic() + (SOON if in_grace else min(LONGEST, LATER * 2.0 ** min(tries, 10)))
        self._write(changed)
        for address, aside, problem in _all_of(self._ended):
            self._in_flight -= self._rounds.pop((address, aside))
            self.problem = problem
            if problem:
                later = time.monotonic() + SOON
                self._due.update({(address, client): later for client in self._owed[address]})

    def _after(self, entry: Entry, notice: Notice) -> Entry | None:
        """The entry of a client after word of it; None when that changes nothing."""
        if entry.standing is Standing.ANSWERED:
            return None  # told twice
        told = notice.outcome is Outcome.TOLD
        return replace(
            entry,
            standing=Standing.ANSWERED if told else Standing.UNREACHABLE,
            at=time.time(),
            names=notice.names,
            attempts=entry.attempts + notice.attempts,
            detail=notice.detail,
        )

    def _settle(self, *, in_grace: bool) -> None:
        """Let go of the records of those whose outcome is known."""
        answered = {key for key in self._keys() if self._entry(key).standing is Standing.ANSWERED}
        back = self.keeper.settle(answered)
        self._write(replace(self._entry(key), standing=Standing.BACK, at=time.time(), detail="") for key in back)
        self._drop(back)
        now = time.time()
        if not in_grace:
            late = [key for key in answered - back if now - self._entry(key).at >= ARRIVED]
            self._leave(late, "it answered, and asked for no lock within grace")
        if self.service.forget_after:
            gone = [key for key in self._keys() if self._is_gone(self._entry(key), now)]
            self._leave(gone, f"no answer for {self.service.forget_after} s ('forget_after')")

    def _is_gone(self, entry: Entry, now: float) -> bool:
        return entry.standing is Standing.UNREACHABLE and now - entry.since >= self.service.forget_after

    def _leave(self, keys: Sequence[Key], detail: str) -> None:
        self._write(replace(self._entry(key), standing=Standing.LEFT, at=time.time(), detail=detail) for key in keys)
        for address, client in keys:
            self.keeper.shared.forget(address, client)
        self._drop(keys)

    def _drop(self, keys: Iterable[Key]) -> None:
        for address, client in keys:
            self._owed[address] -= {client}

    # -- sending -------------------------------------------------------------------------------------------

    def _tell(self, address: Address, clients: AbstractSet[str], seen: AbstractSet[Key]) -> None:
        """Begin a round with everybody who is due, and one beside it with those who turn up meanwhile."""
        keys = [(address, client) for client in sorted(clients)]
        waiting = [key for key in keys if self._entry(key).standing is not Standing.ANSWERED]
        self._turned_up |= (seen - self._seen) & set(waiting)
        if (address, False) not in self._rounds:
            due = [key for key in waiting if key in self._turned_up or self._is_due(key)]
            self._begin(address, sorted(due, key=lambda key: key not in seen), aside=False)
        elif (address, True) not in self._rounds:
            self._begin(address, [key for key in waiting if key in self._turned_up][:ASIDE], aside=True)

    def _hurry(self) -> None:
        asked, self._hurried = set(self._hurried), []
        self._turned_up |= {
            key
            for key in self._keys()
            if ("" in asked or key[1] in asked)
            and key not in self._in_flight
            and self._entry(key).standing is not Standing.ANSWERED
        }

    def _is_due(self, key: Key) -> bool:
        """Whether its pause is over, and not its time (``retry_for``); each keeper tries everybody once."""
        if self._due.get(key, 0.0) > time.monotonic():
            return False
        return key not in self._tries or time.time() - self._entry(key).since < self.service.retry_for

    def _begin(self, address: Address, keys: Sequence[Key], *, aside: bool) -> None:
        if not keys:
            return
        now, number = time.time(), self.number
        pending = [self._entry(key) for key in keys if self._entry(key).standing is Standing.PENDING]
        self._write(replace(entry, standing=Standing.TOLD, at=now) for entry in pending)
        clients = [client for _, client in keys]
        self._turned_up.difference_update(keys)
        self._rounds[address, aside] = frozenset(keys)
        self._in_flight.update(keys)

        def hear(notice: Notice) -> None:
            self._heard.put((address, number, notice))

        def run() -> None:
            problem = ""
            try:
                self._send(address, clients, number, self._seconds(len(clients)), hear)
            except (NlmfoError, OSError) as error:
                problem = str(error)
            finally:
                self._ended.put((address, aside, problem))

        self._start(run)

    def _seconds(self, clients: int) -> float:
        """How long a round may take."""
        grace = self.service.grace  # None: as long as the kernel has it, which is long
        return (ROUND if grace is None else min(ROUND, SHARE * grace)) + ROUND_EACH * clients

    def _tried(self, key: Key) -> bool:
        return self._entry(key).standing in (Standing.ANSWERED, Standing.UNREACHABLE)

    # -- entries -------------------------------------------------------------------------------------------

    def _keys(self) -> list[Key]:
        return [(address, client) for address, clients in self._owed.items() for client in clients]

    def _entries(self) -> Mapping[Key, Entry]:
        return {} if self._ledger is None else self._ledger.entries

    def _entry(self, key: Key) -> Entry:
        """What is written of a client in this generation; of an earlier one it counts since when it is owed a word."""
        found = self._entries().get(key)
        if found is not None and found.state == self.number:
            return found
        now = time.time()
        since = now if found is None or found.standing in SETTLED else found.since
        return Entry(*key, state=self.number, standing=Standing.PENDING, at=now, since=since)

    def _write(self, entries: Iterable[Entry]) -> None:
        if self._ledger is not None:
            self._ledger.write(entries)


def _all_of(items: queue.SimpleQueue[T]) -> Iterator[T]:
    while True:
        try:
            yield items.get_nowait()
        except queue.Empty:
            return


def _in_thread(run: Callable[[], None]) -> None:
    """A round must not keep the process from ending: its clients stay on record."""
    threading.Thread(target=run, name="notices", daemon=True).start()
