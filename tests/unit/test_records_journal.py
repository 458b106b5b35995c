# SPDX-License-Identifier: GPL-2.0-or-later
"""Journals on disk: whole lines, readable after a crash, and nothing to be led astray by."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nlmfo import helper
from nlmfo.errors import DeadlineExceeded, NlmfoError
from nlmfo.records import journal, journal_file
from nlmfo.records.journal_file import JournalFile, SharedJournal
from tests.unit.full_disk import file_size

NAME = "20261121T091500.123456Z-home.jsonl"
LINES = [{"event": "begun", "verb": "takeover"}, {"event": "ended", "outcome": "served"}]


def line(value: object) -> bytes:
    return json.dumps(value).encode() + b"\n"


@pytest.mark.parametrize("kind", [JournalFile, SharedJournal])
def test_what_was_appended_is_read_back(tmp_path: Path, kind: Callable[[Path, str], JournalFile]) -> None:
    file = kind(tmp_path / "runs", NAME)
    for value in LINES:
        file.append(line(value))
        assert journal.read(tmp_path / "runs", NAME)[-1] == value
    file.close()
    assert journal.read(tmp_path / "runs", NAME) == tuple(LINES)


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_cut_off_anywhere_the_whole_lines_are_left(tmp_path: Path, data: st.DataObject) -> None:
    content = b"".join(map(line, LINES))
    cut = data.draw(st.integers(0, len(content)))
    (tmp_path / NAME).write_bytes(content[:cut])
    assert journal.read(tmp_path, NAME) == tuple(LINES[: content[:cut].count(b"\n")])


@given(st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_noise_is_left_out(tmp_path: Path, noise: bytes) -> None:
    (tmp_path / NAME).write_bytes(line(LINES[0]) + noise + b"\n" + line(LINES[1]))
    found = journal.read(tmp_path, NAME)
    assert found[0] == LINES[0]
    assert found[-1] == LINES[1]


def test_nesting_beyond_measure_is_left_out(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"[" * 100000 + b"\n" + line(LINES[0]))
    assert journal.read(tmp_path, NAME) == (LINES[0],)


def trap(path: Path, kind: str) -> None:
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(path.with_name("elsewhere"))
        path.with_name("elsewhere").write_bytes(line(LINES[0]))


@pytest.mark.parametrize("kind", ["fifo", "directory", "link"])
def test_what_is_no_file_is_neither_written_nor_read(tmp_path: Path, kind: str) -> None:
    trap(tmp_path / NAME, kind)
    with pytest.raises(NlmfoError, match=NAME):
        JournalFile(tmp_path, NAME)
    with pytest.raises(NlmfoError, match="not a journal"):
        journal.read(tmp_path, NAME)


def test_a_directory_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(NlmfoError, match=f"{tmp_path}/runs: File exists"):
        JournalFile(tmp_path / "runs", NAME)
    file = SharedJournal(tmp_path / "runs", NAME)
    with pytest.raises(NlmfoError, match="File exists"):
        file.append(line(LINES[0]))
    file.close()


def test_the_journals_of_other_services_and_other_files_are_not_ours(tmp_path: Path) -> None:
    (tmp_path / NAME).touch()
    for other in ("20261121T091500.123456Z-mail.jsonl", "home.jsonl", f".{NAME}", f"{NAME}.new", "x-home.jsonl"):
        (tmp_path / other).touch()
    assert journal.names(tmp_path, "home") == (NAME,)
    assert journal.names(tmp_path / "none", "home") == ()


def test_old_journals_go_and_the_newest_stay(tmp_path: Path) -> None:
    made = [f"20261121T{hour:02d}{minute:02d}00.000000Z-home.jsonl" for hour in range(2) for minute in range(40)]
    for name in [*made, "20251121T091500.123456Z-mail.jsonl"]:
        (tmp_path / name).touch()
    journal.prune(tmp_path, "home")
    assert list(journal.names(tmp_path, "home")) == made[-journal.KEPT :]
    assert len(journal.names(tmp_path, "mail")) == 1


def test_an_open_shared_journal_is_closed_for_good_before_its_file_system_is_unmounted(tmp_path: Path) -> None:
    file = SharedJournal(tmp_path / "runs", NAME)
    file.append(line(LINES[0]))
    writer = file._helper._child
    opened = {str(path.readlink()) for path in Path(f"/proc/{writer}/fd").iterdir()}
    assert str(tmp_path / "runs" / NAME) in opened
    file.close()
    assert not Path(f"/proc/{writer}").exists()


def test_a_line_is_durable_before_the_next_thing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[str, bytes]] = []

    def sync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append((str(path), path.read_bytes() if path.is_file() else b""))

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "fdatasync", sync)
    file = JournalFile(tmp_path / "runs", NAME)
    assert synced == [(str(tmp_path / "runs"), b"")]  # its name
    file.append(line(LINES[0]))
    assert synced[1:] == [(str(file.path), line(LINES[0]))]
    file.close()


def test_a_fifo_that_somebody_reads_is_no_journal_either(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / NAME)
    reader = os.open(tmp_path / NAME, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(NlmfoError, match="not a regular file"):
            JournalFile(tmp_path, NAME)
    finally:
        os.close(reader)


@pytest.mark.parametrize("kind", [JournalFile, SharedJournal])
def test_a_link_in_the_place_of_the_directory_is_not_followed(
    tmp_path: Path, kind: Callable[[Path, str], JournalFile]
) -> None:
    """State directories may lie where clients reach them, and they may lead root astray."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "runs").symlink_to("elsewhere")
    with pytest.raises(NlmfoError, match=f"{tmp_path}/runs"), closing(kind(tmp_path / "runs", NAME)) as file:
        file.append(line(LINES[0]))
    assert list((tmp_path / "elsewhere").iterdir()) == []
    with pytest.raises(NlmfoError, match=f"{tmp_path}/runs"):
        journal.names(tmp_path / "runs", "home")


