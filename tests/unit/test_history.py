# SPDX-License-Identifier: GPL-2.0-or-later
"""``nlmfo history``: the list, the story of one run, the page about it, and the documents for machines."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from html import unescape
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlmfo.cli import document, history, page
from nlmfo.cli.main import main
from nlmfo.failover import past
from nlmfo.failover.events import (
    AwaitingRelease,
    Begun,
    ClientNotTold,
    Ended,
    Event,
    Progressed,
    Proved,
    StepDone,
    StepNotDone,
)
from nlmfo.failover.past import Heard, Run, event_of
from nlmfo.failover.plan import Action, Step
from nlmfo.failover.progress import Locks, Progress
from nlmfo.failover.report import Reporter
from nlmfo.failover.verbs import Outcome, Verb
from nlmfo.plain import plain
from nlmfo.records.ledger import Standing
from tests.unit.test_config import HOME, write
from tests.unit.test_past import EVENTS

NAME = "20261121T091500.000001Z-home"
BEGUN = Begun(Verb.TAKEOVER, "home", "b", "boot")
NFSD, MOUNT = Step(Action.START_NFSD, "8 threads"), Step(Action.MOUNT, "/srv/home")


def run(*heard: tuple[float, Event], begun: Begun = BEGUN) -> Run:
    reporter = Reporter(begun, 1000.0)
    for at, event in heard:
        reporter.hear(event, at)
    return Run(NAME, begun, (Heard(1000.0, begun), *(Heard(at, event) for at, event in heard)), reporter.report())


def progress(told: int, back: int, locks: int, *, grace: bool) -> Progressed:
    clients = {Standing.PENDING: 4 - told, Standing.TOLD: told - back, Standing.BACK: back}
    ended = "" if grace else "every lock is held again"
    return Progressed(
        "home", Progress(3, told == 4, grace, 1100.0, ended, "", clients, (), Locks(20, locks, exact=True))
    )


SERVED = run(
    (1001.0, StepDone(Step(Action.ISOLATE, "eth0"), 0.9, "")),
    (1001.1, AwaitingRelease("home", "a")),
    (1061.1, Proved("home", "a released it (epoch 1)", 2)),
    (1061.4, StepDone(MOUNT, 0.2, "uuid")),
    (1061.6, StepDone(NFSD, 0.1, "lockd is in grace")),
    (1062.0, progress(2, 0, 0, grace=True)),
    (1062.5, progress(4, 3, 12, grace=True)),
    (1063.0, progress(4, 4, 20, grace=True)),
    (1063.6, progress(4, 4, 20, grace=False)),
    (1064.0, Ended(Outcome.SERVED)),
)
FAILED = run(
    (1001.0, StepNotDone(MOUNT, 0.9, "no such device")), (1002.0, Ended(Outcome.TAKEN_DOWN, "mount: no such device"))
)
CUT_OFF = run((1001.0, StepDone(MOUNT, 0.9, "")))


def test_the_list_has_a_line_for_each_run_and_says_how_it_ended() -> None:
    head, served, failed, cut_off = history.table([SERVED, FAILED, CUT_OFF]).split("\n")
    assert head.split() == ["RUN", "SERVICE", "WHAT", "NODE", "BEGAN", "TOOK", "OUTCOME"]
    assert served.startswith(f"{NAME}  home     takeover  b     ")
    assert served.endswith("64.0 s  served")
    assert failed.endswith("taken down: mount: no such device")
    assert cut_off.endswith("cut off")
    assert history.table([]) == "no runs so far"


def test_the_story_has_each_line_with_its_time_and_the_report_at_the_end() -> None:
    lines = history.story(SERVED).split("\n")
    assert lines[0] == f"{NAME}: takeover of home on b"
    moment = time.strftime("%H:%M:%S", time.localtime(1061.4))
    assert f"{moment}.400    0.20 s  mount: /srv/home  (uuid)" in lines
    assert any(line.endswith("home: 20 of 20 locks are held again") for line in lines)
    assert "home: takeover: served after 64.00 s; the longest step was 'make namespaces: eth0', 0.90 s" in lines
    assert lines[-1].startswith("  ")


def test_the_story_says_what_the_operator_vouched_for_and_why_it_failed() -> None:
    word = run((1001.0, Ended(Outcome.UNTOUCHED, "refused")), begun=replace(BEGUN, fenced="a"))
    assert "the operator said that a was fenced" in history.story(word)
    assert "the operator said that a had let go" in history.story(run(begun=replace(BEGUN, released_by="a")))
    assert "mount: /srv/home  FAILED" in history.story(FAILED)
    assert "mount: no such device" in history.story(FAILED)


def test_machines_get_the_same_and_can_read_the_events_back() -> None:
    (listed,) = history.list_document([SERVED])["runs"]
    assert (listed["run"], listed["outcome"], listed["seconds"]) == (NAME, "served", 64.0)
    assert history.list_document([CUT_OFF])["runs"][0]["outcome"] is None
    document = json.loads(json.dumps(history.run_document(SERVED)))
    assert document["report"]["outcome"] == "served"
    assert [event_of(line) for line in document["events"]] == [heard.event for heard in SERVED.heard]
    assert [line["at"] for line in document["events"]] == [heard.at for heard in SERVED.heard]


# The page


def svg(of: Run) -> ElementTree.Element:
    drawn = re.search(r"<svg.*</svg>", page.of(of), re.DOTALL)
    assert drawn is not None
    return ElementTree.fromstring(drawn[0])


def boxes(of: Run, kind: str) -> list[tuple[float, float]]:
    """Left edge and width of each."""
    return [(float(e.get("x", "")), float(e.get("width", ""))) for e in svg(of).iter("rect") if e.get("class") == kind]


def test_each_step_is_a_bar_as_long_as_it_took_at_the_time_when_it_was() -> None:
    isolate, mount, nfsd = boxes(SERVED, "bar")
    assert isolate[1] == pytest.approx(mount[1] * 0.9 / 0.2, rel=0.02)
    assert nfsd[0] == pytest.approx(mount[0] + mount[1] * 1.5, abs=0.5)
    assert boxes(FAILED, "bar") == []
    assert len(boxes(FAILED, "bad")) == 1


def test_the_time_that_was_waited_for_a_release_is_left_out_and_said() -> None:
    isolate, mount, _ = boxes(SERVED, "bar")
    second = isolate[1] / 0.9
    # A minute lies between them; drawn are 0.1 s up to the waiting, and 0.1 s from its end.
    assert mount[0] - (isolate[0] + isolate[1]) == pytest.approx(0.2 * second, abs=0.5)
    assert "waited 60.0 s for the release" in page.of(SERVED)


def test_grace_is_a_band_from_its_beginning_to_its_end() -> None:
    nfsd = boxes(SERVED, "bar")[2]
    (band,) = boxes(SERVED, "grace")
    assert band[0] == pytest.approx(nfsd[0] + nfsd[1], abs=0.2)
    assert "in grace for 2.0 s<" in page.of(SERVED)
    goes_on = run((1001.0, StepDone(NFSD, 0.1, "")), (1002.0, progress(4, 0, 0, grace=True)))
    assert "in grace for 1.0 s and longer" in page.of(goes_on)
    assert boxes(FAILED, "grace") == []


def test_clients_and_locks_are_lines_that_rise_to_what_there_is_of_them() -> None:
    lines = {e.get("class"): e.get("d", "") for e in svg(SERVED).iter("path")}
    assert set(lines) == {"line told", "line home", "line locks"}
    for drawn in lines.values():
        heights = [float(y) for y in re.findall(r"V([0-9.]+)", drawn)]
        assert heights == sorted(heights, reverse=True)
    for said in ("clients told: 4 of 4", "clients back: 4 of 4", "locks held again: 20 of 20"):
        assert said in page.of(SERVED)
    assert list(svg(FAILED).iter("path")) == []


@given(st.lists(st.tuples(st.floats(1000, 2000), EVENTS), max_size=8))
def test_whatever_was_heard_the_page_is_whole_and_nothing_in_it_comes_from_elsewhere(
    heard: Sequence[tuple[float, Event]],
) -> None:
    made = run(*sorted(heard, key=lambda each: each[0]))
    whole = page.of(made)
    svg(made)
    assert "://" not in re.sub(r"<(pre|title)>.*?</\1>|<text.*?</text>", "", whole, flags=re.DOTALL)
    for said in (history.story(made), history.table([made])):
        assert all(plain(line) == line for line in said.split("\n"))


def test_names_from_the_network_are_text_and_nothing_else() -> None:
    evil = run((1001.0, ClientNotTold("<script>alert(1)</script>", "&<b>")), begun=replace(BEGUN, node="<i>"))
    whole = page.of(evil)
    assert "<script" not in whole
    assert "<i>" not in whole
    assert "<script>alert(1)</script>" in unescape(whole)


# The command


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    write(tmp_path, home=HOME)
    monkeypatch.setattr(
        past, "runs", lambda services: (FAILED, SERVED) if [s.name for s in services] == ["home"] else ()
    )
    return ["--config", str(tmp_path), "history"]


def test_the_command_tells_the_list_one_run_or_its_page(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    said = {}
    for words in ((), ("last",), ("last", "--html"), ("--json",), ("last", "--json"), ("--service", "home")):
        assert main([*command, *words]) == 0
        said[words] = capsys.readouterr().out
    assert said[()] == said["--service", "home"] == history.table([FAILED, SERVED]) + "\n"
    assert said["last",] == history.story(SERVED) + "\n"
    assert said["last", "--html"] == page.of(SERVED) + "\n"
    assert json.loads(said["--json",]) == {"version": 1} | history.list_document([FAILED, SERVED])
    assert json.loads(said["last", "--json"]) == json.loads(document.whole(history.run_document(SERVED)))


def test_a_page_about_no_run_and_a_run_that_is_not_there_are_refused_with_what_to_do(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--html"]) == 2
    assert "hint: nlmfo history last --html" in capsys.readouterr().err
    assert main([*command, "x"]) == 1
    assert "hint: 'nlmfo history' lists them" in capsys.readouterr().err
