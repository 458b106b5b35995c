# SPDX-License-Identifier: GPL-2.0-or-later
"""What was done here."""

from __future__ import annotations

import argparse

from nlmfo.cli import document, page
from nlmfo.cli import history as told
from nlmfo.cli.commands import common
from nlmfo.config import Config
from nlmfo.errors import ExitCode
from nlmfo.failover import past


def history(config: Config, arguments: argparse.Namespace) -> ExitCode:
    common.need_root()
    found = past.runs(common.chosen(config, arguments))
    if arguments.run is None:
        if arguments.html:
            raise common.UsageError("--html: of which run?", hint="nlmfo history last --html > takeover.html")
        print(document.whole(told.list_document(found)) if arguments.json else told.table(found))
        return ExitCode.OK
    run = past.named(found, arguments.run)
    if arguments.json:
        print(document.whole(told.run_document(run)))
    else:
        print(page.of(run) if arguments.html else told.story(run))
    return ExitCode.OK
