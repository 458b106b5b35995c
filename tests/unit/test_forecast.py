# SPDX-License-Identifier: GPL-2.0-or-later
"""When something will be used up: right for what gets steadily less, and not led astray by what comes and goes."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlmfo.failover.forecast import DAY, FEWEST, HOUR, SHORTEST, WINDOWS, used_up_in

PACES = st.floats(1, 1e6)
LEFT = st.floats(0, 1e15)
HOURS = st.integers(7, 14 * 24)
STARTS = st.floats(0, 4e9)


def falling(pace: float, left: float, hours: int, start: float = 0.0) -> list[tuple[float, float]]:
    """A point each hour, of what gets less by ``pace`` a second and is ``left`` at the end."""
    return [(start + n * HOUR, left + (hours - n) * HOUR * pace) for n in range(hours + 1)]


@given(PACES, LEFT, HOURS, STARTS)
def test_what_gets_steadily_less_is_used_up_when_division_says_so(
    pace: float, left: float, hours: int, start: float
) -> None:
    found = used_up_in(falling(pace, left, hours, float(round(start))))
    assert found is not None
    assert found >= 0
    # The slope of floats: what is left may be so much that an hour hardly changes it.
    assert math.isclose(found, left / pace, rel_tol=1e-3 + 1e-12 * (left / pace), abs_tol=1e-3)


@given(st.lists(st.floats(0, 1e15), max_size=60), st.integers(1, 10))
def test_whatever_was_seen_the_answer_is_a_time_or_none(left: list[float], hours: int) -> None:
    found = used_up_in([(n * hours * HOUR, each) for n, each in enumerate(left)]) if left else None
    assert found is None or found >= 0


@given(PACES, st.floats(0, 1e12), HOURS)
def test_what_gets_more_or_stays_is_never_used_up(pace: float, left: float, hours: int) -> None:
    assert used_up_in([(at, -seen + 1e15) for at, seen in falling(pace, left, hours)]) is None
    assert used_up_in([(at, left) for at, _ in falling(pace, left, hours)]) is None


@given(PACES, st.floats(1e6, 1e12), st.integers(24, 48), st.randoms(use_true_random=False))
def test_a_tenth_of_the_points_may_be_anything(pace: float, left: float, hours: int, chance: random.Random) -> None:
    points = falling(pace, left, hours)
    for number in chance.sample(range(hours), hours // 10):
        points[number] = (points[number][0], chance.uniform(0, 1e15))
    found = used_up_in(points)
    assert found is not None
    assert math.isclose(found, left / pace, rel_tol=0.02, abs_tol=1)


@pytest.mark.parametrize(
    "points", [[], falling(1, 1, FEWEST - 2), falling(1, 1, int(SHORTEST / HOUR) - 1), falling(1, 1, 1)]
)
def test_a_short_time_says_nothing(points: list[tuple[float, float]]) -> None:
    assert used_up_in(points) is None


def test_many_points_in_a_moment_say_nothing() -> None:
    assert used_up_in([(float(n), 1e6 - n) for n in range(100)]) is None


def test_a_leak_that_began_yesterday_is_seen_after_days_of_quiet() -> None:
    quiet = [(n * HOUR, 48e9) for n in range(12 * 24)]
    leak = [(quiet[-1][0] + n * HOUR, 48e9 - n * 1e9) for n in range(1, 30)]
    found = used_up_in([*quiet, *leak])
    assert found is not None
    assert 15 * HOUR < found < 30 * HOUR


def test_what_fills_once_a_week_and_is_cleaned_up_shows_in_the_longer_window_only() -> None:
    """The shorter one says that it would be full; whoever asks on a quiet day hears nothing."""
    days = [(n * HOUR, 50e9 if n % 168 < 100 else 20e9) for n in range(14 * 24)]
    assert used_up_in(days[: 168 + 90]) is None
    assert max(WINDOWS) >= 14 * DAY
