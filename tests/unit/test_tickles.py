# SPDX-License-Identifier: GPL-2.0-or-later
"""A client that may wait for the server before is found, whatever port its connection has; nobody else is bothered."""

from __future__ import annotations

import time
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path

import pytest

from nlmfo.failover import tickles
from nlmfo.failover.tickles import Tickles
from nlmfo.kernel.sockdiag import Connection
from nlmfo.records.connections import Ends, write_connections
from nlmfo.records.ledger import Entry, Standing
from nlmfo.records.listening import write_listening
from tests.unit import shapes

ADDRESS = ip_address("10.10.0.100")
NFS, LOCKD_BEFORE, LOCKD = (ADDRESS, 2049), (ADDRESS, 43211), (ADDRESS, 38137)
NOW = frozenset({NFS, LOCKD})
#: net/sunrpc/xprtsock.c: RPC_DEF_MIN_RESVPORT and RPC_DEF_MAX_RESVPORT.
RESERVED = set(range(665, 1024))


class Ground:
    """A service whose server before listened at NFS and LOCKD_BEFORE, a moment after its clients were told."""

    def __init__(self, state: Path, patch: pytest.MonkeyPatch) -> None:
        self.now = 5000.0
        patch.setattr(time, "time", lambda: self.now)
        patch.setattr(time, "monotonic", lambda: self.now)
        self.service = shapes.service(state=state)
        write_listening(state, [NFS, LOCKD_BEFORE])
        self.sent: list[tuple[str, int, int]] = []
        self.tickles = Tickles(self.service, 3, send=self._send)

    def _send(self, connections: Iterable[Ends]) -> int:
        found = [(str(each.remote), each.port, each.remote_port) for each in connections]
        self.sent += found
        return len(found)

    def search(
        self, *clients: Entry, here: Iterable[Connection] = (), after: float = 0.0
    ) -> dict[tuple[str, int], int]:
        """How many connections were tried of which client to which port, with all that come in turn."""
        self.now += after
        self.sent.clear()
        for _ in range(len(clients) + 1):
            self.tickles.search({each.client: each for each in clients}, set(here), NOW)
        tried = {(client, port) for client, port, _ in self.sent}
        for client, port in tried:
            assert {own for who, at, own in self.sent if (who, at) == (client, port)} == RESERVED
        return {place: sum(1 for who, at, _ in self.sent if (who, at) == place) for place in tried}


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ground:
    return Ground(tmp_path, monkeypatch)


def entry(standing: Standing, client: str = "192.0.2.17", at: float = 5000.0) -> Entry:
    return Entry(ADDRESS, client, 3, standing, at=at, since=at)


def connection(port: int, client: str = "192.0.2.17") -> Connection:
    return Connection(ADDRESS, port, ip_address(client), 700)


def test_of_who_has_answered_and_asks_for_nothing_every_reserved_port_is_tried_twice(ground: Ground) -> None:
    client = entry(Standing.ANSWERED)
    everywhere = {(client.client, NFS[1]): 359, (client.client, LOCKD_BEFORE[1]): 359}
    assert ground.search(client) == {}, "its first request is on its way"
    assert ground.search(client, after=2.0) == everywhere
    assert ground.search(client, after=2.9) == {}
    assert ground.search(client, after=0.1) == everywhere
    assert ground.search(client, after=1000.0) == {}


def test_who_has_come_to_nfsd_only_may_have_an_old_connection_to_lockd_that_has_moved(ground: Ground) -> None:
    client = entry(Standing.ANSWERED)
    assert ground.search(client, here=[connection(NFS[1])], after=2.0) == {(client.client, LOCKD_BEFORE[1]): 359}


def test_who_has_its_locks_may_still_wait_with_its_reads_and_writes(ground: Ground) -> None:
    client = entry(Standing.BACK)
    assert ground.search(client, here=[connection(LOCKD[1])], after=2.0) == {(client.client, NFS[1]): 359}
    both = [connection(NFS[1]), connection(LOCKD[1])]
    assert ground.search(client, here=both, after=3.0) == {}


@pytest.mark.parametrize("standing", sorted(set(Standing) - {Standing.ANSWERED, Standing.BACK}))
def test_who_has_not_answered_or_holds_nothing_is_left_alone(ground: Ground, standing: Standing) -> None:
    assert ground.search(entry(standing), after=10.0) == {}


def test_a_client_with_a_name_or_of_the_other_family_has_no_address_to_send_to(ground: Ground) -> None:
    named, other = entry(Standing.ANSWERED, "client.example"), entry(Standing.ANSWERED, "2001:db8::17")
    assert ground.search(named, other, after=10.0) == {}


def test_one_client_at_a_time_and_first_those_whose_locks_are_not_back(ground: Ground) -> None:
    clients = [entry(Standing.BACK, "192.0.2.1"), entry(Standing.ANSWERED, "192.0.2.2")]
    ground.now += 2.0
    for expected in ("192.0.2.2", "192.0.2.1"):
        ground.sent.clear()
        ground.tickles.search({each.client: each for each in clients}, set(), NOW)
        assert {client for client, *_ in ground.sent} == {expected}


def test_a_crowd_is_not_searched_to_the_end(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tickles, "SEARCHED", 2)
    crowd = [entry(Standing.ANSWERED, f"192.0.2.{number}") for number in range(1, 5)]
    assert len({client for client, _ in ground.search(*crowd, after=2.0)}) == 2


def test_nobody_is_searched_where_the_server_before_left_no_word_of_its_ports(tmp_path: Path, ground: Ground) -> None:
    (tmp_path / "listening").unlink()
    ground.tickles = Tickles(ground.service, 3, send=ground._send)
    assert ground.search(entry(Standing.ANSWERED), after=2.0) == {}


def test_the_connections_of_before_are_told_twice_more_unless_their_clients_are_back(
    tmp_path: Path, ground: Ground
) -> None:
    waiting, back = connection(LOCKD_BEFORE[1]), connection(NFS[1], "192.0.2.18")
    write_connections(tmp_path, [waiting, back])
    ground.tickles = Tickles(ground.service, 3, send=ground._send)
    for seconds, expected in ((0.9, 0), (0.1, 1), (1.4, 0), (0.1, 1), (100.0, 0)):
        ground.now += seconds
        ground.sent.clear()
        ground.tickles.again({back})
        assert ground.sent == [("192.0.2.17", LOCKD_BEFORE[1], 700)] * expected
