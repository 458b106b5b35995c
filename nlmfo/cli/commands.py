# SPDX-License-Identifier: GPL-2.0-or-later
"""What each command does: call the library, print lines or JSON, return an exit status."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import TypeVar

from nlmfo.child import in_child
from nlmfo.cli import check as checks
from nlmfo.cli import history as histories
from nlmfo.cli import metrics, page, text
from nlmfo.cli.telling import telling
from nlmfo.config import Config, Isolation, Service
from nlmfo.errors import ExitCode, NlmfoError, NotOwned
from nlmfo.failover import health, past, progress, readiness, runs
from nlmfo.failover.clients import forget, on_record
from nlmfo.failover.events import Outcome, Verb
from nlmfo.failover.held import held_on
from nlmfo.failover.keep import Keep
from nlmfo.failover.keeper import Place
from nlmfo.failover.progress import Progress
from nlmfo.failover.readiness import Severity
from nlmfo.failover.status import ServiceStatus, of_service
from nlmfo.host import survey
from nlmfo.host.namespaces import Namespaces
from nlmfo.ownership.proof import Word
from nlmfo.plain import plain

T = TypeVar("T")
Command = Callable[[Config, argparse.Namespace], ExitCode]

#: Seconds to read the records of a service.
READ = 30.0


class UsageError(NlmfoError):
    """Words that the parser takes one by one, and that make no sense together."""

    exit_code = ExitCode.USAGE


def takeover(config: Config, arguments: argparse.Namespace) -> ExitCode:
    with telling(config, arguments, "takeover") as tell:
        _need_root()
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
        _need_root()
        runs.release(config, config.service(arguments.service), tell)
        tell.say(f"{arguments.service}: released; another node may take over")
    return ExitCode.OK


def plan(config: Config, arguments: argparse.Namespace) -> ExitCode:
    """3 when it would be refused; what would be done is printed all the same."""
    _need_root()
    service = config.service(arguments.service)
    word = Word(arguments.fenced or arguments.fence, arguments.released_by, frozenset(arguments.force))
    outlook = runs.outlook(config, service, Verb(arguments.verb), word)
    if arguments.json:
        print(json.dumps(text.outlook_document(service, outlook), indent=2))
    else:
        print(text.outlook(service, outlook))
    return ExitCode.REFUSED if outlook.refused else ExitCode.OK


def resume(config: Config, arguments: argparse.Namespace) -> ExitCode:
    with telling(config, arguments, "resume") as tell:
        _need_root()
        word = _word(config, arguments)
        chosen = _chosen(config, arguments)
        resumed = [service.name for service in chosen if runs.resume(config, service, word, tell)]
        for name in resumed:
            tell.say(f"{name}: done")
        if not resumed:
            tell.say("nothing to resume: the last run of each service on this node came to its end")
    return ExitCode.OK


def abort(config: Config, arguments: argparse.Namespace) -> ExitCode:
    with telling(config, arguments, "abort") as tell:
        _need_root()
        outcome = runs.abort(config, config.service(arguments.service), tell)
        served = outcome is Outcome.SERVED
        tell.say(f"{arguments.service}: {'served here, as before' if served else 'nothing of it is left here'}")
    return ExitCode.OK


def status(config: Config, arguments: argparse.Namespace) -> ExitCode:
    """5 when a service was named and is not served here."""
    states, progresses = _states(config, _chosen(config, arguments))
    if arguments.json:
        services = [asdict(state) | _progress_document(progresses.get(state.service)) for state in states]
        print(json.dumps({"node": config.node, "services": services}, indent=2))
    else:
        print(text.status(states, progresses))
    if arguments.service and states[0].here != "serving":
        return ExitCode.NOT_OWNED
    return ExitCode.OK


def _states(config: Config, services: list[Service]) -> tuple[list[ServiceStatus], dict[str, Progress]]:
    """Each service as it is, and how far the clients are of those that are served here."""
    states = [of_service(config, service) for service in services]
    seen = {state.service: _progress(config.service(state.service), state) for state in states}
    return states, {name: found for name, found in seen.items() if found is not None}


def _progress(service: Service, state: ServiceStatus) -> Progress | None:
    """What the keeper says of the clients, if it says so of the generation that is served here."""
    if state.here != "serving" or state.owner is None:
        return None
    host = service.isolation is Isolation.HOST
    place = Place.of_node(service.name) if host else Place.on_node(Namespaces(service.name))
    found = progress.read(place.progress)
    return found if found is not None and found.state == state.owner.state else None


def _progress_document(found: Progress | None) -> dict[str, object]:
    """Only where there is something to say."""
    return {} if found is None else {"progress": asdict(found)}


def clients(config: Config, arguments: argparse.Namespace) -> ExitCode:
    _need_root()
    if arguments.forget is not None:
        return _forget(config, arguments)
    found = _of_served(config, arguments, on_record)
    if arguments.fsid:
        found = [client for client in found if client.may_use(arguments.fsid)]
    if arguments.json:
        print(json.dumps({"node": config.node, "clients": [asdict(client) for client in found]}, indent=2))
    else:
        print(text.clients(found))
    return ExitCode.OK


def _of_served(
    config: Config, arguments: argparse.Namespace, look: Callable[[Config, Service], tuple[T, ...]]
) -> list[T]:
    """What there is of each service that is served here, read where storage that hangs can be left behind."""
    found: list[T] = []
    for service in _chosen(config, arguments):
        try:
            found += in_child(f"reading {service.state}", partial(look, config, service), deadline=READ)
        except NotOwned:
            if arguments.service:
                raise
    return found


def _forget(config: Config, arguments: argparse.Namespace) -> ExitCode:
    if not arguments.service:
        raise UsageError("--forget: of which service?", hint=f"nlmfo clients SERVICE --forget {arguments.forget}")
    service = config.service(arguments.service)
    work = partial(forget, config, service, arguments.forget, frozenset(arguments.force))
    found = in_child(f"work in {service.state}", work, deadline=READ)
    if arguments.json:
        print(json.dumps({"node": config.node, "forgotten": asdict(found)}, indent=2))
    else:
        print(f"{found.service}: {found.client} is forgotten: it is owed no notice any more")
    return ExitCode.OK


def locks(config: Config, arguments: argparse.Namespace) -> ExitCode:
    _need_root()
    found = _of_served(config, arguments, held_on)
    if arguments.json:
        print(json.dumps({"node": config.node, "locks": [asdict(lock) for lock in found]}, indent=2))
    else:
        print(text.locks(found))
    return ExitCode.OK


def history(config: Config, arguments: argparse.Namespace) -> ExitCode:
    _need_root()
    found = past.runs(_chosen(config, arguments))
    if arguments.run is None:
        if arguments.html:
            raise UsageError("--html: of which run?", hint="nlmfo history last --html > takeover.html")
        print(json.dumps(histories.list_document(found), indent=2) if arguments.json else histories.table(found))
        return ExitCode.OK
    run = past.named(found, arguments.run)
    if arguments.json:
        print(json.dumps(histories.run_document(run), indent=2))
    else:
        print(page.of(run) if arguments.html else histories.story(run))
    return ExitCode.OK


def monitor(config: Config, arguments: argparse.Namespace) -> ExitCode:
    """1 when something is wrong with the service here, 5 when it is not served here."""
    _need_root()
    service = config.service(arguments.service)
    found = health.troubles(config, service)
    if arguments.json:
        print(
            json.dumps({"version": 1, "service": service.name, "troubles": [asdict(each) for each in found]}, indent=2)
        )
    else:
        print("\n".join(f"{service.name}: {plain(each.text)}" for each in found) or f"{service.name}: all is well")
    return ExitCode.FAILED if found else ExitCode.OK


def show_metrics(config: Config, arguments: argparse.Namespace) -> ExitCode:
    _need_root()
    states, progresses = _states(config, list(config.services.values()))
    found = metrics.page(states, progresses, past.runs(config.services.values()), config.node)
    if arguments.output is None:
        print(found, end="")
    else:
        metrics.write(arguments.output, found)
    return ExitCode.OK


def check(config: Config, arguments: argparse.Namespace) -> ExitCode:
    """1 when something was found with which a takeover here fails, or loses locks."""
    _need_root()
    kernel, found = survey.of_kernel(), readiness.findings(config)
    if arguments.json:
        print(json.dumps(checks.document(config, kernel, found), indent=2))
    else:
        print(checks.table(kernel), checks.told(config, found), sep="\n\n")
    bad = checks.missing(kernel) or any(each.severity is Severity.ERROR for each in found)
    return ExitCode.FAILED if bad else ExitCode.OK


def keep(config: Config, arguments: argparse.Namespace) -> ExitCode:
    """Until SIGTERM, or until another node owns the service."""
    owner = Keep(config, config.service(arguments.service)).run()
    print(f"{owner.node} owns it (epoch {owner.epoch}): stood down", file=sys.stderr, flush=True)
    return ExitCode.NOT_OWNED


def _chosen(config: Config, arguments: argparse.Namespace) -> list[Service]:
    return [config.service(arguments.service)] if arguments.service else list(config.services.values())


def _word(config: Config, arguments: argparse.Namespace) -> Word:
    """What the operator vouches for; fencing comes first, and has to succeed."""
    forced = frozenset(arguments.force)
    if arguments.fence:
        return replace(runs.fence_node(config, arguments.fence), forced=forced)
    return Word(arguments.fenced, arguments.released_by, forced)


def _need_root() -> None:
    if os.geteuid() != 0:
        raise NlmfoError("this needs root", hint="run it with sudo")
