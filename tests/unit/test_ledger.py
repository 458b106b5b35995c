# SPDX-License-Identifier: GPL-2.0-or-later
"""The ledger tells what became of each client, whatever was cut short, damaged or forged in it."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlmfo.records import ledger
from nlmfo.records.directory import StoreError
from nlmfo.records.ledger import LEDGER, Entry, Ledger, Standing

V4, V6 = ip_address("10.10.0.100"), ip_address("fd00::100")
CLIENT, OTHER = "192.0.2.17", "client.example"
TOLD = Entry(V4, CLIENT, 7, Standing.TOLD, 1_700_000_000.5, 1_699_999_999.25)
ANSWERED = replace(TOLD, standing=Standing.ANSWERED, names=("nfs100.example", "10.10.0.100"), attempts=3, detail="é\n")

names = st.from_regex(r"[A-Za-z0-9_]([A-Za-z0-9_.:-]{0,30}[A-Za-z0-9_])?", fullmatch=True)
times = st.floats(allow_nan=False, allow_infinity=False)
entries = st.builds(
    Entry,
    address=st.ip_addresses(),
    client=names,
    state=st.integers(0, 2**32 - 1),
    standing=st.sampled_from(Standing),
    at=times,
    since=times,
    names=st.lists(st.text()).map(tuple),
    attempts=st.integers(0),
    detail=st.text(),
)


def written(directory: Path, *some: Entry, number: int = 7) -> Path:
    made = Ledger(directory, [(entry.address, entry.client) for entry in some], number)
    made.write(some)
    made.close()
    return directory / LEDGER


@given(some=st.lists(entries, min_size=1, unique_by=lambda entry: (entry.address, entry.client)))
def test_what_was_written_of_each_client_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, some: list[Entry]
) -> None:
    home = tmp_path_factory.mktemp("state")
    file = written(home, *some)
    assert ledger.read(home) == {(entry.address, entry.client): entry for entry in some}
    assert file.read_bytes().count(b"\n") == len(some), "a line for each, whatever is in it"
    assert file.read_bytes().isascii()


def test_where_there_is_no_ledger_nothing_is_known(tmp_path: Path) -> None:
    assert ledger.read(tmp_path) == {}


def test_without_the_state_directory_nothing_can_be_said(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        ledger.read(tmp_path / "missing")
    with pytest.raises(StoreError):
        Ledger(tmp_path / "missing", [], 7)


def test_the_last_line_of_a_client_counts_at_each_address(tmp_path: Path) -> None:
    elsewhere = replace(TOLD, address=V6)
    written(tmp_path, TOLD, elsewhere, ANSWERED)
    assert ledger.read(tmp_path) == {(V4, CLIENT): ANSWERED, (V6, CLIENT): elsewhere}


def test_what_is_written_is_there_for_others_at_once(tmp_path: Path) -> None:
    made = Ledger(tmp_path, [(V4, CLIENT)], 7)
    try:
        made.write([TOLD])
        assert ledger.read(tmp_path) == {(V4, CLIENT): TOLD} == made.entries
        made.write([])
        made.write([ANSWERED])
        assert ledger.read(tmp_path) == {(V4, CLIENT): ANSWERED} == made.entries
    finally:
        made.close()


def test_a_last_line_that_a_crash_cut_short_does_not_count_and_spoils_none_that_follows(tmp_path: Path) -> None:
    whole = written(tmp_path, TOLD, ANSWERED).read_bytes()
    first = whole.index(b"\n") + 1
    later = replace(TOLD, client=OTHER)
    for length in range(first, len(whole)):
        (tmp_path / LEDGER).write_bytes(whole[:length])
        assert ledger.read(tmp_path) == {(V4, CLIENT): TOLD}
        made = Ledger(tmp_path, [(V4, CLIENT)], 7)
        made.write([later])
        made.close()
        assert ledger.read(tmp_path) == {(V4, CLIENT): TOLD, (V4, OTHER): later}


def line(**changes: object) -> bytes:
    found = json.loads(ledger._line(TOLD)) | {"client": OTHER} | changes
    return json.dumps({name: value for name, value in found.items() if value is not ...}).encode()


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"\xff\xfe\x00",
        b"null",
        b"[]",
        b'"text"',
        b"{}",
        b"[" * 100_000,
        line()[:-1],
        line(client=...),
        line(client="../../etc/passwd"),
        line(client="a/b"),
        line(client=""),
        line(client="."),
        line(client="a\nb"),
        line(client=7),
        line(address="10.10.0"),
        line(address=None),
        line(standing="forgiven"),
        line(standing=["told"]),
        line(state="seven"),
        line(state=None),
        line(at="now"),
        line(since=[]),
        line(names=7),
        line(attempts={}),
    ],
    ids=lambda content: repr(content[:40]),
)
def test_what_is_no_entry_is_left_out_and_hides_no_other(tmp_path: Path, damaged: bytes) -> None:
    good = ledger._line(TOLD)
    (tmp_path / LEDGER).write_bytes(good + damaged + b"\n" + ledger._line(ANSWERED))
    assert ledger.read(tmp_path) == {(V4, CLIENT): ANSWERED}
    (tmp_path / LEDGER).write_bytes(damaged + b"\n")
    assert ledger.read(tmp_path) == {}


def test_a_field_that_a_later_version_adds_does_not_hide_the_others(tmp_path: Path) -> None:
    (tmp_path / LEDGER).write_bytes(line(colour="green") + b"\n")
    assert [entry.client for entry in ledger.read(tmp_path).values()] == [OTHER]


@given(content=st.binary())
def test_no_content_whatever_breaks_the_reading(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    home = tmp_path_factory.mktemp("state")
    (home / LEDGER).write_bytes(content)
    assert len(ledger.read(home)) <= content.count(b"\n")


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
@pytest.mark.timeout(20)
def test_a_trap_in_its_place_is_neither_followed_nor_waited_for_and_a_new_ledger_begins(
    tmp_path: Path, kind: str
) -> None:
    home, outside = tmp_path / "state", tmp_path / "outside"
    home.mkdir()
    outside.write_bytes(ledger._line(TOLD))
    if kind == "link":
        (home / LEDGER).symlink_to(outside)
    elif kind == "fifo":
        os.mkfifo(home / LEDGER)
    else:
        (home / LEDGER).mkdir()
    assert ledger.read(home) == {}
    written(home, ANSWERED)
    assert ledger.read(home) == {(V4, CLIENT): ANSWERED}
    assert outside.read_bytes() == ledger._line(TOLD)


def test_a_ledger_that_is_too_long_to_be_ours_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = written(tmp_path, TOLD).stat().st_size
    monkeypatch.setattr(ledger, "MAX_BYTES", size)
    assert ledger.read(tmp_path)
    monkeypatch.setattr(ledger, "MAX_BYTES", size - 1)
    assert ledger.read(tmp_path) == {}


def test_a_new_keeper_keeps_the_owed_and_this_generation_and_drops_the_rest(tmp_path: Path) -> None:
    owed, gone = replace(TOLD, state=5), replace(TOLD, client=OTHER, state=5)
    settled = replace(TOLD, client="192.0.2.18", standing=Standing.BACK)
    file = written(tmp_path, TOLD, owed, gone, settled)
    made = Ledger(tmp_path, [(V4, CLIENT)], 7)
    made.close()
    kept = {(V4, CLIENT): owed, (V4, "192.0.2.18"): settled}
    assert made.entries == kept == ledger.read(tmp_path)
    assert file.read_bytes().count(b"\n") == len(kept), "of each client its last line only"


def test_the_ledger_is_roots_alone_because_it_names_every_client(tmp_path: Path) -> None:
    assert written(tmp_path, TOLD).stat().st_mode & 0o777 == 0o600
