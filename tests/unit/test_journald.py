# SPDX-License-Identifier: GPL-2.0-or-later
"""What goes over the wire to the system journal, as journald would read it."""

from __future__ import annotations

import os
import socket
import struct
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlmfo.host import journald
from nlmfo.host.journald import LONGEST, encoded, send, takes

NAMES = st.from_regex(r"[A-Z][A-Z0-9_]{0,63}", fullmatch=True)


def as_journald_reads(entry: bytes) -> dict[str, list[bytes]]:
    """The fields of a datagram, by systemd's server_process_native_message."""
    found: dict[str, list[bytes]] = {}
    while entry:
        line, _, rest = entry.partition(b"\n")
        if b"=" in line:
            name, _, value = line.partition(b"=")
            entry = rest
        else:
            name, (length,) = line, struct.unpack("<Q", rest[:8])
            value, end, entry = rest[8 : 8 + length], rest[8 + length : 9 + length], rest[9 + length :]
            assert end == b"\n"
        found.setdefault(name.decode("ascii"), []).append(value)
    return found


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Where entries arrive."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(os.fspath(tmp_path / "socket"))
        receiver.settimeout(10)
        monkeypatch.setattr(journald, "SOCKET", tmp_path / "socket")
        yield receiver


@given(st.dictionaries(NAMES, st.text()))
def test_every_field_arrives_once_and_as_it_was_whatever_is_in_it(fields: dict[str, str]) -> None:
    values = {name: [value.encode("utf-8", errors="replace")] for name, value in fields.items()}
    assert as_journald_reads(encoded(fields)) == values


@pytest.mark.parametrize("evil", ["a\nNLMFO_OUTCOME=served", "a\nPRIORITY\n\1\0\0\0\0\0\0\0007\n", "=", "\0", "\udcff"])
def test_no_value_ends_its_field_and_begins_another(evil: str) -> None:
    assert set(as_journald_reads(encoded({"NLMFO_CLIENT": evil, "MESSAGE": "text"}))) == {"NLMFO_CLIENT", "MESSAGE"}


@pytest.mark.parametrize("name", ["", "lower", "_TRUSTED", "A B", "A=B", "A\nB", "1", "X" * 65])
def test_what_journald_would_not_take_for_a_field_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name of a field"):
        encoded({name: "value"})


def test_an_entry_is_one_datagram_and_says_who_it_is_from(journal: socket.socket) -> None:
    assert send({"MESSAGE": "two\nlines", "PRIORITY": "5"})
    assert as_journald_reads(journal.recv(1 << 20)) == {
        "SYSLOG_IDENTIFIER": [b"nlmfo"],
        "MESSAGE": [b"two\nlines"],
        "PRIORITY": [b"5"],
    }


def test_a_text_that_is_too_long_is_cut_and_arrives(journal: socket.socket) -> None:
    assert send({"MESSAGE": "x" * (4 * LONGEST), "NLMFO_ERROR": "y" * (4 * LONGEST)})
    found = as_journald_reads(journal.recv(1 << 20))
    assert [len(found[name][0]) for name in ("MESSAGE", "NLMFO_ERROR")] == [LONGEST, LONGEST]


def test_where_there_is_no_journal_nothing_happens() -> None:
    assert not send({"MESSAGE": "text"})


@pytest.mark.usefixtures("journal")
def test_a_journal_that_does_not_keep_up_holds_up_nobody() -> None:
    sent = 0
    while send({"MESSAGE": "text"}):
        sent += 1
        assert sent < 100_000
    assert sent > 0


def test_output_that_the_journal_takes_is_known_by_its_device_and_inode(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryFile("w") as stream, tempfile.TemporaryFile("w") as other:
        found = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        assert takes(stream)
        assert not takes(other)
        monkeypatch.delenv("JOURNAL_STREAM")
        assert not takes(stream)
    assert not takes(stream)
    assert not takes(sys.stdout)
    assert not takes(None)
