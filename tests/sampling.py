# SPDX-License-Identifier: GPL-2.0-or-later
"""How much of what takes long a test run goes through: a sample that another run draws anew, or everything.

NLMFO_TESTS=all goes through everything. NLMFO_SEED=N draws the sample that a run before has printed in its header; all
processes of a run draw by the same one.
"""

from __future__ import annotations

import os
import random

SEED = "NLMFO_SEED"
EVERYTHING = os.environ.get("NLMFO_TESTS") == "all"


def seed() -> int:
    """Of this run. Whoever asks first settles it, for the processes that it starts as well."""
    return int(os.environ.setdefault(SEED, str(random.SystemRandom().randrange(1_000_000))))


def chance(what: str) -> random.Random:
    """Draws the sample of one test: the same in each process of a run, and whichever tests run beside it."""
    return random.Random(f"{seed()} {what}")
