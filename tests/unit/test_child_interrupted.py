# SPDX-License-Identifier: GPL-2.0-or-later
"""An interruption at the moment of a fork is neither lost, nor does the child take it for its own."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from nlmfo.child import in_child
from nlmfo.helper import Helper
from tests.unit.processes import children

#: Processes in which the hooks below send a signal, before or after a fork.
armed: dict[str, int] = {}


def _hook(when: str) -> None:
    if armed.get(when) == os.getpid():
        # To the thread that would hear it: a runner of tests has others, which block nothing.
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        time.sleep(0)  # here Python would run the handler


# They stay for good: nothing takes a hook away again.
os.register_at_fork(before=lambda: _hook("before"), after_in_parent=lambda: _hook("after"))


@pytest.fixture(autouse=True, params=["before", "after"])
def interrupting(request: pytest.FixtureRequest) -> Iterator[None]:
    """SIGTERM interrupts, as in the command line, and comes at each fork of this process."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    handler = signal.signal(signal.SIGTERM, interrupt)
    armed[request.param] = os.getpid()
    try:
        yield
    finally:
        armed.clear()
        signal.signal(signal.SIGTERM, handler)


def test_an_interruption_during_the_fork_of_a_child_is_heard_and_the_child_ended() -> None:
    began, others = time.monotonic(), children()
    with pytest.raises(KeyboardInterrupt):
        in_child("sleeping", lambda: time.sleep(30), deadline=60)
    assert time.monotonic() - began < 20
    assert children() <= others
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_an_interruption_during_the_fork_of_a_helper_is_heard() -> None:
    with pytest.raises(KeyboardInterrupt):
        Helper("nothing", lambda request: request)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_the_child_itself_can_be_interrupted() -> None:
    armed.clear()

    def work() -> None:
        # To the thread that would hear it: a runner of tests has others, which block nothing.
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        time.sleep(30)

    with pytest.raises(KeyboardInterrupt):
        in_child("work", work, deadline=20)


def test_a_fork_that_fails_leaves_no_signal_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    armed.clear()

    def no_fork() -> int:
        raise BlockingIOError("too many processes")

    monkeypatch.setattr(os, "fork", no_fork)
    with pytest.raises(BlockingIOError):
        in_child("work", lambda: None, deadline=20)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
