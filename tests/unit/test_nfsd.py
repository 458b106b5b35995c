# SPDX-License-Identifier: GPL-2.0-or-later
"""nfsd's and lockd's control files: one write each, in the kernel's spelling, and read as the kernel means it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlmfo.kernel import lockd, nfsd
from nlmfo.kernel.nfsd import escape


class Control:
    """The control files, and each write(2) that they were given."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self.writes: list[tuple[str, bytes]] = []
        write = os.write

        def note(descriptor: int, data: bytes) -> int:
            self.writes.append((Path(f"/proc/self/fd/{descriptor}").readlink().name, data))
            return write(descriptor, data)

        monkeypatch.setattr(nfsd, "CONTROL", directory)
        monkeypatch.setattr(os, "write", note)

    def put(self, name: str, content: str) -> None:
        (self.directory / name).write_text(content, encoding="ascii")


@pytest.fixture
def control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Control:
    return Control(tmp_path, monkeypatch)


def qword_get(line: bytes) -> bytes:
    """The first word as the kernel reads it (net/sunrpc/cache.c): up to a blank or the end, ``\\ooo`` for a byte."""
    word, position = bytearray(), 0
    while position < len(line) and line[position] not in b" \n\0":
        if line[position] == ord("\\") and line[position + 1] in b"0123":
            word.append(int(line[position + 1 : position + 4], 8))
            position += 4
        else:
            word.append(line[position])
            position += 1
    return bytes(word)


def test_threads_are_counted_and_none_run_where_nfsd_is_not_even_mounted(control: Control) -> None:
    assert nfsd.threads() == 0
    control.put("threads", "8\n")
    assert nfsd.threads() == 8


def test_stopping_is_one_write_of_a_whole_line(control: Control) -> None:
    control.put("threads", "8\n")
    nfsd.stop()
    assert control.writes == [("threads", b"0\n")]


def test_locks_are_dropped_on_exactly_the_file_system_that_is_meant(control: Control) -> None:
    control.put("unlock_filesystem", "")
    nfsd.unlock_filesystem(Path("/srv/a b\\c\td\ne"))
    ((name, data),) = control.writes
    assert name == "unlock_filesystem"
    assert data == b"/srv/a\\040b\\134c\\011d\\012e\n"
    assert qword_get(data) == b"/srv/a b\\c\td\ne"


@given(st.binary(min_size=1).filter(lambda raw: b"\0" not in raw))
def test_every_path_is_one_word_to_the_kernel_and_the_same_path(raw: bytes) -> None:
    assert qword_get(escape(raw) + b"\n") == raw


def test_a_control_file_that_is_missing_is_not_created(control: Control) -> None:
    with pytest.raises(FileNotFoundError):
        nfsd.stop()
    assert list(control.directory.iterdir()) == []


@pytest.mark.parametrize(("content", "over"), [("Y\n", True), ("N\n", False)])
def test_the_end_of_nfsv4s_grace_is_read_as_the_kernel_writes_it(control: Control, content: str, over: bool) -> None:
    control.put("v4_end_grace", content)
    assert nfsd.v4_grace_ended() is over


@pytest.mark.usefixtures("control")
def test_a_kernel_without_nfsv4_has_no_grace_of_it() -> None:
    assert nfsd.v4_grace_ended()


@pytest.mark.parametrize(("content", "grace"), [(b"Y\n\0", False), (b"N\n\0", True)])
def test_lockds_grace_is_on_when_its_end_has_not_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, grace: bool
) -> None:
    """The file answers another question than ours, with three bytes, the last of which is a NUL (fs/lockd/procfs.c)."""
    (tmp_path / "nlm_end_grace").write_bytes(content)
    monkeypatch.setattr(lockd, "END_GRACE", tmp_path / "nlm_end_grace")
    assert lockd.in_grace() is grace


def test_a_lockd_that_is_not_loaded_is_not_in_grace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lockd, "END_GRACE", tmp_path / "missing")
    assert lockd.in_grace() is False
