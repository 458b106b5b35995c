# SPDX-License-Identifier: GPL-2.0-or-later
"""The list of where nfsd and lockd listened: what is written is read, and nothing else is believed."""

from __future__ import annotations

import stat
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlmfo.records import listening
from nlmfo.records.directory import StoreError
from nlmfo.records.listening import read_listening, write_listening

V4, V6, OTHER = ip_address("10.10.0.100"), ip_address("fd00::100"), ip_address("10.10.0.101")
WRITTEN = {(V4, 2049), (V4, 43211), (V6, 2049)}


def test_what_is_written_is_read_back_from_lines_that_a_person_can_read(tmp_path: Path) -> None:
    write_listening(tmp_path, WRITTEN)
    file = tmp_path / "listening"
    assert file.read_text() == "10.10.0.100 2049\n10.10.0.100 43211\nfd00::100 2049\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert read_listening(tmp_path, [V4, V6]) == WRITTEN
    assert read_listening(tmp_path, [V6]) == {(V6, 2049)}, "an address that is no longer the service's"


def test_the_same_is_not_written_again_and_something_else_in_its_place(tmp_path: Path) -> None:
    write_listening(tmp_path, WRITTEN)
    before = (tmp_path / "listening").stat()
    write_listening(tmp_path, sorted(WRITTEN, key=str, reverse=True))
    assert (tmp_path / "listening").stat() == before
    write_listening(tmp_path, [(V4, 2049)])
    assert read_listening(tmp_path, [V4, V6]) == {(V4, 2049)}


def test_no_list_and_no_directory_are_nowhere_and_an_error_for_who_writes(tmp_path: Path) -> None:
    assert read_listening(tmp_path, [V4]) == frozenset()
    assert read_listening(tmp_path / "missing", [V4]) == frozenset()
    with pytest.raises(StoreError, match="missing"):
        write_listening(tmp_path / "missing", WRITTEN)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "10.10.0.100",
        "10.10.0.100 0",
        "10.10.0.100 65536",
        "10.10.0.100 1 2 3",
        "10.10.0.100  1",
        "10.10.0.100 +1",
        "10.10.0.100 1\r",
        "10.10.0.100 \N{ARABIC-INDIC DIGIT ONE}",
        "10.10.0 1",
        "::g 1",
    ],
)
def test_a_line_that_is_no_address_and_port_is_left_out_alone(tmp_path: Path, line: str) -> None:
    (tmp_path / "listening").write_text(f"10.10.0.100 2049\n{line}\nfd00::100 2049\n", encoding="utf-8")
    assert read_listening(tmp_path, [V4, V6, OTHER]) == {(V4, 2049), (V6, 2049)}


def test_a_line_that_was_cut_off_and_lines_beyond_those_that_fit_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "listening").write_text("10.10.0.100 2049\n10.10.0.100 432")
    assert read_listening(tmp_path, [V4]) == {(V4, 2049)}
    write_listening(tmp_path, [(V4, port) for port in range(1, 200)])
    assert len(read_listening(tmp_path, [V4])) == listening.MAX_LISTENERS


@given(st.binary(max_size=200))
def test_no_content_whatever_is_an_error(content: bytes) -> None:
    for line in content.decode("ascii", errors="replace").split("\n"):
        found = listening._parse(line)
        assert found is None or 0 < found[1] < 1 << 16
