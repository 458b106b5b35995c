# SPDX-License-Identifier: GPL-2.0-or-later
"""The lock snapshot on disk: whole, of this state number and of a release, or nothing is decided by it."""

from __future__ import annotations

import os
import threading
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nlmfo.records import locks
from nlmfo.records.directory import StoreError
from nlmfo.records.locks import (
    EOF,
    LOCKS,
    MAX_LOCKS_BYTES,
    HeldLock,
    LockSnapshot,
    discard_locks,
    read_locks,
    write_locks,
)
from nlmfo.records.sealed import seal, unseal
from tests.unit.test_records_interrupted import ENOUGH_CALLS, run_cut_off

HOME = "11111111-2222-3333-4444-555555555555"
MAIL = "66666666-7777-8888-9999-000000000000"
STATE = 7

HELD = (
    HeldLock(HOME, 13, 100, 199, exclusive=True),
    HeldLock(HOME, 131073, 0, EOF, exclusive=False),
    HeldLock(HOME, 131073, 0, EOF, exclusive=False),
    HeldLock(MAIL, 2**64 - 1, 2**63 - 1, 2**63 - 1, exclusive=True),
)
RELEASED = LockSnapshot(STATE, 1795179814.75, exact=True, locks=HELD)
ESTIMATE = LockSnapshot(STATE, 1795179810.5, exact=False, locks=HELD[1:])
UNKNOWN = LockSnapshot(STATE, 0.0, exact=False, locks=())

TEXT = f"""\
nlmfo-locks 1
state 7
taken 1795179814.750000
exact yes
partition {HOME}
exclusive 13 100 199
shared 131073 0 end
shared 131073 0 end
partition {MAIL}
exclusive 18446744073709551615 9223372036854775807 9223372036854775807
"""


def put(state: Path, content: bytes) -> None:
    (state / LOCKS).write_bytes(content)


def refused(state: Path, number: int = STATE) -> str:
    """Why what is there is not used; nothing of it may be."""
    found = read_locks(state, number)
    assert (found.state, found.exact, found.locks) == (number, False, ())
    assert found.doubt
    return found.doubt


def test_what_a_release_wrote_is_read_back_as_often_as_it_was_held(tmp_path: Path) -> None:
    write_locks(tmp_path, RELEASED)
    assert read_locks(tmp_path, STATE) == RELEASED


def test_it_is_text_for_root_only(tmp_path: Path) -> None:
    write_locks(tmp_path, RELEASED)
    found = (tmp_path / LOCKS).stat()
    assert unseal((tmp_path / LOCKS).read_bytes()) == (TEXT, True)
    assert (found.st_mode & 0o777, found.st_uid) == (0o600, os.geteuid())
    assert [path.name for path in tmp_path.iterdir()] == [LOCKS]


def test_an_estimate_is_labelled_so(tmp_path: Path) -> None:
    write_locks(tmp_path, ESTIMATE)
    found = read_locks(tmp_path, STATE)
    assert (found.taken, found.exact, found.locks) == (ESTIMATE.taken, False, ESTIMATE.locks)
    assert "while clients could still lock" in found.doubt


def test_that_nobody_held_a_lock_is_known_from_a_release(tmp_path: Path) -> None:
    write_locks(tmp_path, LockSnapshot(STATE, 5.0, exact=True, locks=()))
    assert read_locks(tmp_path, STATE) == LockSnapshot(STATE, 5.0, exact=True, locks=())


