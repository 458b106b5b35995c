# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs: what changes who serves what, and the process that looks after a service meanwhile."""

from __future__ import annotations

import argparse
from dataclasses import replace

from nlmfo.cli import document, text
from nlmfo.cli.commands import common
from nlmfo.cli.journalled import Journalled
from nlmfo.cli.telling import hearing, telling
from nlmfo.config import Config
from nlmfo.errors import ExitCode, NlmfoError
from nlmfo.failover import runs
from nlmfo.failover.keep import Keep
from nlmfo.failover.verbs import Outcome, Verb
from nlmfo.ownership.proof import Word


def takeover(config: Config, arguments: argparse.Namespace) -> ExitCode:
    with telling(config, arguments, "takeover") as tell:
        common.need_root()
        service = config.service(arguments.service)
        if arguments.wait and config.registry is None:
            raise NlmfoError(
                "--wait: without a registry nobody can tell when another node has released a service",
                hint="set [cluster] registry, or run 'nlmfo takeover' once the other node has released it",
            )
        if runs.takeover(config, service, _word(config, arguments), tell, wait=arguments.wait):
            tell.say(f"{service.name}: served here now")
        else:
            tell.say(f"{service.name}: served here already")
    return ExitCode.OK


def release(config: Config, arguments: argparse.Namespace) -> ExitCode:
    with telling(config, arguments, "release") as tell:
        common.need_root()
        runs.release(config, config.service(arguments.service), tell)
        tell.say(f"{arguments.service}: released; another node may take over")
    return ExitCode.OK


def plan(config: Config, arguments: argparse.Namespace) -> ExitCode:
    """3 when it would be refused; what would be done is printed all the same."""
    common.need_root()
    service = config.service(arguments.service)
    word = Word(arguments.fenced or arguments.fence, arguments.released_by, frozenset(arguments.force))
    outlook = runs.outlook(config, service, Verb(arguments.verb), word)
    if arguments.json:
        print(document.whole(text.outlook_document(service, outlook)))
    else:
        print(text.outlook(service, outlook))
    return ExitCode.REFUSED if outlook.refused else ExitCode.OK


def resume(config: Config, arguments: argparse.Namespace) -> ExitCode:
    with telling(config, arguments, "resume") as tell:
        common.need_root()
        word = _word(config, arguments)
        chosen = common.chosen(config, arguments)
        resumed = [service.name for service in chosen if runs.resume(config, service, word, tell)]
        for name in resumed:
            tell.say(f"{name}: done")
        if not resumed:
            tell.say("nothing to resume: the last run of each service on this node came to its end")
    return ExitCode.OK


def abort(config: Config, arguments: argparse.Namespace) -> ExitCode:
    with telling(config, arguments, "abort") as tell:
        common.need_root()
        outcome = runs.abort(config, config.service(arguments.service), tell)
        served = outcome is Outcome.SERVED
        tell.say(f"{arguments.service}: {'served here, as before' if served else 'nothing of it is left here'}")
    return ExitCode.OK


def keep(config: Config, arguments: argparse.Namespace) -> ExitCode:
    """Until SIGTERM, or until another node owns the service."""
    service = config.service(arguments.service)
    Keep(config, service, hearing(Journalled("keep", service.name))).run()
    return ExitCode.NOT_OWNED


def _word(config: Config, arguments: argparse.Namespace) -> Word:
    """What the operator vouches for; fencing comes first, and has to succeed."""
    forced = frozenset(arguments.force)
    if arguments.fence:
        return replace(runs.fence_node(config, arguments.fence), forced=forced)
    return Word(arguments.fenced, arguments.released_by, forced)
