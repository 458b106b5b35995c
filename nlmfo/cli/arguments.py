# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line's grammar: commands, options, and which function of ``nlmfo.cli.commands`` does each.

Those are named and not imported: a command loads what it needs, and no more.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from nlmfo import __version__

CONFIG = Path("/etc/nlmfo")
#: Refusals that ``--force=CODE`` passes: what they guard against, the operator may know better.
FORCIBLE = (
    "own-client",
    "stale-records",
    "nfsd-bound",
    "no-client-tracking",
    "sm-notify-lifts-grace",
    "statd-notifies",
    "statd-without-callout",
)
#: The same, of ``clients --forget``.
FORCIBLE_FORGETTING = ("client-connected",)
#: Where people read on.
MORE = "See nlmfo(8)."
STATUSES = (
    "0 done, 1 failed, 2 usage or configuration, 3 refused, 4 half done (resume or abort), 5 not served here, "
    "124 a deadline passed"
)
SHELLS = ("bash", "zsh", "fish")
_WHICH = "the service: the name of its file in services.d, without .toml"


def parser() -> argparse.ArgumentParser:
    """The parser; ``arguments.command`` names a function of configuration and arguments, in nlmfo.cli.commands.

    Where there is ``arguments.prints`` as well, it is one of arguments only, and makes what is to be printed.
    """
    top = argparse.ArgumentParser(
        prog="nlmfo",
        description="Move an NFS service between nodes without losing a lock.",
        epilog=f"Exit statuses: {STATUSES}. {MORE}",
        allow_abbrev=False,
        formatter_class=_formatter,
    )
    top.add_argument("--version", action="version", version=f"nlmfo {__version__}")
    top.add_argument(
        "--config",
        type=_absolute,
        default=CONFIG,
        metavar="DIR",
        help=f"where the configuration is (default: {CONFIG})",
    )
    found = top.add_subparsers(
        title="commands", required=True, metavar="COMMAND", prog=top.prog, parser_class=_MadeWhenNamed
    )
    for name, (text, _, _) in COMMANDS.items():
        found.add_parser(name, help=text)
    return top


def command(name: str) -> argparse.ArgumentParser:
    """The parser of one of COMMANDS."""
    text, does, takes = COMMANDS[name]
    # The text begins in lower case for the list of commands, and is a sentence in the command's own help.
    said = f"{text[0].upper()}{text[1:]}."
    made = argparse.ArgumentParser(
        prog=f"nlmfo {name}", description=said, epilog=MORE, allow_abbrev=False, formatter_class=_formatter
    )
    made.set_defaults(command=does)
    for add in takes:
        add(made)
    return made


class _MadeWhenNamed(argparse.ArgumentParser):
    """Stands for a command's parser, and has it made to parse: all of them take longer than most commands."""

    def __init__(self, prog: str) -> None:
        self.prog = prog

    def parse_known_args(self, *arguments: Any, **more: Any) -> Any:
        return command(self.prog.split()[-1]).parse_known_args(*arguments, **more)


def _formatter(prog: str) -> argparse.HelpFormatter:
    """As argparse has it. It makes one for each argument, and would load shutil for its width: 5 ms."""
    return argparse.HelpFormatter(prog, width=_columns() - 2)


def _columns() -> int:
    """Of the terminal; COLUMNS says otherwise. Where there is neither: 80."""
    with suppress(ValueError):
        if (columns := int(os.environ.get("COLUMNS", ""))) > 0:
            return columns
    with suppress(AttributeError, ValueError, OSError):  # standard output may be closed, or missing
        return os.get_terminal_size(sys.stdout.fileno()).columns or 80
    return 80


def _service(made: argparse.ArgumentParser) -> None:
    made.add_argument("service", metavar="SERVICE", help=_WHICH)


def _service_or_all(made: argparse.ArgumentParser) -> None:
    made.add_argument("service", metavar="SERVICE", nargs="?", help=f"{_WHICH} (default: all)")


def _json(made: argparse.ArgumentParser) -> None:
    made.add_argument("--json", action="store_true", help="one JSON document")


def _telling(made: argparse.ArgumentParser) -> None:
    how = made.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="one JSON document at the end, also when the run fails")
    how.add_argument("--events", action="store_true", help="a line of JSON for each event, as it happens")


def _without_telling(made: argparse.ArgumentParser) -> None:
    made.set_defaults(json=False, events=False)