locks_strategy = st.lists(
    st.builds(
        lambda uuid, inode, first, length, exclusive: HeldLock(
            uuid, inode, first, EOF if length is None else first + length, exclusive
        ),
        st.sampled_from([HOME, MAIL, "5D2C-A7B1"]),
        st.integers(0, 2**64 - 1),
        st.integers(0, 2**62),
        st.one_of(st.none(), st.integers(0, 2**62 - 1)),
        st.booleans(),
    ),
    max_size=20,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(held=locks_strategy, exact=st.booleans(), number=st.integers(0, 2**30), taken=st.integers(0, 2**33))
def test_any_locks_are_read_back_sorted(
    tmp_path: Path, held: list[HeldLock], exact: bool, number: int, taken: int
) -> None:
    discard_locks(tmp_path)
    write_locks(tmp_path, LockSnapshot(number, float(taken), exact=exact, locks=tuple(held)))
    found = read_locks(tmp_path, number)
    assert (found.state, found.taken, found.exact, list(found.locks)) == (number, taken, exact, sorted(held))
    assert bool(found.doubt) is not exact


# What is not used


def test_where_there_is_none_nothing_is_known(tmp_path: Path) -> None:
    assert refused(tmp_path) == "there is none"


@pytest.mark.parametrize("number", [5, 9, 0])
def test_one_of_another_state_number_is_not_used(tmp_path: Path, number: int) -> None:
    write_locks(tmp_path, RELEASED)
    assert refused(tmp_path, number) == f"it is of NSM state 7, and the records are of {number}"


def test_one_that_was_discarded_is_not_used_again(tmp_path: Path) -> None:
    write_locks(tmp_path, RELEASED)
    discard_locks(tmp_path)
    assert refused(tmp_path) == "there is none"
    discard_locks(tmp_path)


def test_a_byte_that_changed_anywhere_is_noticed(tmp_path: Path) -> None:
    whole = seal(TEXT)
    for at in range(len(whole)):
        for flipped in (0x01, 0x20, 0x80):
            put(tmp_path, whole[:at] + bytes([whole[at] ^ flipped]) + whole[at + 1 :])
            assert refused(tmp_path) == "it is damaged"


def test_one_that_lost_its_end_is_noticed_wherever_it_was_cut(tmp_path: Path) -> None:
    whole = seal(TEXT)
    for length in range(len(whole)):
        put(tmp_path, whole[:length])
        assert refused(tmp_path) == "it is damaged"


@pytest.mark.parametrize("extra", [b"\0", b"\n", b"shared 13 0 end\n", seal(TEXT)])
def test_what_was_added_to_one_is_noticed(tmp_path: Path, extra: bytes) -> None:
    put(tmp_path, seal(TEXT) + extra)
    assert refused(tmp_path) == "it is damaged"


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("nlmfo-locks 1", "nlmfo-locks 2"),
        ("state 7", "state -7"),
        ("state 7", "state \u0667"),
        ("state 7", "state 7\nstate 7"),
        ("taken 1795179814.750000", "taken nan"),
        ("taken 1795179814.750000", "taken 1e999"),
        ("exact yes", "exact perhaps"),
        ("exact yes\n", ""),
        (f"partition {HOME}\n", ""),
        (f"partition {HOME}", "partition ../../etc"),
        ("exclusive 13 100 199", "exclusive 13 199 100"),
        ("exclusive 13 100 199", "exclusive 13 100 -1"),
        ("exclusive 13 100 199", "exclusive 13 100"),
        ("exclusive 13 100 199", "exclusive  13 100 199"),
        ("exclusive 13 100 199", "exclusive 13 100 199 "),
        ("exclusive 13 100 199", "Exclusive 13 100 199"),
        ("exclusive 13 100 199", "exclusive \u0661\u0663 100 199"),
        ("exclusive 13 100 199", f"exclusive {'9' * 5000} 100 199"),
        ("exclusive 13 100 199\n", "exclusive 13 100 199\r\n"),
        ("exclusive 13 100 199\n", "\n"),
        ("exclusive 13 100 199", "sha256 " + "0" * 64),
    ],
)
def test_a_line_that_we_do_not_write_spoils_it_however_well_it_is_sealed(
    tmp_path: Path, ours: str, theirs: str
) -> None:
    assert ours in TEXT
    put(tmp_path, seal(TEXT.replace(ours, theirs, 1)))
    assert refused(tmp_path) == "it is damaged"


def test_a_last_line_that_does_not_end_is_not_believed(tmp_path: Path) -> None:
    head = TEXT[: TEXT.index("exclusive")]
    put(tmp_path, seal(head + "exclusive 13 100 1999"))
    assert refused(tmp_path) == "it is damaged"


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(seal)))
def test_noise_is_damage_and_no_error(tmp_path: Path, noise: bytes) -> None:
    put(tmp_path, noise)
    assert refused(tmp_path) == "it is damaged"


def test_a_link_in_its_place_is_not_followed_and_gives_way(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(seal(TEXT))
    (tmp_path / LOCKS).symlink_to("elsewhere")
    assert "no regular file" in refused(tmp_path)
    write_locks(tmp_path, ESTIMATE)
    assert read_locks(tmp_path, STATE).locks == ESTIMATE.locks
    assert (tmp_path / "elsewhere").read_bytes() == seal(TEXT)


def test_a_directory_in_its_place_is_not_used_and_gives_way(tmp_path: Path) -> None:
    (tmp_path / LOCKS / "below").mkdir(parents=True)
    assert "no regular file" in refused(tmp_path)
    write_locks(tmp_path, RELEASED)
    assert read_locks(tmp_path, STATE) == RELEASED


def test_a_pipe_in_its_place_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / LOCKS)
    assert "no regular file" in refused(tmp_path)


def test_a_file_of_a_hundred_megabytes_is_not_read(tmp_path: Path) -> None:
    put(tmp_path, seal(TEXT))
    os.truncate(tmp_path / LOCKS, 100_000_000)
    assert "too long" in refused(tmp_path)


def test_as_many_locks_as_can_be_written_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "MAX_LOCKS_BYTES", len(seal(TEXT)))
    write_locks(tmp_path, RELEASED)
    assert read_locks(tmp_path, STATE) == RELEASED
    more = LockSnapshot(STATE, RELEASED.taken, exact=True, locks=(*HELD, HELD[0]))
    with pytest.raises(StoreError, match="5 locks are more than can be accounted for"):
        write_locks(tmp_path, more)
    assert read_locks(tmp_path, STATE) == RELEASED


