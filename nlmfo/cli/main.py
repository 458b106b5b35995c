# SPDX-License-Identifier: GPL-2.0-or-later
"""``nlmfo``: arguments in, lines or JSON out, an exit status at the end."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from types import FrameType
from typing import Any

from nlmfo.cli import words
from nlmfo.cli.arguments import parser
from nlmfo.config import load
from nlmfo.errors import ExitCode, NlmfoError


def main(argv: Sequence[str]) -> int:
    """Run one command; the exit status is one of ExitCode. All that it said is out when this returns."""
    arguments = parser().parse_args(argv)
    status = int(ExitCode.OK)
    try:
        status = _run(arguments)
        print(end="", flush=True)
    except OSError as error:
        print(f"nlmfo: {error}", file=sys.stderr)
        with contextlib.suppress(OSError):  # it need not be the output that failed
            print(end="", flush=True)
        return status or ExitCode.FAILED
    return status


def _run(arguments: argparse.Namespace) -> int:
    try:
        return _printed(arguments) if "prints" in arguments else _done(arguments)
    except NlmfoError as error:
        return error.exit_code if "told" in arguments else _failed(error)
    except KeyboardInterrupt:
        print("nlmfo: interrupted", file=sys.stderr)
        return ExitCode.FAILED


def _printed(arguments: argparse.Namespace) -> int:
    print(named(arguments.command)(arguments), end="")
    return ExitCode.OK


def _done(arguments: argparse.Namespace) -> int:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupted)
    config = load(arguments.config)
    for warning in config.warnings:
        print(f"nlmfo: warning: {warning}", file=sys.stderr)
    # Whoever stands in the service's directory, this process does not keep it busy.
    with contextlib.chdir("/"):
        return int(named(arguments.command)(config, arguments))


def named(command: str) -> Callable[..., Any]:
    """The function that the parser names, with all that it needs."""
    module, _, function = command.partition(".")
    return getattr(import_module(f"nlmfo.cli.commands.{module}"), function)  # type: ignore[no-any-return]


def _failed(error: NlmfoError) -> int:
    said, hints = words.failure(error)
    for line in (said, *hints):
        print(f"nlmfo: {line}", file=sys.stderr)
    return error.exit_code


def _interrupted(_number: int, _frame: FrameType | None) -> None:
    """SIGTERM and a lost terminal end a run like Ctrl-C does: what was begun is taken down again."""
    raise KeyboardInterrupt
