# SPDX-License-Identifier: GPL-2.0-or-later
"""NFS client hosts on the loopback network: an rpcbind and a statd for every address of 127.0.0.0/8, or ::1.

One thread, two UDP and two TCP sockets; IP_PKTINFO tells which host was meant and makes the answer come from
it. The messages are packed by hand from RFC 5531 and 1833, so that a mistake in nlmfo's own encoder cannot
hide. What real hosts do wrong, a ``Behaviour`` does on purpose.
"""

from __future__ import annotations

import contextlib
import random
import selectors
import socket
import struct
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

RPCBIND, STATD = 100000, 100024
SUCCESS, PROG_UNAVAIL, PROC_UNAVAIL = 0, 1, 3
_IP_PKTINFO = 8  # linux/in.h; Python 3.11 does not name it
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h: past net.core.rmem_max, for root

#: Turns one correct reply into what the host sends instead: nothing, one or several datagrams.
Mangle = Callable[[bytes], list[bytes]]
#: Turns one correct record (RFC 5531, section 11) into the bytes that go out over TCP instead.
Stream = Callable[[bytes], bytes]
_Info = tuple[int, int, bytes]  # one control message
_Caller = tuple[str, int]
_Target = tuple[int, int, int]  # program, version, procedure


@dataclass(frozen=True)
class Behaviour:
    """How one host answers."""

    udp: bool = True
    tcp: bool = True
    statd_udp: bool = True  # statd's own UDP port answers
    statd_after: int = 0  # so many questions get "not registered" first; -1: all of them
    refuse: int = 0  # so many notices get PROG_UNAVAIL first
    mangle: Mangle | None = None
    forged_from: str | None = None  # UDP answers come from this address instead
    also_forged_from: str | None = None  # a wrong answer comes from there, before the right one
    stream: Stream | None = None  # what goes out over TCP instead
    stream_of: tuple[str, ...] = ("rpcbind", "statd")  # and from which of them
    drip: float = 0.0  # seconds between two bytes of what goes out over TCP


@dataclass
class Heard:
    """What one host has received."""

    questions: int = 0
    notices: list[tuple[str, int]] = field(default_factory=list)
    news: float = 0.0  # when it last heard a notice that it had not heard before (time.monotonic)
    replies_lost: int = 0  # of its statd's, on purpose (``loss``)
    callers: set[str] = field(default_factory=set)
    protocols: Counter[str] = field(default_factory=Counter)


