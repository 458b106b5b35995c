# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may hold locks, and which are held."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import TypeVar

from nlmfo.child import in_child
from nlmfo.cli import document, tables
from nlmfo.cli.commands import common
from nlmfo.config import Config, Service
from nlmfo.errors import ExitCode, NotOwned
from nlmfo.failover.clients import forget, on_record
from nlmfo.failover.held import held_on

T = TypeVar("T")

#: Seconds to read the records of a service.
READ = 30.0


def clients(config: Config, arguments: argparse.Namespace) -> ExitCode:
    common.need_root()
    if arguments.forget is not None:
        return _forget(config, arguments)
    found = _of_served(config, arguments, on_record)
    if arguments.fsid:
        found = [client for client in found if client.may_use(arguments.fsid)]
    if arguments.json:
        print(document.whole({"node": config.node, "clients": [asdict(client) for client in found]}))
    else:
        print(tables.clients(found))
    return ExitCode.OK


def _forget(config: Config, arguments: argparse.Namespace) -> ExitCode:
    if not arguments.service:
        raise common.UsageError(
            "--forget: of which service?", hint=f"nlmfo clients SERVICE --forget {arguments.forget}"
        )
    service = config.service(arguments.service)
    work = partial(forget, config, service, arguments.forget, frozenset(arguments.force))
    found = in_child(f"work in {service.state}", work, deadline=READ)
    if arguments.json:
        print(document.whole({"node": config.node, "forgotten": asdict(found)}))
    else:
        print(f"{found.service}: {found.client} is forgotten: it is owed no notice any more")
    return ExitCode.OK


def locks(config: Config, arguments: argparse.Namespace) -> ExitCode:
    common.need_root()
    found = _of_served(config, arguments, held_on)
    if arguments.json:
        print(document.whole({"node": config.node, "locks": [asdict(lock) for lock in found]}))
    else:
        print(tables.locks(found))
    return ExitCode.OK


def _of_served(
    config: Config, arguments: argparse.Namespace, look: Callable[[Config, Service], tuple[T, ...]]
) -> list[T]:
    """What there is of each service that is served here, read where storage that hangs can be left behind."""
    found: list[T] = []
    for service in common.chosen(config, arguments):
        try:
            found += in_child(f"reading {service.state}", partial(look, config, service), deadline=READ)
        except NotOwned:
            if arguments.service:
                raise
    return found
