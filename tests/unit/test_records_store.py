# SPDX-License-Identifier: GPL-2.0-or-later
"""The records of a service across takeovers: nobody is forgotten, and the state number only rises."""

from __future__ import annotations

import os
import stat
import struct
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nlmfo.records.directory import StoreError
from nlmfo.records.generations import absorb, newest
from nlmfo.records.layout import ClientRecord, directory_name
from nlmfo.records.store import HIGHEST_STATE, Store

V4 = ip_address("10.10.0.100")
V6 = ip_address("fd00::100")
ADDRESSES = (V4, V6)
CLIENT = "192.0.2.17"
NAME = "nfs100.example"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return prepared(tmp_path)


def prepared(state: Path) -> Store:
    store = Store(state, ADDRESSES)
    store.prepare(os.geteuid(), os.getegid())
    return store


def clients(records: tuple[ClientRecord, ...]) -> list[str]:
    return [record.client for record in records]


def write_state(store: Store, name: str, content: bytes) -> None:
    directory = store.state / name
    directory.mkdir(exist_ok=True)
    (directory / "state").write_bytes(content)


def make_trap(place: Path, kind: str) -> None:
    if kind == "link":
        place.symlink_to("/etc/passwd")
    elif kind == "fifo":
        os.mkfifo(place)
    elif kind == "directory":
        place.mkdir()
    else:
        os.mknod(place, stat.S_IFSOCK | 0o600)


def test_a_prepared_store_is_statds_where_statd_writes_and_ours_above(store: Store) -> None:
    for name in ("sm", "sm.bak", "fsids"):
        found = (store.state / f"sm_{V6}" / name).stat()
        assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o700, os.geteuid())
    assert stat.S_IMODE((store.state / f"sm_{V6}").stat().st_mode) == 0o755


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
def test_preparing_mends_owners_because_statds_user_differs_between_nodes(store: Store) -> None:
    store.add(V4, CLIENT, NAME)
    store.prepare(65534, 65533)
    for path in ("sm", "sm.bak", "fsids", f"sm/{CLIENT}"):
        found = (store.state / f"sm_{V4}" / path).stat()
        assert (found.st_uid, found.st_gid) == (65534, 65533)
    assert (store.state / f"sm_{V4}").stat().st_uid == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
def test_preparing_gives_away_nothing_that_has_a_second_name_outside(store: Store, tmp_path: Path) -> None:
    outside = tmp_path / "precious"
    outside.write_text("precious")
    (store.state / f"sm_{V4}" / "sm" / "hard").hardlink_to(outside)
    (store.state / f"sm_{V4}" / "sm" / "soft").symlink_to(outside)
    os.mkfifo(store.state / f"sm_{V4}" / "sm" / "fifo")
    store.prepare(65534, 65533)
    assert outside.stat().st_uid == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
def test_what_root_adds_belongs_to_statd(store: Store) -> None:
    store.prepare(65534, 65533)
    store.add(V4, CLIENT, NAME)
    assert (store.state / f"sm_{V4}" / "sm" / CLIENT).stat().st_uid == 65534


