# SPDX-License-Identifier: GPL-2.0-or-later
"""A journal that grows, line by line, each durable before the next (see nlmfo.records.journal)."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from nlmfo.errors import NlmfoError
from nlmfo.helper import Helper
from nlmfo.records.directory import Directory

#: Seconds for one line to become durable on the shared storage.
WRITE = 10.0
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
