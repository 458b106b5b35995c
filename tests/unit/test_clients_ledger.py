# SPDX-License-Identifier: GPL-2.0-or-later
"""``nlmfo clients``: what became of each client's notice, and how the operator has one forgotten."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from nlmfo.child import in_child
from nlmfo.cli import tables
from nlmfo.cli.commands import records
from nlmfo.cli.main import main
from nlmfo.config import Config, Service
from nlmfo.errors import ExitCode, NlmfoError, NotOwned, Refused
from nlmfo.failover.clients import ClientOnRecord, ClientState, forget, on_record
from nlmfo.host import mounts, node
from nlmfo.kernel import sockdiag
from nlmfo.kernel.sockdiag import Connection
from nlmfo.ownership.registry import DirectoryRegistry
from nlmfo.records import ledger
from nlmfo.records.journal_file import JournalFile
from nlmfo.records.ledger import Entry, Ledger, Standing
from nlmfo.records.store import Store
from tests.unit import shapes
from tests.unit.owed import ADDRESS, OTHER, taken_over
from tests.unit.shapes import EARLIER_BOOT, THERE
from tests.unit.test_config import with_registry, write

CLIENT, SECOND = "192.0.2.17", "192.0.2.18"
THEN = 1_000_000_000.0


@dataclass
class Case:
    """A service that was just taken over here, with ``CLIENT`` and ``SECOND`` on record since before that."""

    config: Config
    service: Service
    store: Store
    registry: DirectoryRegistry
    connections: list[Connection]

    @property
    def number(self) -> int:
        return self.store.state_number()

    def write(self, client: str, standing: Standing, *, state: int = 0, **more: object) -> Entry:
        """What the service's keeper says in the ledger."""
        entry = Entry(ADDRESS, client, state or self.number, standing, at=THEN + 60, since=THEN)
        entry = replace(entry, **more)  # type: ignore[arg-type]
        owed = [(address, name) for address in self.store.addresses for name in self.store.owed_names(address)]
        keeper = Ledger(self.store.state, owed, self.number)
        keeper.write([entry])
        keeper.close()
        return entry

    def found(self, client: str) -> ClientOnRecord:
        (found,) = (each for each in on_record(self.config, self.service) if each.client == client)
        return found

    def owed(self) -> set[str]:
        return {name for address in self.store.addresses for name in self.store.owed_names(address)}


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    config, service, store, registry = taken_over(tmp_path, CLIENT, SECOND)
    connections: list[Connection] = []
    monkeypatch.setattr(sockdiag, "established", lambda: tuple(connections))
    monkeypatch.setattr(time, "localtime", time.gmtime)
    return Case(config, service, store, registry, connections)


# What became of them


def shown(case: Case, client: str) -> str:
    """The STATE column."""
    return tables.clients([case.found(client)]).splitlines()[1].split(maxsplit=6)[6]


def test_who_is_owed_a_notice_of_which_nothing_was_heard_is_pending(case: Case) -> None:
    assert (case.found(CLIENT).state, case.found(CLIENT).notice) == (ClientState.OWED, None)
    assert shown(case, CLIENT) == "owed, pending"


@pytest.mark.parametrize(
    ("standing", "said"),
    [
        (Standing.PENDING, "owed, pending since 2001-09-09 01:46:40"),
        (Standing.TOLD, "owed, told 2001-09-09 01:47:40"),
        (Standing.ANSWERED, "owed, answered 2001-09-09 01:47:40"),
        (Standing.UNREACHABLE, "owed, unreachable since 2001-09-09 01:46:40"),
        # Its record is there still: a crash came between the ledger and it.
        (Standing.LEFT, "owed, pending"),
    ],
)
def test_the_state_of_who_is_owed_a_notice_is_what_the_ledger_says(case: Case, standing: Standing, said: str) -> None:
    case.write(CLIENT, standing)
    assert shown(case, CLIENT) == said
    assert shown(case, SECOND) == "owed, pending"


