# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs of the past, as their journals have them: what happened, in the events that it was told by.

A node has the journals of its own runs; beside the records, on the storage that moves with the service, are those of
all nodes. There clients may be able to write, so a line that makes no sense is left out, and nothing but what is
shown to people depends on any.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cache, partial
from pathlib import Path
from typing import Any, get_args, get_type_hints

from nlmfo.child import in_child
from nlmfo.config import Service
from nlmfo.errors import NlmfoError
from nlmfo.failover import events, progress
from nlmfo.failover.events import Begun, Event
from nlmfo.failover.journal import name_of
from nlmfo.failover.last_run import RUNS
from nlmfo.failover.plan import Action, Plan, Step
from nlmfo.failover.progress import Progress
from nlmfo.failover.report import EARLIER, Lines, Report, Reporter, is_time, last_address_down
from nlmfo.failover.verbs import Outcome, Verb
from nlmfo.records import journal

#: Seconds to read the journals on the storage of one service.
READ = 10.0


class NoSuchRun(NlmfoError):
    """No journal has that name, or several begin with it."""


@dataclass(frozen=True, slots=True)
class Heard:
    """An event, and when it came, in seconds since 1970 by the clock of the node that ran."""

    at: float
    event: Event


@dataclass(frozen=True, slots=True)
class Run:
    """One run. ``name`` is that of its journal, without the suffix: it sorts by time. ``heard`` begins with Begun."""

    name: str
    begun: Begun
    heard: tuple[Heard, ...]
    report: Report


def runs(services: Iterable[Service], *, directory: Path = RUNS) -> tuple[Run, ...]:
    """All runs of which there is a journal on this node, or on storage that is mounted here; the oldest first."""
    found = (run for service in services for run in _of_service(service, directory))
    return tuple(sorted(found, key=lambda run: (run.heard[0].at, run.name)))


def named(found: Iterable[Run], name: str) -> Run:
    """The one run whose name is ``name``, or begins with it; "last" is the newest. Raises NoSuchRun."""
    runs = tuple(found)
    if name == "last" and runs:
        return runs[-1]
    fitting = [run for run in runs if run.name == name] or [run for run in runs if run.name.startswith(name)]
    if len(fitting) == 1:
        return fitting[0]
    some = ", ".join(run.name for run in fitting[:3])
    raise NoSuchRun(
        f"{len(fitting)} runs begin with '{name}': {some}, ..." if fitting else f"no run begins with '{name}'",
        hint="'nlmfo history' lists them; 'nlmfo history last' is about the newest",
    )


def event_of(line: Mapping[str, Any]) -> Event | None:
    """What a line of a journal tells of; None when it is nothing that we know, or not as we write it."""
    if (name := str(line.get("event"))) not in _kinds():
        return None
    kind, types_of = _kinds()[name]
    try:
        values = {f.name: _value(types_of[f.name], line[f.name]) for f in fields(kind) if f.name in line}
        return kind(**values)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _of_service(service: Service, directory: Path) -> list[Run]:
    shared = service.state / "runs"
    journals = dict(journal.several(directory, service.name))
    with suppress(NlmfoError, OSError):  # storage that hangs or is elsewhere takes nothing from what is here
        read = partial(journal.several, shared, service.name)
        for name, lines in in_child(f"reading {shared}", read, deadline=READ):
            if len(lines) > len(journals.get(name, ())):  # that of a release ends where its storage is unmounted
                journals[name] = lines
    found = (_run(name, journals) for name in journals)
    return [run for run in found if run is not None and run.begun.service == service.name]


def _run(name: str, journals: Mapping[str, Lines]) -> Run | None:
    """None where the beginning is missing: a run that was killed before it had touched anything."""
    lines = journals[name]
    heard = tuple(
        Heard(float(line["at"]), event) for line in lines if is_time(line.get("at")) and (event := event_of(line))
    )
    if not heard or not isinstance(heard[0].event, Begun):
        return None
    begun = heard[0].event
    reporter = Reporter(begun, heard[0].at)
    for each in heard[1:]:
        reporter.hear(each.event, each.at)
    # Itself first, as the newest: by that it is told from other takeovers of the same boot.
    known = (lines, *_until(heard[-1].at, [journals[other] for other in sorted(journals) if other != name]))
    return Run(name.removesuffix(journal.SUFFIX), begun, heard, reporter.report(last_address_down(known, begun)))


def _until(end: float, journals: Iterable[Lines]) -> Iterator[Lines]:
    """What was on record at that time of the runs that had begun last; the newest first."""
    begun = [lines for lines in journals if lines and _at(lines[0]) <= end]
    for lines in reversed(begun[-EARLIER:]):
        yield [line for line in lines if _at(line) <= end]


def _at(line: Mapping[str, Any]) -> float:
    at = line.get("at")
    return float(at) if is_time(at) else 0.0


@cache
def _kinds() -> dict[str, tuple[type[Event], dict[str, Any]]]:
    """Each kind of event by its name, with the types of its fields."""
    # Not Event.__subclasses__(): that has each of them twice, as it was before and after it was given slots.
    found = (kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, Event))
    return {name_of(kind): (kind, get_type_hints(kind)) for kind in found if kind is not Event}


def _value(kind: Any, found: Any) -> Any:
    """``found``, if it is what JSON makes of a ``kind``."""
    if isinstance(kind, types.UnionType):
        return None if found is None else _value(get_args(kind)[0], found)
    if kind in _MADE:
        return _MADE[kind](found)
    if kind == tuple[str, ...]:
        return tuple(_value(str, each) for each in found)
    if kind is float and isinstance(found, int) and not isinstance(found, bool):
        return float(found)
    if type(found) is not kind:
        raise TypeError
    return found


def _step(found: Mapping[str, Any]) -> Step:
    return Step(Action(found["action"]), _value(str, found["subject"]))


def _plan(found: Iterable[Mapping[str, Any]]) -> Plan:
    return tuple(_step(each) for each in found)


def _progress(found: dict[str, Any]) -> Progress:
    made = progress.from_object(found)
    for name, kind in _SIMPLE.items():
        _value(kind, getattr(made, name))
    words = [word for each in made.waiting for word in (each.client, each.detail)]
    for word in (*words, *(made.locks.missing if made.locks else ())):
        _value(str, word)
    numbers = [made.grace_until, *((made.locks.total, made.locks.back) if made.locks else ())]
    if not all(map(is_time, numbers)):
        raise ValueError
    return made


#: What is read of progress as it is.
_SIMPLE = {"state": int, "told": bool, "in_grace": bool, "grace_until": float, "ended": str, "problem": str}
_MADE: Mapping[Any, Callable[[Any], Any]] = {
    Step: _step,
    Plan: _plan,
    Progress: _progress,
    Verb: Verb,
    Outcome: Outcome,
}
