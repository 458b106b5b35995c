# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs on a node: many NFS clients, each with an address of its own, that take one lock each and report it.

Usage: many_clients.py SERVER EXPORT FILE FIRST COUNT

Client number N has the address 10.10.N / 256.N % 256 counted from 10.10.100.0, which must be on this node. Each asks
the server's lockd (NLM version 4 over TCP, RFC 1813 appendix II) for one byte of FILE, in turn, and prints a line as
soon as the lock is granted:

    granted 10.10.100.7
    refused 10.10.100.8 STATUS      an NLM status: 1 denied, 2 no locks, 4 grace period

What the server has on record must be a superset of the lines "granted", wherever its power is cut.
"""

from __future__ import annotations

import errno
import itertools
import socket
import struct
import sys
from ipaddress import IPv4Address

FIRST_ADDRESS = IPv4Address("10.10.100.0")
RPCBIND, MOUNT, NFS, NLM = (100000, 2), (100005, 3), (100003, 3), (100021, 4)
GETPORT, MNT, LOOKUP, LOCK = 3, 1, 3, 2
TCP = 6
GRANTED = 0
PORTS = itertools.cycle(range(600, 1024))


def opaque(data: bytes) -> bytes:
    return struct.pack("!I", len(data)) + data + b"\0" * (-len(data) % 4)


def credential() -> bytes:
    """AUTH_SYS as root of a machine without a name, and no verifier."""
    body = struct.pack("!I", 0) + opaque(b"many") + struct.pack("!III", 0, 0, 0)
    return struct.pack("!I", 1) + opaque(body) + struct.pack("!II", 0, 0)


class Connection:
    """One RPC program, called over TCP from one address."""

    def __init__(self, source: str, server: str, port: int, program: tuple[int, int]) -> None:
        self.program = program
        self.socket = socket.socket()
        self.socket.settimeout(30)
        bind_reserved(self.socket, source)
        self.socket.connect((server, port))

    def call(self, procedure: int, arguments: bytes) -> bytes:
        header = struct.pack("!IIIIII", 7, 0, 2, *self.program, procedure)
        message = header + credential() + arguments
        self.socket.sendall(struct.pack("!I", 0x80000000 | len(message)) + message)
        size = struct.unpack("!I", self._read(4))[0] & 0x7FFFFFFF
        reply = self._read(size)
        if struct.unpack("!IIIIII", reply[:24])[1:] != (1, 0, 0, 0, 0):
            raise OSError(f"program {self.program}: an RPC error: {reply[:24].hex()}")
        return reply[24:]

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.socket.recv(size - len(data))
            if not more:
                raise OSError("the server closed the connection")
            data += more
        return data


def bind_reserved(unbound: socket.socket, source: str) -> None:
    """To a reserved port, as exports without "insecure" demand; some are held by servers that died."""
    for port in itertools.islice(PORTS, 400):
        try:
            unbound.bind((source, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return
    raise OSError(f"{source}: no reserved port is free")


def connect(source: str, server: str, program: tuple[int, int]) -> Connection:
    port = Connection(source, server, 111, RPCBIND).call(GETPORT, struct.pack("!IIII", *program, TCP, 0))
    return Connection(source, server, struct.unpack("!I", port)[0], program)


def handle_of(source: str, server: str, export: str, name: str) -> bytes:
    """The file handle of ``name`` in an exported directory."""
    answer = connect(source, server, MOUNT).call(MNT, opaque(export.encode()))
    status, size = struct.unpack("!II", answer[:8])
    if status:
        raise OSError(status, "mount was refused")
    answer = connect(source, server, NFS).call(LOOKUP, opaque(answer[8 : 8 + size]) + opaque(name.encode()))
    status, size = struct.unpack("!II", answer[:8])
    if status:
        raise OSError(status, "lookup was refused")
    return answer[8 : 8 + size]


def lock(source: str, server: str, port: int, handle: bytes, number: int) -> int:
    """Ask for one byte, exclusively; the NLM status."""
    name = f"client-{number}".encode()
    # cookie, block, exclusive; caller name, handle, owner, pid, first byte, length; reclaim, state
    owner = opaque(handle) + opaque(name) + struct.pack("!IQQ", number, number, 1)
    arguments = opaque(b"cook") + struct.pack("!II", 0, 1) + opaque(name) + owner + struct.pack("!II", 0, 1)
    answer = Connection(source, server, port, NLM).call(LOCK, arguments)
    return int.from_bytes(answer[8:12], "big")


def main(server: str, export: str, name: str, first: int, count: int) -> None:
    sources = [str(FIRST_ADDRESS + number) for number in range(first, first + count)]
    handle = handle_of(sources[0], server, export, name)
    port = connect(sources[0], server, NLM).socket.getpeername()[1]
    for number, source in enumerate(sources, first):
        status = lock(source, server, port, handle, number)
        print(f"granted {source}" if status == GRANTED else f"refused {source} {status}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
