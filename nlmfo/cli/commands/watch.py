# SPDX-License-Identifier: GPL-2.0-or-later
"""What is asked again and again, by a cluster manager and by Prometheus."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from nlmfo.cli import document
from nlmfo.cli import metrics as page
from nlmfo.cli.commands import common
from nlmfo.config import Config
from nlmfo.errors import ExitCode
from nlmfo.failover import health, past, room
from nlmfo.failover.status import of_service
from nlmfo.plain import plain
from nlmfo.replace import replace_file


def monitor(config: Config, arguments: argparse.Namespace) -> ExitCode:
    """1 when something is wrong with the service here, 5 when it is not served here."""
    common.need_root()
    service = config.service(arguments.service)
    found = health.troubles(config, service)
    if arguments.json:
        print(document.whole({"service": service.name, "troubles": [asdict(each) for each in found]}))
    else:
        print("\n".join(f"{service.name}: {plain(each.text)}" for each in found) or f"{service.name}: all is well")
    return ExitCode.FAILED if found else ExitCode.OK


def metrics(config: Config, arguments: argparse.Namespace) -> ExitCode:
    common.need_root()
    states = [of_service(config, service) for service in config.services.values()]
    found = page.page(states, past.runs(config.services.values()), config.node, room.look(config))
    if arguments.output is None:
        print(found, end="")
    else:
        replace_file(arguments.output, found)
    return ExitCode.OK
