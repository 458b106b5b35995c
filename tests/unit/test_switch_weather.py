# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's switch loses, doubles and delays the share of frames that it is told to, and none in fine weather."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from tests.lab.switch import Weather

FRAMES = [number.to_bytes(2, "big") for number in range(5000)]
PORT: Any = object()


def arriving(weather: Weather) -> list[int]:
    return [int.from_bytes(frame, "big") for sent in FRAMES for frame, _ in weather.through(sent, PORT)]


def test_in_fine_weather_everything_arrives_once_and_in_order() -> None:
    assert arriving(Weather()) == list(range(len(FRAMES)))


def test_frames_are_lost_and_nothing_else_happens() -> None:
    came = arriving(Weather(lost=0.1, seed=1))
    assert came == sorted(set(came))
    assert 0.85 < len(came) / len(FRAMES) < 0.95


def test_frames_are_doubled_and_none_is_lost() -> None:
    came = arriving(Weather(doubled=0.1, seed=1))
    assert came == sorted(came)
    assert len(set(came)) == len(FRAMES)
    assert 1.05 < len(came) / len(FRAMES) < 1.15


def test_a_late_frame_comes_after_the_next_one_and_from_where_it_came() -> None:
    came = arriving(Weather(late=0.1, seed=1))
    late = [second for first, second in pairwise(came) if second < first]
    assert 0.05 < len(late) / len(FRAMES) < 0.15
    assert all(came[came.index(frame) - 1] == frame + 1 for frame in late)
    other: Any = object()
    weather = Weather(late=1.0)
    assert weather.through(b"a", PORT) == []
    assert weather.through(b"b", other) == [(b"b", other), (b"a", PORT)]


def test_the_same_seed_is_the_same_weather() -> None:
    assert arriving(Weather(0.1, 0.1, 0.1, seed=7)) == arriving(Weather(0.1, 0.1, 0.1, seed=7))
    assert arriving(Weather(0.1, 0.1, 0.1, seed=7)) != arriving(Weather(0.1, 0.1, 0.1, seed=8))
