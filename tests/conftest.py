# SPDX-License-Identifier: GPL-2.0-or-later
"""For all tests: a busy machine is no reason for a property test to fail; the sample that a run goes through is shown
at the beginning, what tests counted at the end; and what takes longest begins first.
"""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, settings

from tests import sampling

settings.register_profile("nlmfo", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("nlmfo")

#: Seconds; a shorter limit is no sign of a test that takes long.
USUAL = 120.0


def pytest_report_header() -> str:
    """Settles the sample before any other process is started."""
    if sampling.LEVEL not in sampling.LEVELS:
        raise pytest.UsageError(f"NLMFO_TESTS={sampling.LEVEL}: it is one of {', '.join(sampling.LEVELS)}")
    number = sampling.seed()
    return f"sample: NLMFO_TESTS={sampling.LEVEL}" + f" {sampling.SEED}={number}" * (not sampling.EVERYTHING)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is not of the sample; and what takes longest goes first.

    Begun last, it would keep one processor busy and leave the others idle. A module stays together: its tests may share
    a lab.
    """
    if sampling.LEVEL == "sample":
        stories = sorted(filter(_is_story, items), key=lambda item: (-_limit(item), item.nodeid))
        left_out = set(stories) - set(sampling.sample(stories))
        config.hook.pytest_deselected(items=[item for item in items if item in left_out])
        items[:] = [item for item in items if item not in left_out]
    longest = dict.fromkeys((item.path for item in items), USUAL)
    for item in items:
        longest[item.path] = max(longest[item.path], _limit(item))
    items.sort(key=lambda item: -longest[item.path])


def _is_story(item: pytest.Item) -> bool:
    return item.get_closest_marker("lab") is not None and item.get_closest_marker("always") is None


def _limit(item: pytest.Item) -> float:
    """The time limit that a test names for itself: how long it takes, as far as one can tell."""
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0]) if marker else USUAL


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Sum up what tests put into record_property, so that a number of tries can be quoted."""
    counted: Counter[str] = Counter()
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            if isinstance(value, int):
                counted[name] += value
    for name, number in sorted(counted.items()):
        terminalreporter.write_line(f"counted: {number} {name}")
