# SPDX-License-Identifier: GPL-2.0-or-later
"""One lab node: a real Linux kernel, run as a process of the host (User Mode Linux)."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import queue
import shutil
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab.confined import Confined

#: The Debian package user-mode-linux.
KERNEL = "/usr/bin/linux.uml"
MODULES = "/usr/lib/uml/modules"
#: Seconds beyond a command's own deadline before its node counts as hung.
SLACK = 15.0
#: Seconds to copy a file.
COPY = 75.0


class NodeDown(Exception):
    """The node does not answer: it was cut, it hangs, or it crashed."""


@dataclass(frozen=True, slots=True)
class Result:
    """How a command on a node ended. ``status`` is 124 when it was killed at its deadline."""

    status: int
    out: str
    err: str

    def __str__(self) -> str:
        return f"status {self.status}\n{self.out}{self.err}"


class CommandError(AssertionError):
    """A command that was to succeed did not."""


class Job:
    """A program running on a node."""

    def __init__(self, node: Node, number: int, what: str) -> None:
        self.node = node
        self.what = what
        self._number = number
        self._result: Result | None = None
        self._ended = threading.Event()
        #: What it has said so far, with the host's monotonic time at which each line arrived.
        self.lines: queue.SimpleQueue[tuple[float, str]] = queue.SimpleQueue()

    def wait(self, seconds: float) -> Result:
        """Its result; raises NodeDown when none has come in time."""
        if not self._ended.wait(seconds):
            raise NodeDown(f"{self.node.name}: no word of '{self.what}' for {seconds:g} s")
        if self._result is None:
            raise NodeDown(f"{self.node.name} went down during '{self.what}'")
        return self._result

    def ended(self) -> bool:
        return self._ended.is_set()

    def signal(self, number: int) -> None:
        self.node.tell({"id": self._number, "signal": number})

    def take(self, message: dict[str, Any] | None) -> bool:
        """Take a message of the agent's (None: the node is gone); true at the end."""
        if message is not None and "line" in message:
            self.lines.put((time.monotonic(), message["line"]))
            return False
        if message is not None:
            texts = [base64.b64decode(message[name]).decode(errors="replace") for name in ("out", "err")]
            self._result = Result(message["status"], *texts)
        self._ended.set()
        return True


