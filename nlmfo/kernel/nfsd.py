# SPDX-License-Identifier: GPL-2.0-or-later
"""The nfsd control files, /proc/fs/nfsd, of the network namespace in which they were mounted (fs/nfsd/nfsctl.c).

Each write is one write(2) on a fresh descriptor: the kernel takes the first and answers EBUSY to a second. Every
line ends with a newline, and words in it are escaped (see ``escape``). What can only be set while nfsd is down is in
``nlmfo.kernel.nfsd_settings``.

    threads            how many run; 0 stops nfsd, and its locks and listeners go with it
    unlock_filesystem  drops every NLM lock on the file system of a path
    unlock_ip          drops every NLM lock taken through a server address; see ``unlock_ip``
    v4_end_grace       whether NFSv4's grace has ended; Y ends it
    filehandle         the handle that a client would get for a path
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from nlmfo.errors import NlmfoError
from nlmfo.kernel.files import PROC, ControlError, ControlFiles, Meaning, explained

CONTROL = Path("/proc/fs/nfsd")
#: The sizes of a file handle that the kernel gives out: NFS_FHSIZE to NFS3_FHSIZE bytes.
SMALLEST_HANDLE, LARGEST_HANDLE = 32, 64
NOT_THERE = Meaning("the nfsd file system is not mounted here", "'mount -t nfsd nfsd /proc/fs/nfsd' mounts it")


def threads(*, files: ControlFiles = PROC) -> int:
    """How many nfsd threads run; 0 when nfsd is down or its file system is not mounted."""
    try:
        return int(files.read(CONTROL / "threads"))
    except FileNotFoundError:
        return 0


def is_set_up(*, files: ControlFiles = PROC) -> bool:
    """Whether there is an nfsd in the caller's network namespace, with threads or without: its sockets may keep it."""
    if threads(files=files) > 0:
        return True
    with explained("reading nfsd's listeners", {errno.ENOENT: NOT_THERE}):
        return bool(files.read(CONTROL / "portlist").strip())


def set_threads(count: int, *, files: ControlFiles = PROC) -> None:
    """Run ``count`` nfsd threads, and read back that they run. 0 stops nfsd.

    Starting takes listeners (kernel 7.2 refuses otherwise, older kernels make their own on port 2049). Stopping
    drops the namespace's locks, NFSv4 state and listeners, and takes as long as statd needs to forget each client.
    """
    meanings = {
        errno.ENOENT: NOT_THERE,
        errno.EINVAL: Meaning("that is no number of threads"),
        errno.EIO: Meaning("the kernel has no socket to listen on", "add a listener first, such as tcp on port 2049"),
        errno.EADDRINUSE: Meaning(
            "the port is taken",
            "another NFS server runs in this namespace, or lockd's own port is in use (nlm_tcpport and nlm_udpport "
            "in /proc/sys/fs/nfs); 'ss -lntup' shows by whom",
        ),
    }
    with explained(f"running {count} nfsd threads", meanings):
        files.write(CONTROL / "threads", b"%d\n" % count)
    running = threads(files=files)
    if running != count:
        raise NlmfoError(f"nfsd was told to run {count} threads and reported success, but {running} run")


def stop(*, files: ControlFiles = PROC) -> None:
    """Tell nfsd to stop: its locks and NFSv4 state go with it. ``threads`` says when it has."""
    with explained("stopping nfsd", {errno.ENOENT: NOT_THERE}):
        files.write(CONTROL / "threads", b"0\n")


def has_own_file_system(path: Path) -> bool:
    """Whether something is mounted at ``path`` itself. Raises OSError when the path cannot be looked at."""
    real = path.resolve(strict=True)
    return real == real.parent or real.stat().st_dev != real.parent.stat().st_dev


def unlock_filesystem(
    mountpoint: Path,
    *,
    files: ControlFiles = PROC,
    is_mountpoint: Callable[[Path], bool] = has_own_file_system,
) -> None:
    """Drop every NLM lock on the file system mounted at ``mountpoint``, whoever holds it and in any namespace.

    Refused, with NlmfoError, where no nfsd runs: kernels 6.9 to 6.12.65 and 6.13 to 6.18 oops then (mended by
    d0424066fcd2), later ones answer EINVAL after they have dropped the locks. Refused, too, where nothing is mounted
    at the path: the kernel takes any path, and would drop the locks of the parent's file system.
    Success proves nothing about locks that clients take meanwhile: see ``nlmfo.kernel.dropping``.
    """
    doing = f"dropping the locks on {mountpoint}"
    need_nfsd(doing, files)
    need_mountpoint(doing, mountpoint, is_mountpoint)
    meanings = {
        errno.ENOENT: Meaning("no such path, or the kernel has no unlock_filesystem here"),
        errno.EIO: Meaning("the kernel could not release all of them", "a lock that stays is shown in /proc/locks"),
        errno.EINVAL: Meaning("nfsd stopped meanwhile; the NLM locks may be gone all the same"),
    }
    with explained(doing, meanings):
        files.write(CONTROL / "unlock_filesystem", escape(os.fsencode(mountpoint)) + b"\n")


