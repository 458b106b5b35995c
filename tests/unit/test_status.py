# SPDX-License-Identifier: GPL-2.0-or-later
"""What ``nlmfo status`` finds, and the line in which it says so."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from nlmfo.cli import states
from nlmfo.config import Config, Isolation, Service
from nlmfo.errors import Refused
from nlmfo.failover import status
from nlmfo.failover.events import Begun, Ended, Event, RollingBack, StepStarted
from nlmfo.failover.journal import Journal
from nlmfo.failover.look import look, look_as_owned
from nlmfo.failover.observe import Observed
from nlmfo.failover.plan import Action, Step
from nlmfo.failover.status import ServiceStatus, of_service
from nlmfo.failover.verbs import Outcome, Verb
from nlmfo.host import mounts, pins, view
from nlmfo.ownership.record import OwnerRecord, Standing
from nlmfo.ownership.registry import DirectoryRegistry
from nlmfo.records.layout import directory_name
from tests.unit import shapes
from tests.unit.shapes import EARLIER_BOOT, HERE, THERE

SERVICE = shapes.service(partitions=2)
MOUNT = Step(Action.MOUNT, "/srv/home")


def seen_as(monkeypatch: pytest.MonkeyPatch, seen: Observed) -> ServiceStatus:
    monkeypatch.setattr(status, "_is_nowhere_here", lambda *_: False)
    monkeypatch.setattr(status, "_look", lambda *_: seen)
    return of_service(shapes.config(None), SERVICE)


def line(state: ServiceStatus) -> str:
    return states.status([state])


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(time, "localtime", time.gmtime)
    monkeypatch.setattr(status, "RUNS", tmp_path / "no-runs")


def test_a_service_that_is_all_up_is_served_here(monkeypatch: pytest.MonkeyPatch) -> None:
    found = seen_as(monkeypatch, shapes.all_up(SERVICE))
    assert (found.here, found.problem) == ("serving", None)
    assert line(found) == "home  serving on node1 since 2001-09-09 01:46:41 (epoch 1), here"


@pytest.mark.parametrize("missing", ["mounted", "threads", "exported", "addresses", "owned"])
def test_a_service_of_which_anything_is_missing_is_only_partly_here(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    whole: dict[str, object] = {
        "owner": shapes.record(), "owned": True, "mounted": 2, "isolated": True,
        "threads": 8, "exported": True, "addresses": True,
    }  # fmt: skip
    less = {"mounted": 1, "threads": 0, "exported": False, "addresses": False, "owned": False}[missing]
    found = seen_as(monkeypatch, shapes.observed(SERVICE, **(whole | {missing: less})))  # type: ignore[arg-type]
    assert found.here == "partly"
    assert "PARTLY up here: run 'nlmfo resume' or 'nlmfo abort'" in line(found)


@pytest.mark.parametrize("trace", ["nothing", "mounted", "namespaces", "owner"])
def test_where_nothing_of_it_can_be_here_nothing_is_looked_at(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trace: str
) -> None:
    """And what looking finds there is the same."""
    registry = DirectoryRegistry(tmp_path)
    (tmp_path / "services").mkdir()
    registry.claim(shapes.record(3, HERE if trace == "owner" else THERE, boot=EARLIER_BOOT))
    monkeypatch.setattr(mounts, "is_mounted", lambda _: trace == "mounted")
    monkeypatch.setattr(pins, "any_there", lambda _: trace == "namespaces")
    asked: list[str] = []

    def look_at(config: Config, service: Service, owner: OwnerRecord | None) -> Observed:
        asked.append(service.name)
        return look_as_owned(config, service, owner)

    monkeypatch.setattr(status, "_look", look_at)
    found = of_service(shapes.config(tmp_path), SERVICE)
    assert asked == ([] if trace == "nothing" else ["home"])
    if trace == "nothing":
        monkeypatch.setattr(status, "_is_nowhere_here", lambda *_: False)
        assert of_service(shapes.config(tmp_path), SERVICE) == found
        assert asked == ["home"]


def test_a_service_that_another_node_serves_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = shapes.record(7, THERE, boot=EARLIER_BOOT)
    found = seen_as(monkeypatch, shapes.observed(SERVICE, owner=owner))
    assert found.here == "no"
    assert line(found) == "home  serving on node2 since 2001-09-09 01:46:47 (epoch 7)"


def test_a_released_service_names_who_had_it_last(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = shapes.record(7, THERE, Standing.RELEASED)
    assert "released on node2" in line(seen_as(monkeypatch, shapes.observed(SERVICE, owner=owner)))


def test_a_service_that_nobody_ever_served_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert line(seen_as(monkeypatch, shapes.observed(SERVICE))) == "home  not served anywhere yet"


def test_what_is_up_here_without_any_owner_on_record_does_not_go_unsaid(monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry was emptied, or another one is configured than the one that it was taken over with."""
    found = seen_as(monkeypatch, shapes.observed(SERVICE, mounted=2, isolated=True, threads=8))
    assert found.here == "partly"
    assert "PARTLY up here" in line(found)


