# SPDX-License-Identifier: GPL-2.0-or-later
"""Needs the configuration, and looks at nothing."""

from __future__ import annotations

import argparse

from nlmfo.cli import udev as told
from nlmfo.config import Config
from nlmfo.errors import ExitCode


def udev(config: Config, arguments: argparse.Namespace) -> ExitCode:
    print(told.rules(config, config.service(arguments.service)))
    return ExitCode.OK
