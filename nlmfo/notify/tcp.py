# SPDX-License-Identifier: GPL-2.0-or-later
"""The second way to a client that is silent over UDP: rpcbind and statd over TCP, beside the datagrams.

A conversation is a generator that reads top to bottom and hands out (socket, events) wherever it would block, or
the time until which it waits; ``Streams`` resumes it when the selector or the clock says so and closes it when its
time is up.
"""

from __future__ import annotations

import errno
import math
import os
import random
import selectors
import socket
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import closing

from nlmfo.errors import NlmfoError
from nlmfo.notify import wire
from nlmfo.notify.client import Client
from nlmfo.notify.notice import Settings

#: Wait until the socket is ready for these events, or until this time.
_Wait = tuple[socket.socket, int] | float


class Conversation:
    """One running conversation and what it waits for."""

    __slots__ = ("client", "sock", "steps", "until")

    def __init__(self, client: Client, steps: Generator[_Wait, None, None], until: float) -> None:
        self.client = client
        self.steps = steps
        self.until = until
        self.sock: socket.socket | None = None


class Streams:
    """The TCP half of the notifier: a bounded number of conversations, the rest in a queue."""

    def __init__(
        self, selector: selectors.BaseSelector, connect_from: Callable[[], socket.socket],
        messages: Sequence[bytes], settings: Settings, *, on_told: Callable[[Client], None],
    ) -> None:  # fmt: skip
        self._selector = selector
        self._open = connect_from
        self._messages = messages
        self._settings = settings
        self._on_told = on_told
        self._waiting: deque[Client] = deque()
        self._running: dict[Client, Conversation] = {}  # oldest first, and all have the same time
        self._resting: dict[Conversation, float] = {}  # until when; few at a time, and none for long

    def want(self, client: Client) -> None:
        """Begin a conversation with the client, unless there is one."""
        if not client.streaming:
            client.streaming = True
            self._waiting.append(client)

    def start(self, now: float) -> None:
        """Begin what is queued, as far as there is room."""
        while self._waiting and len(self._running) < self._settings.connections:
            client = self._waiting.popleft()
            if client.told == len(self._messages):
                continue
            client.attempts += 1
            client.detail_tcp = "no answer over tcp"
            talk = Conversation(client, self._tell(client), now + self._settings.tcp_timeout)
            self._running[client] = talk
            self.resume(talk)

    def pause(self, now: float) -> float | None:
        """Seconds until the oldest conversation runs out of time or one has rested; None without one."""
        oldest = next(iter(self._running.values()), None)
        return None if oldest is None else max(0.0, min(oldest.until, *self._resting.values(), math.inf) - now)

    def expire(self, now: float) -> None:
        """Close the conversations whose time is up, and go on with those that have rested."""
        while (oldest := next(iter(self._running.values()), None)) and oldest.until <= now:
            self.forget(oldest.client)
        for talk in [talk for talk, until in self._resting.items() if until <= now]:
            self.resume(talk)

    def resume(self, talk: Conversation) -> None:
        """Run a conversation on to the next place where it has to wait."""
        self._unwatch(talk)
        try:
            wait = next(talk.steps)
            if isinstance(wait, float):
                self._resting[talk] = wait
            else:
                talk.sock, events = wait
                self._selector.register(talk.sock, events, talk)
        except StopIteration:
            self.forget(talk.client)
        except (OSError, NlmfoError) as error:
            talk.client.detail_tcp = f"tcp: {_why(error)}"
            self.forget(talk.client)
        if talk.client.told == len(self._messages):
            self._on_told(talk.client)

    def forget(self, client: Client) -> None:
        """End the client's conversation, if any, and close its socket."""
        client.streaming = client.talking = False
        talk = self._running.pop(client, None)
        if talk is not None:
            self._unwatch(talk)
            talk.steps.close()

    def close(self) -> None:
        for client in list(self._running):
            self.forget(client)

    def _unwatch(self, talk: Conversation) -> None:
        # Before the generator closes it: the next socket may get the same descriptor number.
        if talk.sock is not None:
            self._selector.unregister(talk.sock)
            talk.sock = None
        self._resting.pop(talk, None)

    def _tell(self, client: Client) -> Generator[_Wait, None, None]:
        port = yield from self._ask_port(client)
        if not port:
            return
        client.talking = True
        with closing(self._open()) as sock:
            yield from _connect(sock, client, port)
            while client.slot and client.port:
                yield client.slot  # a notice that went out over UDP just now may still be answered
            while client.told < len(self._messages):
                name = client.told
                client.detail_tcp = f"no answer from statd (tcp port {port})"
                wire.parse_void((yield from _exchange(sock, self._messages[name])))
                if client.told == name:  # else UDP was faster
                    client.told += 1
                client.detail_tcp = "acknowledged over tcp"

    def _ask_port(self, client: Client) -> Generator[_Wait, None, int]:
        ipv6 = client.address.version == 6
        question = wire.ask_port(wire.STATD_PROGRAM, wire.STATD_VERSION, "tcp", ipv6=ipv6)
        with closing(self._open()) as sock:
            yield from _connect(sock, client, self._settings.rpcbind_port)
            port = wire.parse_port((yield from _exchange(sock, question)), ipv6=ipv6)
        if port or client.registered is None:
            client.registered = bool(port)
        if not port:
            client.detail_tcp = "statd is not registered with rpcbind (tcp)"
        return port


def _connect(sock: socket.socket, client: Client, port: int) -> Generator[_Wait, None, None]:
    failure = sock.connect_ex(client.peer(port))
    if failure == errno.EINPROGRESS:
        yield sock, selectors.EVENT_WRITE
        failure = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if failure:
        raise OSError(failure, f"port {port}: {os.strerror(failure)}")


def _exchange(sock: socket.socket, body: bytes) -> Generator[_Wait, None, bytes]:
    """Send one call, return the results of its answer. Replies to anything else are passed over."""
    xid = random.SystemRandom().getrandbits(32)
    unsent = wire.record(wire.with_xid(xid, body))
    while unsent:
        yield sock, selectors.EVENT_WRITE
        unsent = unsent[sock.send(unsent) :]
    reader = wire.RecordReader()
    while True:
        yield sock, selectors.EVENT_READ
        data = sock.recv(4096)
        if not data:
            raise wire.WireError("the connection was closed without an answer")
        for message in reader.feed(data):
            reply = wire.parse_reply(message)
            if reply.xid == xid:
                return reply.success()


def _why(error: Exception) -> str:
    return str(error.strerror or error) if isinstance(error, OSError) else str(error)
