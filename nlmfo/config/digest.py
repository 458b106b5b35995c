# SPDX-License-Identifier: GPL-2.0-or-later
"""A short number that two nodes can compare: whether they mean the same services."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from nlmfo.config.model import Service

#: Hexadecimal digits: enough that no two configurations that people write have the same.
DIGITS = 12


def digest(services: Iterable[Service]) -> str:
    """Of everything that services say, but where their files are; comments and the order of keys do not matter."""
    text = "\n".join(
        f"{service.name}.{field}={value!r}"
        for service in sorted(services, key=lambda service: service.name)
        for field, value in service._asdict().items()
        if field != "file"
    )
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:DIGITS]
