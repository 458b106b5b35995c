# SPDX-License-Identifier: GPL-2.0-or-later
"""The service's own NFS daemons, each judged by what it answers and not by its process id.

rpcbind     where clients ask for ports
rpc.statd   keeps the list of clients (SM_MON from lockd), with our callout; never notifies by itself (-L)
rpc.mountd  answers mount requests and the kernel's questions about exports
nfsdcld     NFSv4 client tracking; also for an NFSv3 service, because without it the kernel's NFSv4 grace of 90 s
            keeps NLM in grace and nothing can end it
nfsd        kernel threads, started with rpc.nfsd
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterable
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
from nlmfo.kernel import lockd, nfsd
from nlmfo.notify import NotServing, null_call
from nlmfo.run import run, spawn

#: Seconds for a daemon to answer, and for one question to it.
START = 30.0
ANSWER = 5.0
#: Seconds for nfsd to stop, and for lockd to take one client off statd's list meanwhile.
STOP = 30.0
STOP_EACH = 1.0
#: Seconds for daemons to end after SIGTERM, before SIGKILL.
POLITE = 3.0
LOOPBACK = IPv4Address("127.0.0.1")


@dataclass(frozen=True, slots=True)
class Program:
    """An RPC program that makes up a service."""

    name: str
    number: int
    version: int


RPCBIND = Program("rpcbind", 100000, 2)
NFS = Program("nfsd", 100003, 3)
MOUNT = Program("rpc.mountd", 100005, 3)
NLM = Program("lockd", 100021, 4)
NSM = Program("rpc.statd", 100024, 1)


def programs(service: Service) -> tuple[Program, ...]:
    """The RPC programs that have to answer before the first client may come."""
    return (RPCBIND, NSM, MOUNT, NFS, NLM) if "3" in service.versions else (RPCBIND, MOUNT)


def start(namespaces: Namespaces, service: Service) -> None:
    """Start rpcbind, then statd, mountd and nfsdcld side by side; return when each of them serves."""
    _spawn(namespaces, "rpcbind", "rpcbind", "-f")
    _await(namespaces, (RPCBIND,), LOOPBACK)
    tracking = service.state / "nfsdcld"
    tracking.mkdir(mode=0o700, exist_ok=True)
    off = [word for version in unwanted(service) for word in ("--no-nfs-version", version)]
    statd = ("--foreground", "--no-notify", "--state-directory-path", str(view.STATD_DIRECTORY))
    _spawn(namespaces, "rpc.statd", "rpc.statd", *statd, "--ha-callout", view.CALLOUT)
    _spawn(namespaces, "rpc.mountd", "rpc.mountd", "--foreground", "--ha-callout", view.CALLOUT, *off)
    nfsdcld = _spawn(namespaces, "nfsdcld", "nfsdcld", "--foreground", "-p", view.PIPEFS, "-s", tracking)
    _await(namespaces, (NSM, MOUNT), LOOPBACK)
    poll_until("nfsdcld to watch for the kernel", lambda: _watches(nfsdcld), Deadline(START))


def start_keeper(namespaces: Namespaces, configuration: Path) -> None:
    """Start ``nlmfo keep`` (see nlmfo.failover.keeper), which ends with the service's other processes."""
    nlmfo = (sys.executable, "-m", "nlmfo", "--config", configuration)
    _spawn(namespaces, "nlmfo-keep", *nlmfo, "keep", namespaces.service)


def start_nfsd(namespaces: Namespaces, service: Service) -> None:
    """Start the kernel's nfsd and lockd in the service's namespaces, and read back that both are in grace."""
    off = [word for version in unwanted_by_nfsd(service) for word in ("--no-nfs-version", version)]
    grace = ["--grace-time", str(service.grace), "--lease-time", str(service.grace)] if service.grace else []
    run(namespaces.command("rpc.nfsd", *off, *grace, "--", str(service.threads)), deadline=START)
    if namespaces.call(nfsd.threads) != service.threads:
        raise NlmfoError(f"service '{service.name}': rpc.nfsd reported success, but its threads do not run")
    if not namespaces.call(lockd.in_grace):
        raise NlmfoError(
            f"service '{service.name}': nfsd started, but lockd is not in grace: reclaims would be refused",
            hint="an NFSv3 client mount inside the service's network namespace keeps lockd alive: unmount it",
        )


def unwanted(service: Service) -> tuple[str, ...]:
    """The NFS versions to switch off altogether, as rpc.mountd and rpc.nfsd take them."""
    return tuple(version for version in ("3", "4") if not any(v.startswith(version) for v in service.versions))


def unwanted_by_nfsd(service: Service) -> tuple[str, ...]:
    """The same, and the minor versions that are not listed; "4" stands for all of them."""
    off = unwanted(service)
    if "4" in off or "4" in service.versions:
        return off
    return (*off, *(minor for minor in ("4.0", "4.1", "4.2") if minor not in service.versions))


def stop_nfsd(namespaces: Namespaces, clients: int) -> None:
    """Stop the kernel's nfsd in the service's namespaces; its lockd goes with it.

    lockd takes each of its ``clients`` off statd's list while it stops, one after the other, and waits for statd
    each time: so statd still has to run (without it each took more than a second), and the deadline grows.
    """
    deadline = STOP + STOP_EACH * clients
    namespaces.call(nfsd.stop, deadline=deadline)
    poll_until("nfsd to stop", lambda: namespaces.call(nfsd.threads) == 0, Deadline(deadline))


def stop(namespaces: Namespaces) -> None:
    """End every process in the service's namespaces, and see them gone."""
    for number, seconds in ((signal.SIGTERM, POLITE), (signal.SIGKILL, START)):
        for pid in namespaces.processes():
            _signal(pid, number)
        try:
            poll_until("the service's processes to end", lambda: not namespaces.processes(), Deadline(seconds))
        except DeadlineExceeded:
            if number == signal.SIGKILL:
                raise
        else:
            return


def answering(namespaces: Namespaces, wanted: Iterable[Program], address: Address) -> None:
    """Return when every program answers a call to ``address`` from inside the service's network."""
    _await(namespaces, wanted, address)


def alive(namespaces: Namespaces, program: Program) -> bool:
    """Whether the program answers now, on the service's loopback."""
    return _answers(namespaces, program, LOOPBACK)


def _await(namespaces: Namespaces, wanted: Iterable[Program], address: Address) -> None:
    limit = Deadline(START)
    for program in wanted:
        answers = partial(_answers, namespaces, program, address)
        try:
            poll_until(f"{program.name} to answer", answers, limit)
        except DeadlineExceeded as error:
            error.hint = f"what it said is in {namespaces.directory}/log/"
            raise


def _answers(namespaces: Namespaces, program: Program, address: Address) -> bool:
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


def _spawn(namespaces: Namespaces, name: str, *argv: str | os.PathLike[str]) -> int:
    return spawn(namespaces.command(*argv), log=namespaces.directory / "log" / f"{name}.log")


def _watches(pid: int) -> bool:
    """Whether nfsdcld has come to the point of waiting for nfsd to appear: it holds an inotify descriptor."""
    try:
        names = [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError as error:
        raise NlmfoError("nfsdcld ended as soon as it was started") from error
    return "anon_inode:inotify" in names


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it ended by itself
        os.kill(pid, number)
