# SPDX-License-Identifier: GPL-2.0-or-later
"""``nlmfo``: arguments in, lines or JSON out, an exit status at the end."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import FrameType

from nlmfo import __version__
from nlmfo.child import in_child
from nlmfo.cli import text
from nlmfo.config import Config, load
from nlmfo.errors import ExitCode, NlmfoError, NotOwned, Refused
from nlmfo.failover import clients, runs, status
from nlmfo.failover.events import Event
from nlmfo.failover.keeper import INTERVAL, Keeper, Place
from nlmfo.kernel import sockdiag
from nlmfo.ownership.proof import Word

CONFIG = Path("/etc/nlmfo")
#: Seconds to read the records of a service.
READ = 30.0


def entry() -> None:
    """The console script."""
    sys.exit(main(sys.argv[1:]))


def main(argv: Sequence[str]) -> int:
    """Run one command; the exit status is one of ExitCode."""
    arguments = _parser().parse_args(argv)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupted)
    try:
        config = load(arguments.config)
        for warning in config.warnings:
            print(f"nlmfo: warning: {warning}", file=sys.stderr)
        # Whoever stands in the service's directory, this process does not keep it busy.
        with contextlib.chdir("/"):
            return int(arguments.command(config, arguments))
    except NlmfoError as error:
        refused = f"refused ({error.code}): " if isinstance(error, Refused) else ""
        print(f"nlmfo: {refused}{error}", file=sys.stderr)
        if error.hint:
            print(f"nlmfo: hint: {error.hint}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"nlmfo: {error}", file=sys.stderr)
        return ExitCode.FAILED
    except KeyboardInterrupt:
        print("nlmfo: interrupted", file=sys.stderr)
        return ExitCode.FAILED


def _interrupted(_number: int, _frame: FrameType | None) -> None:
    """SIGTERM and a lost terminal end a run like Ctrl-C does: what was begun is taken down again."""
    raise KeyboardInterrupt


def _absolute(path: str) -> Path:
    return Path(path).absolute()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nlmfo",
        description="Move an NFS service between nodes without losing a lock.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"nlmfo {__version__}")
    parser.add_argument(
        "--config",
        type=_absolute,
        default=CONFIG,
        metavar="DIR",
        help=f"where the configuration is (default: {CONFIG})",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    command = commands.add_parser("takeover", help="serve a service on this node", allow_abbrev=False)
    command.add_argument("service", metavar="SERVICE")
    word = command.add_mutually_exclusive_group()
    word.add_argument("--fenced", metavar="NODE", help="you vouch that NODE, the owner, is down for certain")
    word.add_argument("--released-by", metavar="NODE", help="you vouch that NODE, the owner, has let go")
    command.set_defaults(command=_takeover)

    command = commands.add_parser("release", help="let go of a service that this node serves", allow_abbrev=False)
    command.add_argument("service", metavar="SERVICE")
    command.set_defaults(command=_release)

    command = commands.add_parser("status", help="who serves what", allow_abbrev=False)
    command.add_argument("service", metavar="SERVICE", nargs="?")
    command.add_argument("--json", action="store_true", help="one JSON document")
    command.set_defaults(command=_status)

    command = commands.add_parser(
        "clients", help="who is on record here as a possible holder of locks", allow_abbrev=False
    )
    command.add_argument("service", metavar="SERVICE", nargs="?")
    command.add_argument("--fsid", metavar="FSID", help="only who may hold locks below the export with this fsid")
    command.add_argument("--json", action="store_true", help="one JSON document")
    command.set_defaults(command=_clients)

    command = commands.add_parser(
        "keep", help="keep a service's records in order (takeover starts it)", allow_abbrev=False
    )
    command.add_argument("service", metavar="SERVICE")
    command.set_defaults(command=_keep)
    return parser


def _takeover(config: Config, arguments: argparse.Namespace) -> ExitCode:
    _need_root()
    word = Word(fenced=arguments.fenced, released_by=arguments.released_by)
    if not runs.takeover(config, config.service(arguments.service), word, _tell):
        _say(f"{arguments.service}: served here already")
    else:
        _say(f"{arguments.service}: served here now")
    return ExitCode.OK


def _release(config: Config, arguments: argparse.Namespace) -> ExitCode:
    _need_root()
    runs.release(config, config.service(arguments.service), _tell)
    _say(f"{arguments.service}: released; another node may take over")
    return ExitCode.OK


def _status(config: Config, arguments: argparse.Namespace) -> ExitCode:
    """5 when a service was named and is not served here."""
    chosen = [config.service(arguments.service)] if arguments.service else list(config.services.values())
    states = [status.of_service(config, service) for service in chosen]
    if arguments.json:
        document = {"node": config.node, "services": [asdict(state) for state in states]}
        print(json.dumps(document, indent=2))
    else:
        print(text.status(states))
    if arguments.service and states[0].here != "serving":
        return ExitCode.NOT_OWNED
    return ExitCode.OK


def _clients(config: Config, arguments: argparse.Namespace) -> ExitCode:
    _need_root()
    found: list[clients.ClientOnRecord] = []
    for service in [config.service(arguments.service)] if arguments.service else config.services.values():
        try:
            look = partial(clients.on_record, config, service)
            found += in_child(f"reading {service.state}", look, deadline=READ)
        except NotOwned:
            if arguments.service:
                raise
    if arguments.fsid:
        found = [client for client in found if client.may_use(arguments.fsid)]
    if arguments.json:
        print(json.dumps({"node": config.node, "clients": [asdict(client) for client in found]}, indent=2))
    else:
        print(text.clients(found))
    return ExitCode.OK


def _keep(config: Config, arguments: argparse.Namespace) -> ExitCode:
    """Until SIGTERM. What goes wrong is said when it begins, not at every round."""
    keeper = Keeper(config.service(arguments.service), Place.inside())
    said = ""
    while True:
        try:
            keeper.keep(sockdiag.established())
            problem = ""
        except (NlmfoError, OSError) as error:
            problem = str(error)
        if problem != said:
            print(problem or "the records are in order again", file=sys.stderr, flush=True)
            said = problem
        time.sleep(INTERVAL)


def _need_root() -> None:
    if os.geteuid() != 0:
        raise NlmfoError("this needs root", hint="run it with sudo")


def _tell(event: Event) -> None:
    said = text.line(event)
    if said is not None:
        _say(said)


def _say(line: str) -> None:
    """Print; when nobody reads any more, go on in silence: a closed pipe must not stop a run, or its rollback."""
    try:
        print(line, flush=True)
    except OSError:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
