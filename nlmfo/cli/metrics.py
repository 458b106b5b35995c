# SPDX-License-Identifier: GPL-2.0-or-later
"""``nlmfo metrics``: the state of each service as Prometheus reads it, for node_exporter's textfile collector.

One sample for each thing that somebody may want to be woken for, and what explains it the next morning. Every number
is about this node: ask each of them. contrib/prometheus has a timer and alerts that work with these names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from nlmfo.failover.past import Run
from nlmfo.failover.progress import Progress
from nlmfo.failover.room import NODE, Room
from nlmfo.failover.status import ServiceStatus
from nlmfo.failover.verbs import Outcome, Verb
from nlmfo.ownership.record import Standing
from nlmfo.plain import plain
from nlmfo.records.ledger import Standing as Notice

#: Each metric's name and what it says; all are gauges.
HELP = {
    "nlmfo_served": "1 when all of the service is up on this node",
    "nlmfo_partly_up": "1 when something of the service is up on this node, and not all of it",
    "nlmfo_owner_known": "1 when this node can read who owns the service",
    "nlmfo_owner": "1 for the node that serves the service by the owner record",
    "nlmfo_epoch": "how often the service has changed hands",
    "nlmfo_in_grace": "1 while clients reclaim their locks here, and nobody gets new ones",
    "nlmfo_untold": "1 when clients of the server before are not told yet",
    "nlmfo_run_unfinished": "1 when a takeover or release was cut off on this node",
    "nlmfo_records_waiting": "records of clients that are on this node only, because shared storage did not take them",
    "nlmfo_clients_refused": "clients that could not be put on record",
    "nlmfo_clients": "clients that were owed a notice at the last takeover here, by what became of it",
    "nlmfo_locks_before": "locks that were held before the last takeover here",
    "nlmfo_locks_not_reclaimed": "of these, the locks that are not held again",
    "nlmfo_last_run_timestamp_seconds": "when the last run of its kind on this node began",
    "nlmfo_last_run_seconds": "how long it took",
    "nlmfo_last_run_ok": "1 when it came to its end as it was meant to",
    "nlmfo_last_takeover_step_seconds": "how long the steps of the last takeover here took, by their kind",
    "nlmfo_last_takeover_pause_seconds": "how long clients may have waited for the last takeover here",
    "nlmfo_full_in_seconds": "when a file system will be full, where it fills; the node's have an empty service",
}
GOOD = {Verb.TAKEOVER: Outcome.SERVED, Verb.RELEASE: Outcome.RELEASED, Verb.ABORT: Outcome.RELEASED}


@dataclass(frozen=True, slots=True)
class Sample:
    """One line. Labels beside the service's name, by their names."""

    name: str
    service: str
    value: float
    labels: tuple[tuple[str, str], ...] = ()


def page(states: Iterable[ServiceStatus], runs: Sequence[Run], node: str, rooms: Iterable[Room] = ()) -> str:
    """The whole file. ``runs``: those of the past, the oldest first; only those of ``node`` count."""
    own = [run for run in runs if run.begun.node == node]
    samples = [
        sample
        for state in states
        for sample in (
            *_of_state(state),
            *_of_progress(state.service, state.progress),
            *_of_runs(state.service, [run for run in own if run.begun.service == state.service]),
        )
    ]
    samples += [sample for room in rooms for sample in _of_room(room)]
    lines = []
    for name, text in HELP.items():
        of_name = [sample for sample in samples if sample.name == name]
        if of_name:
            lines += [f"# HELP {name} {text}", f"# TYPE {name} gauge", *map(_line, of_name)]
    return "".join(f"{line}\n" for line in lines)


def _of_state(state: ServiceStatus) -> Iterator[Sample]:
    name, owner = state.service, state.owner
    yield Sample("nlmfo_owner_known", name, state.problem is None)
    yield Sample("nlmfo_served", name, state.here == "serving")
    yield Sample("nlmfo_partly_up", name, state.here == "partly")
    if owner is not None:
        serves = owner.standing is Standing.SERVING
        yield Sample("nlmfo_owner", name, serves, (("owner", owner.node),))
        yield Sample("nlmfo_epoch", name, owner.epoch)
    yield Sample("nlmfo_in_grace", name, state.in_grace)
    yield Sample("nlmfo_untold", name, state.untold)
    yield Sample("nlmfo_run_unfinished", name, state.unfinished is not None)
    yield Sample("nlmfo_records_waiting", name, state.waiting)
    yield Sample("nlmfo_clients_refused", name, state.refused)


def _of_progress(service: str, found: Progress | None) -> Iterator[Sample]:
    if found is None:
        return
    for notice in Notice:
        yield Sample("nlmfo_clients", service, found.of(notice), (("standing", str(notice)),))
    if found.locks is not None:
        yield Sample("nlmfo_locks_before", service, found.locks.total)
        yield Sample("nlmfo_locks_not_reclaimed", service, found.locks.total - found.locks.back)


def _of_runs(service: str, runs: Sequence[Run]) -> Iterator[Sample]:
    last = {run.begun.verb: run for run in runs}
    for verb, run in last.items():
        labels = (("verb", str(verb)),)
        yield Sample("nlmfo_last_run_timestamp_seconds", service, run.report.began, labels)
        yield Sample("nlmfo_last_run_seconds", service, run.report.seconds, labels)
        yield Sample("nlmfo_last_run_ok", service, run.report.outcome is GOOD[verb], labels)
    takeover = last.get(Verb.TAKEOVER)
    if takeover is None:
        return
    taken: dict[str, float] = {}
    for each in takeover.report.steps:
        taken[str(each.step.action)] = taken.get(str(each.step.action), 0.0) + each.seconds
    for action, seconds in taken.items():
        yield Sample("nlmfo_last_takeover_step_seconds", service, seconds, (("step", action),))
    if takeover.report.pause is not None:
        yield Sample("nlmfo_last_takeover_pause_seconds", service, takeover.report.pause.seconds)


def _of_room(room: Room) -> Iterator[Sample]:
    service = "" if room.place.subject == NODE else room.place.subject
    for of, seconds in (("bytes", room.bytes_in), ("inodes", room.inodes_in)):
        if seconds is not None:
            yield Sample("nlmfo_full_in_seconds", service, round(seconds), (("path", str(room.place.path)), ("of", of)))


def _line(sample: Sample) -> str:
    labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in (("service", sample.service), *sample.labels))
    return f"{sample.name}{{{labels}}} {float(sample.value):.3f}".removesuffix(".000")


def _escaped(value: str) -> str:
    return plain(value).replace("\\", "\\\\").replace('"', '\\"')