def test_everything_that_the_ledger_knows_is_there_for_programs(case: Case) -> None:
    case.write(CLIENT, Standing.UNREACHABLE, names=("nfs100.example",), attempts=3, detail="no answer")
    notice = case.found(CLIENT).notice
    assert notice is not None
    assert (notice.standing, notice.at, notice.since) == (Standing.UNREACHABLE, THEN + 60, THEN)
    assert (notice.names, notice.attempts, notice.detail) == (("nfs100.example",), 3, "no answer")


def test_what_it_answered_to_another_server_is_not_what_this_one_is_owed_but_since_when_is(case: Case) -> None:
    case.write(CLIENT, Standing.ANSWERED, state=case.number - 2)
    notice = case.found(CLIENT).notice
    assert notice is not None
    assert (notice.standing, notice.since, notice.attempts) == (Standing.PENDING, THEN, 0)


def test_one_address_at_which_it_does_not_answer_makes_a_client_unreachable(case: Case) -> None:
    case.store.add(OTHER, CLIENT, "nfs100.example")
    case.store.begin_generation()
    first = case.write(CLIENT, Standing.ANSWERED, attempts=1)
    keeper = Ledger(case.store.state, [(ADDRESS, CLIENT)], case.number)
    keeper.write([replace(first, address=OTHER, standing=Standing.UNREACHABLE, since=THEN - 10, attempts=2)])
    keeper.close()
    notice = case.found(CLIENT).notice
    assert notice is not None
    assert (notice.standing, notice.since, notice.attempts) == (Standing.UNREACHABLE, THEN - 10, 3)
    assert case.found(CLIENT).addresses == ("10.10.0.100", "fd00::100")


def test_who_is_back_is_current_and_says_since_when(case: Case) -> None:
    case.store.add(ADDRESS, CLIENT, "nfs100.example")
    case.store.settle(ADDRESS, {CLIENT})
    case.write(CLIENT, Standing.BACK)
    assert case.found(CLIENT).state is ClientState.CURRENT
    assert shown(case, CLIENT) == "current, back 2001-09-09 01:47:40"


def test_who_has_left_is_on_record_no_more_and_says_why(case: Case) -> None:
    case.store.forget(ADDRESS, CLIENT)
    case.write(CLIENT, Standing.LEFT, detail="it answered, and asked for no lock within grace")
    assert case.found(CLIENT).state is ClientState.GONE
    assert shown(case, CLIENT) == "gone, left 2001-09-09 01:47:40: it answered, and asked for no lock within grace"


def test_who_left_an_earlier_server_is_no_news(case: Case) -> None:
    case.write("192.0.2.99", Standing.LEFT, state=case.number)
    case.store.begin_generation()
    assert {each.client for each in on_record(case.config, case.service)} == {CLIENT, SECOND}


@pytest.mark.parametrize("damage", [b"\xff\x00{", b"[]\n" * 3, b'{"client": "../x"}\n'])
def test_a_damaged_ledger_hides_nobody(case: Case, damage: bytes) -> None:
    (case.store.state / "ledger").write_bytes(damage)
    assert shown(case, CLIENT) == "owed, pending"


# Forgotten by hand


def test_a_client_that_the_operator_vouches_is_gone_leaves_the_records_and_the_ledger_says_who_said_so(
    case: Case,
) -> None:
    before = case.write(CLIENT, Standing.UNREACHABLE, attempts=3)
    assert forget(case.config, case.service, CLIENT).addresses == ("10.10.0.100",)
    assert case.owed() == {SECOND}
    entry = ledger.read(case.store.state)[ADDRESS, CLIENT]
    assert (entry.standing, entry.detail, entry.state) == (Standing.LEFT, "the operator said so", case.number)
    assert (entry.since, entry.attempts) == (before.since, 3)
    assert shown(case, CLIENT).endswith(": the operator said so")


def test_it_is_forgotten_at_every_address_where_it_is_owed_a_notice(case: Case) -> None:
    case.store.add(OTHER, CLIENT, "nfs100.example")
    case.store.begin_generation()
    assert forget(case.config, case.service, CLIENT).addresses == ("10.10.0.100", "fd00::100")
    assert case.owed() == {SECOND}
    found = ledger.read(case.store.state)
    assert [found[address, CLIENT].standing for address in (ADDRESS, OTHER)] == [Standing.LEFT] * 2


