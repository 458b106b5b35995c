# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a file system is mounted: the mount tables of every mount namespace of this node that shows it.

A namespace is found through its threads, and through the files that pin it (nsfs mounts), which keep it without any
process. A process that changed its root sees a part of its namespace's table only, so every root is looked at.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nlmfo.host import mounts
from nlmfo.host.holders import proc
from nlmfo.host.holders.model import Holder, HolderKind
from nlmfo.host.mounts import Mount
from nlmfo.host.pins import NETNS, RUN
from nlmfo.kernel import syscalls

#: Their superblocks have device numbers of their own: only the source tells.
_SPANNING = ("btrfs", "bcachefs")
_LAYERS = ("lowerdir", "lowerdir+", "datadir+", "upperdir", "workdir")
_PEERS = re.compile(r" (shared|master):(\d+)(?= )")


@dataclass(frozen=True, slots=True)
class Entry:
    """A mount with its own id and that of the mount it is on; ids are those of the whole kernel.

    ``shared`` and ``master`` are the peer groups to which and from which what is done on it spreads (0: none).
    """

    number: int
    parent: int
    shared: int
    master: int
    mount: Mount


@dataclass(frozen=True, slots=True)
class View:
    """One mount table; ``who`` says whose, and is empty for the caller's own."""

    who: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Pin:
    """A namespace that a file keeps: its name in /proc/PID/ns, the file, and a process in it if there is one."""

    name: str
    file: Path
    process: str = ""

    def __str__(self) -> str:
        """Whose it is: a service's, or just the file."""
        service = ""
        if self.file.is_relative_to(RUN):
            service = self.file.relative_to(RUN).parts[0]
        elif self.file.parent == NETNS and self.file.name.startswith("nlmfo-"):
            service = self.file.name.removeprefix("nlmfo-")
        who = f"service '{service}' ({self.file})" if service else str(self.file)
        return f"{who} with {self.process} in it" if self.process else who


@dataclass(frozen=True, slots=True)
class Tables:
    """What the processes see mounted, and the pins of namespaces that no process shows whole."""

    views: tuple[View, ...] = ()
    pins: tuple[Pin, ...] = ()


@dataclass(frozen=True, slots=True)
class Views:
    """Every table that shows the file system, and the caller's own.

    ``devices``: MAJOR:MINOR of its superblock; ``ids``: its mounts; ``known``: all mounts of all tables, also of those
    that do not show it.
    """

    devices: frozenset[str]
    ids: frozenset[int]
    known: frozenset[int]
    views: tuple[View, ...]

    def show(self, path: str) -> bool:
        """Whether ``path``, as the kernel writes it, lies on the file system in one of the tables. Nothing is asked."""
        return any(self._lies_on_it(Path(path), view) for view in self.views)

    def _lies_on_it(self, path: Path, view: View) -> bool:
        over = [entry for entry in view.entries if path.is_relative_to(entry.mount.mountpoint)]
        # Of two in one place the later is on top, and max() takes the first of equals.
        top = max(reversed(over), key=lambda entry: len(entry.mount.mountpoint.parts), default=None)
        return top is not None and top.number in self.ids


def tables() -> Tables:
    """The caller's own table, those of all other processes, and what is left to look at."""
    own = proc.link(proc.PROC / "self/ns/mnt") or ""
    found = [View("", parse(proc.read(proc.PROC / "self/mountinfo") or ""))]
    kept = {pin.name: pin for pin in pins("mnt") if pin.name != own}
    whole: set[str] = set()
    for name, root, process, table in _others(own):
        pin = kept.get(name)
        found.append(View(str(Pin(name, pin.file, process)) if pin else process, parse(table)))
        if root == "/":
            whole.add(name)
    return Tables(tuple(found), tuple(pin for name, pin in kept.items() if name not in whole))


