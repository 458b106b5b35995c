# SPDX-License-Identifier: GPL-2.0-or-later
"""``nlmfo notify``: what became of each client that was told, as lines or as a document."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from nlmfo.cli import document
from nlmfo.cli.commands import common
from nlmfo.config import Config
from nlmfo.errors import ExitCode
from nlmfo.failover.tell import ClientTold, Told, tell
from nlmfo.plain import plain
from nlmfo.records.ledger import Standing

LATE = (
    "warning: grace is over: who is told now asks too late for the locks that it held, and loses those that are not "
    "held again"
)


def notify(config: Config, arguments: argparse.Namespace) -> ExitCode:
    """1 when somebody has not answered."""
    common.need_root()
    found = tell(config, config.service(arguments.service), arguments.client)
    print(document.whole({"node": config.node} | asdict(found)) if arguments.json else told(found))
    return ExitCode.OK if all(each.answered for each in found.clients) else ExitCode.FAILED


def told(found: Told) -> str:
    if not found.clients:
        return f"{found.service}: nobody is owed a notice"
    lines = [] if found.in_grace or not any(each.tried for each in found.clients) else [LATE]
    lines += [f"{plain(each.client)}: {_standing(each)}" for each in found.clients]
    return "\n".join(f"{found.service}: {line}" for line in lines)


def _standing(found: ClientTold) -> str:
    if not found.tried:
        return "had answered before" if found.answered else "was not tried in time: see 'nlmfo status'"
    if found.standing is Standing.UNREACHABLE:
        return f"did not answer: {plain(found.detail)}; it is tried again when its turn comes, and when it is seen"
    return {Standing.BACK: "answered, and is back", Standing.LEFT: "has left"}.get(found.standing, "answered")