def test_the_ledger_says_so_before_the_record_goes(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in between, the client is told once more than needed, and never too little."""

    def killed(*_: object) -> bool:
        raise NlmfoError("killed")

    monkeypatch.setattr(Store, "forget", killed)
    with pytest.raises(NlmfoError, match="killed"):
        forget(case.config, case.service, CLIENT)
    assert ledger.read(case.store.state)[ADDRESS, CLIENT].standing is Standing.LEFT
    assert CLIENT in case.owed()


def test_where_the_ledger_cannot_be_written_the_record_stays(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise NlmfoError("no space left")

    monkeypatch.setattr(JournalFile, "append", full)
    with pytest.raises(NlmfoError, match="no space left"):
        forget(case.config, case.service, CLIENT)
    assert CLIENT in case.owed()


def test_a_line_that_a_killed_keeper_has_left_unfinished_swallows_nothing(case: Case) -> None:
    case.write(SECOND, Standing.TOLD)
    with (case.store.state / "ledger").open("ab") as file:
        file.write(b'{"address": "10.10')
    forget(case.config, case.service, CLIENT)
    found = ledger.read(case.store.state)
    assert {client: entry.standing for (_, client), entry in found.items()} == {
        SECOND: Standing.TOLD,
        CLIENT: Standing.LEFT,
    }


def test_a_client_that_holds_locks_of_this_server_is_not_forgotten(case: Case) -> None:
    case.store.add(ADDRESS, "192.0.2.19", "nfs100.example")
    with pytest.raises(NlmfoError, match="is owed no notice: it is current") as caught:
        forget(case.config, case.service, "192.0.2.19")
    assert caught.value.exit_code == ExitCode.FAILED
    assert caught.value.hint
    assert case.store.current_names(ADDRESS) == ("192.0.2.19",)


@pytest.mark.parametrize("client", ["192.0.2.99", "../../etc/passwd", "", "a\nb"])
def test_whom_nobody_knows_is_an_error_that_says_where_to_look(case: Case, client: str) -> None:
    with pytest.raises(NlmfoError, match="is owed a notice") as caught:
        forget(case.config, case.service, client)
    assert caught.value.hint == "'nlmfo clients home' names everybody who is"
    assert case.owed() == {CLIENT, SECOND}
    assert not (case.store.state / "ledger").exists()


def test_a_client_that_is_connected_is_not_gone_unless_the_operator_insists(case: Case) -> None:
    case.connections.append(Connection(ADDRESS, 2049, ip_address(CLIENT)))
    with pytest.raises(Refused) as caught:
        forget(case.config, case.service, CLIENT)
    assert (caught.value.code, caught.value.forcible) == ("client-connected", True)
    assert case.owed() == {CLIENT, SECOND}
    forget(case.config, case.service, CLIENT, frozenset({"client-connected"}))
    assert case.owed() == {SECOND}


@pytest.mark.parametrize(
    "connection",
    [
        Connection(ip_address("10.10.0.1"), 22, ip_address(CLIENT)),
        Connection(ADDRESS, 2049, ip_address(SECOND)),
    ],
)
def test_connections_to_the_node_itself_or_of_others_say_nothing(case: Case, connection: Connection) -> None:
    case.connections.append(connection)
    forget(case.config, case.service, CLIENT)
    assert case.owed() == {SECOND}


def test_only_the_node_that_serves_it_forgets_anybody(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The records may be where all nodes see them."""
    case.registry.claim(shapes.record(2, THERE, boot=EARLIER_BOOT))
    with pytest.raises(NotOwned, match="node2 has it"):
        forget(case.config, case.service, CLIENT)
    case.registry.claim(shapes.record(3, boot=EARLIER_BOOT))
    with pytest.raises(NotOwned):
        forget(case.config, case.service, CLIENT)
    case.registry.claim(shapes.record(4))
    partition = case.service.partitions[0]
    there = case.service._replace(state=partition.mountpoint / "state")
    monkeypatch.setattr(mounts, "is_mounted", lambda _: False)
    with pytest.raises(NotOwned, match="its records are not on this node"):
        forget(case.config, there, CLIENT)
    assert case.owed() == {CLIENT, SECOND}


# The command


@pytest.fixture
def nlmfo(case: Case, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A configuration directory of the case's service."""
    home = (
        f'addresses = ["10.10.0.100/24", "fd00::100/64"]\ninterface = "eth0"\nisolation = "host"\n'
        f'state = "{case.store.state}"\n'
        '[[partition]]\nuuid = "11111111-2222-3333-4444-555555555555"\nmountpoint = "/srv/unit-test/home"\n'
        '[[export]]\npath = "/srv/unit-test/home"\nfsid = 1234\nclients = { "*" = "rw" }\n'
    )
    write(tmp_path, with_registry(case.registry.directory), home=home)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield tmp_path
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_command_forgets_one_and_says_so(nlmfo: Path, case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--config", str(nlmfo), "clients", "home", "--forget"]
    assert main([*words, CLIENT]) == ExitCode.OK
    assert capsys.readouterr().out == f"home: {CLIENT} is forgotten: it is owed no notice any more\n"
    assert main([*words, SECOND, "--json"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out) == {
        "version": 1,
        "node": "node1",
        "forgotten": {"service": "home", "client": SECOND, "addresses": ["10.10.0.100"]},
    }
    assert case.owed() == set()
    assert main([*words, CLIENT]) == ExitCode.FAILED
    assert "nlmfo: hint: 'nlmfo clients home' names everybody who is" in capsys.readouterr().err


def test_the_refusal_names_the_way_past_it(nlmfo: Path, case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    case.connections.append(Connection(ADDRESS, 2049, ip_address(CLIENT)))
    words = ["--config", str(nlmfo), "clients", "home", "--forget", CLIENT]
    assert main(words) == ExitCode.REFUSED
    assert capsys.readouterr().err.endswith("if you know that it does no harm: --force=client-connected\n")
    assert main([*words, "--force=client-connected"]) == ExitCode.OK


def test_of_which_service_has_to_be_said(nlmfo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(nlmfo), "clients", "--forget", CLIENT]) == ExitCode.USAGE
    assert f"nlmfo clients SERVICE --forget {CLIENT}" in capsys.readouterr().err


def test_records_that_hang_are_left_behind_at_the_deadline(
    nlmfo: Path, case: Case, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def hang(*_: object) -> None:
        os.read(os.pipe()[0], 1)

    monkeypatch.setattr(records, "READ", 0.2)
    monkeypatch.setattr(records, "forget", hang)
    assert main(["--config", str(nlmfo), "clients", "home", "--forget", CLIENT]) == ExitCode.DEADLINE
    assert "not within 0.2 s" in capsys.readouterr().err
    assert case.owed() == {CLIENT, SECOND}


def test_the_table_has_what_became_of_each(nlmfo: Path, case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    case.write(CLIENT, Standing.UNREACHABLE, attempts=2)
    assert main(["--config", str(nlmfo), "clients", "home"]) == ExitCode.OK
    said = capsys.readouterr().out
    assert "owed, unreachable since " in said
    assert main(["--config", str(nlmfo), "clients", "home", "--json"]) == ExitCode.OK
    found = {each["client"]: each for each in json.loads(capsys.readouterr().out)["clients"]}
    assert found[CLIENT]["notice"]["standing"] == "unreachable"
    assert found[CLIENT]["notice"]["attempts"] == 2
    assert found[SECOND]["notice"] is None


def test_the_work_survives_the_way_to_a_child_and_back(case: Case) -> None:
    found = in_child("looking", lambda: on_record(case.config, case.service), deadline=10)
    assert [each.client for each in found] == [CLIENT, SECOND]
    assert node.Node("home").call(sockdiag.established) == ()
