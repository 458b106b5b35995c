# SPDX-License-Identifier: GPL-2.0-or-later
"""What would fail on this node."""

from __future__ import annotations

import argparse

from nlmfo.cli import check as told
from nlmfo.cli import document
from nlmfo.cli.commands import common
from nlmfo.config import Config
from nlmfo.errors import ExitCode
from nlmfo.failover import readiness, room
from nlmfo.failover.readiness import Severity
from nlmfo.host import survey


def check(config: Config, arguments: argparse.Namespace) -> ExitCode:
    """1 when something was found with which a takeover here fails, or loses locks."""
    common.need_root()
    kernel, rooms = survey.of_kernel(), room.look(config)
    found = (*readiness.findings(config), *readiness.full_soon(rooms))
    if arguments.json:
        print(document.whole(told.document(config, kernel, rooms, found)))
    else:
        print(told.table(kernel), told.space(rooms), told.told(config, found), sep="\n\n")
    bad = told.missing(kernel) or any(each.severity is Severity.ERROR for each in found)
    return ExitCode.FAILED if bad else ExitCode.OK
