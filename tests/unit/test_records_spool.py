# SPDX-License-Identifier: GPL-2.0-or-later
"""Bringing what waits on the node to the store, and what the callout is told in its configuration."""

from __future__ import annotations

import fcntl
import os
import stat
from ipaddress import ip_address
from pathlib import Path

import pytest

from nlmfo.errors import DeadlineExceeded, NlmfoError
from nlmfo.records.callout import CalloutEntry, Mode, callout_config, write_callout_config
from nlmfo.records.directory import StoreError
from nlmfo.records.layout import format_record
from nlmfo.records.spool import SpoolStatus, drain_spool, refused, spool_status
from nlmfo.records.store import Store

V4 = ip_address("10.10.0.100")
V6 = ip_address("fd00::100")
NAME = "nfs100.example"
SECONDS = 60.0


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "state").mkdir()
    store = Store(tmp_path / "state", (V4, V6))
    store.prepare(os.geteuid(), os.getegid())
    return store


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    (tmp_path / "spool").mkdir()
    return tmp_path / "spool"


def put(spool: Path, name: str, content: bytes) -> Path:
    file = spool / f"sm_{V4}" / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    return file


def test_what_waits_is_moved_to_the_address_it_waits_for(store: Store, spool: Path) -> None:
    for number in range(3):
        put(spool, f"add.17.{number}", format_record(f"192.0.2.{number}", NAME))
    put(spool, "stalled", b"/srv/state: does not answer\n")
    assert spool_status(spool, V4) == SpoolStatus(3, "/srv/state: does not answer")
    assert drain_spool(store, spool, deadline=SECONDS) == 3
    assert len(store.current(V4)) == 3
    assert store.current(V6) == ()
    assert spool_status(spool, V4) == SpoolStatus(0, None)


def test_an_entry_that_is_no_record_stays_and_keeps_no_other_back(store: Store, spool: Path) -> None:
    torn = put(spool, "add.17.0", format_record("192.0.2.1", NAME)[:-1])
    hostile = put(spool, "add.17.1", format_record("192.0.2.1", NAME).replace(b"192.0.2.1", b"../../../x"))
    put(spool, "add.17.2", format_record("192.0.2.2", NAME))
    (spool / f"sm_{V4}" / "add.17.3").symlink_to("/etc/passwd")
    assert drain_spool(store, spool, deadline=SECONDS) == 1
    assert torn.exists()
    assert hostile.exists()
    assert [record.client for record in store.current(V4)] == ["192.0.2.2"]


def test_without_a_spool_nothing_waits(store: Store, tmp_path: Path) -> None:
    assert drain_spool(store, tmp_path / "none", deadline=SECONDS) == 0
    assert spool_status(tmp_path / "none", V4) == SpoolStatus(0, None)
    assert refused(tmp_path / "none") == ()


def test_a_record_the_store_does_not_take_stays_in_the_spool(store: Store, spool: Path) -> None:
    entry = put(spool, "add.17.0", format_record("192.0.2.1", NAME))
    store.state.rename(store.state.with_name("away"))
    with pytest.raises(StoreError):
        drain_spool(store, spool, deadline=SECONDS)
    assert entry.exists()


def test_somebody_who_holds_the_spool_is_not_waited_for_for_ever(store: Store, spool: Path) -> None:
    with put(spool, "draining", b"").open() as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        with pytest.raises(DeadlineExceeded, match="another process is moving the records"):
            drain_spool(store, spool, deadline=0.01)


@pytest.mark.parametrize("name", [f"sm_{V4}", f"sm_{V4}/draining"])
def test_a_link_in_the_spool_is_an_error_and_not_followed(store: Store, spool: Path, name: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (spool / f"sm_{V6}").mkdir()
    (spool / name).parent.mkdir(exist_ok=True)
    (spool / name).symlink_to(outside)
    with pytest.raises(StoreError):
        drain_spool(store, spool, deadline=SECONDS)
    assert list(outside.iterdir()) == []


def test_refused_clients_are_listed_with_the_event(spool: Path) -> None:
    (spool / "refused").write_text("add-client a?b\nmount c?d\n")
    assert refused(spool) == ("add-client a?b", "mount c?d")


def entry(address: object = V4, **other: object) -> CalloutEntry:
    return CalloutEntry(address, Path(f"/srv/sm_{address}"), NAME, **other)  # type: ignore[arg-type]


def test_the_configuration_says_everything_line_by_line() -> None:
    entries = [entry(exports=(("1234", Path("/srv/with blank")),)), entry(V6, mode=Mode.ASYNC, frozen=True)]
    text = callout_config(entries, frozen=False, node="nodeA", spool=Path("/spool"), patience=3)
    assert text.splitlines() == [
        "nlmfo-callout 1",
        "spool /spool",
        "patience 3",
        "node nodeA",
        "address 10.10.0.100",
        "directory /srv/sm_10.10.0.100",
        f"name {NAME}",
        "mode sync",
        "frozen no",
        "fsid 1234 /srv/with blank",
        "address fd00::100",
        "directory /srv/sm_fd00::100",
        f"name {NAME}",
        "mode async",
        "frozen yes",
        "end",
    ]


def test_freezing_freezes_every_entry() -> None:
    assert callout_config([entry(), entry(V6)], frozen=True).count("frozen yes") == 2


@pytest.mark.parametrize(
    "bad",
    [
        {"exports": (("1234", Path("/srv/new\nline")),)},
        {"exports": (("12 34", Path("/srv")),)},
        {"exports": (("", Path("/srv")),)},
    ],
)
def test_a_value_that_does_not_fit_on_its_line_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(NlmfoError) as refusal:
        callout_config([entry(**bad)], frozen=False)
    assert refusal.value.hint is not None


def test_a_server_name_that_cannot_stand_in_a_record_is_refused() -> None:
    with pytest.raises(NlmfoError, match="cannot be the name of a server"):
        callout_config([CalloutEntry(V4, Path("/srv"), "two words")], frozen=False)


def test_the_configuration_is_readable_for_statd_and_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "callout.conf"
    write_callout_config(path, "one\n")
    with path.open() as reader:
        write_callout_config(path, "two\n")
        assert reader.read() == "one\n", "who has it open reads on in the old one"
    assert path.read_text() == "two\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(tmp_path.iterdir()) == [path]


def test_more_addresses_than_the_callout_has_room_for_are_refused() -> None:
    entries = [entry(V4)] * 255
    assert callout_config(entries, frozen=False).count("address") == 255
    with pytest.raises(NlmfoError, match="more than 255 addresses"):
        callout_config([*entries, entry(V6)], frozen=False)
