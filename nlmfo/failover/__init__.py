# SPDX-License-Identifier: GPL-2.0-or-later
"""Release and takeover: a pure planner, and an engine that carries its plans out."""
