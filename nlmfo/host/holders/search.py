# SPDX-License-Identifier: GPL-2.0-or-later
"""Everything that may hold a file system, looked at one after the other, each in a process that may hang."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from nlmfo.child import in_child
from nlmfo.deadline import Deadline
from nlmfo.errors import DeadlineExceeded, NlmfoError
from nlmfo.host.holders import kernel, processes, views
from nlmfo.host.holders.model import Holder, HolderKind
from nlmfo.host.holders.views import Pin, Tables, Views

T = TypeVar("T")

#: For these, one file of one process is told once.
_OF_FILES = frozenset({HolderKind.DIRECTORY, HolderKind.EXECUTABLE, HolderKind.FILE, HolderKind.MAP})
#: How many looks share the time, without those at pinned namespaces.
_LOOKS = 10
_NONE: tuple[Holder, ...] = ()


class _Search:
    """Looks one after the other within one deadline: time that one does not use, the later ones have."""

    def __init__(self, deadline: float) -> None:
        self._limit = Deadline(deadline)
        self._left = _LOOKS
        self.unseen: list[Holder] = []

    def look(self, what: str, function: Callable[[], T], otherwise: T) -> T:
        """What ``function`` finds; ``otherwise``, and a remark, when it hangs or fails."""
        share = self._limit.remaining() / self._left
        self._left -= 1
        try:
            return in_child(f"a look at {what}", function, deadline=share)
        except DeadlineExceeded:
            reason = "it hangs"
        except (NlmfoError, OSError, ValueError) as error:
            reason = str(error)
        self.unseen.append(Holder(HolderKind.UNSEEN, what, reason))
        return otherwise

    def look_inside(self, what: str, pins: tuple[Pin, ...], function: Callable[[Pin], tuple[T, ...]]) -> tuple[T, ...]:
        """The same for each of some namespaces, one child process each: a release may end what is in its own."""
        self._left += len(pins)
        none: tuple[T, ...] = ()
        return tuple(one for pin in pins for one in self.look(f"{what} of {pin}", partial(function, pin), none))


def of(device: str, source: Path, mountpoint: Path, *, deadline: float) -> tuple[Holder, ...]:
    """Everything on this node that holds the file system of ``device`` (MAJOR:MINOR, as in mountinfo).

    ``source`` is its block device and ``mountpoint`` where it is, or was, mounted; a mount there is a holder like any
    other. Raises nothing: what cannot be looked at within ``deadline`` seconds is in the answer, as UNSEEN.
    """
    search = _Search(deadline)
    seen = _seen(search, device, source)
    in_kernel = _in_kernel(search, seen, source)
    of_processes = _of_processes(search, seen, source)
    return (*of_processes, *views.holders(seen, mountpoint), *in_kernel, *search.unseen)


def _seen(search: _Search, device: str, source: Path) -> Views:
    tables = search.look("mount tables", views.tables, Tables())
    pinned = search.look_inside("mounts", tables.pins, views.inside)
    return views.gather((*tables.views, *pinned), device, source)


def _in_kernel(search: _Search, seen: Views, source: Path) -> tuple[Holder, ...]:
    look = search.look
    swaps = look("swap files", lambda: kernel.swaps(seen), _NONE)
    built_on = look("devices built on it", lambda: kernel.built_on(source), _NONE)
    locks = look("NFS locks", lambda: kernel.nfs_locks(seen.devices), _NONE)
    exports = look("NFS exports", lambda: kernel.exports(seen), _NONE)
    nowhere: tuple[Pin, ...] = ()
    networks = look("network namespaces", kernel.lonely_networks, nowhere)
    exports += search.look_inside("NFS exports", networks, partial(kernel.exports_inside, views=seen))
    loops = look("loop devices", lambda: kernel.loops(seen), _NONE)
    return (*loops, *swaps, *built_on, *exports, *locks)


def _of_processes(search: _Search, seen: Views, source: Path) -> tuple[Holder, ...]:
    look = search.look
    # Who has the device of a mounted file system open (udev, blkid, smartd) holds nothing: only one who opened it for
    # himself (fsck) does, which nobody can where it is mounted, and which /proc does not tell apart.
    names = frozenset() if seen.ids else frozenset({str(source), os.path.realpath(source)})
    found = look("processes", lambda: processes.look(seen, names), processes.Found())
    detached = look("detached mounts", lambda: processes.detached(found.doubtful, seen.devices), _NONE)
    maps = look("memory maps", lambda: processes.maps(seen.devices), _NONE)
    return _once([*found.holders, *detached, *maps])


def _once(found: list[Holder]) -> tuple[Holder, ...]:
    """Without repetitions: an executable is mapped as well, and each thread has the directories of all."""
    firsts: dict[tuple[HolderKind, str, str], Holder] = {}
    for holder in found:
        kind = HolderKind.FILE if holder.kind in _OF_FILES else holder.kind
        firsts.setdefault((kind, holder.who, holder.what), holder)
    return tuple(firsts.values())
