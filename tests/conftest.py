# SPDX-License-Identifier: GPL-2.0-or-later
"""For all tests: a busy machine is no reason for a property test to fail; what tests counted is shown at the end."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("nlmfo", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("nlmfo")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Sum up what tests put into record_property, so that a number of tries can be quoted."""
    counted: Counter[str] = Counter()
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            if isinstance(value, int):
                counted[name] += value
    for name, number in sorted(counted.items()):
        terminalreporter.write_line(f"counted: {number} {name}")
