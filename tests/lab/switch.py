# SPDX-License-Identifier: GPL-2.0-or-later
"""An Ethernet switch for User Mode Linux nodes, with a cable per node that can be pulled.

Run as a program: ``python3 switch.py DIRECTORY PORT...`` makes a control socket DIRECTORY/PORT for each port,
prints ``ready`` and forwards frames until its standard input ends. Lines on standard input steer it:
``unplug PORT``, ``plug PORT``, and ``weather LOST DOUBLED LATE SEED``, shares of 1 of all frames from then on; a frame
that is late comes after the next one. Each is answered with ``ok`` on standard output.

A node's kernel speaks the "daemon" transport (arch/um/drivers/daemon_user.c): it connects a stream socket to the
control socket, sends one request with the address of its datagram socket, and reads the address of ours. Every
port has a datagram socket of its own, so a frame's port is known by where it arrives and not by what it claims.
"""

from __future__ import annotations

import contextlib
import os
import random
import selectors
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path

#: struct request_v3: magic, version, type (REQ_NEW_CONTROL is 0), struct sockaddr_un; padded to 124 bytes.
REQUEST = struct.Struct("=III110s2x")
MAGIC, VERSION, NEW_CONTROL = 0xFEEDFACE, 3, 0
SOCKADDR_UN = struct.Struct("=H108s")
LARGEST_FRAME = 65536
FRAMES_AT_ONCE = 64


class Port:
    """One socket of the switch: a node's end of the cable, once it has connected."""

    def __init__(self, directory: Path, name: str) -> None:
        self.name = name
        self.plugged = True
        self.node: bytes | None = None
        self.control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.control.bind(str(directory / name))
        self.control.listen()
        self.data = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.data_path = str(directory / f"{name}.data")
        self.data.bind(self.data_path)
        self.data.setblocking(False)

    def send(self, frame: bytes) -> None:
        """Hand a frame to the node; a node that is gone or slow loses it, as on a real wire."""
        if self.node is not None and self.plugged:
            with contextlib.suppress(OSError):
                self.data.sendto(frame, self.node)


class Weather:
    """What becomes of frames: lost, doubled, or late, by a seed."""

    def __init__(self, lost: float = 0.0, doubled: float = 0.0, late: float = 0.0, seed: int = 0) -> None:
        self._fine = not (lost or doubled or late)
        self._limits = (lost, lost + doubled, lost + doubled + late)
        self._random = random.Random(seed)
        self._kept: list[tuple[bytes, Port]] = []

    def through(self, frame: bytes, source: Port) -> list[tuple[bytes, Port]]:
        """What arrives, in this order, and from where, when this frame is sent."""
        if self._fine:
            return [(frame, source)]
        drawn = self._random.random()
        lost, doubled, late = self._limits
        if drawn < lost:
            return []
        if doubled <= drawn < late and not self._kept:
            self._kept.append((frame, source))
            return []
        arriving = [(frame, source)] * (2 if drawn < doubled else 1) + self._kept
        self._kept.clear()
        return arriving


class Switch:
    """Learns which address is behind which port, and floods what it does not know."""

    def __init__(self, directory: Path, names: list[str]) -> None:
        self.ports = {name: Port(directory, name) for name in names}
        self.behind: dict[bytes, Port] = {}
        self.selector = selectors.DefaultSelector()
        self.running = True
        self.weather = Weather()
        for port in self.ports.values():
            self._watch(port.control, lambda port=port: self.connect(port))  # type: ignore[misc]
            self._watch(port.data, lambda port=port: self.forward(port))  # type: ignore[misc]
        self.orders = os.fdopen(os.dup(0), "rb", buffering=0)
        self._watch(self.orders, self.obey)

    def _watch(self, source: object, handler: Callable[[], None]) -> None:
        self.selector.register(source, selectors.EVENT_READ, handler)  # type: ignore[arg-type]

    def connect(self, port: Port) -> None:
        """Greet a node that has just booted, or booted again: its old address is forgotten."""
        connection, _ = port.control.accept()
        connection.settimeout(5)
        magic, version, kind, address = REQUEST.unpack(connection.recv(REQUEST.size, socket.MSG_WAITALL))
        if (magic, version, kind) != (MAGIC, VERSION, NEW_CONTROL):
            connection.close()
            return
        _, path = SOCKADDR_UN.unpack(address)
        # An abstract name is as long as the address says, NULs included; a path ends at the first NUL.
        port.node = path if path[:1] == b"\0" else path.split(b"\0", 1)[0]
        connection.sendall(SOCKADDR_UN.pack(socket.AF_UNIX, port.data_path.encode()))
        # The node keeps its end open for as long as it lives; nothing more is ever said on it.
        connection.detach()

    def forward(self, port: Port) -> None:
        for _ in range(FRAMES_AT_ONCE):
            try:
                frame = port.data.recv(LARGEST_FRAME)
            except BlockingIOError:
                return
            if not port.plugged:
                continue
            self.behind[frame[6:12]] = port
            for arriving, source in self.weather.through(frame, port):
                self._deliver(arriving, source)

    def _deliver(self, frame: bytes, source: Port) -> None:
        target = self.behind.get(frame[0:6])
        for port in (target,) if target else self.ports.values():
            if port is not source:
                port.send(frame)

    def obey(self) -> None:
        line = self.orders.readline().decode()
        if not line:
            self.running = False
            return
        verb, *words = line.split()
        if verb == "weather":
            lost, doubled, late, seed = words
            self.weather = Weather(float(lost), float(doubled), float(late), int(seed))
        else:
            self.ports[words[0]].plugged = {"plug": True, "unplug": False}[verb]
        print("ok", flush=True)

    def run(self) -> None:
        print("ready", flush=True)
        while self.running:
            for key, _ in self.selector.select():
                key.data()


if __name__ == "__main__":
    Switch(Path(sys.argv[1]), sys.argv[2:]).run()
