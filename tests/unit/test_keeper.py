# SPDX-License-Identifier: GPL-2.0-or-later
"""The keeper finds who is missing among the records, and brings to shared storage what is on this node only."""

from __future__ import annotations

import os
import shutil
import sys
from ipaddress import IPv4Interface, ip_address
from pathlib import Path

import pytest

from nlmfo.config import Consistency, Isolation, Service
from nlmfo.errors import Refused
from nlmfo.failover.keeper import Keeper
from nlmfo.host.view import StatdUser
from nlmfo.kernel.sockdiag import Connection
from nlmfo.records.layout import directory_name, format_record
from nlmfo.records.store import Store
from tests.unit import shapes

ONE, TWO = ip_address("10.10.0.100"), ip_address("10.10.0.101")
CLIENT = "192.0.2.7"
ME = StatdUser(os.getuid(), os.getgid())


@pytest.fixture
def service(tmp_path: Path) -> Service:
    """A service of two addresses, whose state directory is a temporary one."""
    addresses = (IPv4Interface("10.10.0.100/24"), IPv4Interface("10.10.0.101/24"))
    return shapes.service()._replace(state=tmp_path / "state", addresses=addresses)


def keeper_of(service: Service, tmp_path: Path) -> Keeper:
    place = shapes.place(tmp_path)
    for directory in (place.spool, place.statd):
        directory.mkdir(parents=True, exist_ok=True)
    keeper = Keeper(service, place)
    keeper.begin(ME)
    keeper.open_live(ME)
    return keeper


def on_statds_list(keeper: Keeper, client: str, name: str | None = None) -> None:
    (keeper.place.statd / (name or client)).write_bytes(format_record(client, "node"))


def clients(keeper: Keeper, address: object) -> set[str]:
    return {record.client for record in keeper.live.current(ip_address(str(address)))}


def test_who_is_on_statds_list_and_not_on_record_is_put_on_record_under_every_address(
    service: Service, tmp_path: Path
) -> None:
    keeper = keeper_of(service, tmp_path)
    on_statds_list(keeper, CLIENT)
    assert keeper.keep(()) == 2
    assert clients(keeper, ONE) == clients(keeper, TWO) == {CLIENT}
    assert keeper.keep(()) == 0


def test_a_client_is_known_by_what_lockd_called_it_and_not_by_statds_file_name(
    service: Service, tmp_path: Path
) -> None:
    """statd names the file after the host when /etc/hosts knows the address."""
    keeper = keeper_of(service, tmp_path)
    on_statds_list(keeper, CLIENT, "client.example")
    keeper.keep(())
    assert clients(keeper, ONE) == {CLIENT}


def test_statds_list_may_hold_anything_and_nothing_of_it_leaves_the_store(service: Service, tmp_path: Path) -> None:
    keeper = keeper_of(service, tmp_path)
    statd = keeper.place.statd
    (statd / "link").symlink_to("/etc/passwd")
    (statd / "directory").mkdir()
    os.mkfifo(statd / "fifo")
    (statd / "empty").touch()
    (statd / "evil").write_bytes(format_record(CLIENT, "node").replace(CLIENT.encode(), b"../../etc/x"))
    assert keeper.keep(()) == 0
    assert clients(keeper, ONE) == set()


@pytest.mark.parametrize("isolation", list(Isolation))
def test_a_client_that_uses_a_second_address_is_on_record_there_too(
    service: Service, tmp_path: Path, isolation: Isolation
) -> None:
    keeper = keeper_of(service._replace(isolation=isolation), tmp_path)
    keeper.live.add(ONE, CLIENT, "name")
    on_statds_list(keeper, "192.0.2.8")
    keeper.keep([Connection(TWO, 2049, ip_address(CLIENT)), Connection(TWO, 2049, ip_address("192.0.2.9"))])
    assert clients(keeper, ONE) == {CLIENT, "192.0.2.8"}
    # Who is connected and holds no lock anywhere is no record's business.
    assert clients(keeper, TWO) == {CLIENT, "192.0.2.8"}


