# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line's grammar: commands, options, and which function of ``nlmfo.cli.commands`` does each.

Those are named and not imported: a command loads what it needs, and no more.
"""

from __future__ import annotations

import argparse
from pathlib import Path

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


def parser() -> argparse.ArgumentParser:
    """The parser; ``arguments.command`` names a function of configuration and arguments, in nlmfo.cli.commands.

    Where there is ``arguments.prints`` instead, that makes what is to be printed, without any configuration.
    """
    top = argparse.ArgumentParser(
        prog="nlmfo",
        description="Move an NFS service between nodes without losing a lock.",
        epilog=f"Exit statuses: {STATUSES}. {MORE}",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"nlmfo {__version__}")
    top.add_argument(
        "--config",
        type=_absolute,
        default=CONFIG,
        metavar="DIR",
        help=f"where the configuration is (default: {CONFIG})",
    )
    found = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_runs(found)
    _add_looks(found)
    return top


def _add_runs(found: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = _command(found, "takeover", "serve a service on this node", "runs.takeover")
    _add_service(command)
    command.add_argument(
        "--wait",
        metavar="SECONDS",
        type=float,
        default=0.0,
        help="while another node serves it: get everything ready, and wait that long for its 'nlmfo release'",
    )
    _add_word(command)
    _add_telling(command)
    command = _command(found, "release", "let go of a service that this node serves", "runs.release")
    _add_service(command)
    _add_telling(command)
    text = "bring what is exported to the configuration, while the service is served here"
    command = _command(found, "reload", text, "reload.reload")
    _add_service(command)
    _add_json(command)
    command = _command(found, "plan", "show what a takeover or release would do, and why", "runs.plan")
    command.add_argument("verb", choices=("takeover", "release"), help="which of the two")
    _add_service(command)
    _add_json(command)
    _add_word(command)
    command = _command(found, "resume", "go on with a takeover or release that was cut off", "runs.resume")
    _add_service(command, nargs="?")
    _add_word(command)
    _add_telling(command)
    command = _command(found, "abort", "go back to a safe state after a run that was cut off", "runs.abort")
    _add_service(command)
    _add_telling(command)


def _add_looks(found: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = _command(found, "status", "who serves what", "status.status")
    _add_service(command, nargs="?")
    _add_json(command)
    command = _command(found, "clients", "who is on record here as a possible holder of locks", "records.clients")
    _add_service(command, nargs="?")
    command.add_argument("--fsid", metavar="FSID", help="only who may hold locks below the export with this fsid")
    command.add_argument(
        "--forget",
        metavar="CLIENT",
        help="you vouch that this client is gone for good, and holds no locks: it is told no more",
    )
    _add_force(command, FORCIBLE_FORGETTING)
    _add_json(command)
    text = "tell clients that have not answered now, not at their next turn"
    command = _command(found, "notify", text, "notify.notify")
    _add_service(command)
    command.add_argument("client", metavar="CLIENT", nargs="?", default="", help="only this one")
    _add_json(command)
    command = _command(found, "locks", "which locks clients hold here, on which files", "records.locks")
    _add_service(command, nargs="?")
    _add_json(command)
    command = _command(found, "history", "what was done here, and what came of it", "past.history")
    command.add_argument("run", metavar="RUN", nargs="?", help="tell of this run; the beginning of its name, or 'last'")
    command.add_argument("--service", metavar="SERVICE", help="only runs for this service")
    how = command.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="one JSON document")
    how.add_argument("--html", action="store_true", help="one page about RUN, with the time line drawn")
    command = _command(found, "monitor", "whether all of a service that is served here is well", "watch.monitor")
    _add_service(command)
    _add_json(command)
    command = _command(found, "metrics", "the state of each service for Prometheus", "watch.metrics")
    command.add_argument(
        "--output", metavar="FILE", type=_absolute, help="replace this file, for node_exporter's textfile collector"
    )
    command = _command(found, "check", "what would fail on this node, and what its kernel offers", "check.check")
    _add_json(command)
    printed = _parser(found, "completion", "a script that completes this command line")
    printed.add_argument("shell", metavar="SHELL", choices=SHELLS, help="bash, zsh or fish")
    printed.set_defaults(prints="completion.script")
    command = _command(found, "udev", "a udev rule: take a service over where its disk appears", "udev.udev")
    _add_service(command)
    command = _command(found, "serve", "take a service over and look after it (for systemd)", "serve.serve")
    _add_service(command)
    command.set_defaults(json=False, events=False)
    command = _command(found, "keep", "keep a service's records in order (takeover starts it)", "runs.keep")
    _add_service(command)


def _command(
    found: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str, does: str
) -> argparse.ArgumentParser:
    command = _parser(found, name, text)
    command.set_defaults(command=does)
    return command


def _parser(
    found: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str
) -> argparse.ArgumentParser:
    """``text`` begins in lower case for the list of commands, and is a sentence in the command's own help."""
    said = f"{text[0].upper()}{text[1:]}."
    return found.add_parser(name, help=text, description=said, epilog=MORE, allow_abbrev=False)


def _add_service(command: argparse.ArgumentParser, *, nargs: str | None = None) -> None:
    which = "the service: the name of its file in services.d, without .toml"
    command.add_argument(
        "service", metavar="SERVICE", nargs=nargs, help=which if nargs is None else f"{which} (default: all)"
    )


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="one JSON document")


def _add_telling(command: argparse.ArgumentParser) -> None:
    how = command.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="one JSON document at the end, also when the run fails")
    how.add_argument("--events", action="store_true", help="a line of JSON for each event, as it happens")


def _add_word(command: argparse.ArgumentParser) -> None:
    word = command.add_mutually_exclusive_group()
    word.add_argument("--fenced", metavar="NODE", help="you vouch that NODE, the owner, is down for certain")
    word.add_argument("--released-by", metavar="NODE", help="you vouch that NODE, the owner, has let go")
    word.add_argument("--fence", metavar="NODE", help="have NODE, the owner, fenced by the hook of [cluster] fence")
    _add_force(command, FORCIBLE)


def _add_force(command: argparse.ArgumentParser, codes: tuple[str, ...]) -> None:
    command.add_argument(
        "--force",
        metavar="CODE",
        action="append",
        default=[],
        choices=codes,
        help="pass the refusal that named this code; may be given several times",
    )


def _absolute(path: str) -> Path:
    return Path(path).absolute()
