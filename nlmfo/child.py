# SPDX-License-Identifier: GPL-2.0-or-later
"""Calls a function in a child process, so that what hangs in the kernel can be left behind at a deadline.

Children that live on, for more than one call: nlmfo.helper and nlmfo.agent.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Never, Protocol, TypeVar

from nlmfo.deadline import Deadline, poll_until
from nlmfo.errors import DeadlineExceeded, NlmfoError
from nlmfo.run import KILL

T = TypeVar("T")

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
    readable = select.poll()
    readable.register(descriptor, select.POLLIN)
    while True:
        # Time that is up still leaves a look: what is there by now counts.
        if not readable.poll(limit.remaining() * 1000):
            raise TimeoutError
        part = os.read(descriptor, 65536)
        if not part:
            return b"".join(parts)
        parts.append(part)