def test_where_services_share_a_statd_a_client_on_record_is_not_taken_for_one_of_another_address(
    service: Service, tmp_path: Path
) -> None:
    keeper = keeper_of(service._replace(isolation=Isolation.HOST), tmp_path)
    keeper.live.add(ONE, CLIENT, "name")
    on_statds_list(keeper, CLIENT)
    keeper.keep(())
    assert clients(keeper, TWO) == set()


def test_what_the_callout_left_in_the_spool_is_brought_in(service: Service, tmp_path: Path) -> None:
    keeper = keeper_of(service, tmp_path)
    here = keeper.place.spool / directory_name(ONE)
    here.mkdir()
    (here / "add.1.0").write_bytes(format_record(CLIENT, "name"))
    assert keeper.keep(()) == 1
    assert clients(keeper, ONE) == {CLIENT}
    assert not list(here.glob("add.*"))


def test_a_snapshot_makes_who_was_on_record_on_a_lost_node_owed_a_notice(service: Service, tmp_path: Path) -> None:
    service = service._replace(consistency=Consistency.SNAPSHOT)
    lost = keeper_of(service, tmp_path / "lost")
    lost.live.add(ONE, CLIENT, "name")
    assert lost.on_record() == {CLIENT}
    assert {record.client for record in lost.shared.current(ONE)} == set()
    lost.keep(())

    successor = keeper_of(service, tmp_path / "successor")
    assert successor.owed() == {CLIENT}
    successor.live.add(ONE, CLIENT, "name")
    assert successor.settle(set()) == set()
    assert successor.owed() == {CLIENT}, "it was not told yet"
    assert successor.settle({(ONE, CLIENT), (ONE, "192.0.2.99")}) == {(ONE, CLIENT)}
    assert successor.owed() == set()

    # It was settled because it is on record again: the next one must know it.
    third = keeper_of(service, tmp_path / "third")
    assert third.owed() == {CLIENT}


def test_what_a_takeover_says_of_a_snapshot_that_is_not_there(service: Service, tmp_path: Path) -> None:
    keeper = keeper_of(service._replace(consistency=Consistency.SNAPSHOT), tmp_path)
    number, told = keeper.begin(ME)
    assert number == 3
    assert told == ", snapshot not used: there is none that can be read"


def test_records_older_than_those_that_were_served_last_are_refused(service: Service, tmp_path: Path) -> None:
    keeper = keeper_of(service, tmp_path)
    keeper.live.add(ONE, CLIENT, "name")
    number = keeper.shared.state_number()
    with pytest.raises(Refused, match="an old copy") as caught:
        keeper.begin(ME, known=number + 2)
    assert caught.value.code == "stale-records"
    assert keeper.shared.state_number() == number  # nothing was touched
    assert clients(keeper, ONE) == {CLIENT}
    assert keeper.begin(ME, known=number)[0] == number + 2


def test_a_copy_of_the_records_that_is_as_new_counts_too_and_an_older_one_does_not(
    service: Service, tmp_path: Path
) -> None:
    keeper = keeper_of(service, tmp_path)
    keeper.live.add(ONE, CLIENT, "name")
    same, old = (shutil.copytree(service.state, tmp_path / name) for name in ("same", "old"))
    Store(same, (ONE, TWO)).add(ONE, "192.0.2.8", "name")
    Store(old, (ONE, TWO)).add(ONE, "192.0.2.9", "name")
    for address in (ONE, TWO):
        (old / directory_name(address) / "state").write_bytes((-1).to_bytes(4, sys.byteorder, signed=True))
    _, told = keeper.begin(ME, copies=[same, old])
    assert keeper.owed() == {CLIENT, "192.0.2.8"}
    assert told == f", 1 more from {same}"


def test_records_that_are_older_than_another_copy_of_them_are_refused(service: Service, tmp_path: Path) -> None:
    keeper = keeper_of(service, tmp_path)
    copy = shutil.copytree(service.state, tmp_path / "copy")
    newer = Keeper(service._replace(state=copy), keeper.place)
    newer.begin(ME)
    with pytest.raises(Refused, match="an old copy"):
        keeper.begin(ME, copies=[copy])
