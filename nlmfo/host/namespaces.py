# SPDX-License-Identifier: GPL-2.0-or-later
"""The namespaces in which a service is an NFS server of its own: network, mount and UTS.

They are pinned as files (drawn in nlmfo.host.pins), so they live without any process in them, and
``ip netns exec nlmfo-NAME ss -tn`` works.

A pin that is copied into another mount namespace keeps the namespace, and with it the link and its address, alive
after the service has gone. So a new mount namespace first drops all the copies that it was born with.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

from nlmfo.agent import Agent
from nlmfo.child import in_child
from nlmfo.host import mounts, pins
from nlmfo.kernel import syscalls
from nlmfo.run import run

#: Seconds for anything that only asks the kernel to make, enter or drop a namespace.
QUICK = 30.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Namespaces:
    """The namespaces of one service, whether they exist or not.

    With an ``agent``, calls are made by one child that stays inside, until they are destroyed or it is closed.
    """

    service: str
    agent: Agent | None = field(default=None, compare=False)

    @classmethod
    def with_agent(cls, service: str) -> Self:
        """For whoever calls often while somebody waits."""
        there = cls(service)
        return cls(service, Agent(f"work inside the namespaces of '{service}'", partial(_enter, there)))

    @property
    def directory(self) -> Path:
        """Everything that the service keeps on this node while it is served here."""
        return pins.RUN / self.service

    @property
    def net(self) -> Path:
        return pins.net(self.service)

    @property
    def mnt(self) -> Path:
        return pins.mnt(self.service)

    @property
    def uts(self) -> Path:
        return pins.uts(self.service)

    def exist(self) -> bool:
        """Whether all of them are pinned and can be entered."""
        return pins.all_there(self.service)

    def traces(self) -> bool:
        """Whether anything of them is left on this node."""
        return pins.any_there(self.service)

    def create(self) -> None:
        """Make and pin them: nothing but a loopback, up, and the node's mounts. Needs real root."""
        private = self.mnt.parent
        private.mkdir(mode=0o755, parents=True, exist_ok=True)
        self.net.parent.mkdir(mode=0o755, exist_ok=True)
        if not mounts.at(private):
            syscalls.mount(os.fspath(private), private, "none", syscalls.MS_BIND)
            run(["mount", "--make-private", private], deadline=QUICK)
        for pin in (self.net, self.mnt, self.uts):
            pin.touch()
        flags = [f"--net={self.net}", f"--mount={self.mnt}", f"--uts={self.uts}", "--propagation=slave"]
        run(["unshare", *flags, "ip", "link", "set", "lo", "up"], deadline=QUICK)
        self.call(lambda: socket.sethostname(self.service))
        self.call(_drop_copied_pins)

    def destroy(self) -> None:
        """Unpin them. With the last process and socket gone, the kernel takes them down."""
        self.leave()
        for pin in (self.mnt, self.uts, self.net):
            if mounts.at(pin):
                syscalls.umount(pin)
            pin.unlink(missing_ok=True)
        if mounts.at(self.mnt.parent):
            syscalls.umount(self.mnt.parent)

    def command(self, *argv: str | os.PathLike[str]) -> list[str]:
        """The command line that runs ``argv`` inside."""
        inside = ["nsenter", f"--net={self.net}", f"--mount={self.mnt}", f"--uts={self.uts}", "--"]
        return inside + [os.fspath(word) for word in argv]

    def call(self, function: Callable[[], T], *, deadline: float = QUICK) -> T:
        """Call ``function`` in a child process inside the namespaces and return what it returns.

        A process of its own, because a mount namespace can only be entered by a process with a single thread, and
        because a child that hangs in the kernel can be left behind at the deadline (seconds). An exception of the
        function is raised here.
        """

        if self.agent is not None:
            return self.agent.call(function, deadline=deadline)

        def inside() -> T:
            _enter(self)
            return function()

        return in_child(f"work inside the namespaces of '{self.service}'", inside, deadline=deadline)

    def run(self, *argv: str | os.PathLike[str], deadline: float = QUICK) -> str:
        """Run a program inside to its end, and return what it wrote (see nlmfo.run). ``deadline`` is in seconds."""
        if self.agent is None:
            return run(self.command(*argv), deadline=deadline)
        return self.agent.call(
            partial(run, [os.fspath(word) for word in argv], deadline=deadline), deadline=deadline + 5
        )

    def open_socket(self, family: int, kind: int) -> socket.socket:
        """A socket that lives in the service's network, for use by this process."""
        with self._inside_network():
            return socket.socket(family, kind | socket.SOCK_CLOEXEC)

    @contextmanager
    def _inside_network(self) -> Iterator[None]:
        with Path("/proc/thread-self/ns/net").open("rb") as home, self.net.open("rb") as there:
            syscalls.setns(there.fileno(), syscalls.CLONE_NEWNET)
            try:
                yield
            finally:
                syscalls.setns(home.fileno(), syscalls.CLONE_NEWNET)

    def enter(self) -> None:
        """Have the agent there before it is needed, if they exist."""
        if self.agent is not None and self.exist():
            self.agent.start()

    def leave(self) -> None:
        """End the agent: it holds what it has entered."""
        if self.agent is not None:
            self.agent.close()

    def processes(self) -> list[int]:
        """Every process that runs in the service's network or mount namespace."""
        pinned = [pin for pin in (self.net, self.mnt) if mounts.at(pin)]
        ours = {(found.st_dev, found.st_ino) for found in (pin.stat() for pin in pinned)}
        return [pid for pid in _pids() if any(_namespace(pid, kind) in ours for kind in ("net", "mnt"))]


def _enter(namespaces: Namespaces) -> None:
    kinds = ((namespaces.net, syscalls.CLONE_NEWNET), (namespaces.uts, syscalls.CLONE_NEWUTS))
    for pin, kind in (*kinds, (namespaces.mnt, syscalls.CLONE_NEWNS)):
        descriptor = os.open(pin, os.O_RDONLY | os.O_CLOEXEC)
        syscalls.setns(descriptor, kind)
        os.close(descriptor)


def _drop_copied_pins() -> None:
    for mount in reversed(mounts.table()):
        if mount.kind == "nsfs" or mount.mountpoint.is_relative_to(pins.RUN):
            try:
                syscalls.umount(mount.mountpoint)
            except OSError as error:
                # Another service was just taken down: with its file on the node the kernel drops every copy of a pin.
                if error.errno not in (errno.EINVAL, errno.ENOENT):
                    raise


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _namespace(pid: int, kind: str) -> tuple[int, int] | None:
    try:
        found = Path(f"/proc/{pid}/ns/{kind}").stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
