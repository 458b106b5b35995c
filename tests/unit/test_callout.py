# SPDX-License-Identifier: GPL-2.0-or-later
"""What the callout puts on record, for each way it is called."""

from __future__ import annotations

import os
import select
import stat
import tempfile
from pathlib import Path

import pytest

from nlmfo.records.callout import Mode
from tests.unit.callout_stand import (
    CALLOUTS,
    HOME,
    HOME6,
    NAME,
    NODE,
    PROGRAMS,
    SECONDS,
    Stand,
    build,
    needs_root,
    whole,
)

CLIENT = "192.0.2.17"


@pytest.fixture(scope="module", params=PROGRAMS)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(request.param, tmp_path_factory.mktemp("build"))


@pytest.fixture
def stand(tmp_path: Path, program: Path) -> Stand:
    return Stand(tmp_path, program, (HOME, HOME6))


@pytest.mark.parametrize("client", [CLIENT, "2001:db8::17", "fe80::1%3", "client.example", "x" * 255])
def test_a_new_client_is_on_record_under_every_address_in_the_form_sm_notify_reads(stand: Stand, client: str) -> None:
    stand.call("add-client", client, NODE)
    assert stand.record(client, HOME).read_text() == whole(client)
    assert stand.record(client, HOME6).read_text() == whole(client)


def test_a_record_is_readable_for_its_owner_and_group_only(stand: Stand) -> None:
    stand.call("add-client", CLIENT, NODE)
    assert stat.S_IMODE(stand.record(CLIENT).stat().st_mode) == 0o640


def test_adding_twice_leaves_one_record_and_no_other_file(stand: Stand) -> None:
    stand.call("add-client", CLIENT, NODE)
    stand.call("add-client", CLIENT, NODE)
    assert stand.on_record() == {CLIENT}
    assert stand.record(CLIENT).read_text() == whole(CLIENT)


def test_a_record_that_says_something_else_is_replaced(stand: Stand) -> None:
    stand.call("add-client", CLIENT, NODE)
    stand.configure(name="renamed.example")
    stand.call("add-client", CLIENT, NODE)
    assert stand.on_record() == {CLIENT}
    assert stand.record(CLIENT).read_text() == whole(CLIENT, "renamed.example")


def test_a_client_that_goes_is_no_longer_on_record_under_any_address(stand: Stand) -> None:
    stand.call("add-client", CLIENT, NODE)
    stand.call("add-client", "192.0.2.18", NODE)
    stand.call("del-client", CLIENT, NODE)
    assert stand.on_record(HOME) == stand.on_record(HOME6) == {"192.0.2.18"}


def test_a_client_that_was_never_on_record_may_go(stand: Stand) -> None:
    stand.call("del-client", CLIENT, NODE)
    assert stand.on_record() == set()
    assert stand.stalled() is None


def test_a_client_that_goes_is_still_owed_its_notice_of_an_earlier_generation(stand: Stand) -> None:
    stand.call("add-client", CLIENT, NODE)
    stand.store.begin_generation()
    stand.call("del-client", CLIENT, NODE)
    assert [record.client for record in stand.store.owed(HOME)] == [CLIENT]


@pytest.mark.parametrize("mode", Mode)
def test_while_frozen_nothing_is_deleted_and_a_new_client_is_still_recorded(stand: Stand, mode: Mode) -> None:
    stand.call("add-client", CLIENT, NODE)
    stand.configure(mode=mode, frozen=True)
    stand.call("del-client", CLIENT, NODE)
    stand.call("add-client", "192.0.2.18", NODE)
    stand.until_drained()
    assert stand.on_record() == {CLIENT, "192.0.2.18"}


def test_the_2006_order_names_the_server_first_and_records_under_that_address_only(stand: Stand) -> None:
    stand.call("add-client", str(HOME6), CLIENT)
    assert (stand.on_record(HOME), stand.on_record(HOME6)) == (set(), {CLIENT})
    stand.call("del-client", str(HOME6), CLIENT)
    assert stand.on_record(HOME6) == set()


def test_the_2006_order_may_tell_the_fsid(stand: Stand) -> None:
    stand.call("add-client", str(HOME), CLIENT, "4321")
    assert stand.on_record(HOME) == {CLIENT}
    assert stand.fsids(CLIENT) == ["4321"]


@pytest.mark.parametrize("fsid", ["../../x", "a b", "", "1\n2", "$(id)"])
def test_an_fsid_that_is_none_is_not_written_down_and_the_client_is(stand: Stand, fsid: str) -> None:
    stand.call("add-client", str(HOME), CLIENT, fsid)
    assert stand.on_record(HOME) == {CLIENT}
    assert stand.fsids(CLIENT) == []


def test_my_name_that_is_one_of_our_addresses_selects_it(stand: Stand) -> None:
    stand.call("add-client", CLIENT, str(HOME))
    assert (stand.on_record(HOME), stand.on_record(HOME6)) == ({CLIENT}, set())


@pytest.mark.parametrize("address", ["10.10.0.99", "fd00::99"])
def test_a_server_address_that_is_not_configured_is_left_alone(stand: Stand, address: str) -> None:
    stand.call("add-client", CLIENT, address)
    stand.call("add-client", address, CLIENT)
    assert stand.on_record(HOME) == stand.on_record(HOME6) == set()