@pytest.mark.parametrize("what", ["sm_10.10.0.100", "sm_10.10.0.100/sm", "sm_10.10.0.100/sm.bak"])
@pytest.mark.parametrize("kind", ["link", "file"])
def test_preparing_refuses_what_is_not_a_directory_and_names_it(tmp_path: Path, what: str, kind: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    store = Store(tmp_path / "state", ADDRESSES)
    trap = store.state / what
    trap.parent.mkdir(parents=True)
    if kind == "link":
        trap.symlink_to(outside)
    else:
        trap.write_text("")
    with pytest.raises(StoreError, match=str(trap)) as refusal:
        store.prepare(os.geteuid(), os.getegid())
    assert refusal.value.hint is not None
    assert list(outside.iterdir()) == []


def test_a_state_directory_that_is_not_mounted_is_refused_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as refusal:
        Store(tmp_path / "missing", ADDRESSES).begin_generation()
    assert refusal.value.hint == "is the state directory's file system mounted?"


def test_a_new_generation_owes_a_notice_to_everybody_on_record(store: Store) -> None:
    store.add(V4, CLIENT, NAME)
    store.begin_generation()
    assert store.current(V4) == ()
    assert clients(store.owed(V4)) == [CLIENT]
    assert store.owed(V6) == ()


def test_whoever_was_not_settled_is_still_owed_a_notice_generations_later(store: Store) -> None:
    store.add(V4, "192.0.2.1", NAME)
    store.begin_generation()
    store.add(V4, "192.0.2.2", NAME)
    store.begin_generation()
    store.begin_generation()
    assert clients(store.owed(V4)) == ["192.0.2.1", "192.0.2.2"]


def test_settling_drops_exactly_those_that_answered_and_are_back(store: Store) -> None:
    """Who is back and has not answered was not told: the locks that it had before are still at stake."""
    for client in ("192.0.2.1", "192.0.2.2", "192.0.2.3"):
        store.add(V4, client, NAME)
    store.begin_generation()
    store.add(V4, "192.0.2.2", NAME)
    store.add(V4, "192.0.2.3", NAME)
    assert store.settle(V4, set()) == ()
    assert store.settle(V4, {"192.0.2.1", "192.0.2.2", "192.0.2.99"}) == ("192.0.2.2",)
    assert clients(store.owed(V4)) == ["192.0.2.1", "192.0.2.3"]
    assert clients(store.current(V4)) == ["192.0.2.2", "192.0.2.3"]


def test_a_client_is_forgotten_only_by_name_and_only_once(store: Store) -> None:
    store.add(V4, CLIENT, NAME)
    store.begin_generation()
    assert not store.forget(V4, "../sm/" + CLIENT)
    assert not store.forget(V6, CLIENT)
    assert store.forget(V4, CLIENT)
    assert not store.forget(V4, CLIENT)
    assert store.owed(V4) == ()


def test_a_record_tells_names_fsids_and_since_when(store: Store) -> None:
    store.add(V4, CLIENT, NAME)
    (store.state / f"sm_{V4}" / "fsids" / CLIENT).write_text("1234\n\nroot\n")
    os.utime(store.state / f"sm_{V4}" / "sm" / CLIENT, (1e9, 1e9))
    fsids = frozenset({"1234", "root"})
    assert store.current(V4) == (ClientRecord(CLIENT, CLIENT, NAME, fsids, 1e9, intact=True),)


@pytest.mark.parametrize("content", [b"", b"0100007f 0001", b"\xff" * 100, b"x" * 10_000, b"\n"])
def test_an_unreadable_record_counts_by_the_name_of_its_file(store: Store, content: bytes) -> None:
    (store.state / f"sm_{V4}" / "sm" / CLIENT).write_bytes(content)
    store.begin_generation()
    (record,) = store.owed(V4)
    assert (record.client, record.intact) == (CLIENT, False)


def test_a_record_that_speaks_of_somebody_else_counts_by_the_name_of_its_file(store: Store) -> None:
    store.add(V4, "192.0.2.99", NAME)
    sm = store.state / f"sm_{V4}" / "sm"
    (sm / "192.0.2.99").rename(sm / CLIENT)
    (record,) = store.current(V4)
    assert (record.client, record.mon_name, record.intact) == (CLIENT, CLIENT, False)


@pytest.mark.parametrize("kind", ["link", "fifo", "directory", "socket"])
def test_traps_among_the_records_are_neither_followed_nor_waited_for_and_still_count(store: Store, kind: str) -> None:
    trap = store.state / f"sm_{V4}" / "sm" / CLIENT
    make_trap(trap, kind)
    store.begin_generation()
    store.add(V4, CLIENT, NAME)
    assert [(record.client, record.intact) for record in store.owed(V4)] == [(CLIENT, False)]
    assert clients(store.current(V4)) == [CLIENT]


@pytest.mark.parametrize("kind", ["link", "fifo", "directory", "socket"])
def test_a_new_record_takes_its_place_whatever_lies_there(store: Store, kind: str) -> None:
    make_trap(store.state / f"sm_{V4}" / "sm" / CLIENT, kind)
    store.add(V4, CLIENT, NAME)
    assert [(record.client, record.intact) for record in store.current(V4)] == [(CLIENT, True)]


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_a_trap_in_the_place_of_a_record_does_not_keep_others_from_being_settled(store: Store, kind: str) -> None:
    for client in (CLIENT, "192.0.2.18"):
        store.add(V4, client, NAME)
    store.begin_generation()
    store.add(V4, "192.0.2.18", NAME)
    trap = store.state / f"sm_{V4}" / "sm" / CLIENT
    make_trap(trap, kind)
    assert "192.0.2.18" in store.settle(V4, {CLIENT, "192.0.2.18"})


def test_a_directory_in_the_way_of_an_earlier_record_is_set_aside_with_what_it_holds(store: Store) -> None:
    store.add(V4, CLIENT, NAME)
    earlier = store.state / f"sm_{V4}" / "sm.bak"
    (earlier / CLIENT / "kept").mkdir(parents=True)
    store.begin_generation()
    assert [(record.client, record.intact) for record in store.owed(V4)] == [(CLIENT, True)]
    assert (earlier / ".aside.0" / "kept").is_dir()


def test_a_file_name_that_is_not_utf8_does_not_hide_the_others(store: Store) -> None:
    with open(os.fsencode(store.state) + b"/sm_10.10.0.100/sm/\xff\xfe", "wb"):  # noqa: PTH123
        store.add(V4, CLIENT, NAME)
    store.begin_generation()
    assert clients(store.owed(V4)) == [CLIENT, "\udcff\udcfe"]


def test_what_killed_callouts_left_behind_is_swept_away_at_the_next_takeover(store: Store) -> None:
    sm = store.state / f"sm_{V4}" / "sm"
    for leftover in (".new.17", ".probe.4"):
        (sm / leftover).touch()
    (sm / ".keep").touch()
    store.begin_generation()
    assert {path.name for path in sm.iterdir()} == {".keep"}


def test_the_first_state_number_is_odd_and_the_same_for_all_addresses(store: Store) -> None:
    assert store.state_number() == 0
    assert store.begin_generation() == 1
    for address in ADDRESSES:
        content = (store.state / f"sm_{address}" / "state").read_bytes()
        assert struct.unpack("=i", content) == (1,), "four bytes, native: what sm-notify reads"


@settings(deadline=None)
@given(highest=st.integers(1, HIGHEST_STATE - 3), other=st.integers(-(2**31), HIGHEST_STATE - 3))
def test_the_state_number_rises_above_every_number_seen(
    tmp_path_factory: pytest.TempPathFactory, highest: int, other: int
) -> None:
    store = prepared(tmp_path_factory.mktemp("state"))
    write_state(store, f"sm_{V4}", struct.pack("=i", highest))
    write_state(store, "sm_10.10.0.7", struct.pack("=i", other))
    number = store.begin_generation()
    assert number % 2 == 1
    assert number > max(highest, other)
    assert number - max(highest, other) <= 2
    assert store.state_number() == number


@pytest.mark.parametrize("content", [b"", b"\1", b"12345", b"\0\0\0\0", struct.pack("=i", -7), b"\xff\xff\xff\x7f"])
def test_a_damaged_state_number_is_not_believed_and_not_in_the_way(store: Store, content: bytes) -> None:
    write_state(store, f"sm_{V4}", content)
    write_state(store, f"sm_{V6}", struct.pack("=i", 41))
    assert store.begin_generation() == 43


def test_a_state_number_that_is_a_link_is_replaced_and_not_written_through(store: Store, tmp_path: Path) -> None:
    outside = tmp_path / "precious"
    outside.write_bytes(struct.pack("=i", 41))
    (store.state / f"sm_{V4}" / "state").symlink_to(outside)
    assert store.begin_generation() == 1
    assert outside.read_bytes() == struct.pack("=i", 41)


def test_of_several_copies_the_highest_generation_counts(tmp_path: Path) -> None:
    copies = []
    for number, takeovers in enumerate((1, 3, 2, 3)):
        (tmp_path / str(number)).mkdir()
        copies.append(prepared(tmp_path / str(number)))
        for _ in range(takeovers):
            copies[-1].begin_generation()
    assert newest(copies) == (copies[1], copies[3])
    assert newest([]) == ()


def test_copies_of_one_generation_that_differ_make_one_union(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    store, copy = prepared(ours), prepared(theirs)
    store.add(V4, "192.0.2.1", NAME)
    copy.add(V4, "192.0.2.1", NAME)
    copy.add(V4, "192.0.2.2", NAME)
    (copy.state / f"sm_{V6}" / "sm" / "192.0.2.3").write_text("damaged")
    assert absorb(store, copy) == ("192.0.2.2", "192.0.2.3")
    store.begin_generation()
    assert clients(store.owed(V4)) == ["192.0.2.1", "192.0.2.2"]
    assert clients(store.owed(V6)) == ["192.0.2.3"]
    assert absorb(store, copy) == ()


def test_whether_everybody_was_told_is_noted_for_one_generation(store: Store) -> None:
    assert store.begin_generation() == 1
    assert not store.told()
    store.mark_told()
    assert store.told()
    store.begin_generation()
    assert not store.told()


def test_a_note_for_one_of_two_addresses_is_none(store: Store) -> None:
    store.begin_generation()
    store.mark_told()
    (store.state / directory_name(ADDRESSES[-1]) / "told").unlink()
    assert not store.told()


def test_a_generation_can_begin_above_a_number_that_is_known_from_elsewhere(store: Store) -> None:
    assert store.begin_generation(16) == 17
    assert store.begin_generation(17) == 19
