# SPDX-License-Identifier: GPL-2.0-or-later
"""A short part of ``make torture``, its seed always the same; and its checker sees what it is there for.

By default one safety step is taken out; NLMFO_TESTS=all takes out each in turn, and has the naive way, too.
"""

from __future__ import annotations

import pytest

from tests.lab.lab import Lab
from tests.sampling import EVERYTHING
from tests.torture.__main__ import Run
from tests.torture.world import Stage, World

pytestmark = pytest.mark.always

SEED = "make test"
ROUNDS = 4
#: What goes wrong without each safety step (tests/torture/mutant.py), and in how many rounds at the most.
FOUND_IN = {
    "grace": (3, "move", "power_cut"),
    "exports": (3, "move", "power_cut"),
    "freeze": (4, "move"),
    "proof": (6, "impatience", "hang"),
    "fence": (12, "hang_and_wake"),
    "durability": (8, "newcomer"),
    "naive": (12, "move", "power_cut"),
}


def run(lab: Lab, stage: Stage, rounds: int, *only: str) -> Run:
    return Run(World(lab, stage, SEED, print), rounds, only)


@pytest.mark.timeout(900)
def test_no_lock_is_granted_twice_and_no_increment_is_lost_in_rounds_of_trouble(lab: Lab) -> None:
    short = run(lab, Stage(), ROUNDS, "crossing", "newcomer", "bad_weather", "killed_run")
    assert [str(violation) for violation in short.go()] == []
    assert sum(short.world.takeovers.values()) >= ROUNDS
    assert len(short.world.history.holds) > 100


@pytest.mark.timeout(900)
@pytest.mark.parametrize("mutation", FOUND_IN if EVERYTHING else ["grace"])
def test_without_one_safety_step_the_clients_find_out(lab: Lab, mutation: str) -> None:
    rounds, *only = FOUND_IN[mutation]
    without = run(lab, Stage(mutation=mutation), int(rounds), *map(str, only))
    found = without.go()
    assert found != []
    assert not found[0].what.startswith("stuck"), found[0]