def inside(pin: Pin) -> tuple[View, ...]:
    """The table of a pinned mount namespace, which this enters: for a child process that ends with it."""
    myself = os.open(proc.PROC / "self", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    with pin.file.open("rb") as namespace:
        syscalls.setns(namespace.fileno(), syscalls.CLONE_NEWNS)
    with os.fdopen(os.open("mountinfo", os.O_RDONLY | os.O_CLOEXEC, dir_fd=myself), "rb") as table:
        return (View(str(pin), parse(os.fsdecode(table.read()))),)


def gather(found: Iterable[View], device: str, source: Path) -> Views:
    """What the tables have of the file system of ``device`` (MAJOR:MINOR), or of the block device ``source``."""
    every = list(found)
    matches = [[entry for entry in view.entries if _shows(entry.mount, device, source)] for view in every]
    return Views(
        devices=frozenset({device, *(entry.mount.device for entries in matches for entry in entries)}),
        ids=frozenset(entry.number for entries in matches for entry in entries),
        known=frozenset(entry.number for view in every for entry in view.entries),
        views=tuple(view for view, entries in zip(every, matches, strict=True) if entries or not view.who),
    )


def holders(views: Views, mountpoint: Path) -> tuple[Holder, ...]:
    """The mounts that hold it: here, on top of it, in overlays and in other namespaces.

    Those that go away by themselves when it is unmounted from ``mountpoint`` here do not count: most namespaces of a
    node are such (every systemd unit with PrivateTmp= has one).
    """
    following = _following(views, mountpoint)
    return tuple(dict.fromkeys(_holders(views, mountpoint, following)))


def parse(mountinfo: str) -> tuple[Entry, ...]:
    """The table with ids and peer groups, which most do not need."""
    lines = (line for line in mountinfo.split("\n") if line)
    return tuple(_entry(line, mount) for line, mount in zip(lines, mounts.parse(mountinfo), strict=True))


def pins(kind: str) -> tuple[Pin, ...]:
    """The namespaces of a kind ("mnt", "net") that a file keeps."""
    kept = {m.root: m.mountpoint for m in mounts.table() if m.kind == "nsfs" and m.root.startswith(f"{kind}:")}
    return tuple(Pin(name, file) for name, file in kept.items())


def _entry(line: str, mount: Mount) -> Entry:
    before = line.partition(" - ")[0] + " "
    peers = {kind: int(group) for kind, group in _PEERS.findall(before)}
    number, parent, _ = line.split(" ", 2)
    return Entry(int(number), int(parent), peers.get("shared", 0), peers.get("master", 0), mount)


def _shows(mount: Mount, device: str, source: Path) -> bool:
    if mount.device == device:
        return True
    return mount.kind in _SPANNING and Path(mount.source).resolve() == source.resolve()


def _others(own: str) -> Iterator[tuple[str, str, str, str]]:
    """Namespace, root, process and table of every process that is in another namespace, once for each root."""
    first: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    for pid in proc.pids():
        for task in proc.tasks(pid):
            name, root = proc.link(task / "ns/mnt"), proc.link(task / "root")
            if name is None or root is None or name == own or (name, root) in seen:
                continue
            table = proc.read(task / "mountinfo")
            if table is not None:
                seen.add((name, root))
                yield name, root, first.setdefault(name, proc.name(pid)), table


def _following(views: Views, mountpoint: Path) -> frozenset[int]:
    """The copies that an unmount here takes away: those on the same directory of a mount that it spreads to.

    mount_namespaces(7): from the mount below to all its peers (the same ``shared``), to those who have it as
    ``master``, and on from there.
    """
    everything = {entry.number: entry for view in views.views for entry in view.entries}
    own = [entry for view in views.views if not view.who for entry in view.entries]
    ours = [entry for entry in own if entry.number in views.ids and entry.mount.mountpoint == mountpoint]
    groups = {everything[entry.parent].shared for entry in ours if entry.parent in everything} - {0}
    while more := {entry.shared for entry in everything.values() if entry.master in groups} - groups - {0}:
        groups |= more
    spread = {number for number, entry in everything.items() if {entry.shared, entry.master} & groups}
    spots = {_spot(entry, everything) for entry in ours}
    return frozenset(
        entry.number
        for entry in everything.values()
        if entry.number in views.ids and entry not in ours and entry.parent in spread
        if _spot(entry, everything) in spots
    )


def _spot(entry: Entry, everything: dict[int, Entry]) -> tuple[str, Path] | None:
    """The directory that a mount covers, by its place in the file system below."""
    below = everything.get(entry.parent)
    if below is None or not entry.mount.mountpoint.is_relative_to(below.mount.mountpoint):
        return None
    inside = entry.mount.mountpoint.relative_to(below.mount.mountpoint)
    return below.mount.device, Path(below.mount.root) / inside


def _holders(views: Views, mountpoint: Path, following: frozenset[int]) -> Iterator[Holder]:
    for view in views.views:
        for entry in view.entries:
            place = str(entry.mount.mountpoint)
            if entry.number in views.ids and entry.number not in following:
                kind = HolderKind.NAMESPACE if view.who else HolderKind.MOUNT
                yield Holder(kind, view.who or "this node", place)
            elif entry.parent in views.ids and not view.who:
                yield Holder(HolderKind.NESTED, entry.mount.kind, place)
            # The root was there before any partition; its layers' paths are those of whoever mounted it, long ago.
            if entry.mount.kind == "overlay" and place != "/" and not view.who:
                yield from _layers(entry, views, mountpoint)


def _layers(entry: Entry, views: Views, mountpoint: Path) -> Iterator[Holder]:
    """An overlay keeps its layers' file systems by mounts that no table shows, also after these were unmounted."""
    options = (option.partition("=") for option in entry.mount.options.split(","))
    paths = [proc.unescape(path) for key, _, value in options if key in _LAYERS for path in value.split(":")]
    for path in paths:
        if views.show(path) or Path(path).is_relative_to(mountpoint):
            yield Holder(HolderKind.OVERLAY, str(entry.mount.mountpoint), path)
            return