class Node:
    """A kernel with a console, a kernel log, disks, one network cable and an agent that runs commands.

    ``directory`` gets ``console.log`` and ``kernel.log``; ``share`` in it is seen by the node as /lab/share.
    """

    def __init__(self, name: str, directory: Path, arguments: Callable[[], Sequence[str]]) -> None:
        self.name = name
        self.directory = directory
        self.share = directory / "share"
        self.share.mkdir(parents=True, exist_ok=True)
        self._arguments = arguments
        self._kernel: Confined | None = None
        self._line: socket.socket | None = None
        self._jobs: dict[int, Job] = {}
        self._numbers = 0
        self._lock = threading.Lock()
        self._ready = threading.Event()

    @property
    def console_log(self) -> Path:
        return self.directory / "console.log"

    @property
    def kernel_log(self) -> Path:
        return self.directory / "kernel.log"

    # -- power ---------------------------------------------------------------------------------------------

    def power_on(self) -> None:
        """Start the kernel and return at once; ``wait_ready`` waits for the agent."""
        assert self._kernel is None, f"{self.name} is on already"
        ours, theirs = socket.socketpair()
        self._ready.clear()
        with self.console_log.open("ab") as console, self.kernel_log.open("ab") as log:
            self._kernel = Confined(
                [
                    KERNEL,
                    *self._arguments(),
                    f"lab.name={self.name}",
                    f"lab.modules={MODULES}",
                    f"lab.share={self.share}",
                    "con=null",
                    "con0=null,fd:1",
                    "ssl=null",
                    f"ssl0=fd:{theirs.fileno()},fd:{theirs.fileno()}",
                    f"ssl1=null,fd:{log.fileno()}",
                    "console=ttyS1",
                    "console=tty0",
                    "quiet",
                    f"umid={self.name}",
                    f"uml_dir={self.directory}",
                ],
                stdout=console,
                pass_fds=(theirs.fileno(), log.fileno()),
            )
        theirs.close()
        self._line = ours
        threading.Thread(target=self._listen, args=(ours,), name=f"{self.name} agent", daemon=True).start()

    def wait_ready(self, seconds: float = 60.0) -> None:
        """Until the node runs commands. Raises NodeDown, with the end of its console, when it does not boot."""
        end = time.monotonic() + seconds
        while not self._ready.wait(0.05):
            if self._kernel is None or not self._kernel.running() or time.monotonic() > end:
                tail = self.console_log.read_text(errors="replace").splitlines()[-15:]
                raise NodeDown("\n".join([f"{self.name} does not boot; end of {self.console_log}:", *tail]))

    def cut_power(self) -> None:
        """End the node between two instructions. What it had not written to its disks is lost."""
        if self._kernel is not None:
            self._kernel.end()
            self._kernel = None
        if self._line is not None:
            with contextlib.suppress(OSError):
                self._line.shutdown(socket.SHUT_RDWR)
            self._line = None

    def is_on(self) -> bool:
        return self._kernel is not None and self._kernel.running()

    def hang(self) -> None:
        """Stop every processor of the node; it answers nothing, and does not know how long it slept."""
        assert self._kernel is not None
        self._kernel.stop()

    def resume(self) -> None:
        assert self._kernel is not None
        self._kernel.go_on()

    def keep_logs(self, logs: Path) -> None:
        """Copy the console and the kernel log to ``logs``, as NAME.console.log and NAME.kernel.log."""
        for log in (self.console_log, self.kernel_log):
            if log.exists():
                shutil.copy(log, logs / f"{self.name}.{log.name}")

    # -- commands ------------------------------------------------------------------------------------------

    def run(self, *argv: str, deadline: float = 60.0, stdin: str = "") -> Result:
        """Run a program on the node to its end, whatever its status."""
        return self.start(*argv, deadline=deadline, stdin=stdin, stream=False).wait(deadline + SLACK)

    def check(self, *argv: str, deadline: float = 60.0, stdin: str = "") -> str:
        """Run a program that has to succeed; its output."""
        result = self.run(*argv, deadline=deadline, stdin=stdin)
        if result.status != 0:
            raise CommandError(f"{self.name}: '{' '.join(argv)}' ended with {result}")
        return result.out

    def shell(self, script: str, deadline: float = 60.0) -> str:
        """Run a piece of shell that has to succeed; its output."""
        return self.check("sh", "-euc", script, deadline=deadline)

    def start(self, *argv: str, deadline: float = 600.0, stdin: str = "", stream: bool = True) -> Job:
        """Start a program and go on; its lines arrive in ``Job.lines`` while it runs."""
        return self._ask(" ".join(argv), {"argv": argv, "stdin": stdin, "deadline": deadline, "stream": stream})

    def put(self, content: bytes | str, path: str) -> None:
        """Write a file on the node."""
        staged = self.share / "put"
        staged.write_bytes(content.encode() if isinstance(content, str) else content)
        self._copy("/lab/share/put", path)

    def get(self, path: str) -> bytes:
        """Read a file of the node."""
        self._copy(path, "/lab/share/got")
        return (self.share / "got").read_bytes()

    def tell(self, message: dict[str, Any]) -> None:
        line = self._line
        if line is None:
            raise NodeDown(f"{self.name} is off")
        with self._lock:
            line.sendall(json.dumps(message).encode() + b"\n")

    def _copy(self, path: str, to: str) -> None:
        result = self._ask(f"copy {path} to {to}", {"copy": path, "to": to}).wait(COPY)
        if result.status != 0:
            raise CommandError(f"{self.name}: {result.err}")

    def _ask(self, what: str, request: dict[str, Any]) -> Job:
        with self._lock:
            self._numbers += 1
            number = self._numbers
            job = self._jobs[number] = Job(self, number, what)
        self.tell({"id": number} | request)
        return job

    def _listen(self, line: socket.socket) -> None:
        """Hand what the agent says to the jobs, until the node is gone."""
        with contextlib.suppress(OSError), line.makefile("rb") as messages:
            for text in messages:
                with contextlib.suppress(json.JSONDecodeError):
                    self._hear(json.loads(text))
        line.close()
        with self._lock:
            orphans, self._jobs = list(self._jobs.values()), {}
        for job in orphans:
            job.take(None)

    def _hear(self, message: dict[str, Any]) -> None:
        if message.get("ready"):
            self._ready.set()
            return
        job = self._jobs.get(message["id"])
        if job is not None and job.take(message):
            with self._lock:
                self._jobs.pop(message["id"], None)


def free_of_guests(marker: str) -> list[int]:
    """Processes of this host whose command line names ``marker``: none, when a lab has cleaned up."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if marker.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found
