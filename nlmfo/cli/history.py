# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs of the past: as a table, as a story, and as JSON."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from nlmfo.cli import text, words
from nlmfo.cli.running import Running
from nlmfo.failover import report
from nlmfo.failover.journal import as_object
from nlmfo.failover.past import Heard, Run
from nlmfo.plain import plain


def table(runs: Sequence[Run]) -> str:
    """One line for each run, the newest last, as a log is read."""
    if not runs:
        return "no runs so far"
    rows = [("RUN", "SERVICE", "WHAT", "NODE", "BEGAN", "TOOK", "OUTCOME")]
    rows += [
        (
            plain(run.name),
            plain(run.begun.service),
            str(run.begun.verb),
            plain(run.begun.node),
            words.when(run.report.began),
            f"{run.report.seconds:.1f} s",
            outcome(run),
        )
        for run in runs
    ]
    return words.columns(rows)


def outcome(run: Run) -> str:
    """How it ended, and why where it failed."""
    if run.report.outcome is None:
        return "cut off"
    return f"{run.report.outcome}{f': {plain(run.report.error)}' if run.report.error else ''}"


def story(run: Run) -> str:
    """What happened, and what it came to."""
    return f"{happened(run)}\n{came_to(run)}"


def happened(run: Run) -> str:
    """Line by line, with the time of day in front."""
    lines = [f"{run.name}: {run.begun.verb} of {run.begun.service} on {run.begun.node}"]
    lines += [f"{words.when(run.heard[0].at)}  by the clock of that node"]
    if run.begun.fenced or run.begun.released_by:
        word = f"{run.begun.fenced} was fenced" if run.begun.fenced else f"{run.begun.released_by} had let go"
        lines += [f"the operator said that {word}"]
    running = Running()
    for heard in run.heard:
        lines += [f"{_moment(heard.at)}  {line}" for line in running.lines(heard.event, heard.at)]
    if run.report.error:
        lines += [f"{_moment(run.heard[-1].at)}  {run.report.error}"]
    return _plain("\n".join(lines))


def came_to(run: Run) -> str:
    """The report of the run, as it was told at its end."""
    return _plain(text.report(run.report))


def list_document(runs: Iterable[Run]) -> dict[str, Any]:
    """The list for machines."""
    return {
        "runs": [
            {
                "run": run.name,
                "service": run.begun.service,
                "verb": str(run.begun.verb),
                "node": run.begun.node,
                "outcome": None if run.report.outcome is None else str(run.report.outcome),
                "began": round(run.report.began, 3),
                "seconds": round(run.report.seconds, 3),
                "error": run.report.error,
            }
            for run in runs
        ],
    }


def run_document(run: Run) -> dict[str, Any]:
    """One run for machines."""
    events = [_event(heard) for heard in run.heard]
    return {"run": run.name, "report": report.as_object(run.report), "events": events}


def _event(heard: Heard) -> dict[str, Any]:
    return as_object(heard.event) | {"at": heard.at}


def _plain(lines: str) -> str:
    """Whoever can write to the journal, on storage that clients see, has no way to the reader's terminal."""
    return "\n".join(plain(line) for line in lines.split("\n"))


def _moment(at: float) -> str:
    return f"{time.strftime('%H:%M:%S', time.localtime(at))}.{int(at * 1000) % 1000:03d}"
