# SPDX-License-Identifier: GPL-2.0-or-later
"""Which sample a run draws: one that its header tells, that all its processes share, and that can be drawn again."""

from __future__ import annotations

import os

import pytest

from tests import sampling


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
