# SPDX-License-Identifier: GPL-2.0-or-later
"""A directory that somebody else may write to, handled by root without being led astray.

rpc.statd's user owns the directories of records, and statd listens to the network: whatever lies in them may
be a trap (CVE-2019-3689). So every name is looked up relative to an open directory, links are never followed,
only small regular files are read, and nothing is opened that could block.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from nlmfo.errors import NlmfoError

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LOCK = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class StoreError(NlmfoError):
    """The records cannot be kept or read there; the hint says what to mend."""


class Directory:
    """An open directory; ``path`` is only for messages."""

    __slots__ = ("fd", "path")

    def __init__(self, fd: int, path: Path) -> None:
        self.fd = fd
        self.path = path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self.fd)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a directory whose parents are trusted. Raises StoreError."""
        with _explained(path):
            return cls(os.open(path, _DIRECTORY), path)

    def inside(self, name: str) -> Directory:
        """Open a directory in this one. Raises StoreError, also when the name is a link."""
        path = self.path / name
        with _explained(path):
            return Directory(os.open(name, _DIRECTORY, dir_fd=self.fd), path)

    def make(self, name: str, mode: int) -> None:
        """Create a directory in this one unless the name is taken. Raises StoreError."""
        with _explained(self.path / name), suppress(FileExistsError):
            os.mkdir(name, mode, dir_fd=self.fd)

    def own(self, uid: int, gid: int, mode: int) -> None:
        """Give this directory to its owner. Raises StoreError when the file system refuses."""
        found = os.fstat(self.fd)
        with _explained(self.path):
            if (found.st_uid, found.st_gid) != (uid, gid):
                os.fchown(self.fd, uid, gid)
            if stat.S_IMODE(found.st_mode) != mode:
                os.fchmod(self.fd, mode)

    def own_file(self, name: str, uid: int, gid: int) -> None:
        """Give a file to its owner, unless it is a trap. Raises StoreError."""
        try:
            fd = os.open(name, _READ, dir_fd=self.fd)
        except OSError:
            return
        with _explained(self.path / name):
            try:
                _give(fd, uid, gid)
            finally:
                os.close(fd)

    def names(self) -> tuple[str, ...]:
        """Every name in it; bytes that are not UTF-8 come as surrogates (PEP 383)."""
        with _explained(self.path), os.scandir(self.fd) as entries:
            return tuple(entry.name for entry in entries)

    def changed(self, name: str) -> float:
        """When a file was last changed, in seconds since the epoch; 0 when it is gone."""
        try:
            return os.stat(name, dir_fd=self.fd, follow_symlinks=False).st_mtime
        except OSError:
            return 0.0

    def read(self, name: str, limit: int) -> bytes | None:
        """The content of a regular file of at most ``limit`` bytes; None for everything else."""
        try:
            fd = os.open(name, _READ, dir_fd=self.fd)
        except OSError:
            return None
        try:
            found = os.fstat(fd)
            return os.read(fd, limit) if stat.S_ISREG(found.st_mode) and found.st_size <= limit else None
        except OSError:
            return None
        finally:
            os.close(fd)

    def create(self, name: str, content: bytes, mode: int) -> bool:
        """Write a new file and make its content durable; false when the name is taken. Raises StoreError."""
        with _explained(self.path / name):
            try:
                fd = os.open(name, _CREATE, mode, dir_fd=self.fd)
            except FileExistsError:
                return False
            try:
                owner = os.fstat(self.fd)
                _give(fd, owner.st_uid, owner.st_gid)
                os.fchmod(fd, mode)
                try:
                    if os.write(fd, content) < len(content):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                finally:  # also where there was no room: the name of a record counts without its line
                    os.fsync(fd)
            finally:
                os.close(fd)
        return True

    def lock_file(self, name: str) -> int:
        """Open a file, made if it is missing, to be locked with flock; the caller closes it. Raises StoreError."""
        with _explained(self.path / name):
            fd = os.open(name, _LOCK, 0o640, dir_fd=self.fd)
            owner = os.fstat(self.fd)
            _give(fd, owner.st_uid, owner.st_gid)
        return fd

    def replace(self, name: str, content: bytes, mode: int, *, verify: bool = False) -> None:
        """Put a file in place so that a crash leaves the old content or the new; ``verify`` reads it back first.

        Raises StoreError.
        """
        temporary = f".new.{os.getpid()}"
        self.remove(temporary)
        try:
            self.create(temporary, content, mode)
        except StoreError:  # of a full file system it would take what is left
            with suppress(StoreError):
                self.remove(temporary)
            raise
        if verify and self.read(temporary, len(content)) != content:
            raise StoreError(f"{self.path / name}: what was written is not what was read back")
        self.rename(temporary, name)

    def rename(self, name: str, to: str) -> None:
        """Give a file another name, durably. Raises StoreError."""
        with _explained(self.path / to):
            try:
                os.rename(name, to, src_dir_fd=self.fd, dst_dir_fd=self.fd)
            except IsADirectoryError:
                self._set_aside(to)
                os.rename(name, to, src_dir_fd=self.fd, dst_dir_fd=self.fd)
            os.fsync(self.fd)

    def move(self, name: str, to: Directory) -> None:
        """Move a file to another directory, over what has its name there, unless somebody else moved it first.

        Raises StoreError.
        """
        with _explained(to.path / name), suppress(FileNotFoundError):
            try:
                os.rename(name, name, src_dir_fd=self.fd, dst_dir_fd=to.fd)
            except (IsADirectoryError, NotADirectoryError, FileExistsError):
                to._set_aside(name)
                os.rename(name, name, src_dir_fd=self.fd, dst_dir_fd=to.fd)

    def _set_aside(self, name: str) -> None:
        """Give what nobody of us put there a name that stands for no client."""
        taken = set(self.names())
        free = next(n for n in (f".aside.{i}" for i in range(len(taken) + 1)) if n not in taken)
        os.rename(name, free, src_dir_fd=self.fd, dst_dir_fd=self.fd)

    def sync_files(self, names: Iterable[str]) -> None:
        """Make these files durable, names and all; traps are left alone. Raises StoreError."""
        for name in names:
            with suppress(OSError):
                fd = os.open(name, _READ, dir_fd=self.fd)
                try:
                    self._sync_file(fd, name)
                finally:
                    os.close(fd)
        self.sync()

    def _sync_file(self, fd: int, name: str) -> None:
        with _explained(self.path / name):
            if stat.S_ISREG(os.fstat(fd).st_mode):
                os.fsync(fd)

    def remove(self, name: str) -> bool:
        """Remove a file; false when it is not there. Raises StoreError."""
        with _explained(self.path / name):
            try:
                os.unlink(name, dir_fd=self.fd)
            except FileNotFoundError:
                return False
        return True

    def sync(self) -> None:
        """Make what was created, renamed and removed in it durable. Raises StoreError."""
        with _explained(self.path):
            os.fsync(self.fd)


def _give(fd: int, uid: int, gid: int) -> None:
    """Give away a regular file that has no second name somewhere else."""
    found = os.fstat(fd)
    if stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and (found.st_uid, found.st_gid) != (uid, gid):
        os.fchown(fd, uid, gid)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}", hint=_HINTS.get(error.errno or 0)) from error


_HINTS = {
    errno.ENOENT: "is the state directory's file system mounted?",
    errno.EPERM: "root may not give files away on this file system: no_root_squash, or a local one",
    errno.ENOTDIR: "a link or a file is in the way: look who put it there, move it away and try again",
    errno.ELOOP: "a symbolic link is in the way: look who put it there, move it away and try again",
    errno.ENOSPC: "make room on the state directory's file system",
    errno.EROFS: "the state directory's file system is read-only: the kernel log may say why",
}