def unlock_ip(address: IPv4Address | IPv6Address, *, files: ControlFiles = PROC) -> None:
    """Drop every NLM lock that was taken through the server address ``address``.

    Success proves NOTHING: every kernel from 2.6.26 on reported it and dropped nothing, until 6.1.191, 6.12.112 and
    7.2 (CVE-2026-93231; two arguments of a comparison were swapped). Look into /proc/locks afterwards.
    IPv6 addresses are refused by every kernel here (the length that the parser is given includes the newline): by
    netlink, kernels from 7.2 take them.
    """
    meanings = {
        errno.ENOENT: NOT_THERE,
        errno.EINVAL: Meaning(
            "the kernel does not take this address in this file, as with every IPv6 address",
            "drop the locks by file system, or run kernel 7.2 or later, which takes IPv6 addresses by netlink",
        ),
        errno.EIO: Meaning("the kernel could not release all of them", "a lock that stays is shown in /proc/locks"),
    }
    with explained(f"dropping the locks taken through {address}", meanings):
        files.write(CONTROL / "unlock_ip", escape(str(address).encode()) + b"\n")


def v4_grace_ended(*, files: ControlFiles = PROC) -> bool:
    """Whether NFSv4's grace period is over. NLM waits for it too, also where NFSv4 is switched off.

    True in a kernel that was built without NFSv4: it has no such grace, and no file to say so.
    """
    try:
        return files.read(CONTROL / "v4_end_grace").startswith(b"Y")
    except FileNotFoundError:
        return True


def end_v4_grace(*, files: ControlFiles = PROC) -> None:
    """Ask for the end of NFSv4's grace period; nothing to do where it is over or unknown to the kernel.

    The kernel does it a moment later, in another thread: ``v4_grace_ended`` says when.
    """
    if v4_grace_ended(files=files):
        return
    meanings = {
        errno.EBUSY: Meaning(
            "nfsd is down, or it has nobody who keeps track of its clients",
            "nfsdcld has to run before nfsd starts; without it this grace lasts until its time is over",
        ),
    }
    try:
        with explained("ending NFSv4's grace", meanings):
            files.write(CONTROL / "v4_end_grace", b"Y\n")
    except ControlError as error:
        # EBUSY is also what the kernel says when the time was over just now.
        if error.number != errno.EBUSY or not v4_grace_ended(files=files):
            raise


def filehandle(domain: str, path: Path, maxsize: int = LARGEST_HANDLE, *, files: ControlFiles = PROC) -> bytes:
    """The NFS handle of an exported directory, as the clients named ``domain`` in the export table get it.

    It has to be the same on every node that may serve the path. ``maxsize`` is in bytes, from 32 to 64.
    """
    meanings = {
        errno.ENOENT: NOT_THERE,
        errno.EPERM: Meaning(
            f"no such path, or it is not exported to '{domain}'",
            "rpc.mountd has to run, and 'exportfs -s' has to list the path for these clients",
        ),
        errno.EINVAL: Meaning(f"no domain, no path, or no size from {SMALLEST_HANDLE} to {LARGEST_HANDLE} bytes"),
    }
    words = (domain.encode(), os.fsencode(path), b"%d" % maxsize)
    with explained(f"asking for the file handle of {path}", meanings):
        answer = files.ask(CONTROL / "filehandle", b" ".join(map(escape, words)) + b"\n")
    try:
        return bytes.fromhex(answer.decode("ascii").strip().removeprefix("\\x"))
    except ValueError as error:
        raise NlmfoError(f"asking for the file handle of {path}: the kernel said {answer!r}") from error


def escape(word: bytes) -> bytes:
    """A word as qword_get() reads it: blank, tab, newline and backslash as three octal digits."""
    return b"".join(b"\\%03o" % byte if byte in b" \t\n\\" else bytes((byte,)) for byte in word)


def need_nfsd(doing: str, files: ControlFiles) -> None:
    """Raise NlmfoError, which begins with ``doing``, where no nfsd runs in this network namespace."""
    if threads(files=files) == 0:
        raise NlmfoError(
            f"{doing}: nfsd does not run in this network namespace, and kernels crash when told to drop locks then",
            hint="where nfsd has stopped its locks are gone with it; if /proc/locks still shows some, start it first",
        )


def need_mountpoint(doing: str, path: Path, is_mountpoint: Callable[[Path], bool]) -> None:
    """Raise NlmfoError, which begins with ``doing``, where nothing is mounted at ``path``."""
    try:
        mounted = is_mountpoint(path)
    except OSError as error:
        raise NlmfoError(f"{doing}: {error.strerror}") from error
    if not mounted:
        raise NlmfoError(
            f"{doing}: nothing is mounted there, and the kernel would drop the locks of the file system above it",
            hint=f"'findmnt {path}' shows what is mounted; name the mount point itself",
        )
