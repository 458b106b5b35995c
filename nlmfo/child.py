# SPDX-License-Identifier: GPL-2.0-or-later
"""Calls a function in a child process, so that what hangs in the kernel can be left behind at a deadline."""

from __future__ import annotations

import os
import pickle
import select
import signal
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Never, TypeVar

from nlmfo.deadline import Deadline, poll_until
from nlmfo.errors import DeadlineExceeded, NlmfoError
from nlmfo.run import KILL

T = TypeVar("T")


def in_child(what: str, function: Callable[[], T], *, deadline: float) -> T:
    """Call ``function`` in a forked child and return what it returns; its exception is raised here.

    ``what`` names the work in errors. After ``deadline`` seconds the child is killed and DeadlineExceeded raised: a
    child that hangs in a file system ends when it can, and nobody waits for it.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _live(function, writing)
    os.close(writing)
    try:
        answer = _read_all(reading, deadline)
    except TimeoutError:
        _end(child)
        raise DeadlineExceeded(what, deadline) from None
    except BaseException:  # interrupted: what it still did would escape the rollback
        _end(child)
        raise
    finally:
        os.close(reading)
    os.waitpid(child, 0)
    if not answer:
        raise NlmfoError(f"{what}: the process that did it died")
    good, value = pickle.loads(answer)
    if not good:
        raise value
    return value  # type: ignore[no-any-return]


def _live(function: Callable[[], Any], writing: int) -> Never:
    """The forked child's whole life."""
    try:
        answer = pickle.dumps((True, function()))
    except BaseException as error:  # whatever it is, the parent raises it
        error.add_note("".join(traceback.format_tb(error.__traceback__)))
        answer = pickle.dumps((False, _portable(error)))
    try:
        while answer:
            answer = answer[os.write(writing, answer) :]
    finally:
        os._exit(0)


def _end(child: int) -> None:
    """Kill it; wait for a moment only, because a child that hangs in the kernel ends when it can."""
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
    while True:
        ready, _, _ = select.select([descriptor], [], [], limit.remaining())
        if not ready:
            raise TimeoutError
        part = os.read(descriptor, 65536)
        if not part:
            return b"".join(parts)
        parts.append(part)
