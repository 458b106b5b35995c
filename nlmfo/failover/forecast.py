# SPDX-License-Identifier: GPL-2.0-or-later
"""When something that gets less will be used up, from how much there was of it over time. Pure.

The pace is that of Theil and Sen: the median of the slopes between all pairs of points. Up to a quarter of the points
may be anything (a large file that came and went, a clock that was set), and it stays near the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

HOUR, DAY = 3600.0, 86400.0
#: Less than this tells nothing yet: points, and seconds between the first and the last.
FEWEST, SHORTEST = 4, 6 * HOUR
#: A leak that began yesterday does not show in the pace of two weeks, nor what happens once a week in that of two days.
WINDOWS = (2 * DAY, 14 * DAY)

Points = Sequence[tuple[float, float]]


def used_up_in(points: Points) -> float | None:
    """Seconds from the last point on; None where it gets no less, or where nobody can tell yet.

    ``points``: seconds since some moment, rising, and how much was left then. The worse of both windows counts.
    """
    found = [_at_the_pace_of([each for each in points if each[0] >= points[-1][0] - window]) for window in WINDOWS]
    return min((each for each in found if each is not None), default=None)


def is_enough(points: Points) -> bool:
    """Whether the points say anything about the future."""
    return len(points) >= FEWEST and points[-1][0] - points[0][0] >= SHORTEST


def _at_the_pace_of(points: Points) -> float | None:
    if not is_enough(points):
        return None
    slopes = sorted((later[1] - earlier[1]) / (later[0] - earlier[0]) for earlier, later in combinations(points, 2))
    pace = slopes[len(slopes) // 2]
    return points[-1][1] / -pace if pace < 0 else None
