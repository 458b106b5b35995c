# SPDX-License-Identifier: GPL-2.0-or-later
"""Calls a function in a child process, so that what hangs in the kernel can be left behind at a deadline."""

from __future__ import annotations

import os
import pickle
import selectors
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Never, Protocol, TypeVar

from nlmfo.deadline import Deadline, poll_until
from nlmfo.errors import DeadlineExceeded, NlmfoError
from nlmfo.kernel import syscalls
from nlmfo.run import KILL

T = TypeVar("T")

#: Seconds for a helper to end by itself when nobody talks to it any more.
PATIENCE = 2.0
#: What ends a run: the command line has handlers for them that raise KeyboardInterrupt.
ENDING = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
#: A child that is forked while another's pipe is open for writing would keep that one from ever ending.
forking = threading.Lock()


class Call(Protocol):
    """Calls a function in another process, and returns what it returns or raises what it raises."""

    def __call__(self, function: Callable[[], T], *, deadline: float) -> T:
        """Raises DeadlineExceeded after ``deadline`` seconds: the process is left behind then."""


def in_child(what: str, function: Callable[[], T], *, deadline: float) -> T:
    """Call ``function`` in a forked child and return what it returns; its exception is raised here.

    ``what`` names the work in errors. After ``deadline`` seconds the child is killed and DeadlineExceeded raised: a
    child that hangs in a file system ends when it can, and nobody waits for it.
    """
    with forking:
        reading, writing = os.pipe()
        child, before = fork()
        if child == 0:
            _live(function, reading, writing, before)
        os.close(writing)
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        answer = _read_all(reading, deadline)
    except TimeoutError:
        end(child)
        raise DeadlineExceeded(what, deadline) from None
    except BaseException:  # interrupted: what it still did would escape the rollback
        end(child)
        raise
    finally:
        os.close(reading)
    os.waitpid(child, 0)
    if not answer:
        raise NlmfoError(f"{what}: the process that did it died")
    return raise_or_return(answer)  # type: ignore[no-any-return]


def own_child(function: Callable[[], T], *, deadline: float) -> T:
    """The plainest Call: a child for it alone."""
    return in_child("work in a child process", function, deadline=deadline)


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


def fork() -> tuple[int, set[int | signal.Signals]]:
    """Fork, with the signals blocked that end a run; the mask that was before is for both to put back.

    The child leads a process group: whoever ends it ends what it has started as well, and a terminal's Ctrl-C is for
    its parent.

    An interruption in what Python runs at a fork (logging has hooks there) is printed and lost. In the child it would
    be worse: it must be caught there, or the child does what its parent does when it is interrupted.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
        return child, before
    except OSError:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        raise


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


def _live(function: Callable[[], Any], reading: int, writing: int, before: set[int | signal.Signals]) -> Never:
    """The forked child's whole life."""
    try:
        forking.release()  # it was born with it, and may have a child of its own
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(reading)
        answer = outcome(function)
        while answer:
            answer = answer[os.write(writing, answer) :]
    finally:
        os._exit(0)


def outcome(function: Callable[[], Any]) -> bytes:
    """What came of a call, in a form that a pipe takes: ``raise_or_return`` does either."""
    try:
        return pickle.dumps((True, function()))
    except BaseException as error:  # whatever it is, the parent raises it
        import traceback  # noqa: PLC0415 - 5 ms that only a failure needs

        error.add_note("".join(traceback.format_tb(error.__traceback__)))
        return pickle.dumps((False, _portable(error)))


def raise_or_return(answer: bytes) -> Any:
    good, value = pickle.loads(answer)
    if not good:
        raise value
    return value


def end(child: int) -> None:
    """Kill it, and what it has started; wait for a moment only: one that hangs in the kernel ends when it can."""
    with suppress(ProcessLookupError):  # it was born just now, and leads no group yet
        os.killpg(child, signal.SIGKILL)
    os.kill(child, signal.SIGKILL)
    with suppress(DeadlineExceeded):
        poll_until("its end", lambda: os.waitpid(child, os.WNOHANG) != (0, 0), Deadline(KILL), interval=0.01)


def _portable(error: BaseException) -> BaseException:
    """The error itself if it survives the pipe, else its text."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return NlmfoError(f"{type(error).__name__}: {error}")
    return error


def _read_all(descriptor: int, deadline: float) -> bytes:
    limit = Deadline(deadline)
    parts: list[bytes] = []
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while True:
            # Time that is up still leaves a look: what is there by now counts.
            if not selector.select(limit.remaining()):
                raise TimeoutError
            part = os.read(descriptor, 65536)
            if not part:
                return b"".join(parts)
            parts.append(part)
