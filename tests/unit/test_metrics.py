# SPDX-License-Identifier: GPL-2.0-or-later
"""``nlmfo metrics`` says what alerts ask for, in the form that Prometheus reads, whatever names there are."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlmfo.cli import metrics
from nlmfo.cli.commands import watch
from nlmfo.cli.main import main
from nlmfo.cli.metrics import HELP, page
from nlmfo.failover import past
from nlmfo.failover.events import Begun, Ended, Event, StepDone
from nlmfo.failover.past import Heard, Run
from nlmfo.failover.plan import Action, Step
from nlmfo.failover.progress import Locks, Progress
from nlmfo.failover.report import Pause, Reporter
from nlmfo.failover.room import NODE, Place, Room
from nlmfo.failover.status import ServiceStatus
from nlmfo.failover.verbs import Outcome, Verb
from nlmfo.host.space import Sample
from nlmfo.ownership.record import Standing
from nlmfo.records.ledger import Standing as Notice
from tests.unit import shapes
from tests.unit.test_config import HOME
from tests.unit.test_config import write as write_config

CHECKOUT = Path(__file__).parents[2]
#: The text format, one sample: https://prometheus.io/docs/instrumenting/exposition_formats/
SAMPLE = re.compile(r'([a-z_]+)\{([a-z]+="(?:[^"\\\n]|\\["\\n])*"(?:,[a-z]+="(?:[^"\\\n]|\\["\\n])*")*)\} (-?[0-9.]+)')
STATE = ServiceStatus("home", shapes.record(7, "b", Standing.SERVING), "serving", in_grace=True, problem=None)
CLIENTS = {Notice.BACK: 3, Notice.UNREACHABLE: 1}
PROGRESS = Progress(3, told=True, in_grace=True, clients=CLIENTS, locks=Locks(20, 18, exact=True))


def run(verb: Verb = Verb.TAKEOVER, outcome: Outcome = Outcome.SERVED, node: str = "b", *more: Event) -> Run:
    begun = Begun(verb, "home", node, "boot")
    reporter = Reporter(begun, 1000.0)
    for event in (*more, Ended(outcome)):
        reporter.hear(event, 1012.5)
    report = replace(reporter.report(), pause=Pause(2.25, exact=True, node="a"))
    return Run("name", begun, (Heard(1000.0, begun),), report)


def samples(text: str) -> dict[str, float]:
    """Each sample, by its name and labels; every other line has to be a comment."""
    found = {}
    for line in text.splitlines():
        match = SAMPLE.fullmatch(line)
        assert match or line.startswith("# "), line
        if match:
            assert f"{match[1]}{{{match[2]}}}" not in found
            found[f"{match[1]}{{{match[2]}}}"] = float(match[3])
    return found


MOUNTS = [StepDone(Step(Action.MOUNT, f"/srv/{n}"), 0.25, "") for n in range(2)]
ROOM = Room(
    Place("registry", NODE, Path("/cluster/nlmfo"), "owner records"), Sample(0, 9, 5, 7), 0, True, 3600.4, 7200.0
)
WHOLE = page([STATE._replace(progress=PROGRESS)], [run(Verb.TAKEOVER, Outcome.SERVED, "b", *MOUNTS)], "b", [ROOM])


def test_what_there_is_of_a_service_is_told_with_its_numbers() -> None:
    found = samples(WHOLE)
    assert found['nlmfo_served{service="home"}'] == 1
    assert found['nlmfo_owner{service="home",owner="b"}'] == 1
    assert found['nlmfo_epoch{service="home"}'] == 7
    assert found['nlmfo_clients{service="home",standing="back"}'] == 3
    assert found['nlmfo_clients{service="home",standing="pending"}'] == 0
    assert found['nlmfo_locks_not_reclaimed{service="home"}'] == 2
    assert found['nlmfo_last_run_seconds{service="home",verb="takeover"}'] == 12.5
    assert found['nlmfo_last_run_timestamp_seconds{service="home",verb="takeover"}'] == 1000
    assert found['nlmfo_last_takeover_step_seconds{service="home",step="mount"}'] == 0.5
    assert found['nlmfo_last_takeover_pause_seconds{service="home"}'] == 2.25
    assert found['nlmfo_full_in_seconds{service="",path="/cluster/nlmfo",of="bytes"}'] == 3600
    assert found['nlmfo_full_in_seconds{service="",path="/cluster/nlmfo",of="inodes"}'] == 7200


def test_where_nothing_fills_there_is_no_sample_of_it() -> None:
    quiet = replace(ROOM, bytes_in=None, inodes_in=None)
    assert "nlmfo_full_in_seconds" not in page([STATE], [], "b", [quiet])


def test_every_metric_has_a_line_that_explains_it_and_all_its_samples_below() -> None:
    names = [line.split()[2] for line in WHOLE.splitlines() if line.startswith("# TYPE")]
    assert names == list(HELP)
    below = ""
    for line in WHOLE.splitlines():
        below = line.split()[2] if line.startswith("#") else below
        assert line.startswith((f"# HELP {below} ", f"# TYPE {below} gauge", f"{below}{{"))


@pytest.mark.parametrize(
    ("state", "name", "value"),
    [
        (STATE._replace(problem="away", owner=None), "owner_known", 0),
        (STATE._replace(here="no"), "served", 0),
        (STATE._replace(here="partly"), "partly_up", 1),
        (STATE._replace(untold=True), "untold", 1),
        (STATE._replace(unfinished="takeover, mount"), "run_unfinished", 1),
        (STATE._replace(waiting=4), "records_waiting", 4),
        (STATE._replace(refused=2), "clients_refused", 2),
        (STATE._replace(in_grace=False), "in_grace", 0),
    ],
)
def test_what_may_be_wrong_is_a_number(state: ServiceStatus, name: str, value: float) -> None:
    assert samples(page([state], [], "b"))[f'nlmfo_{name}{{service="home"}}'] == value


def test_an_owner_that_has_released_serves_no_more() -> None:
    state = STATE._replace(owner=shapes.record(7, "a", Standing.RELEASED))
    assert samples(page([state], [], "b"))['nlmfo_owner{service="home",owner="a"}'] == 0


def test_of_each_kind_the_last_run_of_this_node_counts() -> None:
    failed = run(outcome=Outcome.TAKEN_DOWN)
    released = run(Verb.RELEASE, Outcome.RELEASED)
    found = samples(page([STATE], [run(), failed, released, run(node="a")], "b"))
    assert found['nlmfo_last_run_ok{service="home",verb="takeover"}'] == 0
    assert found['nlmfo_last_run_ok{service="home",verb="release"}'] == 1


@given(st.text(), st.text(min_size=1))
def test_no_name_whatever_breaks_the_page(service: str, owner: str) -> None:
    samples(page([STATE._replace(service=service, owner=shapes.record(7, owner), progress=PROGRESS)], [], "b"))


def test_the_command_prints_the_page_or_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_config(tmp_path, home=HOME)
    monkeypatch.setattr(watch, "of_service", lambda *_: STATE)
    monkeypatch.setattr(past, "runs", lambda _: ())
    assert main(["--config", str(tmp_path), "metrics"]) == 0
    printed = capsys.readouterr().out
    assert 'nlmfo_served{service="home"} 1' in printed
    assert main(["--config", str(tmp_path), "metrics", "--output", str(tmp_path / "out.prom")]) == 0
    assert (tmp_path / "out.prom").read_text(encoding="utf-8") == printed
    assert capsys.readouterr().out == ""


def test_the_alerts_ask_for_metrics_and_labels_that_there_are() -> None:
    rules = (CHECKOUT / "contrib/prometheus/nlmfo.rules.yml").read_text(encoding="utf-8")
    asked = set(re.findall(r"\bnlmfo_[a-z_]+", rules))
    assert asked
    assert asked <= set(HELP)
    for name, label, value in re.findall(r'(nlmfo_[a-z_]+)\{([a-z]+)="([a-z]+)"\}', rules):
        assert f'{name}{{service="home",{label}="{value}"}}' in samples(WHOLE)
    for used in set(re.findall(r"\$labels\.([a-z]+)", rules)) - {"instance"}:
        assert f'{used}="' in WHOLE


def test_the_documentation_has_every_metric_in_its_words() -> None:
    text = (CHECKOUT / "docs/monitoring.md").read_text(encoding="utf-8")
    assert dict(re.findall(r"^\| `(nlmfo_[a-z_]+)` \| (.*) \|$", text, re.MULTILINE)) == HELP


def test_the_timer_starts_a_command_that_there_is() -> None:
    unit = (CHECKOUT / "contrib/prometheus/nlmfo-metrics.service").read_text(encoding="utf-8")
    (words,) = re.findall(r"^ExecStart=nlmfo (.*)$", unit, re.MULTILINE)
    assert metrics.__doc__ is not None
    assert words.split()[:2] == ["metrics", "--output"]
