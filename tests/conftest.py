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
    number = sampling.seed()
    return (
        "sample: everything"
        if sampling.EVERYTHING
        else f"sample: {sampling.SEED}={number} (NLMFO_TESTS=all: everything)"
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest goes first: begun last, it would keep one processor busy and leave the others idle.

    That is by the time limits that tests name for themselves. A module stays together: its tests may share a lab.
    """
    longest = dict.fromkeys((item.path for item in items), USUAL)
    for item in items:
        marker = item.get_closest_marker("timeout")
        longest[item.path] = max(longest[item.path], float(marker.args[0]) if marker else USUAL)
    items.sort(key=lambda item: -longest[item.path])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Sum up what tests put into record_property, so that a number of tries can be quoted."""
    counted: Counter[str] = Counter()
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            if isinstance(value, int):
                counted[name] += value
    for name, number in sorted(counted.items()):
        terminalreporter.write_line(f"counted: {number} {name}")
