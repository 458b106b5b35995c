# SPDX-License-Identifier: GPL-2.0-or-later
"""Mends what can be mended of a service that is served here, without anybody losing a lock or waiting out a grace.

Locks live in the kernel: rpcbind, rpc.statd, rpc.mountd and nfsdcld can be started anew beside them, and so can the
keeper. Whatever else fails takes a takeover: it takes down what is left, and has clients reclaim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

from nlmfo.config import Config, Isolation, Service
from nlmfo.failover.health import Trouble
from nlmfo.host import daemons, keeper_process, rpcbind
from nlmfo.host.daemons import MOUNT, NSM, RPCBIND, TRACKER
from nlmfo.host.namespaces import Namespaces
from nlmfo.host.node import surroundings_of

KEEPER = "keeper"


def first(service: Service, troubles: Iterable[Trouble]) -> str | None:
    """Which part to mend now: one at a time, because without rpcbind nobody else can be found."""
    wrong = {trouble.part for trouble in troubles}
    return next((part for part in _ways(service) if part in wrong), None)


def mend(config: Config, service: Service, part: str) -> None:
    """Start a part anew, and see that it serves. Raises NlmfoError when it does not."""
    _ways(service)[part](config, service)


def note(service: Service) -> None:
    """Keep what mending will need, while all is well."""
    if service.isolation is not Isolation.HOST:
        rpcbind.note(Namespaces(service.name))


def _ways(service: Service) -> Mapping[str, Callable[[Config, Service], None]]:
    """How each part is mended, in the order in which they need each other.

    In host isolation the daemons are the node's, and what looks after those is its service manager.
    """
    if service.isolation is Isolation.HOST:
        return {KEEPER: _keeper}
    return {
        RPCBIND.name: _rpcbind,
        NSM.name: partial(_daemon, NSM),
        MOUNT.name: partial(_daemon, MOUNT),
        TRACKER: _tracker,
        KEEPER: _keeper,
    }


def _rpcbind(_: Config, service: Service) -> None:
    namespaces = Namespaces(service.name)
    daemons.start_again(namespaces, service, RPCBIND)
    rpcbind.register(namespaces, rpcbind.noted(namespaces))


def _daemon(program: daemons.Program, _: Config, service: Service) -> None:
    daemons.start_again(Namespaces(service.name), service, program)


def _tracker(_: Config, service: Service) -> None:
    daemons.start_tracking_again(Namespaces(service.name), daemons.tracking_of(service))


def _keeper(config: Config, service: Service) -> None:
    keeper_process.start(surroundings_of(service), config.directory)
