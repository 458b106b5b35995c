# SPDX-License-Identifier: GPL-2.0-or-later
"""The nfsd of a service in namespaces of its own: set up before anybody waits, started and stopped while clients do.

By the kernel's control files, as rpc.nfsd(8) does it: to start that program takes longer than all that it does.
It listens on TCP port 2049, as rpc.nfsd does by default.
"""

from __future__ import annotations

from functools import partial

from nlmfo.config import Service
from nlmfo.deadline import Deadline, poll_until
from nlmfo.errors import NlmfoError
from nlmfo.host import nfsd_setup
from nlmfo.host.daemons import START, STOP, STOP_EACH, unwanted
from nlmfo.host.namespaces import Namespaces
from nlmfo.host.nfsd_setup import Setup
from nlmfo.kernel import lockd, nfsd, nfsd_settings
from nlmfo.kernel.files import PROC, ControlFiles
from nlmfo.kernel.nfsd_settings import Listener, Versions

LISTENERS = (Listener("tcp", 2049),)


def prepare(namespaces: Namespaces, service: Service) -> None:
    """Set up all but the threads. rpcbind has to answer, since the kernel tells it where nfsd will listen."""
    setup = Setup(Versions(frozenset(), frozenset(unwanted_versions(service))), LISTENERS, service.grace)
    try:
        served = namespaces.call(partial(_prepare, setup), deadline=START)
    except NlmfoError as error:
        raise _does_not_start(service, error) from error
    missing = set(service.versions) - served
    if missing:
        raise NlmfoError(
            f"service '{service.name}': this kernel's nfsd does not serve NFS version {', '.join(sorted(missing))}",
            hint="take it out of 'versions' in the service's file, or run a kernel that has it on every node",
        )


def start(namespaces: Namespaces, service: Service) -> None:
    """Run nfsd's threads, and lockd with them, and read back that lockd is in grace. See ``prepare``."""
    try:
        in_grace = namespaces.call(partial(_start, service.threads, service.grace), deadline=START)
    except NlmfoError as error:
        raise _does_not_start(service, error) from error
    if not in_grace:
        raise NlmfoError(
            f"service '{service.name}': nfsd started, but lockd is not in grace: reclaims would be refused",
            hint="an NFSv3 client mount inside the service's network namespace keeps lockd alive: unmount it",
        )


def stop(namespaces: Namespaces, clients: int) -> None:
    """Stop it; its lockd and listeners go with it.

    lockd takes each of its ``clients`` off statd's list while it stops, one after the other, and waits for statd
    each time: so statd still has to run (without it each took more than a second), and the deadline grows.
    """
    deadline = STOP + STOP_EACH * clients
    namespaces.call(nfsd.stop, deadline=deadline)
    poll_until("nfsd to stop", lambda: not namespaces.call(nfsd.is_set_up), Deadline(deadline))


def unwanted_versions(service: Service) -> tuple[str, ...]:
    """The NFS versions to switch off, with the minor versions that are not listed; "4" stands for all of them."""
    off = unwanted(service)
    if "4" in off or "4" in service.versions:
        return off
    return (*off, *(minor for minor in ("4.0", "4.1", "4.2") if minor not in service.versions))


def _prepare(setup: Setup, files: ControlFiles = PROC) -> frozenset[str]:
    """Which versions will be served."""
    nfsd_setup.prepare(setup, files=files)
    return nfsd_settings.versions(files=files).on


def _start(threads: int, grace: int | None, files: ControlFiles = PROC) -> bool:
    """Whether lockd is in grace then."""
    nfsd_setup.set_grace_of_lockd(grace, files=files)
    nfsd.set_threads(threads, files=files)
    return lockd.in_grace(files=files)


def _does_not_start(service: Service, error: NlmfoError) -> NlmfoError:
    return NlmfoError(
        f"service '{service.name}': nfsd does not start: {error}",
        hint=error.hint or "'dmesg' on this node may say more; 'nlmfo check' tells what its kernel has",
    )
