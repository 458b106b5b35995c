# SPDX-License-Identifier: GPL-2.0-or-later
"""The service's own NFS daemons, each judged by what it answers and not by its process id.

rpcbind     where clients ask for ports
rpc.statd   keeps the list of clients (SM_MON from lockd), with our callout; never notifies by itself (-L)
rpc.mountd  answers mount requests and the kernel's questions about exports
nfsdcld     NFSv4 client tracking; also for an NFSv3 service, because without it the kernel's NFSv4 grace of 90 s
            keeps NLM in grace and nothing can end it
nfsd        kernel threads: see nlmfo.host.own_nfsd
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path

from nlmfo.config import Service
from nlmfo.deadline import Deadline, poll_until
from nlmfo.errors import DeadlineExceeded, NlmfoError
from nlmfo.host import view
from nlmfo.host.addresses import Address
from nlmfo.host.namespaces import Namespaces
from nlmfo.host.surroundings import Surroundings
from nlmfo.notify import NotServing, null_call, tcp_port
from nlmfo.plain import plain
from nlmfo.run import spawn

#: Seconds for a daemon to answer, and for one question to it.
START = 30.0
ANSWER = 5.0
#: Seconds for nfsd to stop, and for lockd to take one client off statd's list meanwhile.
STOP = 30.0
STOP_EACH = 1.0
#: Seconds for a daemon to end after SIGKILL, before another look at all of them.
SOON = 0.1
LOOPBACK = IPv4Address("127.0.0.1")
#: Bytes of a daemon's log that are read for its last words, when it ended at once.
SAID = 1 << 16


@dataclass(frozen=True, slots=True)
class Program:
    """An RPC program that makes up a service."""

    name: str
    number: int
    version: int


@dataclass(frozen=True, slots=True)
class Started:
    """A daemon that was started; what it says of this run is in ``log``, from byte ``since`` on."""

    name: str
    pid: int
    log: Path
    since: int


RPCBIND = Program("rpcbind", 100000, 2)
NFS = Program("nfsd", 100003, 3)
MOUNT = Program("rpc.mountd", 100005, 3)
NLM = Program("lockd", 100021, 4)
NSM = Program("rpc.statd", 100024, 1)
TRACKER = "nfsdcld"


def programs(service: Service) -> tuple[Program, ...]:
    """The RPC programs that have to answer before the first client may come."""
    return (RPCBIND, NSM, MOUNT, NFS, NLM) if "3" in service.versions else (RPCBIND, MOUNT)


def start(namespaces: Namespaces, service: Service) -> None:
    """Start what needs no partition: rpcbind, then statd and mountd side by side; return when each of them serves."""
    _await(namespaces, {RPCBIND: _start(namespaces, service, RPCBIND)}, LOOPBACK)
    _await(namespaces, {program: _start(namespaces, service, program) for program in (NSM, MOUNT)}, LOOPBACK)


def start_again(namespaces: Namespaces, service: Service, program: Program) -> None:
    """Start one of these in the place of one that has died or hangs; return when it serves.

    Whom rpc.statd monitors it reads again from its directory, and the others keep nothing.
    """
    _end(namespaces, program.name)
    _await(namespaces, {program: _start(namespaces, service, program)}, LOOPBACK)


def _start(namespaces: Namespaces, service: Service, program: Program) -> Started:
    callout = ("--ha-callout", view.CALLOUT)
    off = [word for version in unwanted(service) for word in ("--no-nfs-version", version)]
    words: dict[Program, tuple[str | Path, ...]] = {
        RPCBIND: ("-f",),
        NSM: ("--foreground", "--no-notify", "--state-directory-path", view.STATD_DIRECTORY, *callout),
        MOUNT: ("--foreground", *callout, *off),
    }
    return _spawn(namespaces, program.name, program.name, *words[program])


def start_tracking(namespaces: Namespaces, tracking: Path) -> None:
    """Start nfsdcld, with its list of NFSv4 clients in ``tracking``; return when it watches for nfsd to appear."""
    namespaces.call(partial(tracking.mkdir, mode=0o700, exist_ok=True))
    nfsdcld = _spawn(namespaces, TRACKER, TRACKER, "--foreground", "-p", view.PIPEFS, "-s", tracking)
    poll_until("nfsdcld to watch for the kernel", lambda: _watches(nfsdcld), Deadline(START), interval=0.01)


def start_tracking_again(namespaces: Namespaces, tracking: Path) -> None:
    """Start nfsdcld in the place of one that has died or hangs. A takeover begins where nothing of the service runs."""
    _end(namespaces, TRACKER)
    start_tracking(namespaces, tracking)


def tracking_of(service: Service) -> Path:
    """Where nfsdcld keeps its list: where it moves with the service, unless there is nobody to be put on it."""
    return view.NFSDCLD if service.versions == ("3",) else service.state / "nfsdcld"


def tracks(namespaces: Namespaces) -> bool:
    """Whether nfsdcld runs. It answers nobody but the kernel."""
    return bool(_named(namespaces, TRACKER))


def _end(namespaces: Namespaces, name: str) -> None:
    """End a daemon that hangs, and see it gone."""
    for pid in _named(namespaces, name):
        _signal(pid, signal.SIGKILL)
    poll_until(f"{name} to end", lambda: not _named(namespaces, name), Deadline(START), interval=0.01)


def _named(namespaces: Namespaces, name: str) -> list[int]:
    """The processes of the service that were started as ``name`` and have not ended."""
    return [pid for pid in namespaces.processes() if _words(pid)[:1] == [name.encode()]]


def _words(pid: int) -> list[bytes]:
    """What a process was started as; nothing when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def unwanted(service: Service) -> tuple[str, ...]:
    """The NFS versions to switch off altogether, as rpc.mountd and nfsd take them."""
    return tuple(version for version in ("3", "4") if not any(v.startswith(version) for v in service.versions))


