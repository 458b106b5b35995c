# SPDX-License-Identifier: GPL-2.0-or-later
"""A holder of a file system, as data; in words; and what an operator can do about it."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from nlmfo.plain import plain

#: How many holders an error names.
SHOWN = 8
NOTHING = (
    "nothing visible holds it: the kernel itself may, for a moment (nfsd's cache of open files, a close that is "
    "under way), or a file that was passed through a socket and is open nowhere yet"
)
PATIENCE = "wait some seconds; nfsd's cache of open files goes with 'echo 1 > /proc/net/rpc/nfsd.fh/flush'"


class HolderKind(StrEnum):
    """In what way something holds a file system. The values are stable names, for scripts."""

    DIRECTORY = "working-directory"
    ROOT = "root-directory"
    EXECUTABLE = "executable"
    FILE = "open-file"
    MAP = "memory-map"
    SOCKET = "socket"
    DEVICE = "open-device"
    MOUNT = "mount"
    NESTED = "nested-mount"
    OVERLAY = "overlay"
    NAMESPACE = "mount-namespace"
    LOOP = "loop-device"
    SWAP = "swap"
    BUILT_ON = "block-device"
    EXPORT = "export"
    LOCKS = "locks"
    UNSEEN = "unseen"


#: The middle of the sentence "WHO: ... WHAT".
_WORDS = {
    HolderKind.DIRECTORY: "working directory",
    HolderKind.ROOT: "root directory",
    HolderKind.EXECUTABLE: "executable",
    HolderKind.FILE: "open file",
    HolderKind.MAP: "memory map of",
    HolderKind.SOCKET: "socket",
    HolderKind.DEVICE: "has opened the device",
    HolderKind.MOUNT: "mounted at",
    HolderKind.NESTED: "mounted on a directory of it:",
    HolderKind.OVERLAY: "overlay with a layer on it:",
    HolderKind.NAMESPACE: "mount namespace that has it mounted at",
    HolderKind.LOOP: "loop device for",
    HolderKind.SWAP: "swaps to",
    HolderKind.BUILT_ON: "built on",
    HolderKind.EXPORT: "exports",
    HolderKind.LOCKS: "locks of NFS clients on the inodes",
}
_END_IT = "end the processes ('systemctl status PID' tells what one belongs to)"
_RELEASE_IT = "release the service that still serves it ('nlmfo release')"
#: What to do next; ``who`` and ``what`` are those of the first of the kind, quoted for a shell.
_ADVICE = {
    HolderKind.MOUNT: "'umount {what}'",
    HolderKind.NESTED: "'umount {what}'",
    HolderKind.OVERLAY: "'umount {who}'",
    HolderKind.NAMESPACE: "end the processes of the mount namespace, or release its service ('nlmfo release')",
    HolderKind.LOOP: "'losetup -d {who}', once nothing uses the loop device",
    HolderKind.SWAP: "'swapoff {what}'",
    HolderKind.BUILT_ON: "'lsblk {what}' shows what is built on it: take that down",
    HolderKind.EXPORT: _RELEASE_IT,
    HolderKind.LOCKS: _RELEASE_IT,
    HolderKind.UNSEEN: "find out what hangs ('ps -eo pid,stat,wchan,comm' shows D)",
}


@dataclass(frozen=True, slots=True)
class Holder:
    """``who`` holds ``what``, in the way of ``kind``. Both are fit for a terminal, whoever chose the names.

    For UNSEEN ``who`` is what could not be looked at, and ``what`` the reason.
    """

    kind: HolderKind
    who: str
    what: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "who", plain(self.who))
        object.__setattr__(self, "what", plain(self.what))

    def __str__(self) -> str:
        if self.kind is HolderKind.UNSEEN:
            return f"{self.who} ({self.what})"
        return f"{self.who}: {_WORDS[self.kind]} {self.what}"


def in_words(found: Iterable[Holder]) -> str:
    """Who holds it, as the end of a sentence: at most 8 of them, and how many more there are."""
    every = _fair(found)
    unseen = [holder for holder in every if holder.kind is HolderKind.UNSEEN]
    seen = [holder for holder in every if holder.kind is not HolderKind.UNSEEN]
    if not seen and not unseen:
        return NOTHING
    said = f"held by {_listed(seen)}" if seen else "what could be seen does not hold it"
    return f"{said}; could not be looked at: {_listed(unseen)}" if unseen else said


def advice(found: Iterable[Holder]) -> str:
    """What to do next about them, most telling first."""
    firsts: dict[HolderKind, Holder] = {}
    for holder in found:
        firsts.setdefault(holder.kind, holder)
    return "; ".join(dict.fromkeys(_advise(holder) for holder in firsts.values())) or PATIENCE


def _advise(holder: Holder) -> str:
    return _ADVICE.get(holder.kind, _END_IT).format(who=shlex.quote(holder.who), what=shlex.quote(holder.what))


def _listed(holders: list[Holder]) -> str:
    shown = "; ".join(str(holder) for holder in holders[:SHOWN])
    return shown if len(holders) <= SHOWN else f"{shown}; and {len(holders) - SHOWN} more"


def _fair(found: Iterable[Holder]) -> list[Holder]:
    """First one of each kind and one of each holder: what is left out at the end is more of the same."""
    by_who: Counter[str] = Counter()
    by_kind: Counter[HolderKind] = Counter()
    ranked: list[tuple[tuple[int, int], Holder]] = []
    for holder in found:
        ranked.append(((by_who[holder.who], by_kind[holder.kind]), holder))
        by_who[holder.who] += 1
        by_kind[holder.kind] += 1
    return [holder for _, holder in sorted(ranked, key=lambda pair: pair[0])]
