# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs inside a lab node: starts programs for the test on the host, over a serial line.

Usage: ``agent.py DEVICE``. One JSON object per line in each direction.

from the host   {"id": 7, "argv": [...], "stdin": "text", "deadline": 10.0, "stream": false}
                {"id": 7, "signal": 9}
                {"id": 7, "copy": "/proc/locks", "to": "/lab/share/got"}
to the host     {"ready": true}
                {"id": 7, "line": "..."}                          each line of output, when streaming
                {"id": 7, "status": 0, "out": "...", "err": "..."}   at the end; 124 when the deadline passed

Every program runs in a session of its own, so that a deadline or a signal ends it with all its children. Files are
copied without one, because a fork and an exec take these kernels twenty times as long.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import tty
from pathlib import Path
from typing import Any

DEADLINE_PASSED = 124
#: A program that ended may have left children that hold its output open: wait this long for the rest.
STRAGGLERS = 0.5


class Agent:
    """The node's end of the serial line."""

    def __init__(self, device: str) -> None:
        self.line = os.open(device, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(self.line)
        self.write_lock = threading.Lock()
        self.running: dict[int, subprocess.Popen[bytes]] = {}

    def say(self, message: dict[str, Any]) -> None:
        data = json.dumps(message).encode() + b"\n"
        with self.write_lock:
            while data:
                data = data[os.write(self.line, data) :]

    def serve(self) -> None:
        self.say({"ready": True})
        with os.fdopen(os.dup(self.line), "rb") as requests:
            for request in requests:
                if request.strip():
                    self.obey(json.loads(request))

    def obey(self, request: dict[str, Any]) -> None:
        if "signal" in request:
            process = self.running.get(request["id"])
            if process is not None:
                _end(process, request["signal"])
        else:
            work = self.copy if "copy" in request else self.execute
            threading.Thread(target=work, args=(request,), daemon=True).start()

    def copy(self, request: dict[str, Any]) -> None:
        """Read to the end, because files in /proc do not know their size."""
        error = ""
        try:
            content, to = Path(request["copy"]).read_bytes(), Path(request["to"])
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(content)
        except OSError as reason:
            error = str(reason)
        self.say({"id": request["id"], "status": 1 if error else 0, "out": "", "err": _text(error.encode())})

    def execute(self, request: dict[str, Any]) -> None:
        number = request["id"]
        try:
            process = subprocess.Popen(
                request["argv"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            self.say({"id": number, "status": 127, "out": "", "err": _text(str(error).encode())})
            return
        self.running[number] = process
        kept: dict[str, list[bytes]] = {"out": [], "err": []}
        readers = [
            threading.Thread(target=self._collect, args=(number, stream, kept[name], request["stream"]), daemon=True)
            for name, stream in (("out", process.stdout), ("err", process.stderr))
        ]
        for reader in readers:
            reader.start()
        _feed(process, request["stdin"].encode())
        status = _wait(process, request["deadline"])
        for reader in readers:
            reader.join(STRAGGLERS)
        del self.running[number]
        self.say({"id": number, "status": status} | {name: _text(b"".join(kept[name])) for name in kept})

    def _collect(self, number: int, stream: Any, kept: list[bytes], streaming: bool) -> None:
        for line in stream:
            kept.append(line)
            if streaming:
                self.say({"id": number, "line": line.decode(errors="replace").rstrip("\n")})


def _wait(process: subprocess.Popen[bytes], deadline: float) -> int:
    end = time.monotonic() + deadline
    try:
        return process.wait(max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        _end(process, signal.SIGKILL)
        process.wait()
        return DEADLINE_PASSED


def _feed(process: subprocess.Popen[bytes], data: bytes) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it did not want its input
        process.stdin.write(data)
        process.stdin.close()


def _end(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it ended by itself a moment ago
        os.killpg(process.pid, number)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


if __name__ == "__main__":
    Agent(sys.argv[1]).serve()
