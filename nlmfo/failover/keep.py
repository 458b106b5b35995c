# SPDX-License-Identifier: GPL-2.0-or-later
"""``nlmfo keep``: looks after a service for as long as it is served here. One process for each service.

It begins to work once the callout is told to put clients on record here, and stands still while a release has their
records frozen. From then on:

- every few seconds it keeps the records in order (nlmfo.failover.keeper), notes the locks that are held and the
  connections that clients have, for the next owner after a crash, and asks whether this node still owns the service;
- while clients are owed a notice it sends them (nlmfo.failover.notices), compares the locks of before with those that
  are held again, and ends grace when it may (nlmfo.failover.grace).

While the storage hangs, so does that; whether this node still owns the service is asked beside it then.

A takeover that was killed after the address came up needs nobody for that: whoever has a record is told. The run that
started it wakes it through a socket; a wake-up that is missed costs a moment, because it looks by itself as well.
"""

from __future__ import annotations

import itertools
import os
import select
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

from nlmfo import run
from nlmfo.config import Config, Service
from nlmfo.deadline import Deadline
from nlmfo.errors import NlmfoError
from nlmfo.failover import progress, standdown
from nlmfo.failover.events import Mended, Sink, StoodDown, Troubled
from nlmfo.failover.keeper import Keeper
from nlmfo.failover.notices import Notices
from nlmfo.failover.place import Place
from nlmfo.failover.progress import Progress
from nlmfo.failover.reclaims import Reclaims, held_now
from nlmfo.failover.senders import sender_of
from nlmfo.failover.tickles import Tickles
from nlmfo.host import daemons
from nlmfo.host.node import Node
from nlmfo.kernel import grace, sockdiag, syscalls
from nlmfo.records.callout import callout_addresses
from nlmfo.records.connections import write_connections
from nlmfo.records.listening import Listener, write_listening
from nlmfo.records.locks import LockSnapshot, read_locks, write_locks

#: Seconds between two rounds of what is not urgent: the longest that a snapshot can lag behind, but for its writing.
INTERVAL = 5.0
#: Seconds that a keeper which may begin leaves to the run that is under way, which wakes it: the run needs the node's
#: time itself, and clients wait for it.
HEAD_START = 3.0
#: Seconds between two looks while clients come back, and while any is owed a notice that does not answer.
BUSY, PATIENT = 0.1, 1.0
#: What a run says to have it look at once, and that everything answers by now for the generation that it names.
READY = b"ready "
#: What ``nlmfo notify`` says to have it tell one client without waiting for its turn, or everybody, who has no name.
TELL = b"tell "
#: Bytes of the longest word: a client's name is shorter than that.
WORD = 4096


