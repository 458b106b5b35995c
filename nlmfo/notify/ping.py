# SPDX-License-Identifier: GPL-2.0-or-later
"""Is an RPC program there and answering? The question behind each "wait until the daemon serves"."""

from __future__ import annotations

import math
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from nlmfo.deadline import Deadline
from nlmfo.errors import DeadlineExceeded, NlmfoError
from nlmfo.notify import wire
from nlmfo.notify.sockets import Address, OpenSocket, family_of, peer_of, scope_index

_RETRY = 0.25  # seconds until the first UDP retransmission; doubles each time


class NotServing(NlmfoError):
    """The host answered, and not with this program: refused, not registered, unavailable or malformed."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what}: {reason}")
        self.what = what
        self.reason = reason


def null_call(
    address: Address,
    port: int | None,
    program: int,
    version: int,
    *,
    protocol: str = "tcp",
    open_socket: OpenSocket = socket.socket,
    deadline: float,
    rpcbind_port: int = wire.RPCBIND_PORT,
) -> None:
    """Call procedure 0 of a program and return when it answered; without a port, ask rpcbind for it first.

    One attempt, which ends early when the host says no: poll it while a daemon starts. ``protocol`` is "tcp"
    or "udp", ``deadline`` in seconds. Raises DeadlineExceeded without an answer, NotServing for any other.
    """
    caller = _Caller(address, protocol, open_socket, Deadline(deadline))
    with _in_words(f"RPC program {program} version {version} at {address} over {protocol}", deadline):
        if port is None:
            port = rpcbind_port
            if program != wire.RPCBIND_PROGRAM:
                port = caller.ask_port(rpcbind_port, program, version)
        wire.parse_void(caller.call(port, wire.null(program, version)))


def tcp_port(
    address: Address,
    program: int,
    version: int,
    *,
    open_socket: OpenSocket = socket.socket,
    deadline: float,
    rpcbind_port: int = wire.RPCBIND_PORT,
) -> int:
    """The port of a program, by the rpcbind at ``address``. Raises like ``null_call``."""
    caller = _Caller(address, "tcp", open_socket, Deadline(deadline))
    with _in_words(f"the port of RPC program {program} version {version} at {address}", deadline):
        return caller.ask_port(rpcbind_port, program, version)


@contextmanager
def _in_words(what: str, deadline: float) -> Iterator[None]:
    """Raises DeadlineExceeded without an answer, NotServing for any that is not the right one."""
    try:
        yield
    except TimeoutError:
        raise DeadlineExceeded(f"{what}: no answer", deadline) from None
    except OSError as error:
        raise NotServing(what, f"{error.strerror}") from error
    except wire.WireError as error:
        raise NotServing(what, error.text) from error


class _Caller:
    """Blocking calls to one address, all within one deadline. Raises TimeoutError, OSError or WireError."""

    def __init__(self, address: Address, protocol: str, open_socket: OpenSocket, deadline: Deadline) -> None:
        self._address = address
        self._protocol = protocol
        self._open = open_socket
        self._deadline = deadline

    def ask_port(self, rpcbind_port: int, program: int, version: int) -> int:
        ipv6 = self._address.version == 6
        question = wire.ask_port(program, version, self._protocol, ipv6=ipv6)
        port = wire.parse_port(self.call(rpcbind_port, question), ipv6=ipv6)
        if not port:
            raise wire.WireError("not registered with rpcbind")
        return port

    def call(self, port: int, body: bytes) -> bytes:
        """One call and the results of its reply."""
        exchange, kind = {
            "tcp": (self._over_tcp, socket.SOCK_STREAM),
            "udp": (self._over_udp, socket.SOCK_DGRAM),
        }[self._protocol]
        xid = random.SystemRandom().getrandbits(32)
        with self._open(family_of(self._address), kind) as sock:
            scope = scope_index(sock, getattr(self._address, "scope_id", None))
            sock.settimeout(self._patience())
            sock.connect(peer_of(self._address, port, scope))
            return exchange(sock, wire.with_xid(xid, body), xid).success()

    def _over_udp(self, sock: socket.socket, message: bytes, xid: int) -> wire.Reply:
        wait = _RETRY
        while True:
            sock.send(message)
            try:
                return self._await(sock, xid, lambda data: [data], Deadline(wait))
            except TimeoutError:
                self._patience()
                wait *= 2

    def _over_tcp(self, sock: socket.socket, message: bytes, xid: int) -> wire.Reply:
        sock.sendall(wire.record(message))
        return self._await(sock, xid, wire.RecordReader().feed, self._deadline)

    def _await(
        self, sock: socket.socket, xid: int, split: Callable[[bytes], list[bytes]], until: Deadline
    ) -> wire.Reply:
        """The reply with this ``xid``; older ones are passed over."""
        while True:
            sock.settimeout(self._patience(until))
            data = sock.recv(4096)
            if not data and sock.type == socket.SOCK_STREAM:
                raise wire.WireError("the connection was closed without an answer")
            for reply in map(wire.parse_reply, split(data)):
                if reply.xid == xid:
                    return reply

    def _patience(self, until: Deadline | None = None) -> float:
        """Seconds that a socket operation may take."""
        left = min(self._deadline.remaining(), until.remaining() if until else math.inf)
        if not left:
            raise TimeoutError
        return left
