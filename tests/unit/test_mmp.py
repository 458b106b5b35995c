# SPDX-License-Identifier: GPL-2.0-or-later
"""Multi-mount protection, on real file systems in files: what e2mmpstatus makes of them is its own."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nlmfo.errors import CommandFailed, DeadlineExceeded, NlmfoError, Refused
from nlmfo.host import mmp
from nlmfo.run import run

SECONDS = 60.0
#: Much less than anybody would watch a block for.
AT_ONCE = 5.0
#: Offsets in struct mmp_struct (lib/ext2fs/ext2_fs.h).
SEQUENCE, NODE = 4, 16
BLOCK_SIZE = 1024


class Disk:
    """A file system with multi-mount protection but no checksums: a test can write to the block as a node does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        run(["truncate", "-s", "8M", path], deadline=SECONDS)
        features = ["-O", "mmp,^metadata_csum", "-b", str(BLOCK_SIZE)]
        run(["mkfs.ext4", "-q", "-F", *features, path], deadline=SECONDS)
        said = run(["e2mmpstatus", "-i", path], deadline=SECONDS)
        self.offset = int(said.rsplit("mmp_block_number: ", 1)[1]) * BLOCK_SIZE

    def write(self, sequence: int | None = None, node: bytes | None = None) -> None:
        with self.path.open("r+b") as file:
            if sequence is not None:
                file.seek(self.offset + SEQUENCE)
                file.write(struct.pack("<I", sequence))
            if node is not None:
                file.seek(self.offset + NODE)
                file.write(node.ljust(64, b"\0"))


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path / "disk")


def test_a_file_system_that_was_released_is_free_at_once(disk: Disk) -> None:
    began = time.monotonic()
    assert mmp.holder(disk.path, deadline=AT_ONCE) is None
    assert time.monotonic() - began < AT_ONCE


@pytest.mark.parametrize("features", ["^mmp", "^mmp,^has_journal"])
def test_a_file_system_without_protection_says_nothing_against_anybody(tmp_path: Path, features: str) -> None:
    path = tmp_path / "disk"
    run(["truncate", "-s", "8M", path], deadline=SECONDS)
    run(["mkfs.ext4", "-q", "-F", "-O", features, path], deadline=SECONDS)
    assert mmp.holder(path, deadline=AT_ONCE) is None


