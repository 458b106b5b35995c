# SPDX-License-Identifier: GPL-2.0-or-later
"""``nlmfo reload``: what was done, as lines or as a document."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict

from nlmfo.cli import document
from nlmfo.cli.commands import common
from nlmfo.cli.journalled import Journalled, failures
from nlmfo.config import Config
from nlmfo.errors import ExitCode
from nlmfo.failover import reload as reloading
from nlmfo.failover.reload import Reloaded
from nlmfo.host import journald
from nlmfo.plain import plain


def reload(config: Config, arguments: argparse.Namespace) -> ExitCode:
    journal = Journalled("reload", arguments.service)
    with failures(journal, arguments):
        common.need_root()
        found = reloading.reload(config, config.service(arguments.service))
    journal.note(told(found))
    if arguments.json:
        print(document.whole({"node": config.node} | asdict(found)))
    elif not journald.takes(sys.stdout):
        print(told(found))
    return ExitCode.OK


def told(found: Reloaded) -> str:
    lines = [f"exported: {plain(each)}" for each in found.added]
    lines += [f"exported with other options: {plain(each)}" for each in found.changed]
    lines += [f"not exported any more: {plain(each)}" for each in found.removed]
    lines = lines or ["what is exported is what is configured"]
    lines += [f"warning: from the next takeover on only: {each}" for each in found.later]
    return "\n".join(f"{found.service}: {line}" for line in lines)
