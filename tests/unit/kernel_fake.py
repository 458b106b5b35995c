# SPDX-License-Identifier: GPL-2.0-or-later
"""A kernel in memory: nfsd's and lockd's control files, the lock table and grace, with the bugs of each version.

Put it in the place of the real files: ``nfsd.threads(files=kernel)``. It is one network namespace of one node.

    kernel = FakeKernel((6, 1, 176))
    kernel.mount("/srv/home", "8:16")           what is mounted; "/" is, always
    kernel.write(nfsd.CONTROL / "portlist", b"tcp 2049\\n"); kernel.write(nfsd.CONTROL / "threads", b"8\\n")
    kernel.lock("8:16", 13, 0, 99, "10.0.0.100")  a lock of a client, monitored from now on
    kernel.request("8:16", 13, reclaim=True)    the same by asking for it, as a client does: grace counts
    kernel.tick(90)                             time passes

Facts are from the sources of Linux 6.1 to 7.2 (fs/nfsd/nfsctl.c, fs/lockd, net/sunrpc/cache.c), and what was seen on
running kernels 6.1 and 6.12.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path

NFSD = Path("/proc/fs/nfsd")
LOCKD = Path("/proc/fs/lockd/nlm_end_grace")
SYSCTL = Path("/proc/sys/fs/nfs")
CACHES = Path("/proc/net/rpc")
#: What a simple_transaction file holds at most: a page without its bookkeeping.
TRANSACTION = 4096 - 16
EOF = -1
FIRST_PID = 214


class KernelOops(Exception):
    """The kernel has crashed: no code of ours may go on after that."""


class Answer(StrEnum):
    """lockd's to a request for a lock."""

    GRANTED = "granted"
    DENIED = "denied"
    GRACE = "denied, grace period"


@dataclass(frozen=True, slots=True)
class NlmLock:
    """A lock of an NFS client. ``elsewhere``: taken in another network namespace of the node."""

    device: str
    inode: int
    first: int
    last: int
    exclusive: bool
    server_ip: str
    client: str
    pid: int
    elsewhere: bool = False

    def conflicts(self, other: NlmLock) -> bool:
        return (
            (self.device, self.inode) == (other.device, other.inode)
            and self.client != other.client
            and (self.exclusive or other.exclusive)
            and self.first <= _end(other)
            and other.first <= _end(self)
        )


def _end(lock: NlmLock) -> float:
    return math.inf if lock.last == EOF else lock.last


