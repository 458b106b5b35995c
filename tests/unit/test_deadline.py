# SPDX-License-Identifier: GPL-2.0-or-later
"""Deadlines keep to the monotonic clock, and polling looks once at least and once more at the end."""

from __future__ import annotations

import time

import pytest

from nlmfo.deadline import Deadline, poll_until
from nlmfo.errors import DeadlineExceeded, ExitCode


class Clock:
    """A monotonic clock that only moves when somebody sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_the_time_that_remains_shrinks_to_zero_and_not_below(clock: Clock) -> None:
    limit = Deadline(3)
    assert limit.remaining() == 3
    clock.now += 2
    assert limit.remaining() == 1
    assert not limit.passed()
    clock.now += 10
    assert limit.remaining() == 0
    assert limit.passed()


def test_setting_the_wall_clock_moves_no_deadline(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    assert clock.now
    limit = Deadline(3)
    monkeypatch.setattr(time, "time", lambda: 2e9)
    assert limit.remaining() == 3


def test_what_is_true_already_is_not_waited_for(clock: Clock) -> None:
    poll_until("it", lambda: True, Deadline(0))
    assert clock.slept == []


def test_polling_ends_as_soon_as_it_is_true(clock: Clock) -> None:
    answers = iter((False, False, True))
    poll_until("it", lambda: next(answers), Deadline(60), interval=0.5)
    assert clock.slept == [0.5, 0.5]


def test_when_time_is_up_the_error_names_what_was_waited_for_and_how_long(clock: Clock) -> None:
    with pytest.raises(DeadlineExceeded, match="nfsd to stop: not within 2 s") as caught:
        poll_until("nfsd to stop", lambda: False, Deadline(2), interval=0.5)
    assert caught.value.exit_code is ExitCode.DEADLINE
    assert sum(clock.slept) == 2


def test_the_last_look_comes_after_the_last_wait(clock: Clock) -> None:
    poll_until("it", lambda: clock.now >= 1002, Deadline(2), interval=0.75)
    assert clock.now == 1002


def test_no_wait_is_longer_than_the_time_that_remains(clock: Clock) -> None:
    with pytest.raises(DeadlineExceeded):
        poll_until("it", lambda: False, Deadline(1), interval=0.75)
    assert clock.slept == [0.75, 0.25]