def test_no_program_is_started_to_be_told_that_ext4_has_no_protection_and_one_is_where_it_has(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients wait for each program that a takeover starts."""
    without = tmp_path / "without"
    run(["truncate", "-s", "8M", without], deadline=SECONDS)
    run(["mkfs.ext4", "-q", "-F", "-O", "^mmp", without], deadline=SECONDS)
    started = []

    def watched(argv: Sequence[str], *, deadline: float) -> str:
        started.append(str(argv[-1]))
        return run(argv, deadline=deadline)

    monkeypatch.setattr(mmp, "run", watched)
    assert mmp.read(without) is None
    assert started == []
    assert mmp.read(disk.path) is not None
    assert started == [str(disk.path)]


def test_a_file_system_that_is_not_ext4_says_nothing_against_anybody(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"XFSB" + b"\0" * 2**20)
    assert mmp.holder(path, deadline=AT_ONCE) is None


def test_a_block_that_changes_names_its_writer_and_one_that_does_not_has_none(tmp_path: Path) -> None:
    """Both at once, because each is watched for 11 s."""
    active, dead = Disk(tmp_path / "active"), Disk(tmp_path / "dead")
    dead.write(7, b"server-a")
    active.write(7, b"server-b")
    over = threading.Event()

    def mounted() -> None:
        """What kmmpd does on the node that has it mounted, only faster."""
        sequence = 7
        while not over.wait(0.5):
            sequence += 1
            active.write(sequence)

    with ThreadPoolExecutor(3) as pool:
        pool.submit(mounted)
        try:
            holders = list(pool.map(lambda disk: mmp.holder(disk.path), (active, dead)))
        finally:
            over.set()
    assert holders == ["server-b", None]


def test_a_check_under_way_is_refused_at_once_with_the_way_out(disk: Disk) -> None:
    disk.write(mmp.CHECKED, b"server-b")
    with pytest.raises(Refused, match="e2fsck is checking it, on server-b") as caught:
        mmp.holder(disk.path, deadline=AT_ONCE)
    assert caught.value.code == "fsck-running"
    assert f"tune2fs -f -E clear_mmp {disk.path}" in str(caught.value.hint)


@pytest.mark.parametrize("sequence", [mmp.CHECKED + 1, mmp.CLEAN - 1, 0xFFFFFFFF])
def test_a_sequence_that_means_nothing_known_is_not_taken_for_free(disk: Disk, sequence: int) -> None:
    disk.write(sequence)
    with pytest.raises(NlmfoError, match=f"the sequence number {sequence:#x} means nothing known"):
        mmp.holder(disk.path, deadline=AT_ONCE)


def test_a_block_that_is_damaged_is_not_taken_for_free(disk: Disk) -> None:
    with disk.path.open("r+b") as file:
        file.seek(disk.offset)
        file.write(b"\0" * BLOCK_SIZE)
    with pytest.raises(NlmfoError, match=r"cannot tell .* the block that would tell is damaged") as caught:
        mmp.holder(disk.path, deadline=AT_ONCE)
    assert f"e2mmpstatus {disk.path}" in str(caught.value.hint)


def test_a_block_whose_checksum_is_wrong_is_not_taken_for_free(tmp_path: Path) -> None:
    """e2mmpstatus ends with 0 then."""
    path = tmp_path / "disk"
    run(["truncate", "-s", "8M", path], deadline=SECONDS)
    run(["mkfs.ext4", "-q", "-F", "-O", "mmp,metadata_csum", "-b", "1024", path], deadline=SECONDS)
    number = int(run(["e2mmpstatus", "-i", path], deadline=SECONDS).rsplit(": ", 1)[1])
    with path.open("r+b") as file:
        file.seek(number * BLOCK_SIZE + NODE)
        file.write(b"somebody else")
    with pytest.raises(NlmfoError, match="the block that would tell is damaged"):
        mmp.holder(path, deadline=AT_ONCE)


def test_a_device_that_is_not_there_is_an_error_and_not_free(tmp_path: Path) -> None:
    with pytest.raises(NlmfoError, match="No such file or directory"):
        mmp.holder(tmp_path / "missing", deadline=AT_ONCE)


def test_time_that_is_up_says_how_much_would_have_been_needed(disk: Disk) -> None:
    disk.write(7, b"server-b")
    with pytest.raises(DeadlineExceeded, match=r"not within 0\.5 s") as caught:
        mmp.holder(disk.path, deadline=0.5)
    assert "11 s or more at this file system's check interval of 5 s" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (b"server-b", "server-b"),
        (b"n" * 64, "n" * 64),
        (b"", "a node without a name"),
        (b"\x1b[2J", r"'\x1b[2J'"),
        (b"x\n    mmp_sequence: 0xff4d4d50", "x"),
    ],
)
def test_the_name_on_the_disk_does_no_harm_whatever_it_is(disk: Disk, written: bytes, read: str) -> None:
    disk.write(7, written)
    assert mmp.read(disk.path) == mmp.Block(5, 7, read)


# What this machine's e2fsprogs do not say


def say(monkeypatch: pytest.MonkeyPatch, watched: str | NlmfoError) -> None:
    """A block that is not clean, and then what e2mmpstatus says after watching it."""

    def answer(argv: Sequence[object], *, deadline: float) -> str:
        assert deadline > 0
        if argv[1] == "-i":
            return (
                "MMP_block:\n    mmp_magic: 0x4d4d50\n    mmp_check_interval: 10\n    mmp_sequence: 0x000007\n"
                "    mmp_update_date: Sat Nov 21 09:24:56 2026\n    mmp_update_time: 1795253096\n"
                "    mmp_node_name: server-b\n    mmp_device_name: sda1\n    mmp_block_number: 1172\n"
            )
        if isinstance(watched, NlmfoError):
            raise watched
        return watched

    monkeypatch.setattr(mmp, "run", answer)


def failed(status: int, stderr: str) -> CommandFailed:
    return CommandFailed(["e2mmpstatus", "/dev/sdx"], status, stderr)


def test_a_check_that_begins_meanwhile_is_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    say(monkeypatch, failed(1, "e2mmpstatus: MMP: e2fsck being run while trying to open /dev/sdx\n"))
    with pytest.raises(Refused, match="e2fsck is checking it, on server-b"):
        mmp.holder(Path("/dev/sdx"))


@pytest.mark.parametrize(
    "watched",
    [
        "",
        "e2mmpstatus: all is well\n",
        failed(1, "e2mmpstatus: something new\n"),
        failed(2, "e2mmpstatus: MMP: device currently active while trying to open /dev/sdx\n"),
        failed(-9, ""),
    ],
    ids=str,
)
def test_what_cannot_be_understood_is_neither_free_nor_held(
    monkeypatch: pytest.MonkeyPatch, watched: str | NlmfoError
) -> None:
    say(monkeypatch, watched)
    with pytest.raises(NlmfoError, match="/dev/sdx: cannot tell whether another node has it mounted"):
        mmp.holder(Path("/dev/sdx"))


def test_without_the_program_it_is_named(monkeypatch: pytest.MonkeyPatch, disk: Disk) -> None:
    monkeypatch.setattr("nlmfo.run.ENVIRONMENT", {"PATH": "/nowhere"})
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(NlmfoError, match="cannot start 'e2mmpstatus'"):
        mmp.holder(disk.path, deadline=AT_ONCE)
