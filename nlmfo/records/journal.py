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
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nlmfo.child import Helper
from nlmfo.errors import NlmfoError
from nlmfo.records.directory import Directory, StoreError

#: Journals of a service that are kept in each place.
KEPT = 50
#: A journal that is longer was not written by us.
MAX_BYTES = 4 << 20
#: Seconds for one line to become durable on the shared storage.
WRITE = 10.0
_NAME = re.compile(r"\d{8}T\d{6}\.\d{6}Z-(?P<service>[A-Za-z0-9_-]+)\.jsonl", re.ASCII)
#: What follows the name of a run in the name of its journal.
SUFFIX = ".jsonl"
_SECOND = "%Y%m%dT%H%M%S"
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class JournalFile:
    """A journal that grows, in one directory. All methods raise NlmfoError."""

    def __init__(self, directory: Path, name: str) -> None:
        self.path = directory / name
        _make(directory)
        # It may lie where clients of the service can put a link in its place.
        with Directory.open(directory) as opened:
            self._fd = _open(opened, name)
            opened.sync()

    def append(self, line: bytes) -> None:
        """Add a whole line, durably."""
        try:
            if os.write(self._fd, line) < len(line):
                raise NlmfoError(f"{self.path}: no space left")
            os.fdatasync(self._fd)
        except OSError as error:
            raise NlmfoError(f"{self.path}: {error.strerror}") from error

    def close(self) -> None:
        os.close(self._fd)


class SharedJournal:
    """The same on shared storage, which may hang: a process of its own does the writing.

    From its first line on it keeps the file system busy.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self.path = directory / name
        file: list[JournalFile] = []

        def write(line: bytes) -> bytes:
            if not file:
                file.append(JournalFile(directory, name))
            file[0].append(line)
            return b""

        self._helper = Helper(f"writing the journal {self.path}", write)

    def append(self, line: bytes) -> None:
        self._helper.ask(line, deadline=WRITE)

    def close(self) -> None:
        self._helper.close()


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


def _make(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise NlmfoError(f"{directory}: {error.strerror}") from error


def _open(directory: Directory, name: str) -> int:
    path = directory.path / name
    try:
        descriptor = os.open(name, _APPEND, 0o644, dir_fd=directory.fd)
    except OSError as error:
        raise NlmfoError(f"{path}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NlmfoError(f"{path}: not a regular file")
    return descriptor