def _word(made: argparse.ArgumentParser) -> None:
    word = made.add_mutually_exclusive_group()
    word.add_argument("--fenced", metavar="NODE", help="you vouch that NODE, the owner, is down for certain")
    word.add_argument("--released-by", metavar="NODE", help="you vouch that NODE, the owner, has let go")
    word.add_argument("--fence", metavar="NODE", help="have NODE, the owner, fenced by the hook of [cluster] fence")
    _force(made, FORCIBLE)


def _force(made: argparse.ArgumentParser, codes: tuple[str, ...]) -> None:
    made.add_argument(
        "--force",
        metavar="CODE",
        action="append",
        default=[],
        choices=codes,
        help="pass the refusal that named this code; may be given several times",
    )


def _wait(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--wait",
        metavar="SECONDS",
        type=float,
        default=0.0,
        help="while another node serves it: get everything ready, and wait that long for its 'nlmfo release'",
    )


def _verb(made: argparse.ArgumentParser) -> None:
    made.add_argument("verb", choices=("takeover", "release"), help="which of the two")


def _clients(made: argparse.ArgumentParser) -> None:
    made.add_argument("--fsid", metavar="FSID", help="only who may hold locks below the export with this fsid")
    made.add_argument(
        "--forget",
        metavar="CLIENT",
        help="you vouch that this client is gone for good, and holds no locks: it is told no more",
    )
    _force(made, FORCIBLE_FORGETTING)


def _client(made: argparse.ArgumentParser) -> None:
    made.add_argument("client", metavar="CLIENT", nargs="?", default="", help="only this one")


def _run(made: argparse.ArgumentParser) -> None:
    made.add_argument("run", metavar="RUN", nargs="?", help="tell of this run; the beginning of its name, or 'last'")
    made.add_argument("--service", metavar="SERVICE", help="only runs for this service")
    how = made.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="one JSON document")
    how.add_argument("--html", action="store_true", help="one page about RUN, with the time line drawn")


def _output(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--output", metavar="FILE", type=_absolute, help="replace this file, for node_exporter's textfile collector"
    )


def _shell(made: argparse.ArgumentParser) -> None:
    made.add_argument("shell", metavar="SHELL", choices=SHELLS, help="bash, zsh or fish")
    made.set_defaults(prints=True)


def _absolute(path: str) -> Path:
    return Path(path).absolute()


#: Each command, in the order of the help: what it is for, the function that does it, and what adds its arguments.
COMMANDS: Mapping[str, tuple[str, str, tuple[Callable[[argparse.ArgumentParser], None], ...]]] = {
    "takeover": ("serve a service on this node", "runs.takeover", (_service, _wait, _word, _telling)),
    "release": ("let go of a service that this node serves", "runs.release", (_service, _telling)),
    "reload": (
        "bring what is exported to the configuration, while the service is served here",
        "reload.reload",
        (_service, _json),
    ),
    "plan": ("show what a takeover or release would do, and why", "runs.plan", (_verb, _service, _json, _word)),
    "resume": ("go on with a takeover or release that was cut off", "runs.resume", (_service_or_all, _word, _telling)),
    "abort": ("go back to a safe state after a run that was cut off", "runs.abort", (_service, _telling)),
    "status": ("who serves what", "status.status", (_service_or_all, _json)),
    "clients": (
        "who is on record here as a possible holder of locks",
        "records.clients",
        (_service_or_all, _clients, _json),
    ),
    "notify": (
        "tell clients that have not answered now, not at their next turn",
        "notify.notify",
        (_service, _client, _json),
    ),
    "locks": ("which locks clients hold here, on which files", "records.locks", (_service_or_all, _json)),
    "history": ("what was done here, and what came of it", "past.history", (_run,)),
    "monitor": ("whether all of a service that is served here is well", "watch.monitor", (_service, _json)),
    "metrics": ("the state of each service for Prometheus", "watch.metrics", (_output,)),
    "check": ("what would fail on this node, and what its kernel offers", "check.check", (_json,)),
    "completion": ("a script that completes this command line", "completion.script", (_shell,)),
    "udev": ("a udev rule: take a service over where its disk appears", "udev.udev", (_service,)),
    "serve": (
        "take a service over and look after it (for systemd)",
        "serve.serve",
        (_service, _without_telling),
    ),
    "keep": ("keep a service's records in order (takeover starts it)", "runs.keep", (_service,)),
}