def test_a_million_locks_have_room() -> None:
    line = locks._line(HeldLock(HOME, 2**32, 2**40, 2**40 + 4096, exclusive=True))
    assert 1_000_000 * len(line) < MAX_LOCKS_BYTES


def test_a_state_directory_that_is_not_there_is_an_error_and_not_a_release_without_locks(tmp_path: Path) -> None:
    away = tmp_path / "away"
    for use in (partial(read_locks, away, STATE), partial(write_locks, away, RELEASED), partial(discard_locks, away)):
        with pytest.raises(StoreError, match=r"away: No such file"):
            use()


# What a release saw


def test_no_estimate_takes_the_place_of_what_a_release_saw_until_that_is_discarded(tmp_path: Path) -> None:
    assert write_locks(tmp_path, RELEASED)
    assert not write_locks(tmp_path, ESTIMATE)
    assert read_locks(tmp_path, STATE) == RELEASED
    discard_locks(tmp_path)
    assert write_locks(tmp_path, ESTIMATE)
    assert read_locks(tmp_path, STATE).locks == ESTIMATE.locks


def test_an_estimate_that_is_being_written_while_a_release_writes_does_not_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keeper had looked before the records were frozen, and wrote afterwards: grace then ran in full."""
    release = threading.Thread(target=partial(write_locks, tmp_path, RELEASED))

    def seal_late(text: str) -> bytes:
        if threading.current_thread() is not release:
            release.start()
            release.join(0.5)  # it is done by then, unless it waits for its turn
        return seal(text)

    monkeypatch.setattr(locks, "seal", seal_late)
    write_locks(tmp_path, ESTIMATE)
    release.join()
    assert read_locks(tmp_path, STATE).exact


def test_an_estimate_gives_way_to_the_next_and_to_a_release(tmp_path: Path) -> None:
    for number, snapshot in enumerate((ESTIMATE, LockSnapshot(STATE, 9.0, exact=False, locks=HELD[:1]), RELEASED)):
        assert write_locks(tmp_path, snapshot), number
        assert read_locks(tmp_path, STATE).locks == snapshot.locks


def test_that_a_release_saw_no_lock_stays_as_well(tmp_path: Path) -> None:
    write_locks(tmp_path, LockSnapshot(STATE, 9.0, exact=True, locks=()))
    assert not write_locks(tmp_path, ESTIMATE)
    assert read_locks(tmp_path, STATE).exact


def test_a_release_that_goes_on_after_locks_were_dropped_keeps_what_the_one_before_saw(tmp_path: Path) -> None:
    new = HeldLock(HOME, 14, 0, EOF, exclusive=True)
    write_locks(tmp_path, RELEASED)
    write_locks(tmp_path, LockSnapshot(STATE, 9.0, exact=True, locks=(HELD[1], new)))
    found = read_locks(tmp_path, STATE)
    assert (found.exact, list(found.locks)) == (True, sorted([*HELD, new]))


def test_what_a_release_saw_under_another_state_number_gives_way(tmp_path: Path) -> None:
    write_locks(tmp_path, RELEASED)
    later = LockSnapshot(STATE + 2, 9.0, exact=True, locks=HELD[:1])
    assert write_locks(tmp_path, later)
    assert read_locks(tmp_path, STATE + 2) == later


# When it is cut off


def test_a_snapshot_that_is_cut_off_leaves_the_one_before_or_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = set()
    for calls in range(ENOUGH_CALLS):
        state = tmp_path / str(calls)
        state.mkdir()
        write_locks(state, ESTIMATE)
        cut = run_cut_off(monkeypatch, calls, partial(write_locks, state, RELEASED))
        found = read_locks(state, STATE)
        assert (found.exact, found.locks) in [(False, ESTIMATE.locks), (True, RELEASED.locks)]
        both.add(found.exact)
        write_locks(state, RELEASED)
        assert read_locks(state, STATE) == RELEASED
        if not cut:
            break
    assert both == {True, False}
    assert calls > 10, "there were system calls to cut at"


def test_a_second_release_that_is_cut_off_loses_nothing_of_what_the_first_saw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for calls in range(ENOUGH_CALLS):
        write_locks(tmp_path, RELEASED)
        rest = LockSnapshot(STATE, 9.0, exact=True, locks=())
        cut = run_cut_off(monkeypatch, calls, partial(write_locks, tmp_path, rest))
        found = read_locks(tmp_path, STATE)
        assert (found.exact, found.locks) == (True, HELD)
        if not cut:
            break
    assert calls > 10, "there were system calls to cut at"


def test_a_discarding_that_returned_is_durable_and_one_that_was_cut_off_can_be_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for calls in range(ENOUGH_CALLS):
        write_locks(tmp_path, RELEASED)
        cut = run_cut_off(monkeypatch, calls, partial(discard_locks, tmp_path))
        discard_locks(tmp_path)
        assert refused(tmp_path) == "there is none"
        if not cut:
            break
    assert calls == 3, "open the directory, unlink, fsync: without the last it could come back"
