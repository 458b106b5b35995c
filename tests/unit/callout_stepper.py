# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs programs one system call at a time (ptrace(2)), with all their children, to cut them off or interleave them."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

TRACEME, SYSCALL, SETOPTIONS, GETEVENTMSG = 0, 24, 0x4200, 0x4201
SYSGOOD, FORK, VFORK, CLONE, EXITKILL = 1, 2, 4, 8, 0x100000
SYSCALL_STOP = signal.SIGTRAP | 0x80
WALL = 0x40000000
SECONDS = 60.0

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_libc.ptrace.restype = ctypes.c_long


def _ptrace(request: int, pid: int, data: int = 0) -> None:
    if _libc.ptrace(request, pid, None, data) < 0:
        raise ProcessLookupError(ctypes.get_errno(), "ptrace")


def _new_child(pid: int) -> int:
    child = ctypes.c_ulong()
    _ptrace(GETEVENTMSG, pid, ctypes.addressof(child))
    return child.value


class Stepper:
    """Programs that stand still before each system call and after it."""

    def __init__(self) -> None:
        self.stopped: list[int] = []
        self.alive: set[int] = set()

    def start(self, argv: Sequence[str | bytes | Path], environment: dict[str, str]) -> None:
        pid = os.fork()
        if pid == 0:
            try:
                _ptrace(TRACEME, 0)
                os.kill(os.getpid(), signal.SIGSTOP)
                os.execve(argv[0], [os.fspath(word) for word in argv], environment)
            finally:
                os._exit(127)
        os.waitpid(pid, WALL)
        _ptrace(SETOPTIONS, pid, SYSGOOD | FORK | VFORK | CLONE | EXITKILL)
        self.alive.add(pid)
        self.stopped.append(pid)

    def run(self, steps: int, choose: Callable[[int], int] = lambda _: 0) -> bool:
        """Take so many steps, each with the task that ``choose`` picks from so many; false when all have ended."""
        for _ in range(steps):
            self._collect(wait=False)
            while self.alive and not self.stopped:
                self._collect(wait=True)
            if not self.alive:
                return False
            self._advance(self.stopped.pop(choose(len(self.stopped))))
        return True

    def cut(self) -> None:
        """Kill everything at once."""
        for pid in self.alive:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        end = time.monotonic() + SECONDS
        while self.alive and time.monotonic() < end:
            self._collect(wait=True)
            for pid in self.stopped:
                with suppress(ProcessLookupError):
                    _ptrace(SYSCALL, pid)
            self.stopped.clear()

    def _advance(self, pid: int) -> None:
        """Let one task run until it stops again, ends, or waits (for the disk, or for somebody else to move)."""
        with suppress(ProcessLookupError):
            _ptrace(SYSCALL, pid)
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            self._collect(wait=False)
            if pid in self.stopped or pid not in self.alive or _waits(pid):
                return
        raise AssertionError("a system call neither ended nor waited")

    def _collect(self, *, wait: bool) -> None:
        while self.alive:
            try:
                pid, status = os.waitpid(-1, WALL | (0 if wait else os.WNOHANG))
            except ChildProcessError:
                self.alive.clear()
                return
            if pid == 0:
                return
            wait = False
            self.alive.add(pid)
            if not os.WIFSTOPPED(status):
                self.alive.discard(pid)
            elif status >> 16:
                self.alive.add(_new_child(pid))
                self.stopped.append(pid)
            elif os.WSTOPSIG(status) in (SYSCALL_STOP, signal.SIGTRAP, signal.SIGSTOP):
                self.stopped.append(pid)
            else:
                _ptrace(SYSCALL, pid, os.WSTOPSIG(status))


def _waits(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "SD"
    except (FileNotFoundError, ProcessLookupError):
        return False
