# SPDX-License-Identifier: GPL-2.0-or-later
"""/proc/locks: every lock of a client is seen, nothing else is, and nothing in it can break the reading."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlmfo.kernel import locks
from nlmfo.kernel.files import PROC
from nlmfo.kernel.locks import EOF, Lock, parse, table

#: As Linux 6.1 and 6.12 write it (fs/locks.c, lock_get_status).
TABLE = """\
1: POSIX  ADVISORY  WRITE 214 62:00:13 100 199
1: -> POSIX  ADVISORY  WRITE 300 62:00:13 100 199
2: POSIX  ADVISORY  READ  214 fd:1f:4294967297 0 EOF
3: FLOCK  ADVISORY  WRITE 99 00:19:1054 0 EOF
4: OFDLCK ADVISORY  WRITE -1 08:01:77 0 EOF
5: LEASE  ACTIVE    READ  88 08:01:78 0 EOF
6: DELEG  ACTIVE    READ  1 08:01:79 0 EOF
7: POSIX  ADVISORY  WRITE 0 08:01:80 5 5
8: POSIX  *NOINODE* WRITE 0 <none>:0 0 0
"""

HELD = st.builds(
    Lock,
    device=st.tuples(st.integers(0, 4095), st.integers(0, 2**20 - 1)).map(lambda pair: f"{pair[0]}:{pair[1]}"),
    inode=st.integers(0, 2**64 - 1),
    first=st.integers(0, 2**63 - 1),
    last=st.one_of(st.just(EOF), st.integers(0, 2**63 - 2)),
    exclusive=st.booleans(),
    pid=st.integers(-1, 2**31 - 1),
)


def line(number: int, lock: Lock) -> str:
    """A lock as the kernel prints it."""
    major, minor = (int(part) for part in lock.device.split(":"))
    kind = "WRITE" if lock.exclusive else "READ "
    last = "EOF" if lock.last == EOF else str(lock.last)
    return f"{number}: POSIX  ADVISORY  {kind} {lock.pid} {major:02x}:{minor:02x}:{lock.inode} {lock.first} {last}\n"


def test_the_locks_of_a_real_table() -> None:
    assert parse(TABLE) == (
        Lock("98:0", 13, 100, 199, exclusive=True, pid=214),
        Lock("253:31", 4294967297, 0, EOF, exclusive=False, pid=214),
        Lock("8:1", 80, 5, 5, exclusive=True, pid=0),
    )


def test_who_waits_for_a_lock_does_not_hold_it() -> None:
    assert parse("1: -> POSIX  ADVISORY  WRITE 300 62:00:13 100 199\n") == ()


def test_an_empty_table_holds_no_locks() -> None:
    assert parse("") == ()


@given(st.lists(HELD))
def test_every_lock_that_the_kernel_prints_is_read_back(held: list[Lock]) -> None:
    assert parse("".join(line(n, lock) for n, lock in enumerate(held, start=1))) == tuple(held)


@given(st.lists(st.one_of(st.text(max_size=60), st.sampled_from(TABLE.splitlines())), max_size=10))
def test_whatever_else_stands_in_the_table_no_real_line_is_missed(lines: list[str]) -> None:
    good = line(1, Lock("8:1", 80, 5, 5, exclusive=True, pid=7))
    assert Lock("8:1", 80, 5, 5, exclusive=True, pid=7) in parse("\n".join([*lines, good]))


@given(st.lists(HELD, min_size=1), st.data())
def test_a_table_that_is_cut_off_is_read_up_to_there(held: list[Lock], data: st.DataObject) -> None:
    whole = [line(n, lock) for n, lock in enumerate(held, start=1)]
    text = "".join(whole)
    found = parse(text[: data.draw(st.integers(0, len(text)))])
    assert found[:-1] == tuple(held[: max(0, len(found) - 1)])


def test_a_lock_of_this_process_is_seen_in_the_kernels_own_table(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        fcntl.fcntl(file, fcntl.F_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 10, 20, 0))
        inode = os.fstat(file.fileno()).st_ino
        ours = [lock for lock in table() if (lock.inode, lock.pid) == (inode, os.getpid())]
    assert [(lock.first, lock.last, lock.exclusive) for lock in ours] == [(10, 29, True)]


def comm(name: str) -> int:
    """The id of a process of that name; 1 is init and never lockd."""
    return {"lockd": 214, "postgres": os.getpid(), "gone": 2**22 + 1}[name]


def held_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *held: Lock) -> tuple[Lock, ...]:
    """What clients hold on device 8:1, if the table says this."""
    file = tmp_path / "locks"
    file.write_text("".join(line(n, lock) for n, lock in enumerate(held, start=1)), encoding="ascii")
    monkeypatch.setattr(locks, "TABLE", file)
    return locks.held_by_clients({"8:1"})


def test_a_lock_of_a_local_process_is_not_a_clients(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    local = Lock("8:1", 80, 0, EOF, exclusive=True, pid=os.getpid())
    assert held_on(monkeypatch, tmp_path, local) == ()


def test_a_lock_on_another_file_system_does_not_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = Lock("8:2", 80, 0, EOF, exclusive=True, pid=comm("gone"))
    assert held_on(monkeypatch, tmp_path, other) == ()


def test_a_lock_whose_holder_is_gone_counts_because_only_lockds_threads_leave_locks_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    left = Lock("8:1", 80, 0, EOF, exclusive=True, pid=comm("gone"))
    assert held_on(monkeypatch, tmp_path, left) == (left,)


def test_the_kernel_thread_is_known_by_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "214").mkdir()
    (tmp_path / "214/comm").write_text("lockd\n", encoding="ascii")
    (tmp_path / "215").mkdir()
    (tmp_path / "215/comm").write_text("lockdown\n", encoding="ascii")
    monkeypatch.setattr(locks, "Path", lambda path: tmp_path / str(path).removeprefix("/proc/"))
    clients = Lock("8:1", 80, 0, EOF, exclusive=True, pid=214)
    others = Lock("8:1", 81, 0, EOF, exclusive=True, pid=215)
    assert held_on(monkeypatch, tmp_path, clients, others) == (clients,)


def test_what_comes_again_at_the_beginning_of_a_page_is_there_once() -> None:
    """Somebody locked in between: the list has moved by two, and the next page begins two locks too early."""
    held = [Lock("98:0", 13, 2 * n, 2 * n, exclusive=False, pid=214) for n in range(6)]
    first = "".join(line(n, lock) for n, lock in enumerate(held[:4])).encode()
    second = "".join(line(n, lock) for n, lock in enumerate(held[2:])).encode()
    assert locks._on({"98:0"}, [first, second]) == held
    assert locks._on({"98:0"}, [first[:-7], first[-7:] + second]) == held[:4] + held[2:]


def test_two_who_share_the_same_bytes_are_two() -> None:
    both = [Lock("98:0", 13, 0, EOF, exclusive=False, pid=214)] * 2
    assert locks._on({"98:0"}, ["".join(line(n, lock) for n, lock in enumerate(both)).encode()]) == both


@given(held=st.lists(HELD), cut=st.integers(0, 200))
def test_a_reading_may_be_cut_anywhere(held: list[Lock], cut: int) -> None:
    unlike = list(dict.fromkeys(held))
    text = "".join(line(n, lock) for n, lock in enumerate(unlike)).encode()
    assert locks._on({lock.device for lock in held}, [text[:cut], text[cut:]]) == unlike


def test_the_kernels_own_table_is_read_whole_wherever_the_first_page_ends(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+b") as file:
        for byte in range(0, 400, 2):
            fcntl.lockf(file, fcntl.LOCK_EX, 1, byte)
        status = os.fstat(file.fileno())
        device = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
        for first in (1, 59, 4095):
            # Others on this machine lock as well, so one reading may leave some out.
            found = [lock for _ in range(5) for lock in locks._on({device}, PROC.pieces(locks.TABLE, first))]
            assert {lock.first for lock in found if lock.inode == status.st_ino} == set(range(0, 400, 2))
