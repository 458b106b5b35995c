# SPDX-License-Identifier: GPL-2.0-or-later
"""Thousands of RPC conversations over one UDP socket.

Each client has at most one datagram in flight: GETPORT to its rpcbind, then SM_NOTIFY for one name after the
other. ``_pending`` finds the call that a reply belongs to, ``_timers`` the calls that were lost, ``_ready``
holds who is next, first come first served: a silent client costs its own turns and nobody else's.

Calls in flight are bounded by what the receive buffer can hold, and all replies are taken before anything
more is sent: sm-notify reads one reply for every ten calls, and loses most of them in its own socket once a
few hundred clients answer at once.
"""

from __future__ import annotations

import heapq
import math
import random
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from nlmfo.notify import wire
from nlmfo.notify.client import Client, Stage
from nlmfo.notify.notice import Settings
from nlmfo.notify.sockets import Peer

_ASK_PORT = -1  # the step before name 0
_BURST = 64  # datagrams between two looks at the receive buffer
_DRAIN = 4096  # datagrams taken in one turn at most: a flood must not stop the timers


class _Call(NamedTuple):
    client: Client
    step: int  # _ASK_PORT, or the index of a name
    peer: Peer

    @property
    def port(self) -> int:
        """Of statd; 0 when the call went to rpcbind."""
        return 0 if self.step == _ASK_PORT else self.peer[1]


