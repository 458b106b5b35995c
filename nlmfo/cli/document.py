# SPDX-License-Identifier: GPL-2.0-or-later
"""JSON for programs. Every key is in docs/json.md, with what may change within a version and what may not."""

from __future__ import annotations

import json
from collections.abc import Mapping

VERSION = 1


def whole(found: Mapping[str, object]) -> str:
    """One document."""
    return json.dumps({"version": VERSION, **found}, indent=2)


def line(found: Mapping[str, object]) -> str:
    """One of many, on a line of its own."""
    return json.dumps({"version": VERSION, **found})
