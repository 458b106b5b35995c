# SPDX-License-Identifier: GPL-2.0-or-later
"""Free space: how much there is now, and how much there was in the last two weeks.

::

    /var/lib/nlmfo/space/NAME     a line for each sample, the oldest first:
      1763780000 67108864 41943040 16001     seconds since 1970, size, free bytes, free inodes ("-": it counts none)

At most a sample an hour. They decide nothing: what is damaged is left out, and where they cannot be kept there is
none.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nlmfo.records.directory import Directory, StoreError

HOME = Path("/var/lib/nlmfo/space")
#: Seconds between two samples, and for which they are kept.
EVERY, KEPT = 3600, 14 * 86400
#: A file that is longer was not written by us.
LIMIT = 64 << 10
_LINE = re.compile(r"(\d{1,12}) (\d{1,20}) (\d{1,20}) (\d{1,20}|-)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Sample:
    """``at``: seconds since 1970; ``size`` and ``free`` in bytes; ``inodes``: free ones, None where it counts none."""

    at: int
    size: int
    free: int
    inodes: int | None


@dataclass(frozen=True, slots=True)
class Measured:
    """A sample of the file system on ``device``, a number that means something until it is unmounted."""

    device: int
    sample: Sample


def measure(path: Path, now: float) -> Measured:
    """Of the file system that ``path`` lies on, or would. Raises OSError; hangs where the storage does."""
    there = existing(path)
    found = os.statvfs(there)
    inodes = found.f_favail if found.f_files > 0 else None
    sample = Sample(int(now), found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize, inodes)
    return Measured(there.stat().st_dev, sample)


def existing(path: Path) -> Path:
    """The path, or what is there of the way to it."""
    return next(each for each in (path, *path.parents) if each.exists())


def remembered(name: str, latest: Sample) -> tuple[Sample, ...]:
    """All samples, the oldest first, with ``latest`` as the last. Raises StoreError where they cannot be trusted.

    What is not older than that, or was of another size, belongs to another clock or another file system.
    """
    try:
        with _ours() as directory:
            content = directory.read(name, LIMIT) or b""
    except FileNotFoundError:
        content = b""
    found = {each.at: each for each in _parsed(content.decode("ascii", errors="replace"))}
    times = sorted(at for at in found if latest.at - KEPT <= at < latest.at)
    return (*(found[at] for at in times if found[at].size == latest.size), latest)


def remember(name: str, samples: Iterable[Sample]) -> None:
    """Keep them for later, unless less than an hour has passed. Raises StoreError and OSError."""
    *before, latest = samples
    if before and latest.at - before[-1].at < EVERY:
        return
    HOME.mkdir(mode=0o755, parents=True, exist_ok=True)
    with _ours() as directory:
        directory.replace(name, "".join(map(_line, (*before, latest))).encode(), 0o644)


@contextmanager
def _ours() -> Iterator[Directory]:
    """Raises FileNotFoundError where it has not been made yet."""
    if not HOME.exists():
        raise FileNotFoundError(HOME)
    with Directory.open(HOME) as directory:
        found = os.fstat(directory.fd)
        if found.st_uid != 0 or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise StoreError(f"{HOME} can be written to by others than root")
        yield directory


def _line(sample: Sample) -> str:
    inodes = "-" if sample.inodes is None else sample.inodes
    return f"{sample.at} {sample.size} {sample.free} {inodes}\n"


def _parsed(text: str) -> Iterator[Sample]:
    for line in text.split("\n"):
        found = _LINE.fullmatch(line)
        if found:
            at, size, free = (int(number) for number in found.groups()[:3])
            yield Sample(at, size, free, None if found[4] == "-" else int(found[4]))
