# SPDX-License-Identifier: GPL-2.0-or-later
"""``nlmfo status``: the one command that people and programs run all the time, so it imports little."""

from __future__ import annotations

import argparse
from typing import Any

from nlmfo.cli import document, states
from nlmfo.cli.commands import common
from nlmfo.config import Config
from nlmfo.errors import ExitCode
from nlmfo.failover.status import ServiceStatus, of_service


def status(config: Config, arguments: argparse.Namespace) -> ExitCode:
    """5 when a service was named and is not served here."""
    seen = [of_service(config, service) for service in common.chosen(config, arguments)]
    if arguments.json:
        print(document.whole({"node": config.node, "services": [_plain(state) for state in seen]}))
    else:
        print(states.status(seen))
    if arguments.service and seen[0].here != "serving":
        return ExitCode.NOT_OWNED
    return ExitCode.OK


def _plain(state: ServiceStatus) -> dict[str, Any]:
    """As JSON has it."""
    return state._asdict() | {
        "owner": state.owner and state.owner._asdict(),
        "progress": state.progress and state.progress.plain(),
    }
