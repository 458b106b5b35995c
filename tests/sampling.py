# SPDX-License-Identifier: GPL-2.0-or-later
"""How much of what takes long a test run goes through: a sample that another run draws anew, or everything.

NLMFO_TESTS says how much: ``sample`` some of the stories, which are the tests that take long; ``stories``, which goes
without saying, each of them; ``all`` also every moment or round of those that otherwise draw some. NLMFO_SEED=N draws
the sample that a run before has printed in its header; all processes of a run draw by the same one.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import TypeVar

Story = TypeVar("Story")

SEED = "NLMFO_SEED"
LEVELS = ("sample", "stories", "all")
LEVEL = os.environ.get("NLMFO_TESTS", "stories")
EVERYTHING = LEVEL == "all"
#: One of so many stories that take about as long is told in a sample.
ONE_OF = 4


def seed() -> int:
    """Of this run. Whoever asks first settles it, for the processes that it starts as well."""
    return int(os.environ.setdefault(SEED, str(random.SystemRandom().randrange(1_000_000))))


def chance(what: str) -> random.Random:
    """Draws the sample of one test: the same in each process of a run, and whichever tests run beside it."""
    return random.Random(f"{seed()} {what}")


def sample(stories: Sequence[Story]) -> list[Story]:
    """One of each ONE_OF neighbours: so a sample takes about as long as another one, if they are sorted by that."""
    draw = chance("stories")
    return [draw.choice(stories[at : at + ONE_OF]) for at in range(0, len(stories), ONE_OF)]
