# SPDX-License-Identifier: GPL-2.0-or-later
"""Journals on disk: one file for each run of a release or takeover, one line of JSON for each thing that happened.

::

    /var/lib/nlmfo/runs/                     on the node; survives a reboot
    STATE/runs/                              on storage that moves with the service: for the next owner to read
      20261121T091500.123456Z-home.jsonl     sorts by time; the service's name is the rest

A line is durable before the next thing happens. A journal explains what was going on when a node died; it decides
nothing: what is to be done is planned from what is there. So a line that a crash cut short is left out when it is
read, and a journal that cannot be written stops no failover.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nlmfo.records.directory import Directory, StoreError

#: Journals of a service that are kept in each place.
KEPT = 50
#: A journal that is longer was not written by us.
MAX_BYTES = 4 << 20
_NAME = re.compile(r"\d{8}T\d{6}\.\d{6}Z-(?P<service>[A-Za-z0-9_-]+)\.jsonl", re.ASCII)
#: What follows the name of a run in the name of its journal.
SUFFIX = ".jsonl"
_SECOND = "%Y%m%dT%H%M%S"


def new_name(service: str, earlier: Iterable[str] = ()) -> str:
    """The name of a journal that begins now, or, by a clock that was set back, just after the ``earlier`` ones."""
    now = time.time_ns() // 1000
    now = max([now, *(_moment(name) + 1 for name in earlier)])
    return f"{time.strftime(_SECOND, time.gmtime(now // 10**6))}.{now % 10**6:06d}Z-{service}{SUFFIX}"


def _moment(name: str) -> int:
    """When a journal began by its name, in microseconds since the epoch; 0 when it is no date."""
    second, _, more = name.partition("-")[0].removesuffix("Z").partition(".")
    try:
        began = datetime.strptime(second, _SECOND).replace(tzinfo=UTC)
        return int(began.timestamp()) * 10**6 + int(more)
    except ValueError:
        return 0


def names(directory: Path, service: str) -> tuple[str, ...]:
    """The journals of a service, the newest last. Raises StoreError when the directory cannot be read."""
    if not directory.is_dir():
        return ()
    with Directory.open(directory) as files:
        found = ((name, _NAME.fullmatch(name)) for name in files.names())
    return tuple(sorted(name for name, match in found if match and match["service"] == service))


def read(directory: Path, name: str) -> tuple[dict[str, Any], ...]:
    """The lines of a journal; what is not one, because a crash cut it short, is left out. Raises StoreError."""
    with Directory.open(directory) as files:
        content = files.read(name, MAX_BYTES)
    if content is None:
        raise StoreError(f"{directory / name}: not a journal", hint="it has to be a regular file of up to 4 MiB")
    return tuple(_objects(content))


def several(directory: Path, service: str, *, last: int = 0) -> list[tuple[str, tuple[dict[str, Any], ...]]]:
    """The journals of a service by their names, in their order; one that cannot be read is left out.

    ``last``: so many of the newest only; 0 for all. Raises StoreError when the directory cannot be read.
    """
    found = []
    for name in names(directory, service)[-last:]:
        with suppress(StoreError):
            found.append((name, read(directory, name)))
    return found


def prune(directory: Path, service: str) -> None:
    """Remove all but the newest journals of a service. Raises StoreError."""
    old = names(directory, service)[:-KEPT]
    if old:
        with Directory.open(directory) as files:
            for name in old:
                files.remove(name)


def _objects(content: bytes) -> Iterator[dict[str, Any]]:
    for line in content.split(b"\n")[:-1]:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            yield found
