# SPDX-License-Identifier: GPL-2.0-or-later
"""Control files of the kernel: what reading and writing them takes, and what their refusals mean.

Behind a Protocol, so that tests can put a kernel in memory in the place of the real one. Files are named by their
whole path, as in the manual pages: /proc/fs/nfsd/threads. Nothing here retries, and nothing is created.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from nlmfo.errors import NlmfoError

#: Bytes to read at once: simple_transaction files hold at most one page, /proc/locks any number.
READ = 1 << 16


class ControlFiles(Protocol):
    """The five things that can be done with control files. All raise OSError with the kernel's errno."""

    def read(self, file: Path) -> bytes:
        """The whole content, from a fresh descriptor that nothing was written to."""

    def pieces(self, file: Path, first: int) -> tuple[bytes, ...]:
        """The same, as each read(2) gave it; the first asks for ``first`` bytes only, so the others begin elsewhere."""

    def write(self, file: Path, data: bytes) -> None:
        """One write(2) of all of ``data`` on a fresh descriptor: the kernel answers EBUSY to a second one."""

    def ask(self, file: Path, data: bytes) -> bytes:
        """One write(2), and what can be read from the same descriptor afterwards: the answer to the question."""

    def exists(self, file: Path) -> bool:
        """Whether this kernel has the file, here and now: most appear only with a module or a mount."""


@dataclass(frozen=True, slots=True)
class ProcFiles:
    """The kernel's own files, of the namespaces of the calling process. ``root`` is another place in tests."""

    root: Path = Path("/")

    def read(self, file: Path) -> bytes:
        with _open(self._place(file), os.O_RDONLY) as descriptor:
            return _read_all(descriptor)

    def pieces(self, file: Path, first: int) -> tuple[bytes, ...]:
        with _open(self._place(file), os.O_RDONLY) as descriptor:
            return (os.read(descriptor, first), *iter(lambda: os.read(descriptor, READ), b""))

    def write(self, file: Path, data: bytes) -> None:
        with _open(self._place(file), os.O_WRONLY) as descriptor:
            _write_once(descriptor, data, file)

    def ask(self, file: Path, data: bytes) -> bytes:
        with _open(self._place(file), os.O_RDWR) as descriptor:
            _write_once(descriptor, data, file)
            return _read_all(descriptor)

    def exists(self, file: Path) -> bool:
        return self._place(file).exists()

    def _place(self, file: Path) -> Path:
        return self.root / file.relative_to("/")


#: The kernel that this process runs on.
PROC = ProcFiles()


class ControlError(NlmfoError):
    """The kernel refused what was written to a control file, or sent to it by netlink; ``number`` is its errno."""

    def __init__(self, text: str, number: int, *, hint: str | None = None) -> None:
        super().__init__(text, hint=hint)
        self.number = number


@dataclass(frozen=True, slots=True)
class Meaning:
    """What an errno means for one file: why, and what to do next."""

    why: str
    hint: str | None = None


#: What an errno means where the file has no meaning of its own for it.
COMMON = {
    errno.ENOENT: Meaning("this kernel does not have it here", "load the module: 'modprobe nfsd' or 'modprobe lockd'"),
    errno.EACCES: Meaning("permission denied", "this needs root"),
    errno.EPERM: Meaning("permission denied", "this needs root"),
    errno.EROFS: Meaning("/proc is mounted read-only here", "run nlmfo on the node itself, not in a container"),
    errno.EFBIG: Meaning("what was written is longer than the kernel takes"),
}


@contextmanager
def explained(doing: str, meanings: Mapping[int, Meaning] | None = None) -> Iterator[None]:
    """Turn the kernel's OSError into a ControlError: ``doing`` and what the errno means in this place."""
    try:
        yield
    except OSError as error:
        number = error.errno or (errno.ETIMEDOUT if isinstance(error, TimeoutError) else errno.EIO)
        meaning = (meanings or {}).get(number) or COMMON.get(number) or Meaning(os.strerror(number))
        name = errno.errorcode.get(number, str(number))
        raise ControlError(f"{doing}: {meaning.why} ({name})", number, hint=meaning.hint) from error


@contextmanager
def _open(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _write_once(descriptor: int, data: bytes, file: Path) -> None:
    """A rest is never written: the kernel has acted on the beginning, and would take the rest for a second order."""
    if os.write(descriptor, data) != len(data):
        raise OSError(errno.EIO, "the kernel took only a part of what was written", str(file))


def _read_all(descriptor: int) -> bytes:
    parts: list[bytes] = []
    while part := os.read(descriptor, READ):
        parts.append(part)
    return b"".join(parts)
