# SPDX-License-Identifier: GPL-2.0-or-later
"""Needs no configuration."""

from __future__ import annotations

import argparse

from nlmfo.cli import completion


def script(arguments: argparse.Namespace) -> str:
    return completion.script(arguments.shell)