def test_a_disk_that_is_full_costs_the_last_line_and_no_other(tmp_path: Path) -> None:
    file = JournalFile(tmp_path, NAME)
    file.append(line(LINES[0]))
    with file_size(len(line(LINES[0])) + 5):
        with pytest.raises(NlmfoError, match=f"{NAME}: no space left"):
            file.append(line(LINES[1]))
        with pytest.raises(NlmfoError, match=f"{NAME}: File too large"):
            file.append(line(LINES[1]))
    file.close()
    assert journal.read(tmp_path, NAME) == (LINES[0],)


@pytest.mark.parametrize("content", [b"7\n", b"null\n", b"[1]\n", b'"begun"\n', b"\n", b"\xff\xfe\n"])
def test_a_line_that_is_no_object_is_left_out(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME).write_bytes(content + line(LINES[0]))
    assert journal.read(tmp_path, NAME) == (LINES[0],)


def test_what_is_too_long_was_not_written_by_us(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(line(LINES[0]))
    os.truncate(tmp_path / NAME, journal.MAX_BYTES)
    assert journal.read(tmp_path, NAME) == (LINES[0],)
    os.truncate(tmp_path / NAME, journal.MAX_BYTES + 1)
    with pytest.raises(NlmfoError, match="not a journal"):
        journal.read(tmp_path, NAME)


def test_a_service_whose_name_ends_like_ours_has_journals_of_its_own(tmp_path: Path) -> None:
    for service in ("home", "old-home", "home-2", "a_home"):
        (tmp_path / f"20261121T091500.123456Z-{service}.jsonl").touch()
    for service in ("home", "old-home", "home-2", "a_home"):
        assert journal.names(tmp_path, service) == (f"20261121T091500.123456Z-{service}.jsonl",)


def test_a_shared_journal_is_opened_once(tmp_path: Path) -> None:
    with closing(SharedJournal(tmp_path / "runs", NAME)) as file:
        for value in LINES:
            file.append(line(value))
        entries = Path(f"/proc/{file._helper._child}/fd").iterdir()
        assert [str(entry.readlink()) for entry in entries].count(str(file.path)) == 1


def test_a_storage_that_hangs_is_waited_for_no_longer_than_its_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_file, "WRITE", 0.2)
    monkeypatch.setattr(helper, "PATIENCE", 0.2)
    monkeypatch.setattr(JournalFile, "append", lambda *_: signal.pause())
    began = time.monotonic()
    with closing(SharedJournal(tmp_path / "runs", NAME)) as file, pytest.raises(DeadlineExceeded, match=NAME):
        file.append(line(LINES[0]))
    assert time.monotonic() - began < 5
