# SPDX-License-Identifier: GPL-2.0-or-later
"""Which sample a run draws: one that its header tells, that all its processes share, and that can be drawn again."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests import sampling
from tests.lab.root import CHECKOUT


@pytest.fixture
def unseeded(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv(sampling.SEED, "to be put back at the end")
    monkeypatch.delenv(sampling.SEED)
    return monkeypatch


def draw(what: str = "kills") -> list[int]:
    return [sampling.chance(what).randrange(1000) for _ in range(3)]


def test_the_same_seed_draws_the_same_sample_in_every_process_and_another_one_another(
    unseeded: pytest.MonkeyPatch,
) -> None:
    unseeded.setenv(sampling.SEED, "7")
    assert draw() == draw()
    before = draw()
    unseeded.setenv(sampling.SEED, "8")
    assert draw() != before


def test_each_test_draws_for_itself(unseeded: pytest.MonkeyPatch) -> None:
    unseeded.setenv(sampling.SEED, "7")
    assert draw("kills") != draw("power cuts")


@pytest.mark.usefixtures("unseeded")
def test_who_asks_first_settles_the_seed_for_the_processes_that_it_starts() -> None:
    seed = sampling.seed()
    assert os.environ[sampling.SEED] == str(seed)
    assert sampling.seed() == seed


def test_of_neighbouring_stories_one_is_told_and_each_of_them_by_some_seed(unseeded: pytest.MonkeyPatch) -> None:
    told: set[int] = set()
    for seed in range(40):
        unseeded.setenv(sampling.SEED, str(seed))
        drawn = sampling.sample(range(3 * sampling.ONE_OF - 1))
        assert [story // sampling.ONE_OF for story in drawn] == [0, 1, 2]
        told.update(drawn)
    assert told == set(range(3 * sampling.ONE_OF - 1))


def collected(level: str) -> set[str]:
    words = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "tests/lab"]
    settled = os.environ | {"NLMFO_TESTS": level, sampling.SEED: "7"}
    done = subprocess.run(words, cwd=CHECKOUT, env=settled, capture_output=True, text=True, timeout=60, check=False)
    return {line for line in done.stdout.splitlines() if "::" in line}


def test_a_sample_leaves_out_stories_and_none_of_those_that_are_always_told() -> None:
    every, some = collected("stories"), collected("sample")
    assert some < every
    assert len(some) < len(every) / 2
    assert not {story for story in every - some if "test_torture" in story or "test_interruption" in story}


def test_a_level_that_does_not_exist_is_refused() -> None:
    words = [sys.executable, "-m", "pytest", "--collect-only", "tests/unit/test_sampling.py"]
    wrong = os.environ | {"NLMFO_TESTS": "most"}
    done = subprocess.run(words, cwd=CHECKOUT, env=wrong, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "NLMFO_TESTS=most: it is one of sample, stories, all" in done.stderr