class Keep:
    """The work of one process, round by round."""

    def __init__(self, config: Config, service: Service, sink: Sink) -> None:
        self.config = config
        self.sink = sink
        self.service = service
        self.place = Place.of(service)
        self._addresses = tuple(address.ip for address in service.addresses)
        self.keeper = Keeper(service, self.place)
        self.notices = Notices(self.keeper, sender_of(service, self.place.progress.parent))
        self.wake = _wake_socket(self.place)
        self._reclaims: Reclaims | None = None
        self._next_round = 0.0
        self._head_start: Deadline | None = None
        self._was_in_grace = False
        self._tickles = Tickles(service, 0)
        self._listening: frozenset[Listener] = frozenset()
        #: The number of the round that goes on; 0 between two, and before the first.
        self._under_way = 0
        self._standing_down, self._over = threading.Lock(), threading.Event()
        self._said = ""
        self._ready = 0
        self._published: Progress | None = None
        self._noted_ends: object = None
        self._noted_locks: object = None

    def run(self) -> None:
        """Until another node owns the service."""
        run.load()
        syscalls.reserve_memory()
        threading.Thread(target=self._watch, daemon=True).start()
        numbers = itertools.count(1)
        while not self._over.is_set():
            pause, problem = PATIENT, ""
            try:
                frozen = self._frozen()
                if frozen is not None and self._may_begin():
                    self._under_way = next(numbers)
                    round_is_due = time.monotonic() >= self._next_round
                    if round_is_due:
                        self._next_round = time.monotonic() + INTERVAL
                        if self._stands_down():
                            return
                    if frozen:
                        self._noted_ends = self._noted_locks = None
                    else:
                        pause, problem = self._look(whole=round_is_due)
            except (NlmfoError, OSError) as error:
                problem = str(error)
            self._under_way = 0
            self._say(problem)
            self._wait(pause)

    def _watch(self) -> None:
        """Beside ``run``: while that hangs, because the storage was taken from this node, ask who owns the service."""
        before = 0
        while not self._over.wait(INTERVAL):
            stuck = self._under_way
            if stuck and stuck == before:
                with suppress(NlmfoError, OSError):  # it is asked again
                    self._stands_down()
            before = stuck

    def _stands_down(self) -> bool:
        """Whether another node owns the service; nothing of it answers here then."""
        with self._standing_down:
            if not self._over.is_set():
                successor = standdown.successor(self.config, self.service)
                if successor is None:
                    return False
                standdown.stand_down(self.service)
                self.sink(StoodDown(self.service.name, successor.node, successor.epoch))
                self._over.set()
            return True

    def _may_begin(self) -> bool:
        """Whether the run that is under way has called, or had its time: perhaps it was killed."""
        self._head_start = self._head_start or Deadline(HEAD_START)
        return self._ready > 0 or self._head_start.passed()

    def _look(self, *, whole: bool) -> tuple[float, str]:
        """One look at everything that is urgent, or really at everything; seconds until the next, and what is wrong."""
        connections = sockdiag.established()
        seen = {(connection.local, str(connection.remote)) for connection in connections} | self.keeper.asking()
        in_grace = grace.on()
        here = frozenset(each for each in connections if each.local in self._addresses)
        ready = self._everything_answers()
        self.notices.sweep(seen, in_grace=in_grace, ready=ready)
        self._end_connections_of_before(here)
        if ready:
            in_grace = self._see_reclaims(here, in_grace=in_grace)
        if whole:
            self.keeper.keep(connections)
            settled = self.notices.told and not in_grace
            self._note_ends(here, settled=settled)
            if settled:  # until then the next owner has to know of the locks of before
                self._note_locks()
        elif self._was_in_grace and not in_grace:
            self._next_round = 0.0  # and from now on those that are held
        self._was_in_grace = in_grace
        if ready and (in_grace or not self._next_round):
            return BUSY, self.notices.problem
        return PATIENT if self.notices.owes_anybody or not self.notices.told else INTERVAL, self.notices.problem

    def _end_connections_of_before(self, here: frozenset[sockdiag.Connection]) -> None:
        """Clients that still wait for the server before this one come back at once; the run has told them once."""
        if self._tickles.number != self.notices.number:
            self._tickles = Tickles(self.service, self.notices.number)
            self._listening = frozenset()
        self._tickles.again(here)

    def _see_reclaims(self, here: frozenset[sockdiag.Connection], *, in_grace: bool) -> bool:
        """Compare, end grace if it may end, and publish; whether grace is on still."""
        number, standings = self.notices.number, self.notices.standings()
        if self._reclaims is None or self._reclaims.number != number:
            # What another server noted under its own number says nothing about the one before us.
            before = read_locks(self.service.state, number - 2)
            self._reclaims = Reclaims(self.service, number, before, complete=self.keeper.shared.complete())
        still = self._reclaims.look(standings, told=self.notices.told, in_grace=in_grace)
        if in_grace and not still and self._reclaims.all_back:
            self.notices.let_go_of_the_answered("it answered, and every lock is held again without it")
            standings = self.notices.standings()
        if still:
            self._tickles.search(standings, here, self._listens())
        found = self._reclaims.progress(standings, told=self.notices.told, in_grace=still, problem=self.notices.problem)
        if found != self._published:
            progress.write(self.place.progress, found)
            self._published = found
        return still

    def _frozen(self) -> bool | None:
        """Whether a release has the records frozen; None while no client is put on record here at all.

        Until then another node may serve, and the records be its own.
        """
        found = callout_addresses(self.place.callout)
        ours = [found.get(address.ip) for address in self.service.addresses]
        return None if None in ours else any(ours)

    def _everything_answers(self) -> bool:
        """Whether who is told now can reclaim: asked once for each generation, unless a run has seen to it already.

        The number is read before the daemons are asked: a generation begins while they are down.
        """
        number = self.keeper.shared.state_number()
        if self._ready != number:
            wanted, here = daemons.programs(self.service), Node(self.service.name)
            if not all(daemons.answer(here, wanted, address.ip) for address in self.service.addresses):
                return False
            self._ready = number
        return True

    def _listens(self) -> frozenset[Listener]:
        """Where clients have their connections; asked once, as long as all goes well."""
        if not self._listening:
            with suppress(NlmfoError):  # a daemon that is being mended: it is asked again
                ports = daemons.kernel_ports(Node(self.service.name), self.service, self._addresses[0])
                self._listening = frozenset((address, port) for address in self._addresses for port in ports)
        return self._listening

    def _note_ends(self, here: frozenset[sockdiag.Connection], *, settled: bool) -> None:
        """For the next owner, the connections there are and where there may be more; in grace also those of before."""
        before = [] if settled else self._tickles.waiting(here)
        found = (here, before, self._listens() | (frozenset() if settled else self._tickles.listening))
        if found != self._noted_ends:
            write_connections(self.service.state, [*here, *before])
            write_listening(self.service.state, found[2])
            self._noted_ends = found

    def _note_locks(self) -> None:
        """The locks there are, for the next owner, if they are not what was noted last."""
        found = sorted(held_now(self.service))
        if found != self._noted_locks:
            locks = LockSnapshot(self.notices.number, time.time(), exact=False, locks=tuple(found))
            if write_locks(self.service.state, locks):
                self._noted_locks = found

    def _say(self, problem: str) -> None:
        """What goes wrong is said when it begins, not each time."""
        if problem != self._said:
            self.sink(Troubled(self.service.name, problem) if problem else Mended(self.service.name))
            self._said = problem

    def _wait(self, seconds: float) -> None:
        if not select.select([self.wake], [], [], seconds)[0]:
            return
        word = self.wake.recv(WORD)
        if word.startswith(TELL):
            self.notices.hurry(word.removeprefix(TELL).decode(errors="replace"))
            return
        with suppress(ValueError):  # another program's, or one of another version
            number = int(word.removeprefix(READY))
            if number != self._ready:  # from a run that has just made sure of all that a round looks for
                self._ready, self._next_round = number, time.monotonic() + INTERVAL


def wake(path: Path, number: int) -> None:
    """Have the keeper look at once: everything answers for the generation with that NSM state number."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        try:
            sender.sendto(READY + str(number).encode(), os.fspath(path))
        except OSError:
            return  # it looks by itself


def tell(path: Path, client: str) -> None:
    """Have the keeper tell ``client``, or everybody when it is empty, at its next look. Raises OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.settimeout(PATIENT)
        sender.sendto(TELL + client.encode(), os.fspath(path))


def _wake_socket(place: Place) -> socket.socket:
    place.wake.unlink(missing_ok=True)
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(os.fspath(place.wake))
    place.wake.chmod(0o600)
    return receiver