class Datagrams:
    """The UDP half of the notifier. Hand it the clock and it never waits by itself."""

    def __init__(
        self, sock: socket.socket, clients: Sequence[Client], messages: Sequence[bytes], window: int,
        settings: Settings, *, on_silence: Callable[[Client], None], on_told: Callable[[Client], None],
    ) -> None:  # fmt: skip
        self.sock = sock
        self.blocked = False  # the kernel takes no more until the socket is writable
        self._ipv6 = sock.family == socket.AF_INET6
        self._question = wire.ask_port(wire.STATD_PROGRAM, wire.STATD_VERSION, "udp", ipv6=self._ipv6)
        self._messages = messages
        self._settings = settings
        self._window = window
        self._on_silence = on_silence
        self._on_told = on_told
        self._ready = deque(clients)
        self._timers: list[tuple[float, int, Client]] = []
        self._timer_count = 0  # breaks ties: clients do not compare
        self._pending: dict[int, _Call] = {}
        self._flying = 0
        self._slots: deque[tuple[float, Client]] = deque()
        self._allowance = float(_BURST)
        self._refilled = 0.0
        self._random = random.SystemRandom()  # an xid that can be guessed can be forged

    # --- time ---

    def pause(self, now: float) -> float:
        """Seconds until there is something to do other than to receive."""
        timer = max(0.0, self._timers[0][0] - now) if self._timers else math.inf
        if not self._ready or self.blocked:
            return timer
        if self._flying >= self._window:
            return min(timer, max(0.0, self._slots[0][0] - now))
        return min(timer, max(0.0, (1.0 - self._allowance) / self._settings.rate))

    def expire(self, now: float) -> None:
        """Give up the places in the window, and count as lost, what was not answered in time."""
        while self._slots and (self._slots[0][0] <= now or self._slots[0][0] != self._slots[0][1].slot):
            until, client = self._slots.popleft()
            if client.slot == until:
                self._landed(client)
        while self._timers and (self._timers[0][0] <= now or self._timers[0][0] != self._timers[0][2].due):
            due, _, client = heapq.heappop(self._timers)
            if client.due != due:
                continue  # answered or re-armed since
            if client.stage is Stage.WAITING:
                client.detail_udp = f"no answer from {self._listener(client.port)}"
            if client.silent and client.silent % self._settings.udp_tries == 0:
                client.port = 0  # statd may have restarted on another port
                self._on_silence(client)
            self._queue(client)

    def _arm(self, client: Client, now: float) -> None:
        longest = self._settings.retry_cap
        client.due = now + min(longest, self._settings.retry * 2.0 ** min(client.misses - 1, 30))
        self._timer_count += 1
        heapq.heappush(self._timers, (client.due, self._timer_count, client))

    # --- sending ---

    def send(self, now: float) -> None:
        """Send what window, rate and socket allow, at most one burst."""
        rate = self._settings.rate
        self._allowance = min(float(_BURST), self._allowance + (now - self._refilled) * rate)
        self._refilled = now
        while self._ready and self._flying < self._window and self._allowance >= 1.0 and not self.blocked:
            client = self._ready.popleft()
            if client.stage is not Stage.READY:
                continue
            if client.talking and client.port:
                client.stage = Stage.RESTING  # the next name goes out over TCP, or else this one later
                self._arm(client, now)
            else:
                self._send(client, now)

    def _send(self, client: Client, now: float) -> None:
        step, port = (client.told, client.port) if client.port else (_ASK_PORT, self._settings.rpcbind_port)
        xid = self._xid(client, step, port)
        try:
            self.sock.sendto(
                wire.with_xid(xid, self._question if step == _ASK_PORT else self._messages[step]),
                self._pending[xid].peer,
            )
        except BlockingIOError:
            self.blocked = True
            self._ready.appendleft(client)
            return
        except OSError as error:  # no route, a full neighbour table, a packet filter: may pass
            client.stage = Stage.RESTING
            client.detail_udp = f"cannot send: {error.strerror}"
        else:
            client.stage = Stage.WAITING
            self._take_slot(client, now)
        self._allowance -= 1.0
        client.attempts += 1
        client.misses += 1
        client.silent += 1
        self._arm(client, now)

    def _xid(self, client: Client, step: int, port: int) -> int:
        known = client.calls.get((step, port))
        if known is not None:
            return known
        while (xid := self._random.getrandbits(32)) in self._pending:
            pass
        client.calls[step, port] = xid
        self._pending[xid] = _Call(client, step, client.peer(port))
        return xid

    # --- receiving ---

    def drain(self, now: float) -> None:
        """Take every datagram that has arrived; drop what matches no call of ours by xid and sender."""
        for _ in range(_DRAIN):
            try:
                data, sender = self.sock.recvfrom(wire.MAX_REPLY + 1)
            except BlockingIOError:
                return
            except OSError:
                continue  # a pending ICMP error: the retransmission timer deals with its sender
            self._receive(data, sender, now)

    def _receive(self, data: bytes, sender: Peer, now: float) -> None:
        pending = self._pending.get(int.from_bytes(data[:4], "big"))
        if pending is None or pending.peer != sender:
            return
        client = pending.client
        try:
            reply = wire.parse_reply(data)
            client.silent = 0
            if reply.status is not wire.Status.SUCCESS:
                self._refused(pending, reply.status, now)
            elif pending.step == _ASK_PORT:
                self._found(client, wire.parse_port(reply.results, ipv6=self._ipv6), now)
            else:
                wire.parse_void(reply.results)
                self._acknowledged(client, pending.step)
        except wire.WireError as error:
            client.detail_udp = f"malformed answer from {self._listener(pending.port)}: {error.text}"
            self._rest(client, now)

    def _refused(self, call: _Call, status: wire.Status, now: float) -> None:
        client = call.client
        client.detail_udp = f"{self._listener(call.port)} answered: {status}"
        client.port = 0
        self._forget(client)
        self._rest(client, now)

    def _found(self, client: Client, port: int, now: float) -> None:
        client.registered = bool(port)
        self._forget_question(client)
        if not port:
            client.detail_udp = "statd is not registered with rpcbind"
            self._rest(client, now)
            return
        client.port = port
        client.detail_udp = f"no answer from {self._listener(port)}"
        if port != client.port_known:
            client.port_known = port
            client.misses = 0
        self._next(client)

    def _acknowledged(self, client: Client, name: int) -> None:
        if name != client.told:
            return  # TCP was faster
        client.told += 1
        client.misses = 0
        client.detail_udp = "acknowledged over udp"
        self._forget(client)
        if client.told == len(self._messages):
            self._on_told(client)
        else:
            self._next(client)

    # --- a client's way through the stages ---

    def _take_slot(self, client: Client, now: float) -> None:
        """A place in the window, for one round trip: the dead must not hold theirs while they back off."""
        self._landed(client)
        client.slot = now + self._settings.retry
        self._slots.append((client.slot, client))
        self._flying += 1

    def _landed(self, client: Client) -> None:
        if client.slot:
            client.slot = 0.0
            self._flying -= 1

    def _queue(self, client: Client) -> None:
        client.stage = Stage.READY
        client.due = math.inf
        self._ready.append(client)

    def _next(self, client: Client) -> None:
        """Go on at once, before those who have not answered anything yet."""
        if client.stage is Stage.READY:
            return
        self._landed(client)
        client.stage = Stage.READY
        client.due = math.inf
        self._ready.appendleft(client)

    def _rest(self, client: Client, now: float) -> None:
        """Answered, but not as we need it: try again after the back-off."""
        self._landed(client)
        if client.stage is Stage.WAITING:
            client.stage = Stage.RESTING
            self._arm(client, now)

    def forget(self, client: Client) -> None:
        """The client is done: nothing more is sent to it or expected from it."""
        self._landed(client)
        client.stage = Stage.DONE
        client.due = math.inf
        self._forget(client)

    def _forget(self, client: Client) -> None:
        for xid in client.calls.values():
            del self._pending[xid]
        client.calls.clear()

    def _forget_question(self, client: Client) -> None:
        xid = client.calls.pop((_ASK_PORT, self._settings.rpcbind_port), None)
        if xid is not None:
            del self._pending[xid]

    def _listener(self, statd_port: int) -> str:
        if statd_port:
            return f"statd (udp port {statd_port})"
        return f"rpcbind (udp port {self._settings.rpcbind_port})"
