# SPDX-License-Identifier: GPL-2.0-or-later
"""``nlmfo notify`` has the keeper tell who has not answered, and says what became of each."""

from __future__ import annotations

import json
import os
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nlmfo.cli.commands import notify
from nlmfo.config import Config, Service
from nlmfo.errors import ExitCode, NlmfoError, NotOwned
from nlmfo.failover import keep
from nlmfo.failover import tell as telling
from nlmfo.failover.tell import ClientTold, Told, tell
from nlmfo.host import keeper_process
from nlmfo.kernel import grace
from nlmfo.ownership.registry import DirectoryRegistry
from nlmfo.records import ledger
from nlmfo.records.ledger import Entry, Standing
from nlmfo.records.store import Store
from tests.unit import shapes
from tests.unit.owed import ADDRESS, OTHER, taken_over
from tests.unit.shapes import THERE

ONE, TWO = "192.0.2.1", "192.0.2.2"


@dataclass
class Case:
    """A service that is served here; ``ONE`` and ``TWO`` are owed a notice, and the keeper does as it is told."""

    config: Config
    service: Service
    store: Store
    registry: DirectoryRegistry
    in_grace: bool = True
    runs: bool = True
    asked: list[str] = field(default_factory=list)
    keeper: Callable[[str], None] = lambda _: None

    def write(self, client: str, standing: Standing, detail: str = "") -> None:
        now, number = time.time(), self.store.state_number()
        entries = [
            Entry(address, client, number, standing, at=now, since=1.0, detail=detail)
            for address in self.store.addresses
            if client in self.store.owed_names(address)
        ]
        ledger.append(self.store.state, entries)

    def ask(self, _: Path, client: str) -> None:
        self.asked.append(client)
        self.keeper(client)

    def tell(self, client: str = "") -> Told:
        return tell(self.config, self.service, client)


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    config, service, store, registry = taken_over(tmp_path, ONE, TWO)
    store.mark_told()
    found = Case(config, service, store, registry)
    monkeypatch.setattr(grace, "on", lambda: found.in_grace)
    monkeypatch.setattr(keeper_process, "runs", lambda _: found.runs)
    monkeypatch.setattr(keep, "tell", found.ask)
    monkeypatch.setattr(telling, "LOOK", 0.01)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return found


def test_everybody_who_has_not_answered_is_told_and_what_became_of_each_is_known(case: Case) -> None:
    def keeper(_: str) -> None:
        case.write(ONE, Standing.TOLD)
        case.write(ONE, Standing.ANSWERED)
        case.write(TWO, Standing.UNREACHABLE, "no answer")

    case.write(ONE, Standing.UNREACHABLE, "no answer")
    case.keeper = keeper
    found = case.tell()
    assert case.asked == [""]
    assert found == Told(
        "home",
        True,
        (
            ClientTold(ONE, Standing.ANSWERED, tried=True, detail=""),
            ClientTold(TWO, Standing.UNREACHABLE, tried=True, detail="no answer"),
        ),
    )


def test_one_client_is_told_and_nobody_else_is_waited_for(case: Case) -> None:
    case.keeper = lambda client: case.write(client, Standing.ANSWERED)
    assert case.tell(TWO).clients == (ClientTold(TWO, Standing.ANSWERED, tried=True, detail=""),)
    assert case.asked == [TWO]


def test_who_is_owed_a_notice_at_two_addresses_has_answered_when_it_answered_at_both(case: Case) -> None:
    case.store.add(OTHER, ONE, "nfs100.example")
    case.store.begin_generation()
    case.store.mark_told()

    def keeper(_: str) -> None:
        number, now = case.store.state_number(), time.time()
        for address, standing in ((ADDRESS, Standing.ANSWERED), (OTHER, Standing.UNREACHABLE)):
            ledger.append(case.store.state, [Entry(address, ONE, number, standing, at=now, since=1.0)])

    case.keeper = keeper
    (found,) = case.tell(ONE).clients
    assert (found.standing, found.tried) == (Standing.UNREACHABLE, True)


