# SPDX-License-Identifier: GPL-2.0-or-later
"""The callout's spool on this node: what did not reach the store in time, and bringing it there later."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from nlmfo.deadline import Deadline, poll_until
from nlmfo.records.directory import Directory, StoreError
from nlmfo.records.layout import MAX_RECORD_BYTES, Address, directory_name, parse_record
from nlmfo.records.store import Store


@dataclass(frozen=True, slots=True)
class SpoolStatus:
    """``waiting``: records not in the store yet; ``stalled``: why the store took none, or None."""

    waiting: int
    stalled: str | None


def spool_status(spool: Path, address: Address) -> SpoolStatus:
    """What waits on this node for one address."""
    try:
        with Directory.open(spool) as top, top.inside(directory_name(address)) as here:
            reason = here.read("stalled", MAX_RECORD_BYTES)
            return SpoolStatus(len(_entries(here)), None if reason is None else _text(reason))
    except StoreError:
        return SpoolStatus(0, None)


def refused(spool: Path) -> tuple[str, ...]:
    """The clients that the callout could not name in a file, each with the event."""
    try:
        with Directory.open(spool) as top:
            return tuple(_text(top.read("refused", 1 << 17) or b"").splitlines())
    except StoreError:
        return ()


def drain_spool(store: Store, spool: Path, *, deadline: float) -> int:
    """Bring what waits on this node to the store; returns how many records.

    Waits up to ``deadline`` seconds for a callout that is doing the same. Entries that are no record stay
    where they are. Raises DeadlineExceeded, and StoreError when the store does not take a record now either.
    """
    until = Deadline(deadline)
    moved = 0
    for address in store.addresses:
        if (spool / directory_name(address)).is_dir():
            with (
                Directory.open(spool) as top,
                top.inside(directory_name(address)) as here,
                _turn(here, until),
            ):
                moved += _drain_address(store, address, here)
    return moved


def _drain_address(store: Store, address: Address, here: Directory) -> int:
    moved = 0
    for name in _entries(here):
        names = parse_record(here.read(name, MAX_RECORD_BYTES) or b"")
        if names is None:
            continue
        store.add(address, *names)
        here.remove(name)
        moved += 1
    here.remove("stalled")
    return moved


def _entries(here: Directory) -> list[str]:
    return sorted(name for name in here.names() if name.startswith("add."))


def _text(raw: bytes) -> str:
    return raw.decode("ascii", errors="replace").strip()


@contextmanager
def _turn(here: Directory, until: Deadline) -> Iterator[None]:
    """Be the one who moves this address's spool (the lock is the callout's too, see drain in callouts/records.c)."""
    fd = here.lock_file("draining")
    try:
        poll_until(f"{here.path}: another process is moving the records", lambda: _locked(fd), until)
        yield
    finally:
        os.close(fd)


def _locked(fd: int) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False
