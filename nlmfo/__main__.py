# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m nlmfo``."""

from nlmfo.cli.main import entry

entry()
