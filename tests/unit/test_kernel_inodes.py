# SPDX-License-Identifier: GPL-2.0-or-later
"""The names of locked files are looked for, within limits, and a lock is never hidden because a name is not found."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from nlmfo.deadline import Deadline
from nlmfo.kernel import inodes, locks, syscalls
from nlmfo.kernel.locks import EOF, Lock
from tests.unit.namespaced import SECONDS, made


def lock_on(inode: int) -> Lock:
    return Lock("8:16", inode, 0, EOF, exclusive=True, pid=214)


def test_files_directories_and_the_top_itself_are_found_by_their_inodes(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/file").touch()
    (tmp_path / "top").touch()
    wanted = [tmp_path, tmp_path / "a", tmp_path / "a/b/file", tmp_path / "top"]
    numbers = {path.stat().st_ino: path for path in wanted}
    assert inodes.paths(tmp_path, set(numbers)) == numbers


def test_what_is_not_there_is_left_out(tmp_path: Path) -> None:
    assert inodes.paths(tmp_path, {2**63}) == {}
    assert inodes.paths(tmp_path / "missing", {1}) == {}


def test_links_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").touch()
    (tmp_path / "top").mkdir()
    (tmp_path / "top/link").symlink_to(tmp_path / "outside")
    (tmp_path / "top/loop").symlink_to(tmp_path / "top")
    assert inodes.paths(tmp_path / "top", {(tmp_path / "outside/file").stat().st_ino}) == {}


def test_a_file_system_that_is_mounted_below_is_another_one_although_its_inodes_have_the_same_numbers(
    tmp_path: Path,
) -> None:
    with made() as namespaces:

        def look() -> tuple[tuple[dict[int, Path], ...], int]:
            below = tmp_path / "below"
            below.mkdir()
            syscalls.mount("none", below, "tmpfs")
            (below / "file").touch()
            number = (below / "file").stat().st_ino
            found = tuple(inodes._walk(top, {number}, Deadline(SECONDS)) for top in (tmp_path, below))
            syscalls.umount(below)
            return found, number

        (above, inside), number = namespaces.call(look)
    assert above == {}
    assert inside == {number: tmp_path / "below/file"}


def test_a_search_that_takes_too_long_ends_in_time_with_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "first").mkdir()
    for number in range(30):
        (tmp_path / f"first/empty{number}").mkdir()
    scandir = os.scandir

    def slow(path: Path) -> object:
        time.sleep(0.2)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", slow)
    first = (tmp_path / "first").stat().st_ino
    assert inodes.paths(tmp_path, {first, 2**63}, seconds=0.5) == {first: tmp_path / "first"}


def test_storage_that_hangs_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "scandir", lambda _: time.sleep(600))
    monkeypatch.setattr(inodes, "NOTICE", 0.2)
    begin = time.monotonic()
    assert inodes.paths(tmp_path, {1}, seconds=0.1) == {}
    assert time.monotonic() - begin < 10


def test_a_lock_is_named_by_its_file_once_and_by_its_inode_where_it_has_no_name(tmp_path: Path) -> None:
    (tmp_path / "mail\x1b[2J\nbox").touch()
    number = (tmp_path / "mail\x1b[2J\nbox").stat().st_ino
    left = [lock_on(number), lock_on(number), lock_on(2**63)]
    assert locks.paths(left, tmp_path) == [f"{tmp_path}/mail?[2J?box", f"inode {2**63} of {tmp_path}"]


def test_of_very_many_files_some_are_named_and_the_rest_counted(tmp_path: Path) -> None:
    for number in range(25):
        (tmp_path / f"file{number}").touch()
    named = locks.paths([lock_on(path.stat().st_ino) for path in tmp_path.iterdir()], tmp_path)
    assert len(named) == 11
    assert named[-1] == "15 more files"