def test_clients_that_were_not_told_are_a_warning() -> None:
    found = ServiceStatus("home", shapes.record(), "serving", in_grace=True, problem=None, untold=True)
    assert line(found).endswith("WARNING: not every client was told to reclaim: run 'nlmfo takeover' here")


@pytest.mark.parametrize("here", ["no", "partly", "serving"])
def test_a_run_that_was_cut_off_is_a_warning(here: Literal["no", "partly", "serving"]) -> None:
    found = ServiceStatus(
        "home",
        shapes.record(),
        here,
        in_grace=False,
        problem=None,
        unfinished="release, stop nfsd",
    )
    assert "WARNING: a run was cut off here (release, stop nfsd): run 'nlmfo resume' or 'nlmfo abort'" in line(found)


def test_what_another_node_took_over_and_is_still_mounted_here_is_not_to_be_released(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = seen_as(monkeypatch, shapes.observed(SERVICE, owner=shapes.record(7, THERE), mounted=1))
    assert found.superseded
    assert "STILL MOUNTED here, and must not be written to" in line(found)


def test_grace_is_shown_while_it_lasts() -> None:
    found = ServiceStatus("home", shapes.record(), "serving", in_grace=True, problem=None)
    assert line(found).endswith(", here, in grace")


def test_when_the_registry_cannot_be_read_the_owner_is_unknown_and_not_absent(tmp_path: Path) -> None:
    found = of_service(shapes.config(tmp_path / "registry"), SERVICE)
    assert found.owner is None
    assert line(found).startswith("home  unknown: registry ")


def test_several_services_stand_in_columns() -> None:
    found = [ServiceStatus(name, None, "no", in_grace=False, problem=None) for name in ("a", "longer")]
    assert states.status(found) == "a       not served anywhere yet\nlonger  not served anywhere yet"
    assert states.status([]) == "no services are configured"


def test_on_a_node_where_nothing_is_up_nothing_is_observed(tmp_path: Path) -> None:
    (tmp_path / "services").mkdir()
    service = shapes.service(name="unit-nothing-here")
    seen = look(shapes.config(tmp_path), service, DirectoryRegistry(tmp_path))
    assert seen == shapes.observed(service)
    assert not seen.anything()
    assert not seen.serves(service)


@pytest.mark.parametrize(
    ("record", "owned"),
    [
        (shapes.record(1), True),
        (shapes.record(1, boot=EARLIER_BOOT), False),
        (shapes.record(1, THERE), False),
        (shapes.record(1, standing=Standing.RELEASED), False),
    ],
)
def test_a_service_is_owned_by_the_node_and_the_boot_that_serve_it(tmp_path: Path, record: object, owned: bool) -> None:
    (tmp_path / "services").mkdir()
    registry = DirectoryRegistry(tmp_path)
    registry.claim(record)  # type: ignore[arg-type]
    assert look(shapes.config(tmp_path), SERVICE, registry).owned is owned


def test_an_observation_without_a_registry_to_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused):
        look(shapes.config(tmp_path), SERVICE, DirectoryRegistry(tmp_path))


