# SPDX-License-Identifier: GPL-2.0-or-later
"""Needs no configuration."""

from __future__ import annotations

import argparse

from nlmfo.cli import completion
from nlmfo.cli.arguments import parser


def script(arguments: argparse.Namespace) -> str:
    return completion.script(arguments.shell, parser())
