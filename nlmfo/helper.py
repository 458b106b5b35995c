# SPDX-License-Identifier: GPL-2.0-or-later
"""A child process that lives on and does one kind of work again and again: what writes to storage that may hang."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from typing import Never

from nlmfo.child import ENDING, end, fork, forking
from nlmfo.deadline import Deadline, poll_until
from nlmfo.errors import DeadlineExceeded, NlmfoError
from nlmfo.kernel import syscalls

#: Seconds for a helper to end by itself when nobody talks to it any more.
PATIENCE = 2.0


class Helper:
    """A child process that does one kind of work again and again, and is left behind when it hangs.

    ``work`` takes the bytes of one request; what it returns, the parent gets back. Requests are below 128 KiB.
    """

    def __init__(self, what: str, work: Callable[[bytes], bytes]) -> None:
        self._what = what
        with forking:
            self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._child, before = fork()
            if self._child == 0:
                _serve(work, theirs.fileno(), before)
            theirs.close()
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        except BaseException:  # interrupted: nobody will know of it
            self.close()
            raise

    def ask(self, request: bytes, *, deadline: float) -> bytes:
        """One request; raises DeadlineExceeded after ``deadline`` seconds, and NlmfoError when the work failed."""
        self._socket.settimeout(deadline)
        try:
            self._socket.send(request)
            answer = self._socket.recv(1 << 17)
        except TimeoutError:
            raise DeadlineExceeded(self._what, deadline) from None
        except OSError as error:
            raise NlmfoError(f"{self._what}: the process that did it died") from error
        if not answer:
            raise NlmfoError(f"{self._what}: the process that did it died")
        if answer[:1] == b"!":
            raise NlmfoError(f"{self._what}: {answer[1:].decode('utf-8', errors='replace')}")
        return answer[1:]

    def close(self) -> None:
        """End it: what it has open is closed when this returns, unless it hangs in the kernel."""
        self._socket.close()
        try:
            poll_until("its end", self._ended, Deadline(PATIENCE), interval=0.005)
        except DeadlineExceeded:
            end(self._child)

    def _ended(self) -> bool:
        return os.waitpid(self._child, os.WNOHANG) != (0, 0)


def _serve(work: Callable[[bytes], bytes], descriptor: int, before: set[int | signal.Signals]) -> Never:
    """The whole life of a helper."""
    try:
        with alone_with(descriptor, before) as parent:
            syscalls.reserve_memory()
            while request := parent.recv(1 << 17):
                try:
                    parent.send(b"." + work(request))
                except (OSError, NlmfoError) as error:
                    parent.send(b"!" + str(error).encode(errors="replace"))
    finally:
        os._exit(0)


def alone_with(descriptor: int, before: set[int | signal.Signals]) -> socket.socket:
    """Make of a forked child one that lives on: it holds nothing of its parent's but a socket, no lock, no pipe."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)  # it ends with its parent, who may have something to add
    forking.release()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    os.dup2(descriptor, 3)
    os.closerange(4, os.sysconf("SC_OPEN_MAX") if os.sysconf("SC_OPEN_MAX") > 0 else 65536)
    return socket.socket(fileno=3)