def test_who_has_answered_is_not_told_again(case: Case) -> None:
    for client in (ONE, TWO):
        case.write(client, Standing.ANSWERED)
    assert case.tell().clients == tuple(
        ClientTold(client, Standing.ANSWERED, tried=False, detail="") for client in (ONE, TWO)
    )
    assert case.asked == []


def test_a_keeper_that_does_not_come_round_to_it_is_waited_for_up_to_the_deadline(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telling, "PATIENCE", 0.0)
    case.write(ONE, Standing.UNREACHABLE, "no answer")
    assert case.tell().clients == (
        ClientTold(ONE, Standing.UNREACHABLE, tried=False, detail="no answer"),
        ClientTold(TWO, Standing.PENDING, tried=False, detail=""),
    )


def test_where_nobody_sends_that_is_an_error_that_says_how_to_have_it_again(case: Case) -> None:
    case.runs = False
    with pytest.raises(NlmfoError, match="'nlmfo keep' has ended") as caught:
        case.tell()
    assert "nlmfo takeover home" in str(caught.value.hint)


def test_a_keeper_that_does_not_listen_is_an_error(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(grace, "on", lambda: True)
    monkeypatch.setattr(keeper_process, "runs", lambda _: True)
    with pytest.raises(NlmfoError, match=r"does not listen at /run/nlmfo/home/wake: .*No such file"):
        case.tell()


def test_nobody_is_told_for_the_first_time_when_grace_is_over(case: Case) -> None:
    case.store.begin_generation()
    case.in_grace = False
    with pytest.raises(NlmfoError, match="grace ended before everybody was told"):
        case.tell()
    assert case.asked == []


def test_a_client_that_is_owed_nothing_is_an_error_that_says_where_to_look(case: Case) -> None:
    with pytest.raises(NlmfoError, match=r"no client 192\.0\.2\.9 is owed a notice"):
        case.tell("192.0.2.9")


def test_only_the_node_that_serves_it_tells_anybody(case: Case) -> None:
    case.registry.claim(shapes.record(2, THERE))
    with pytest.raises(NotOwned, match="node2 has it"):
        case.tell()


# The command


def run(case: Case, capsys: pytest.CaptureFixture[str], *, as_json: bool = False) -> tuple[ExitCode, str]:
    status = notify.notify(case.config, Namespace(service="home", client="", json=as_json))
    return status, capsys.readouterr().out


def test_the_command_succeeds_when_all_have_answered(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    case.write(ONE, Standing.ANSWERED)
    case.keeper = lambda _: case.write(TWO, Standing.BACK)
    assert run(case, capsys) == (
        ExitCode.OK,
        "home: 192.0.2.1: had answered before\nhome: 192.0.2.2: answered, and is back\n",
    )


def test_the_command_fails_and_names_who_did_not_answer(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    case.write(ONE, Standing.ANSWERED)
    case.keeper = lambda _: case.write(TWO, Standing.UNREACHABLE, "no route\x1b")
    case.in_grace = False
    status, out = run(case, capsys)
    assert status == ExitCode.FAILED
    late, _, line = out.splitlines()
    assert late == f"home: {notify.LATE}"
    assert line.startswith("home: 192.0.2.2: did not answer: no route?; it is tried again")


def test_where_nobody_is_owed_anything_that_is_said(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    for client in (ONE, TWO):
        case.store.forget(ADDRESS, client)
    assert run(case, capsys) == (ExitCode.OK, "home: nobody is owed a notice\n")


def test_the_document_has_each_client(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    case.write(TWO, Standing.ANSWERED)
    case.keeper = lambda _: case.write(ONE, Standing.ANSWERED)
    status, out = run(case, capsys, as_json=True)
    assert status == ExitCode.OK
    assert json.loads(out)["clients"][0] == {"client": ONE, "standing": "answered", "tried": True, "detail": ""}
