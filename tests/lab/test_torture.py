# SPDX-License-Identifier: GPL-2.0-or-later
"""A short part of ``make torture``, its seed always the same; and its checker sees what it is there for."""

from __future__ import annotations

import pytest

from tests.lab.lab import Lab
from tests.torture.__main__ import Run
from tests.torture.world import Stage, World

SEED = "make test"
ROUNDS = 4


def run(lab: Lab, stage: Stage, rounds: int, *only: str) -> Run:
    return Run(World(lab, stage, SEED, print), rounds, only)


@pytest.mark.timeout(900)
def test_no_lock_is_granted_twice_and_no_increment_is_lost_in_rounds_of_trouble(lab: Lab) -> None:
    short = run(lab, Stage(), ROUNDS, "crossing", "newcomer", "bad_weather", "killed_run")
    assert [str(violation) for violation in short.go()] == []
    assert sum(short.world.takeovers.values()) >= ROUNDS
    assert len(short.world.history.holds) > 100


@pytest.mark.timeout(900)
def test_the_same_is_found_out_when_grace_is_over_before_clients_are_told(lab: Lab) -> None:
    assert run(lab, Stage(mutation="grace"), ROUNDS, "move", "power_cut").go() != []
