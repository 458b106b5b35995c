# SPDX-License-Identifier: GPL-2.0-or-later
"""A lab: nodes on one network, shared disks, and a directory that all nodes see.

    with Lab(logs) as lab:
        disk = lab.disk("home")
        a, b = lab.node("a", disks=[disk]), lab.node("b", disks=[disk])
        lab.boot()
        a.check("nlmfo", "takeover", "home")

Everything runs from a short-lived directory below /tmp, because the path of a Unix socket must be short and a
kernel's command line cannot hold a blank. ``logs`` keeps each node's console and kernel log. When the block ends,
for whatever reason, every process of the lab is gone; the lab checks that and says so if it is not true.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.lab import root
from tests.lab.confined import Confined
from tests.lab.node import Node, free_of_guests

#: Node number N has 10.10.0.N and fd00::N; the switch has a port for each.
PORTS = 9
NODE_MEMORY = "384M"


@dataclass(frozen=True, slots=True)
class Disk:
    """An ext4 file system on a disk that several nodes may see."""

    path: Path
    uuid: str


class Lab:
    """Owns the nodes, the switch, the disks and the directory that all nodes see as /lab/registry."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        shutil.rmtree(logs, ignore_errors=True)
        logs.mkdir(parents=True)
        self.directory = Path(tempfile.mkdtemp(prefix="nlmfo-lab-"))
        self.registry = self.directory / "registry"
        self.registry.mkdir()
        (self.directory / "checkout").symlink_to(root.CHECKOUT)
        (self.directory / "root").symlink_to(_light_root())
        self.nodes: dict[str, Node] = {}
        self._switch = self._start_switch()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every process of the lab, keep the logs, and remove the rest."""
        for node in self.nodes.values():
            node.cut_power()
        self._switch.end()
        left = free_of_guests(str(self.directory))
        for node in self.nodes.values():
            node.keep_logs(self.logs)
        shutil.rmtree(self.directory, ignore_errors=True)
        assert not left, f"processes of the lab are still running: {left}"

    def disk(self, name: str, size: str = "64M", *, identity: str | None = None) -> Disk:
        """A new ext4 file system, with ``identity`` or any other UUID; attach it to any number of nodes."""
        disk = Disk(self.directory / f"{name}.disk", identity or str(uuid.uuid4()))
        make = ["mke2fs", "-q", "-t", "ext4", "-U", disk.uuid, str(disk.path), size]
        subprocess.run(make, check=True, timeout=60, stdout=subprocess.DEVNULL)
        return disk

    def node(self, name: str, *, disks: Sequence[Disk] = (), full: bool = False) -> Node:
        """Add a node, switched off. A light one boots in seconds; a full one has systemd as PID 1."""
        number = len(self.nodes) + 1
        node = Node(name, self.directory / name, lambda: self._arguments(number, name, disks, full))
        self.nodes[name] = node
        return node

    def boot(self, *nodes: Node, seconds: float = 120.0) -> None:
        """Power on and wait: all nodes that are off, unless some are named."""
        chosen = nodes or tuple(node for node in self.nodes.values() if not node.is_on())
        hosts = "".join(f"10.10.0.{n} {name}\n" for n, name in enumerate(self.nodes, 1))
        for node in chosen:
            (node.share / "hosts").write_text(f"127.0.0.1 localhost\n::1 localhost\n{hosts}")
            node.power_on()
        for node in chosen:
            node.wait_ready(seconds)

    def unplug(self, node: Node) -> None:
        self._steer("unplug", self._port(node))

    def plug(self, node: Node) -> None:
        self._steer("plug", self._port(node))

    def weather(self, lost: float = 0.0, doubled: float = 0.0, late: float = 0.0, seed: int = 0) -> None:
        """What becomes of frames from now on, as shares of 1; a late one arrives after the next."""
        self._steer("weather", lost, doubled, late, seed)

    def _arguments(self, number: int, name: str, disks: Sequence[Disk], full: bool) -> list[str]:
        if full:
            boot = [
                f"ubd0={self.directory / name}/root.cow,{root.image()}",
                "root=/dev/ubda",
                "rw",
                "mem=512M",
            ]
        else:
            boot = ["rootfstype=hostfs", f"rootflags={self.directory}/root", "ro", "init=/lab/init.sh"]
            boot += [f"mem={NODE_MEMORY}"]
        first = 1 if full else 0
        return [
            *boot,
            *(f"ubd{n}c={disk.path}" for n, disk in enumerate(disks, first)),
            f"eth0=daemon,02:00:00:00:00:{number:02x},unix,{self.directory}/switch/{number}",
            f"lab.addresses=10.10.0.{number}/24,fd00::{number}/64",
            f"lab.checkout={self.directory}/checkout/",
            f"lab.registry={self.registry}",
        ]

    def _start_switch(self) -> Confined:
        sockets = self.directory / "switch"
        sockets.mkdir()
        ports = [str(number) for number in range(1, PORTS + 1)]
        program = Path(__file__).with_name("switch.py")
        with (self.logs / "switch.log").open("wb") as log:
            argv = [sys.executable, str(program), str(sockets), *ports]
            switch = Confined(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        _expect(switch, b"ready\n")
        return switch

    def _port(self, node: Node) -> int:
        return list(self.nodes).index(node.name) + 1

    def _steer(self, *order: object) -> None:
        pipe = self._switch.process.stdin
        assert pipe is not None
        pipe.write(" ".join(map(str, order)).encode() + b"\n")
        pipe.flush()
        _expect(self._switch, b"ok\n")


def _expect(switch: Confined, line: bytes) -> None:
    pipe = switch.process.stdout
    assert pipe is not None
    answer = pipe.readline()
    assert answer == line, f"the switch said {answer!r}"


def _light_root() -> Path:
    """The tree, with today's init script in it (replaced in one step: other labs may be booting from it)."""
    tree = root.tree()
    new = tree / f"lab/init.{os.getpid()}"
    shutil.copy(Path(__file__).with_name("init.sh"), new)
    new.rename(tree / "lab/init.sh")
    return tree
