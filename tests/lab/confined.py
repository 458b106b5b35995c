# SPDX-License-Identifier: GPL-2.0-or-later
"""Processes that cannot outlive the test, whatever happens to it.

A node's kernel is a dozen processes, and killing one of them leaves the others running guest code on the host.
So each node is started in a process-id namespace of its own: when the namespace's first process dies, the host's
kernel kills all others in it, at once and before the death is reported (pid_namespaces(7)). The first process is
told to die when its parent does (PR_SET_PDEATHSIG), and so is the parent when the test process goes away, even by
SIGKILL.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

#: How long the host's kernel may take to tear a process-id namespace down.
END_SECONDS = 30.0


class Confined:
    """A program and all that it starts, ended as one."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        stdin: IO[bytes] | int = subprocess.DEVNULL,
        stdout: IO[bytes] | int = subprocess.DEVNULL,
        stderr: IO[bytes] | int = subprocess.STDOUT,
        pass_fds: Sequence[int] = (),
    ) -> None:
        """Start ``argv``. Call from the main thread: the parent-death signal fires when the calling thread ends."""
        self.process = subprocess.Popen(
            [
                "setpriv",
                "--pdeathsig",
                "KILL",
                "--",
                "unshare",
                "--pid",
                "--fork",
                "--kill-child=KILL",
                "--",
                *argv,
            ],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=pass_fds,
            start_new_session=True,
        )

    def running(self) -> bool:
        return self.process.poll() is None

    def end(self) -> None:
        """Kill everything, now, and return when all of it is gone.

        The namespace's first process is killed, not its parent: the parent ends after it, and so proves it.
        """
        for pid in self._first():
            os.kill(pid, signal.SIGKILL)
        try:
            self.process.wait(END_SECONDS)
        finally:
            self.process.kill()
            self.process.wait(END_SECONDS)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def stop(self) -> None:
        """Freeze it where it stands.

        The processes that the node's kernel traces stop by themselves, because nobody lets them go on; a signal
        would be taken for one of the guest's own.
        """
        for pid in self._untraced():
            os.kill(pid, signal.SIGSTOP)

    def go_on(self) -> None:
        for pid in self._untraced():
            os.kill(pid, signal.SIGCONT)

    def _first(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        try:
            return [int(pid) for pid in children.read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            return []

    def _untraced(self) -> list[int]:
        return [pid for first in self._first() for pid in namespace_of(first) if _tracer(pid) == 0]


def namespace_of(first: int) -> Iterator[int]:
    """Every process in the process-id namespace of ``first``."""
    namespace = Path(f"/proc/{first}/ns/pid").readlink()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (entry / "ns/pid").readlink() == namespace:
                    yield int(entry.name)


def _tracer(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return -1
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("TracerPid:"))
