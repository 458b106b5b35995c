# SPDX-License-Identifier: GPL-2.0-or-later
"""A child process that calls one function after the other, for work that comes in many small pieces.

A fork of a large process takes milliseconds, and a tenth of a second where page tables are expensive; clients wait
meanwhile. So a run forks its agents before the first step at which anybody waits.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Never, TypeVar

from nlmfo.child import end, fork, forking, in_child, outcome, raise_or_return
from nlmfo.deadline import Deadline
from nlmfo.errors import DeadlineExceeded, NlmfoError
from nlmfo.helper import alone_with
from nlmfo.kernel import syscalls

T = TypeVar("T")

#: Seconds to wait for another call's end, before a child of its own is the faster way; and to begin.
TURN, START = 1.0, 30.0

_LENGTH = struct.Struct("!Q")


class Agent:
    """One such child. It is forked at its first call, or when ``start`` says so; whoever ended it, the next call has
    another. What cannot be sent to it, a function without a name of its own, and what comes while it is at work, gets a
    child of its own.
    """

    def __init__(self, what: str, enter: Callable[[], object]) -> None:
        """``what`` names the work in errors; ``enter`` is called in the child before anything else."""
        self._what = what
        self._enter = enter
        self._turn = threading.Lock()
        self._child = 0
        self._socket: socket.socket | None = None

    def start(self) -> None:
        """Fork it now, unless it lives, and have it copy what it shares with us before that is needed."""
        with self._turn, suppress(NlmfoError):
            self._ask(pickle.dumps(syscalls.reserve_memory), START)

    def call(self, function: Callable[[], T], *, deadline: float) -> T:
        """Like ``nlmfo.child.in_child``: what hangs is killed and left behind after ``deadline`` seconds."""
        request = _pickled(function)
        if request is None or not self._turn.acquire(timeout=TURN):
            return in_child(self._what, lambda: _after(self._enter, function), deadline=deadline)
        try:
            return raise_or_return(self._ask(request, deadline))  # type: ignore[no-any-return]
        finally:
            self._turn.release()

    def close(self) -> None:
        """End it, if there is one: it holds what it has entered."""
        with self._turn:
            self._end()

    def _ask(self, request: bytes, deadline: float) -> bytes:
        limit = Deadline(deadline)
        try:
            channel = self._living()
            _send(channel, request, limit)
            return _receive(channel, limit)
        except TimeoutError:
            self._end()
            raise DeadlineExceeded(self._what, deadline) from None
        except (EOFError, OSError) as error:
            self._end()
            raise NlmfoError(f"{self._what}: the process that did it died") from error
        except BaseException:  # interrupted: what it still did would escape the rollback
            self._end()
            raise

    def _living(self) -> socket.socket:
        if self._socket is not None and os.waitpid(self._child, os.WNOHANG) == (0, 0):
            return self._socket
        if self._socket is not None:
            self._socket.close()
        with forking:
            self._socket, theirs = socket.socketpair()
            self._child, before = fork()
            if self._child == 0:
                _live(self._enter, theirs.fileno(), before)
            theirs.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return self._socket

    def _end(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            with suppress(ProcessLookupError, ChildProcessError):
                end(self._child)


def _live(enter: Callable[[], object], descriptor: int, before: set[int | signal.Signals]) -> Never:
    """The whole life of an agent: it enters when it is first needed, and is gone when nobody talks to it any more."""
    try:
        with alone_with(descriptor, before) as parent, suppress(EOFError, OSError):
            entered = False
            while True:
                request = _receive(parent, None)
                answer = b"" if entered else outcome(enter)
                if entered or pickle.loads(answer)[0]:
                    entered = True
                    answer = outcome(pickle.loads(request))
                _send(parent, answer, None)
    finally:
        os._exit(0)


def _after(enter: Callable[[], object], function: Callable[[], T]) -> T:
    enter()
    return function()


def _pickled(function: Callable[[], object]) -> bytes | None:
    try:
        return pickle.dumps(function)
    except (pickle.PicklingError, AttributeError, TypeError):
        return None


def _send(channel: socket.socket, content: bytes, limit: Deadline | None) -> None:
    channel.settimeout(None if limit is None else max(limit.remaining(), 0.001))
    channel.sendall(_LENGTH.pack(len(content)) + content)


def _receive(channel: socket.socket, limit: Deadline | None) -> bytes:
    (length,) = _LENGTH.unpack(_exactly(channel, _LENGTH.size, limit))
    return _exactly(channel, length, limit)


def _exactly(channel: socket.socket, size: int, limit: Deadline | None) -> bytes:
    """Raises EOFError when nobody is there any more, TimeoutError when time is up."""
    parts = []
    while size:
        channel.settimeout(None if limit is None else max(limit.remaining(), 0.001))
        part = channel.recv(min(size, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
