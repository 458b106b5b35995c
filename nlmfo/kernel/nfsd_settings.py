# SPDX-License-Identifier: GPL-2.0-or-later
"""How nfsd will serve: protocol versions, listeners and NFSv4's times. Each is read back after it was set.

All belong to one network namespace, and all but the listeners can be changed only while nfsd is down there: with the
first listener or thread it counts as running, so the order is versions, times, listeners, threads. Stopping nfsd
forgets the listeners, and keeps the rest.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from nlmfo.errors import NlmfoError
from nlmfo.kernel import nfsd
from nlmfo.kernel.files import PROC, ControlFiles, Meaning, explained

RUNNING = Meaning("nfsd runs, or has a listener already", "stop nfsd first; this stops every service of this namespace")


class Time(StrEnum):
    """NFSv4's times, in seconds from 10 to 3600: how long a client may be silent, and how long reclaims are taken.

    The second also keeps NLM in grace, because NLM waits for both keepers of grace (fs/nfs_common/grace.c).
    """

    LEASE = "nfsv4leasetime"
    GRACE = "nfsv4gracetime"


@dataclass(frozen=True, slots=True, order=True)
class Listener:
    """A socket that nfsd listens on, in each address family that the node has: "tcp" or "udp" (or "rdma")."""

    transport: str
    port: int


@dataclass(frozen=True, slots=True)
class Versions:
    """Protocol versions that nfsd serves and does not serve: "3", "4", and the minor versions of 4."""

    on: frozenset[str]
    off: frozenset[str]


def versions(*, files: ControlFiles = PROC) -> Versions:
    """What nfsd serves, or will serve. The kernel does not mention 4.0 where it comes with 4."""
    with explained("reading nfsd's versions", {errno.ENOENT: nfsd.NOT_THERE}):
        words = files.read(nfsd.CONTROL / "versions").decode("ascii").split()
    on = {word[1:] for word in words if word.startswith("+")}
    off = {word[1:] for word in words if word.startswith("-")}
    if "4" in on and "4.0" not in off:
        on.add("4.0")
    return Versions(frozenset(on), frozenset(off))


def set_versions(*, on: Iterable[str] = (), off: Iterable[str] = (), files: ControlFiles = PROC) -> None:
    """Switch versions on and off; those that are not named stay as they are. "4" stands for its minors, and goes first.

    The kernel switches all of them on again, and reports success, when none would be left: that is an error here.
    """
    # "+4" after "-4.0" would switch 4.0 on again where 4 was off.
    words = sorted([f"-{version}" for version in off] + [f"+{version}" for version in on], key=lambda word: "." in word)
    meanings = {
        errno.ENOENT: nfsd.NOT_THERE,
        errno.EBUSY: RUNNING,
        errno.EINVAL: Meaning("this kernel has no such version of NFS"),
    }
    doing = f"setting nfsd's versions to '{' '.join(words)}'"
    with explained(doing, meanings):
        files.write(nfsd.CONTROL / "versions", " ".join(words).encode("ascii") + b"\n")
    _see_versions(doing, words, versions(files=files).on)


def _see_versions(doing: str, words: list[str], on: frozenset[str]) -> None:
    minors = any(word.startswith("+4.") for word in words)
    asked = [word for word in words if not (word == "-4" and minors)]
    if any((word[1:] in on) != word.startswith("+") for word in asked):
        raise NlmfoError(
            f"{doing}: the kernel reported success, but serves {', '.join(sorted(on))}",
            hint="at least one version has to stay on, and the kernel has to be built with those that are wanted",
        )


def listeners(*, files: ControlFiles = PROC) -> tuple[Listener, ...]:
    """What nfsd listens on, each once: the kernel lists a port once for IPv4 and once for IPv6."""
    with explained("reading nfsd's listeners", {errno.ENOENT: nfsd.NOT_THERE}):
        lines = files.read(nfsd.CONTROL / "portlist").decode("ascii").splitlines()
    pairs = (line.split() for line in lines if line.strip())
    return tuple(dict.fromkeys(Listener(transport, int(port)) for transport, port in pairs))


def add_listener(listener: Listener, *, files: ControlFiles = PROC) -> None:
    """Listen on a port, in every address family that the node has. Only stopping nfsd ends it."""
    meanings = {
        errno.ENOENT: nfsd.NOT_THERE,
        errno.EADDRINUSE: Meaning("the port is taken", "it may be nfsd's own already, or another NFS server's"),
        errno.EPROTONOSUPPORT: Meaning("this kernel's nfsd has no such transport"),
        errno.EINVAL: Meaning("no port number from 1 to 65535, or no name of a transport"),
    }
    doing = f"making nfsd listen on {listener.transport} port {listener.port}"
    with explained(doing, meanings):
        files.write(nfsd.CONTROL / "portlist", f"{listener.transport} {listener.port}\n".encode("ascii"))
    if listener not in listeners(files=files):
        raise NlmfoError(f"{doing}: the kernel reported success, but does not list it")


def seconds(time: Time, *, files: ControlFiles = PROC) -> int:
    """One of NFSv4's times."""
    with explained(f"reading {time}", {errno.ENOENT: nfsd.NOT_THERE}):
        return int(files.read(nfsd.CONTROL / time))


def set_seconds(time: Time, value: int, *, files: ControlFiles = PROC) -> None:
    """Set one of NFSv4's times, from the next start of nfsd on."""
    meanings = {
        errno.ENOENT: nfsd.NOT_THERE,
        errno.EBUSY: RUNNING,
        errno.EINVAL: Meaning("the kernel takes 10 to 3600 seconds"),
    }
    with explained(f"setting {time} to {value} s", meanings):
        files.write(nfsd.CONTROL / time, b"%d\n" % value)
    found = seconds(time, files=files)
    if found != value:
        raise NlmfoError(f"{time} was set to {value} s with success, but reads {found} s")