def stop(namespaces: Namespaces) -> None:
    """End every process in the service's namespaces, and see them gone.

    At once: told politely, each of the daemons asks rpcbind to forget it, which is ending as well, and clients wait.
    None of them leaves anything half-written: records are made so, and nfsdcld's list is a database.
    """

    def gone() -> bool:
        left = namespaces.processes()
        killed = [_killed(pid) for pid in left]
        for end in (descriptor for descriptor in killed if descriptor is not None):  # 0 where stdin was closed
            waiting = select.poll()
            waiting.register(end, select.POLLIN)
            waiting.poll(SOON * 1000)  # to look through all processes of a node takes longer
            os.close(end)
        return not left

    poll_until("the service's processes to end", gone, Deadline(START), interval=0.005)


def answering(place: Surroundings, wanted: Iterable[Program], address: Address) -> None:
    """Return when every program answers a call to ``address`` from inside the service's network."""
    _await(place, dict.fromkeys(wanted), address)


def answer(place: Surroundings, wanted: Iterable[Program], address: Address) -> bool:
    """Whether every program answers now."""
    return all(_answers(place, program, address) for program in wanted)


def kernel_ports(place: Surroundings, service: Service, address: Address) -> frozenset[int]:
    """The TCP ports of nfsd and lockd, by rpcbind: where clients have connections that stay. Raises NlmfoError."""
    wanted = [program for program in (NFS, NLM) if program in programs(service)]
    return frozenset(
        tcp_port(address, each.number, each.version, open_socket=place.open_socket, deadline=ANSWER) for each in wanted
    )


def _await(namespaces: Surroundings, wanted: Mapping[Program, Started | None], address: Address) -> None:
    """Each with the daemon that is to answer, if it was started just now: one that has ended is not waited for."""
    limit = Deadline(START)
    for program, daemon in wanted.items():
        answers = partial(_answers_if_it_lives, namespaces, program, address, daemon)
        try:
            poll_until(f"{program.name} to answer", answers, limit)
        except DeadlineExceeded as error:
            error.hint = f"what it said is in {namespaces.directory}/log/"
            raise


def _answers_if_it_lives(namespaces: Surroundings, program: Program, address: Address, daemon: Started | None) -> bool:
    if _answers(namespaces, program, address):
        return True
    if daemon is not None:
        _descriptors(daemon)
    return False


def _answers(namespaces: Surroundings, program: Program, address: Address) -> bool:
    try:
        null_call(
            address,
            None,
            program.number,
            program.version,
            open_socket=namespaces.open_socket,
            deadline=ANSWER,
        )
    except (NotServing, DeadlineExceeded):
        return False
    return True


def _spawn(namespaces: Surroundings, name: str, *argv: str | os.PathLike[str]) -> Started:
    log = namespaces.directory / "log" / f"{name}.log"
    since = log.stat().st_size if log.exists() else 0
    return Started(name, spawn(namespaces.command(*argv), log=log), log, since)


def _watches(nfsdcld: Started) -> bool:
    """Whether nfsdcld has come to the point of waiting for nfsd to appear: it holds an inotify descriptor."""
    return any(_leads_to(entry) == "anon_inode:inotify" for entry in _descriptors(nfsdcld))


def _descriptors(daemon: Started) -> list[Path]:
    """What it has open. Raises NlmfoError, with its last words, when it has ended."""
    try:
        entries = list(Path(f"/proc/{daemon.pid}/fd").iterdir())
    except FileNotFoundError:
        entries = []
    if not entries:  # nobody has waited for it yet, or somebody has
        raise NlmfoError(
            f"{daemon.name} ended as soon as it was started{_last_words(daemon)}",
            hint=f"see that it is installed and can run on this node; what it said is in {daemon.log}",
        )
    return entries


def _last_words(daemon: Started) -> str:
    with daemon.log.open("rb") as log:
        log.seek(daemon.since)
        said = log.read(SAID).decode(errors="replace").split("\n")
    last = next((line for line in reversed(said) if line.strip()), "")
    return f": {plain(last.strip())}" if last else ""


def _leads_to(entry: Path) -> str:
    """What a descriptor of another process is; nothing when it was closed since the directory was read."""
    try:
        return str(entry.readlink())
    except FileNotFoundError:
        return ""


def _killed(pid: int) -> int | None:
    """A descriptor that is readable once the process has ended; None if it had by itself."""
    try:
        found = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    _signal(pid, signal.SIGKILL)
    return found


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it ended by itself
        os.kill(pid, number)
