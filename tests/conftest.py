# SPDX-License-Identifier: GPL-2.0-or-later
"""For all tests: a busy machine is no reason for a property test to fail."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("nlmfo", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("nlmfo")
