# SPDX-License-Identifier: GPL-2.0-or-later
"""What several commands have in common."""

from __future__ import annotations

import argparse
import os

from nlmfo.config import Config, Service
from nlmfo.errors import ExitCode, NlmfoError


class UsageError(NlmfoError):
    """Words that the parser takes one by one, and that make no sense together."""

    exit_code = ExitCode.USAGE


def chosen(config: Config, arguments: argparse.Namespace) -> list[Service]:
    """The service that was named, or all of them."""
    return [config.service(arguments.service)] if arguments.service else list(config.services.values())


def need_root() -> None:
    if os.geteuid() != 0:
        raise NlmfoError("this needs root", hint="run it with sudo")