def test_an_owner_of_whom_nothing_is_up_here_is_partly_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its registry entry keeps every other node out."""
    assert seen_as(monkeypatch, shapes.observed(SERVICE, owner=shapes.record(), owned=True)).here == "partly"


@pytest.mark.parametrize("told", [True, False])
def test_clients_are_untold_where_the_service_is_served(monkeypatch: pytest.MonkeyPatch, told: bool) -> None:
    up = shapes.all_up(SERVICE)
    assert seen_as(monkeypatch, replace(up, told=told)).untold is not told
    assert not seen_as(monkeypatch, replace(up, told=told, addresses=frozenset())).untold


def test_the_grace_of_the_nodes_server_is_none_of_a_service_that_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not seen_as(monkeypatch, shapes.observed(SERVICE, threads=8, in_grace=True)).in_grace
    assert seen_as(monkeypatch, replace(shapes.all_up(SERVICE), in_grace=True)).in_grace


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ((), None),
        ((StepStarted(MOUNT),), "takeover, mount"),
        ((Ended(Outcome.SERVED),), None),
        ((StepStarted(MOUNT), Ended(Outcome.INCOMPLETE, "no")), "takeover, mount"),
        ((RollingBack("home"), StepStarted(MOUNT)), "abort, mount"),
    ],
)
def test_how_far_a_run_came_that_was_cut_off_is_read_from_its_journal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, events: tuple[Event, ...], said: str | None
) -> None:
    monkeypatch.setattr(status, "RUNS", tmp_path)
    log = Journal(SERVICE, lambda _: None, attached=False, runs=tmp_path)
    for event in (Begun(Verb.TAKEOVER, "home", HERE, "boot"), *(events or (Ended(Outcome.UNTOUCHED),))):
        log(event)
    log.close()
    assert seen_as(monkeypatch, shapes.all_up(SERVICE)).unfinished == said


def test_a_run_that_was_cut_off_before_its_first_step_is_named_without_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(status, "RUNS", tmp_path)
    log = Journal(SERVICE, lambda _: None, attached=False, runs=tmp_path)
    log(Begun(Verb.RELEASE, "home", HERE, "boot"))
    log.close()
    assert seen_as(monkeypatch, shapes.all_up(SERVICE)).unfinished == "release"


# What the callout could not bring to the records


def spool_with_trouble(spool: Path) -> None:
    here = spool / directory_name(SERVICE.addresses[0].ip)
    here.mkdir(parents=True)
    (here / "add.1.0").touch()
    (here / "stalled").write_text("no space \x1b[2J left\n")
    (spool / "refused").write_text("add-client ../x\nadd-client ../y\n")


@pytest.mark.parametrize("isolation", list(Isolation))
def test_records_that_did_not_reach_the_storage_are_a_warning_wherever_the_spool_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, isolation: Isolation
) -> None:
    service = SERVICE._replace(isolation=isolation)
    monkeypatch.setattr(status, "_is_nowhere_here", lambda *_: False)
    monkeypatch.setattr(status, "_look", lambda *_: shapes.all_up(service))
    monkeypatch.setattr(pins, "RUN", tmp_path / "run")
    monkeypatch.setattr(view, "SPOOL", view.SPOOL if isolation is Isolation.NETNS else tmp_path / "spool")
    spool_with_trouble(tmp_path / ("run/home/run/nlmfo/spool" if isolation is Isolation.NETNS else "spool"))
    found = of_service(shapes.config(None), service)
    assert (found.waiting, found.refused) == (1, 2)
    assert "WARNING: 1 records are on this node only (no space ?[2J left)" in line(found)
    assert "WARNING: 2 clients could not be put on record" in line(found)


def test_the_spool_of_others_is_none_of_a_service_that_is_not_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(view, "SPOOL", tmp_path / "spool")
    spool_with_trouble(tmp_path / "spool")
    found = seen_as(monkeypatch, shapes.observed(SERVICE))
    assert (found.waiting, found.stalled, found.refused) == (0, None, 0)