class FakeClients:
    """A context manager: the hosts answer while it is open. ``heard`` may be read once it is closed."""

    def __init__(
        self,
        behaviours: dict[str, Behaviour] | None = None,
        *,
        default: Behaviour | None = None,
        ipv6: bool = False,
        loss: float = 0.0,
        seed: int = 1,
        rpcbind_port: int = 0,
        open_socket: Callable[[int, int], socket.socket] = socket.socket,
    ) -> None:
        """``rpcbind_port`` 0 is any that is free; 111 can be had in a network namespace of one's own."""
        self._open_socket = open_socket
        self.heard: dict[str, Heard] = defaultdict(Heard)
        self._behaviours = behaviours or {}
        self._default = default or Behaviour()
        self._family = socket.AF_INET6 if ipv6 else socket.AF_INET
        self._loss = loss
        self._random = random.Random(seed)
        self._selector = selectors.DefaultSelector()
        self._open: set[socket.socket] = set()
        self._unread: dict[socket.socket, bytes] = {}
        self.rpcbind_port = self._listen("rpcbind", rpcbind_port)
        self._statd_port = self._listen("statd")
        self._stop, self._stopped = socket.socketpair()
        self._selector.register(self._stopped, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> FakeClients:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.close()
        self._thread.join(30)
        self._stopped.close()
        self._selector.close()
        for sock in self._open:
            sock.close()

    # --- sockets ---

    def _listen(self, service: str, port: int = 0) -> int:
        """A UDP and a TCP socket with the same port number."""
        for _ in range(100):
            udp, tcp = (self._bindable(kind) for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM))
            udp.bind(("", port))
            try:
                tcp.bind(("", udp.getsockname()[1]))
            except OSError:
                udp.close()
                tcp.close()
                continue
            tcp.listen(1024)
            self._selector.register(udp, selectors.EVENT_READ, (self._datagrams, service))
            self._selector.register(tcp, selectors.EVENT_READ, (self._accept, service))
            return int(udp.getsockname()[1])
        raise AssertionError("no port is free for both UDP and TCP")

    def _bindable(self, kind: socket.SocketKind) -> socket.socket:
        sock = self._open_socket(self._family, kind)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
        if self._family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        for size in (1 << 20, 4 << 20, 16 << 20):
            for option in (socket.SO_RCVBUF, _SO_RCVBUFFORCE):
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, option, size)
        sock.setblocking(False)
        self._open.add(sock)
        return sock

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._stopped:
                    return
                action, argument = key.data
                action(key.fileobj, argument)

    def _datagrams(self, sock: socket.socket, service: str) -> None:
        for _ in range(64):
            try:
                message, (info, *_), _, caller = sock.recvmsg(4096, 128)
            except BlockingIOError:
                return
            if self._lost():
                continue
            ipv4 = self._family == socket.AF_INET  # in_pktinfo ends with the address, in6_pktinfo begins with it
            host = socket.inet_ntop(self._family, info[2][8:12] if ipv4 else info[2][:16])
            how = self._behaviours.get(host, self._default)
            if not how.udp or (service == "statd" and not how.statd_udp):
                continue
            for reply in self._answers(service, host, how, message, (caller[0], "udp")):
                if not self._lost():
                    self._send(sock, reply, info, caller, how)
                elif service == "statd":
                    self.heard[host].replies_lost += 1

    def _send(self, sock: socket.socket, reply: bytes, info: _Info, caller: _Caller, how: Behaviour) -> None:
        level, kind, data = info
        if how.also_forged_from:
            lie = reply[:-4] + struct.pack(">I", 9)  # another port, or another status
            sock.sendmsg([lie], [(level, kind, _come_from(data, how.also_forged_from))], 0, caller)
        if how.forged_from:
            data = _come_from(data, how.forged_from)
        with contextlib.suppress(BlockingIOError):
            sock.sendmsg([reply], [(level, kind, data)], 0, caller)

    def _accept(self, listener: socket.socket, service: str) -> None:
        with contextlib.suppress(BlockingIOError):
            sock, _ = listener.accept()
            host = sock.getsockname()[0]
            if not self._behaviours.get(host, self._default).tcp:
                sock.close()
                return
            sock.setblocking(False)
            self._open.add(sock)
            self._unread[sock] = b""
            self._selector.register(sock, selectors.EVENT_READ, (self._stream, service))

    def _stream(self, sock: socket.socket, service: str) -> None:
        try:
            (host, *_), (caller, *_) = sock.getsockname(), sock.getpeername()
            data = sock.recv(65536)
        except OSError:  # reset by the caller
            data = b""
        if not data:
            self._hang_up(sock)
            return
        self._unread[sock] += data
        while (message := self._next_record(sock)) is not None:
            how = self._behaviours.get(host, self._default)
            for reply in self._answers(service, host, how, message, (caller, "tcp")):
                record = struct.pack(">I", 0x8000_0000 | len(reply)) + reply
                if how.stream and service in how.stream_of:
                    record = how.stream(record)
                if how.drip:
                    threading.Thread(target=_drip, args=(sock.dup(), record, how.drip), daemon=True).start()
                    continue
                with contextlib.suppress(OSError):
                    sock.sendall(record)

    def _next_record(self, sock: socket.socket) -> bytes | None:
        unread = self._unread[sock]
        end = 4 + (struct.unpack(">I", unread[:4])[0] & 0x7FFF_FFFF) if len(unread) >= 4 else 4
        if len(unread) < max(5, end):
            return None
        self._unread[sock] = unread[end:]
        return unread[4:end]

    def _hang_up(self, sock: socket.socket) -> None:
        self._selector.unregister(sock)
        self._open.discard(sock)
        del self._unread[sock]
        sock.close()

    def _lost(self) -> bool:
        return bool(self._loss) and self._random.random() < self._loss

    # --- what rpcbind and statd say ---

    def _answers(self, service: str, host: str, how: Behaviour, message: bytes, via: tuple[str, str]) -> list[bytes]:
        xid, kind, rpc, *target = struct.unpack(">6I", message[:24])
        assert (kind, rpc, message[24:40]) == (0, 2, bytes(16)), "not a call with AUTH_NULL"
        heard = self.heard[host]
        heard.callers.add(via[0])
        heard.protocols[via[1]] += 1
        answer = self._rpcbind if service == "rpcbind" else self._statd
        status, results = answer((target[0], target[1], target[2]), message[40:], heard, how)
        reply = accepted(xid, status, results)
        return how.mangle(reply) if how.mangle else [reply]

    def _rpcbind(self, target: _Target, arguments: bytes, heard: Heard, how: Behaviour) -> tuple[int, bytes]:
        program, version, procedure = target
        if program != RPCBIND:
            return PROG_UNAVAIL, b""
        if procedure == 0:
            return SUCCESS, b""
        heard.questions += 1
        there = struct.unpack(">2I", arguments[:8]) == (STATD, 1) and 0 <= how.statd_after < heard.questions
        port = self._statd_port if there else 0
        if (version, procedure) == (2, 3):
            assert struct.unpack(">2I", arguments[8:]) in ((17, 0), (6, 0))
            return SUCCESS, struct.pack(">I", port)
        assert (version, procedure) in ((3, 3), (4, 3)), f"{version}, {procedure}: neither GETPORT nor GETADDR"
        assert arguments[8:16] in (b"\0\0\0\4udp6", b"\0\0\0\4tcp6")
        assert not _after_string(_after_string(arguments[16:])), "more than an address and an owner"
        text = f"::.{port >> 8}.{port & 255}".encode() if port else b""
        return SUCCESS, struct.pack(">I", len(text)) + text + bytes(-len(text) % 4)

    def _statd(self, target: _Target, arguments: bytes, heard: Heard, how: Behaviour) -> tuple[int, bytes]:
        program, version, procedure = target
        if (program, version) != (STATD, 1):
            return PROG_UNAVAIL, b""
        if procedure == 0:
            return SUCCESS, b""
        if procedure != 6:
            return PROC_UNAVAIL, b""
        (length,) = struct.unpack(">I", arguments[:4])
        notice = (arguments[4 : 4 + length].decode(), struct.unpack(">i", arguments[-4:])[0])
        if notice not in heard.notices:
            heard.news = time.monotonic()
        heard.notices.append(notice)
        return (PROG_UNAVAIL if len(heard.notices) <= how.refuse else SUCCESS), b""


def accepted(xid: int, status: int, results: bytes = b"") -> bytes:
    """REPLY, MSG_ACCEPTED, verifier AUTH_NULL of no bytes, status."""
    return struct.pack(">6I", xid, 1, 0, 0, 0, status) + results


def _after_string(data: bytes) -> bytes:
    """What follows an XDR string."""
    (length,) = struct.unpack(">I", data[:4])
    end = 4 + length + -length % 4
    assert len(data) >= end
    return data[end:]


def _drip(sock: socket.socket, record: bytes, seconds: float) -> None:
    """Send one byte, wait, send the next, until the other side has had enough."""
    with sock, contextlib.suppress(OSError):
        for number in range(len(record)):
            sock.sendall(record[number : number + 1])
            time.sleep(seconds)


def _come_from(packet_info: bytes, address: str) -> bytes:
    """struct in_pktinfo with another ipi_spec_dst: the source address of what is sent with it."""
    return packet_info[:4] + socket.inet_aton(address) + packet_info[8:]