@pytest.mark.parametrize("server", ["127.0.0.1", "::1", "localhost", "nodeA.example", NODE])
def test_a_server_that_could_be_any_address_stands_for_all(stand: Stand, server: str) -> None:
    stand.call("add-client", CLIENT, server)
    assert stand.on_record(HOME) == stand.on_record(HOME6) == {CLIENT}


def test_a_node_whose_name_looks_like_an_address_still_stands_for_all(stand: Stand) -> None:
    stand.config.write_text(stand.config.read_text().replace(f"node {NODE}", "node 172.16.0.9"))
    stand.call("add-client", CLIENT, "172.16.0.9")
    assert stand.on_record(HOME) == stand.on_record(HOME6) == {CLIENT}


def test_a_client_that_comes_from_our_own_address_is_recorded_by_it(stand: Stand) -> None:
    stand.call("add-client", str(HOME), NODE)
    assert stand.on_record(HOME) == stand.on_record(HOME6) == {str(HOME)}


@pytest.mark.parametrize("path", ["/srv/home/data", "/srv/home/data/below"])
def test_a_mount_tells_which_fsid_the_client_uses(stand: Stand, path: str) -> None:
    stand.call("mount", CLIENT, path, "1")
    stand.call("mount", CLIENT, path, "2")
    stand.call("mount", CLIENT, "/srv/with blank/x y", "1")
    stand.call("unmount", CLIENT, path, "0")
    assert stand.fsids(CLIENT, HOME) == stand.fsids(CLIENT, HOME6) == ["1234", "root"]


@pytest.mark.parametrize("path", ["/srv/home", "/srv/home/database", "/srv/home/data\n", "data", ""])
def test_a_mount_of_something_else_tells_nothing(stand: Stand, path: str) -> None:
    stand.call("mount", CLIENT, path, "1")
    assert stand.fsids(CLIENT) == []


def test_a_line_that_a_crash_cut_off_does_not_spoil_the_next_fsid(stand: Stand) -> None:
    torn = stand.home() / "fsids" / CLIENT
    torn.write_text("12")
    stand.call("mount", CLIENT, "/srv/home/data", "1")
    stand.store.add(HOME, CLIENT, NAME)
    (record,) = stand.store.current(HOME)
    assert "1234" in record.fsids


@needs_root
def test_for_rpc_mountd_which_is_root_it_becomes_the_user_who_owns_the_spool(program: Path) -> None:
    if program.parent == CALLOUTS:
        pytest.skip("a shell cannot change its user: the script leaves mounts to the compiled one")
    with tempfile.TemporaryDirectory(prefix="nlmfo-test-") as root:
        Path(root).chmod(0o755)
        stand = Stand(Path(root), program)
        os.chown(stand.spool, 65534, 65534)
        stand.store.prepare(65534, 65534)
        stand.call("mount", CLIENT, "/srv/home/data", "1")
        assert (stand.home() / "fsids" / CLIENT).stat().st_uid == 65534


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("add-client",),
        ("add-client", CLIENT),
        ("sm-notify", CLIENT, "192.0.2.1", "7"),
        ("sm-notify", CLIENT, "192.0.2.1"),
        ("sm-notify", "$(touch x)\n-rf", "192.0.2.1", "-1"),
        ("unmount", CLIENT, "/srv/home/data", "0"),
        ("--help",),
        ("new-event", CLIENT, NODE, "x", "y", "z"),
    ],
)
def test_anything_else_is_met_with_silence(stand: Stand, words: tuple[str, ...]) -> None:
    stand.call(*words)
    assert stand.on_record(HOME) == stand.on_record(HOME6) == set()
    assert stand.refused() == ""


def test_without_a_configuration_nothing_happens(stand: Stand) -> None:
    stand.config.unlink()
    stand.call("add-client", CLIENT, NODE)
    assert stand.on_record() == set()


def test_asynchronous_records_reach_the_store_without_anybody_waiting(stand: Stand) -> None:
    stand.configure(mode=Mode.ASYNC)
    for number in range(20):
        stand.call("add-client", f"192.0.2.{number}", NODE)
    stand.until_drained(HOME)
    stand.until_drained(HOME6)
    assert stand.on_record(HOME) == stand.on_record(HOME6) == {f"192.0.2.{number}" for number in range(20)}
    assert stand.record("192.0.2.3").read_text() == whole("192.0.2.3")


def test_an_asynchronous_record_is_in_the_spool_when_statd_goes_on(stand: Stand) -> None:
    stand.configure(mode=Mode.ASYNC)
    with stand.nobody_drains():
        stand.call("add-client", CLIENT, NODE)
        assert stand.spooled() == [whole(CLIENT)]
    stand.until_drained()
    assert CLIENT in stand.on_record()


def test_the_process_that_stays_behind_holds_none_of_statds_descriptors(stand: Stand) -> None:
    stand.configure(mode=Mode.ASYNC)
    reader, writer = os.pipe()
    highest = 9 if stand.program.parent == CALLOUTS else 200
    with stand.nobody_drains():
        stand.call("add-client", CLIENT, NODE, inherit={3: writer, highest: writer})
        os.close(writer)
        hung_up = select.poll()
        hung_up.register(reader, 0)
        assert hung_up.poll(SECONDS * 1000) == [(reader, select.POLLHUP)], "nobody else holds the other end"
    os.close(reader)
    stand.until_drained()