def refuse(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class FakeKernel:
    """See the module's docstring. Attributes without an underscore may be set by tests before what they govern."""

    def __init__(self, version: tuple[int, int, int] = (6, 1, 176), *, patched: bool = False) -> None:
        self.version = version
        self.patched = patched
        self.nfsd_mounted = True
        self.lockd_loaded = True
        #: nfsdcld runs; NFSv4 clients that it knows from before.
        self.client_tracking = True
        self.v4_clients = 0
        #: lockd also serves another network namespace of this node.
        self.lockd_elsewhere = False
        self.in_first_pid_namespace = True
        self.missing: set[Path] = set()
        self.exported: dict[tuple[str, Path], bytes] = {}
        self.fsids: dict[int, Path] = {}
        #: Inodes whose locks do not go when they are dropped.
        self.stuck: set[int] = set()

        self.now = 0.0
        self.mounts: dict[Path, str] = {Path("/"): "8:1"}
        self.locks: list[NlmLock] = []
        self.monitored: set[str] = set()
        self.unmonitored: list[str] = []
        self.v4_revoked: list[str] = []
        #: With the interface of 2006: until when each address is in a grace of its own.
        self.address_grace: dict[str, float] = {}
        self.threads = 0
        self.listeners: list[tuple[str, int]] = []
        self.times = {"nfsv4leasetime": 90, "nfsv4gracetime": 90}
        self.sysctl = {
            "nlm_grace_period": 0,
            "nlm_timeout": 10,
            "nlm_tcpport": 0,
            "nlm_udpport": 0,
            "nsm_use_hostnames": 0,
            "nsm_local_state": 3,
        }
        self.flushed = dict.fromkeys(("auth.unix.ip", "auth.unix.gid", "nfsd.fh", "nfsd.export"), 1000)
        #: Every write(2) that was accepted or refused: the file and what was written.
        self.writes: list[tuple[str, bytes]] = []

        self._majors = {"2": False, "3": True, "4": True}
        self._minors = {"0": True, "1": True, "2": True}
        self._users: set[str] = set()
        self._lockd_grace_end: float | None = None
        self._v4_grace_end: float | None = None
        self._v4_ended = False
        self._killed = False
        self._pid = FIRST_PID

    # -- for tests: the node around the kernel ---------------------------------------------------------------

    @property
    def release(self) -> str:
        return ".".join(map(str, self.version))

    def mount(self, path: str | Path, device: str) -> None:
        self.mounts[Path(path)] = device

    def umount(self, path: str | Path) -> None:
        """Busy while lockd has files of it open: as long as there is a lock."""
        device = self.mounts[Path(path)]
        if any(lock.device == device for lock in self.locks):
            raise refuse(errno.EBUSY)
        del self.mounts[Path(path)]

    def is_mountpoint(self, path: Path) -> bool:
        return path in self.mounts

    def device_of(self, path: Path) -> str:
        """Of the file system that a path is on: the one mounted closest above it."""
        return next(self.mounts[at] for at in (path, *path.parents) if at in self.mounts)

    def mount_v3(self, path: str | Path) -> None:
        """An NFSv3 client mount on this node itself, with locking: it is a user of lockd like nfsd."""
        self._lockd_up(f"mount {path}")

    def umount_v3(self, path: str | Path) -> None:
        self._lockd_down(f"mount {path}")

    def kill_lockd(self) -> None:
        """SIGKILL. Kernels from 6.6 on ignore it; older ones act on it when the next request comes."""
        self._killed = self.version < (6, 6, 0) and bool(self._users)

    def tick(self, seconds: float) -> None:
        self.now += seconds
        if self._lockd_grace_end is not None and self.now >= self._lockd_grace_end:
            self._lockd_grace_end = None
        if self._v4_grace_end is not None and self.now >= self._v4_grace_end:
            self._end_v4_grace()
        self.address_grace = {address: end for address, end in self.address_grace.items() if self.now < end}

    # -- for tests: clients ----------------------------------------------------------------------------------

    @property
    def in_grace(self) -> bool:
        """NLM's: it lasts until both keepers have ended it."""
        return self._lockd_grace_end is not None or self._v4_grace_end is not None

    def lock(
        self,
        device: str,
        inode: int,
        first: int = 0,
        last: int = EOF,
        server_ip: str = "10.0.0.100",
        *,
        client: str = "10.0.0.1",
        exclusive: bool = True,
        elsewhere: bool = False,
    ) -> NlmLock:
        """A lock that a client holds, with no questions asked."""
        lock = NlmLock(device, inode, first, last, exclusive, server_ip, client, self._pid, elsewhere)
        self.locks.append(lock)
        if not elsewhere:
            self.monitored.add(client)
        return lock

    def request(
        self,
        device: str,
        inode: int,
        first: int = 0,
        last: int = EOF,
        server_ip: str = "10.0.0.100",
        *,
        client: str = "10.0.0.1",
        exclusive: bool = True,
        reclaim: bool = False,
    ) -> Answer:
        """A client asks for a lock: in grace only what it held may be had, out of grace only what is new."""
        if not self._users:
            raise refuse(errno.ECONNREFUSED)
        if self._killed:
            self._act_on_kill()
        wanted = NlmLock(device, inode, first, last, exclusive, server_ip, client, self._pid)
        if reclaim != (self.in_grace or server_ip in self.address_grace):
            return Answer.GRACE
        if any(wanted.conflicts(lock) for lock in self.locks):
            return Answer.DENIED
        self.locks.append(wanted)
        self.monitored.add(client)
        return Answer.GRANTED

    # -- ControlFiles ----------------------------------------------------------------------------------------

    def read(self, file: Path) -> bytes:
        with self.open(file) as descriptor:
            return descriptor.read()

    def pieces(self, file: Path, first: int) -> tuple[bytes, ...]:
        content = self.read(file)
        return content[:first], content[first:]

    def write(self, file: Path, data: bytes) -> None:
        with self.open(file) as descriptor:
            descriptor.write(data)

    def ask(self, file: Path, data: bytes) -> bytes:
        with self.open(file) as descriptor:
            descriptor.write(data)
            return descriptor.read()

    def exists(self, file: Path) -> bool:
        return self._handler(file) is not None

    @contextmanager
    def open(self, file: Path) -> Iterator[Descriptor]:
        """For what the Protocol does not do: a second write on the same descriptor."""
        handler = self._handler(file)
        if handler is None:
            raise refuse(errno.ENOENT)
        yield Descriptor(self, file, handler)

    def _handler(self, file: Path) -> Callable[[bytes], bytes] | None:
        if file in self.missing:
            return None
        if file.parent == NFSD and self.nfsd_mounted:
            return self._nfsd_handlers().get(file.name)
        if file == LOCKD and self.lockd_loaded:
            return self._nlm_end_grace
        if file.parent == SYSCTL and self.lockd_loaded and file.name in self.sysctl:
            return lambda data: self._sysctl(file.name, data)
        if file.parent.parent == CACHES and file.name == "flush" and file.parent.name in self.flushed:
            return lambda data: self._flush(file.parent.name, data)
        return self._process_handler(file)

    def _nfsd_handlers(self) -> dict[str, Callable[[bytes], bytes]]:
        handlers: dict[str, Callable[[bytes], bytes]] = {
            "threads": self._threads,
            "versions": self._versions,
            "portlist": self._portlist,
            "nfsv4leasetime": lambda data: self._time("nfsv4leasetime", data),
            "nfsv4gracetime": lambda data: self._time("nfsv4gracetime", data),
            "v4_end_grace": self._v4_end_grace,
            "unlock_ip": self._unlock_ip,
            "unlock_filesystem": self._unlock_filesystem,
            "filehandle": self._filehandle,
        }
        if self.patched:
            handlers |= {"nlm_unlock": self._nlm_unlock, "nlm_set_ip_grace": self._nlm_set_ip_grace}
        return handlers

    def _process_handler(self, file: Path) -> Callable[[bytes], bytes] | None:
        if file == Path("/proc/locks"):
            return lambda _: self._table()
        if file == Path("/proc/2/comm"):
            return lambda _: b"kthreadd\n" if self.in_first_pid_namespace else b"sleep\n"
        if file == Path(f"/proc/{self._pid}/comm") and (self._users or self.lockd_elsewhere):
            return lambda _: b"lockd\n"
        return None

    def _table(self) -> bytes:
        """As lock_get_status() prints it; in a namespace of processes the locks of kernel threads are left out."""
        lines = [
            f"{number}: POSIX  ADVISORY  {'WRITE' if lock.exclusive else 'READ '} {lock.pid} "
            f"{_hexadecimal(lock.device)}:{lock.inode} {lock.first} {'EOF' if lock.last == EOF else lock.last}\n"
            for number, lock in enumerate(self.locks, start=1)
        ]
        return "".join(lines).encode("ascii") if self.in_first_pid_namespace else b""

    # -- /proc/fs/nfsd ---------------------------------------------------------------------------------------

    def _running(self) -> bool:
        """nn->nfsd_serv exists: with the first thread or listener."""
        return self.threads > 0 or bool(self.listeners)

    def _threads(self, data: bytes) -> bytes:
        if data:
            count = _integer(data)
            if count < 0:
                raise refuse(errno.EINVAL)
            self._start(count) if count else self._stop()
        return b"%d\n" % self.threads

    def _start(self, count: int) -> None:
        if not self.threads:
            if not self.listeners and self.version >= (7, 2, 0):
                raise refuse(errno.EIO)
            self.listeners = self.listeners or [("udp", 2049), ("tcp", 2049)]
            self._start_v4_grace()
            if self._majors["2"] or self._majors["3"]:
                self._lockd_up("nfsd")
        self.threads = count

    def _stop(self) -> None:
        was = self.threads
        self.threads, self.listeners = 0, []
        if was:
            self._v4_grace_end = None
            self._lockd_down("nfsd")

    def _start_v4_grace(self) -> None:
        """Also with NFSv4 switched off. With nfsdcld and nobody on its list it is over at once."""
        self._v4_ended = False
        self._v4_grace_end = self.now + self.times["nfsv4gracetime"]
        if self.client_tracking and not self.v4_clients:
            self._end_v4_grace()

    def _end_v4_grace(self) -> None:
        self._v4_ended, self._v4_grace_end = True, None

    def _versions(self, data: bytes) -> bytes:
        if data:
            if self._running():
                raise refuse(errno.EBUSY)
            for word in _words(_line(data)):
                self._set_version(word.decode("ascii"))
            if not any(self._majors.values()):
                self._majors |= {"3": True, "4": True}
                self._minors = dict.fromkeys(self._minors, True)
        words = [f"{_sign(on)}{major}" for major, on in self._majors.items() if major != "2"]
        for minor, on in self._minors.items():
            if minor != "0" or not (on and self._majors["4"]):
                words.append(f"{_sign(on and self._majors['4'])}4.{minor}")
        return " ".join(words).encode("ascii") + b"\n"

    def _set_version(self, word: str) -> None:
        on, (major, dot, minor) = not word.startswith("-"), word.lstrip("+-").partition(".")
        if major not in self._majors or (dot and (major != "4" or minor not in self._minors)):
            raise refuse(errno.EINVAL)
        if dot:
            self._minors[minor] = on
            self._majors["4"] = any(self._minors.values())
        elif major == "4" and on != self._majors["4"]:
            self._minors = dict.fromkeys(self._minors, on)
            self._majors["4"] = on
        elif major == "3":
            self._majors["3"] = on

    def _portlist(self, data: bytes) -> bytes:
        """Each port twice, once for IPv4 and once for IPv6."""
        if data:
            transport, _, port = data.decode("ascii").strip().partition(" ")
            if not port.isdecimal() or not 0 < int(port) < 65536:
                raise refuse(errno.EINVAL)
            if transport not in ("tcp", "udp"):
                raise refuse(errno.EPROTONOSUPPORT)
            if (transport, int(port)) in self.listeners:
                raise refuse(errno.EADDRINUSE)
            self.listeners.append((transport, int(port)))
        return b"".join(b"%s %d\n" % (name.encode(), port) * 2 for name, port in self.listeners)

    def _time(self, name: str, data: bytes) -> bytes:
        if data:
            if self._running():
                raise refuse(errno.EBUSY)
            value = _integer(data)
            if not 10 <= value <= 3600:
                raise refuse(errno.EINVAL)
            self.times[name] = value
        return b"%d\n" % self.times[name]

    def _v4_end_grace(self, data: bytes) -> bytes:
        if data:
            if data[:1] not in (b"Y", b"y", b"1"):
                raise refuse(errno.EINVAL)
            if not self.threads or not self.client_tracking or self._v4_ended:
                raise refuse(errno.EBUSY)
            self._end_v4_grace()
        return b"Y\n" if self._v4_ended else b"N\n"

    def _unlock_ip(self, data: bytes) -> bytes:
        if len(data) > 16:  # what rpc_pton() is told is the length of an address
            raise refuse(errno.EINVAL)
        word, _ = qword_get(_line(data))
        try:
            address = str(IPv4Address((word or b"").decode("ascii", errors="replace")))
        except AddressValueError:
            raise refuse(errno.EINVAL) from None
        if not self._unlock_ip_is_idle():
            self.drop(lambda lock: lock.server_ip == address)
        return b""

    def _unlock_ip_is_idle(self) -> bool:
        """nlmsvc_match_ip() compares the wrong things, and finds nothing."""
        fixed = {(6, 1): 191, (6, 12): 112}.get(self.version[:2])
        return self.version < (7, 2, 0) and not (fixed is not None and self.version[2] >= fixed)

    def _unlock_filesystem(self, data: bytes) -> bytes:
        word, _ = qword_get(_line(data))
        if word is None:
            raise refuse(errno.EINVAL)
        path = Path(os.fsdecode(word))
        if not word.startswith(b"/") or path in self.missing:
            raise refuse(errno.ENOENT)
        self.unlock_filesystem(path)
        return b""

    def unlock_filesystem(self, path: Path) -> None:
        """NLM's locks first, in every namespace; then NFSv4's state, where there is an nfsd to have any."""
        device = self.device_of(path)
        self.drop(lambda lock: lock.device == device)
        if self.version < (6, 9, 0):
            return
        if not self.threads:
            fixed = self.version >= (6, 19, 0) or (self.version[:2] == (6, 12) and self.version[2] >= 66)
            if not fixed:
                raise KernelOops("unlock_filesystem without nfsd")
            raise refuse(errno.EINVAL)
        self.v4_revoked.append(device)

    def drop(self, which: Callable[[NlmLock], bool]) -> None:
        """Release locks; EIO when one does not go."""
        self.locks = [lock for lock in self.locks if not which(lock) or lock.inode in self.stuck]
        if any(which(lock) for lock in self.locks):
            raise refuse(errno.EIO)

    def _filehandle(self, data: bytes) -> bytes:
        words = _words(_line(data))
        if len(words) != 3 or int(words[2]) < 32:
            raise refuse(errno.EINVAL)
        handle = self.exported.get((words[0].decode(), Path(os.fsdecode(words[1]))))
        if handle is None:
            raise refuse(errno.EPERM)
        return b"\\x" + handle[: int(words[2])].hex().encode("ascii") + b"\n"

    def _nlm_unlock(self, data: bytes) -> bytes:
        word = _words(_line(data))[0].decode()
        path = self.fsids.get(int(word)) if word.isdecimal() else Path(word)
        if path is None:
            raise refuse(errno.EINVAL)
        device = self.device_of(path)
        self.drop(lambda lock: lock.device == device)
        return b""

    def _nlm_set_ip_grace(self, data: bytes) -> bytes:
        self.address_grace[_words(_line(data))[0].decode()] = self.now + self._grace_period()
        return b""

    # -- lockd -----------------------------------------------------------------------------------------------

    def _lockd_up(self, user: str) -> None:
        """Grace starts with the first user of this namespace, and with no other."""
        if not self._users:
            if not self.lockd_elsewhere:
                self._pid += 1
            self._lockd_grace_end = self.now + self._grace_period()
        self._users.add(user)

    def _lockd_down(self, user: str) -> None:
        self._users.discard(user)
        if self._users:
            return
        self._lockd_grace_end = None
        if self.version >= (6, 4, 0):
            self.locks = [lock for lock in self.locks if lock.elsewhere]
            self.unmonitored += sorted(self.monitored)
            self.monitored = set()
        elif not self.lockd_elsewhere:
            self.locks = []

    def _act_on_kill(self) -> None:
        """nlmsvc_invalidate_all(): every namespace's locks go, and nobody is taken off statd's list."""
        self._killed = False
        self.locks = []
        self._lockd_grace_end = self.now + self._grace_period()

    def _grace_period(self) -> int:
        period, timeout = self.sysctl["nlm_grace_period"], self.sysctl["nlm_timeout"]
        return math.ceil(period / timeout) * timeout if period else 5 * timeout

    def _nlm_end_grace(self, data: bytes) -> bytes:
        if data:
            if data[:1] not in (b"Y", b"y", b"1"):
                raise refuse(errno.EINVAL)
            self._lockd_grace_end = None
        return b"Y\n\0" if self._lockd_grace_end is None else b"N\n\0"

    def _sysctl(self, name: str, data: bytes) -> bytes:
        low, high = {
            "nlm_grace_period": (0, 240),
            "nlm_timeout": (3, 20),
            "nlm_tcpport": (0, 65535),
            "nlm_udpport": (0, 65535),
            "nsm_use_hostnames": (0, 1),
            "nsm_local_state": (0, 2**32 - 1),
        }[name]
        if data:
            if not low <= int(data) <= high:
                raise refuse(errno.EINVAL)
            self.sysctl[name] = int(data)
        return b"%d\n" % self.sysctl[name]

    # -- /proc/net/rpc ---------------------------------------------------------------------------------------

    def _flush(self, name: str, data: bytes) -> bytes:
        """The number that is written does not matter; the second of the flush always rises (since 4.16)."""
        if data:
            if not _line(data).strip().isdigit() or len(data) > 19:
                raise refuse(errno.EINVAL)
            self.flushed[name] = max(1000 + int(self.now), self.flushed[name] + 1)
        return b"%d\n" % self.flushed[name]


class Descriptor:
    """One open control file: a transaction takes one write, and reading without one is a write of nothing."""

    def __init__(self, kernel: FakeKernel, file: Path, handler: Callable[[bytes], bytes]) -> None:
        self._kernel = kernel
        self._file = file
        self._handler = handler
        self._answer: bytes | None = None

    def write(self, data: bytes) -> None:
        self._kernel.writes.append((self._file.name, data))
        if self._answer is not None and self._file.parent in (NFSD, LOCKD.parent):
            raise refuse(errno.EBUSY)
        if len(data) > TRANSACTION:
            raise refuse(errno.EFBIG)
        if not data and self._file == LOCKD:
            raise refuse(errno.EINVAL)
        self._answer = b""
        self._answer = self._handler(data)

    def read(self) -> bytes:
        if self._answer is None:
            self._answer = self._handler(b"")
        return self._answer


def qword_get(line: bytes) -> tuple[bytes | None, bytes]:
    r"""The first word as the kernel reads it (net/sunrpc/cache.c), and the rest; None for a word that it refuses.

    Words end at a blank, a newline or NUL; ``\ooo`` is a byte in octal, and a whole word may be ``\x`` and hexadecimal.
    """
    line = line.lstrip(b" ")
    word, position = bytearray(), 0
    if line.startswith(b"\\x"):
        position = 2
        while len(pair := line[position : position + 2]) == 2 and all(c in b"0123456789abcdefABCDEF" for c in pair):
            word.append(int(pair, 16))
            position += 2
    else:
        while position < len(line) and line[position] not in b" \n\0":
            octal = line[position + 1 : position + 4]
            if line[position] == ord("\\") and len(octal) == 3 and octal[0] in b"0123" and _is_octal(octal):
                word.append(int(octal, 8))
                position += 4
            else:
                word.append(line[position])
                position += 1
    if position < len(line) and line[position] not in b" \n\0":
        return None, b""
    return bytes(word), line[position:].lstrip(b" ")


def _is_octal(digits: bytes) -> bool:
    return all(digit in b"01234567" for digit in digits)


def _words(line: bytes) -> list[bytes]:
    words = []
    while line and line != b"\n":
        word, line = qword_get(line)
        if not word:
            raise refuse(errno.EINVAL)
        words.append(word)
    return words


def _line(data: bytes) -> bytes:
    if not data.endswith(b"\n"):
        raise refuse(errno.EINVAL)
    return data


def _integer(data: bytes) -> int:
    word, _ = qword_get(data)
    try:
        return int(word or b"")
    except ValueError:
        raise refuse(errno.EINVAL) from None


def _sign(on: bool) -> str:
    return "+" if on else "-"


def _hexadecimal(device: str) -> str:
    major, minor = (int(part) for part in device.split(":"))
    return f"{major:02x}:{minor:02x}"
