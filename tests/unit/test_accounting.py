# SPDX-License-Identifier: GPL-2.0-or-later
"""The account of locks: what may not be back is never called back, whatever form the rest came back in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlmfo.failover import accounting
from nlmfo.failover.accounting import NAMED, Account, gathered, held, in_words, missing, named
from nlmfo.kernel.locks import Lock
from nlmfo.records.locks import EOF, HeldLock, LockSnapshot

HOME = "11111111-2222-3333-4444-555555555555"
MAIL = "66666666-7777-8888-9999-000000000000"

#: The model's file is this long; a lock to EOF covers all of it and what could come after.
BYTES = 12
EDGE = 2**63 - 2


def shared(first: int, last: int, inode: int = 13, uuid: str = HOME) -> HeldLock:
    return HeldLock(uuid, inode, first, last, exclusive=False)


def exclusive(first: int, last: int, inode: int = 13, uuid: str = HOME) -> HeldLock:
    return HeldLock(uuid, inode, first, last, exclusive=True)


def account(*locks: HeldLock, exact: bool = True) -> Account:
    return Account(LockSnapshot(7, 1_000.0, exact=exact, locks=locks))


@st.composite
def some_lock(draw: st.DrawFn) -> HeldLock:
    first = draw(st.integers(0, BYTES - 1))
    last = draw(st.one_of(st.integers(first, BYTES - 1), st.just(EOF)))
    return HeldLock(draw(st.sampled_from([HOME, MAIL])), draw(st.integers(13, 14)), first, last, draw(st.booleans()))


LOCKS = st.lists(some_lock(), max_size=12)


def by_hand(before: Sequence[HeldLock], now: Sequence[HeldLock]) -> list[HeldLock]:
    """The same question, asked for each byte."""

    def holders(locks: Sequence[HeldLock], lock: HeldLock, byte: int, *, only_exclusive: bool) -> int:
        return sum(
            (each.uuid, each.inode) == (lock.uuid, lock.inode)
            and each.first <= byte
            and (each.last == EOF or byte <= each.last)
            and (each.exclusive or not only_exclusive)
            for each in locks
        )

    def fewer(lock: HeldLock, *, only_exclusive: bool) -> bool:
        return any(
            holders(now, lock, byte, only_exclusive=only_exclusive)
            < holders(before, lock, byte, only_exclusive=only_exclusive)
            for byte in range(lock.first, (BYTES if lock.last == EOF else lock.last) + 1)
        )

    return [
        lock
        for lock in before
        if fewer(lock, only_exclusive=False) or (lock.exclusive and fewer(lock, only_exclusive=True))
    ]


# What is missing


@pytest.mark.parametrize(
    ("before", "now", "gone"),
    [
        ([exclusive(0, 9)], [], [exclusive(0, 9)]),
        ([exclusive(0, 9)], [shared(0, 9)], [exclusive(0, 9)]),
        ([shared(0, 9)], [exclusive(0, 9)], []),
        ([shared(0, 9), shared(0, 9)], [shared(0, 9)], [shared(0, 9), shared(0, 9)]),
        ([shared(0, 9), shared(0, 9)], [shared(0, 9), shared(0, 9)], []),
        ([exclusive(0, 9), exclusive(10, 19)], [exclusive(0, 19)], []),
        ([exclusive(0, 19)], [exclusive(0, 9), exclusive(10, 19)], []),
        ([exclusive(0, 19)], [exclusive(0, 8), exclusive(10, 19)], [exclusive(0, 19)]),
        ([shared(0, 9), exclusive(10, 19)], [exclusive(0, 19)], []),
        ([exclusive(0, EOF)], [exclusive(0, EDGE)], [exclusive(0, EOF)]),
        ([exclusive(0, EDGE)], [exclusive(0, EOF)], []),
        ([exclusive(5, EOF)], [exclusive(0, EOF)], []),
        ([exclusive(0, 9)], [exclusive(0, 9, inode=14)], [exclusive(0, 9)]),
        ([exclusive(0, 9)], [exclusive(0, 9, uuid=MAIL)], [exclusive(0, 9)]),
        ([], [exclusive(0, 9)], []),
    ],
    ids=[
        "nothing came back",
        "exclusive came back as shared",
        "shared came back as exclusive",
        "one of two who share",
        "both who share",
        "joined by the kernel",
        "in two parts",
        "in two parts with a gap of a byte",
        "joined with an upgrade",
        "all but the end of the file",
        "more than it was",
        "from further in front",
        "on another file",
        "on another partition",
        "there was nothing",
    ],
)
def test_a_lock_is_back_when_as_many_hold_each_of_its_bytes(
    before: list[HeldLock], now: list[HeldLock], gone: list[HeldLock]
) -> None:
    assert list(missing(before, now)) == gone


def test_whoever_may_be_the_one_who_is_missing_counts_as_missing() -> None:
    """Somebody who shared bytes 4 to 9 is not back: it is one of the two who had them, and not the third."""
    before = [shared(0, 9), shared(4, 9), shared(0, 3)]
    assert missing(before, [shared(0, 9), shared(0, 3)]) == (shared(0, 9), shared(4, 9))


@given(before=LOCKS, now=LOCKS)
def test_it_is_what_a_count_byte_by_byte_says(before: list[HeldLock], now: list[HeldLock]) -> None:
    assert list(missing(before, now)) == by_hand(before, now)


@given(before=LOCKS, more=LOCKS, choices=st.data())
def test_nothing_is_missing_of_what_is_there_in_any_order_and_with_more(
    before: list[HeldLock], more: list[HeldLock], choices: st.DataObject
) -> None:
    assert missing(before, choices.draw(st.permutations([*before, *more]))) == ()


@given(before=LOCKS.filter(bool), choices=st.data())
def test_a_lock_that_was_taken_out_is_among_the_missing(before: list[HeldLock], choices: st.DataObject) -> None:
    out = choices.draw(st.integers(0, len(before) - 1))
    assert before[out] in missing(before, before[:out] + before[out + 1 :])


class Table:
    """One file's locks as the kernel keeps them: for each owner, what he holds of each byte."""

    def __init__(self) -> None:
        self.bytes: dict[str, list[str]] = {owner: [""] * BYTES for owner in "abc"}

    def lock(self, owner: str, kind: str, first: int, last: int) -> None:
        """As posix_lock_inode does: refused when another owner is in the way, else it replaces the owner's own."""
        others = [held for other, held in self.bytes.items() if other != owner]
        taken = {other[byte] for other in others for byte in range(first, last + 1)}
        if "x" in taken or (kind == "x" and taken != {""}):
            return
        self.bytes[owner][first : last + 1] = [kind] * (last + 1 - first)

    def rows(self) -> list[tuple[str, HeldLock]]:
        """The owner and the lock of each line: adjacent bytes of one owner and one kind are one lock."""
        return [
            (owner, HeldLock(HOME, 13, run[0], run[-1], kind == "x"))
            for owner, kinds in self.bytes.items()
            for kind, run in (
                (kind, [byte for byte, _ in group]) for kind, group in groupby(enumerate(kinds), key=lambda at: at[1])
            )
            if kind
        ]


REQUESTS = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.sampled_from(["s", "x", ""]),
        st.integers(0, BYTES - 1),
        st.integers(0, BYTES - 1),
    ).filter(lambda request: request[2] <= request[3]),
    max_size=15,
)


@given(requests=REQUESTS, choices=st.data())
def test_no_owner_who_has_not_reclaimed_is_called_back_whatever_the_others_did(
    requests: list[tuple[str, str, int, int]], choices: st.DataObject
) -> None:
    """The table does not show whose lock is whose; here it is known."""
    before, after = Table(), Table()
    for request in requests:
        before.lock(*request)
    rows = before.rows()
    coming = [choices.draw(st.booleans()) for _ in rows]
    for owner, lock in choices.draw(st.permutations([row for row, comes in zip(rows, coming, strict=True) if comes])):
        after.lock(owner, "x" if lock.exclusive else "s", lock.first, lock.last)
    gone = missing([lock for _, lock in rows], [lock for _, lock in after.rows()])
    lost = [lock for (_, lock), comes in zip(rows, coming, strict=True) if not comes]
    assert not Counter(lost) - Counter(gone)
    assert not gone or lost


@pytest.mark.parametrize("kind", ["on one file", "on a file each", "all on the same bytes"])
def test_the_work_grows_with_the_number_of_locks_and_not_with_its_square(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Counted is what is looked at: how often a lock's bytes are asked for."""
    many = 2_000
    locks = {
        "on one file": [exclusive(2 * byte, 2 * byte) for byte in range(many)],
        "on a file each": [exclusive(0, EOF, inode=inode) for inode in range(many)],
        "all on the same bytes": [shared(0, 9)] * many,
    }[kind]
    asked = 0
    span = accounting._span

    def counted(lock: HeldLock) -> Any:
        nonlocal asked
        asked += 1
        return span(lock)

    monkeypatch.setattr(accounting, "_span", counted)
    assert missing(locks, locks[1:]) == (tuple(locks) if kind == "all on the same bytes" else (locks[0],))
    assert asked < 10 * many


# The account


def test_an_account_counts_up_to_the_last_lock() -> None:
    ours = account(exclusive(0, 9), shared(20, 29))
    assert (ours.total, ours.back, ours.missing, ours.all_back) == (2, 0, (exclusive(0, 9), shared(20, 29)), False)
    ours.update([shared(20, 29)])
    assert (ours.total, ours.back, ours.missing, ours.all_back) == (2, 1, (exclusive(0, 9),), False)
    ours.update([exclusive(0, 9), shared(20, 29)])
    assert (ours.total, ours.back, ours.missing, ours.all_back) == (2, 2, (), True)


def test_what_was_seen_held_again_stays_back_when_it_is_unlocked() -> None:
    ours = account(exclusive(0, 9), shared(20, 29))
    ours.update([exclusive(0, 9)])
    ours.update([shared(20, 29)])
    ours.update([])
    assert ours.all_back


def test_one_who_shares_does_not_come_back_twice() -> None:
    ours = account(shared(0, 9), shared(0, 9))
    ours.update([shared(0, 9)])
    ours.update([])
    ours.update([shared(0, 9)])
    assert ours.back == 0


def test_only_what_all_readings_show_is_back() -> None:
    ours = account(shared(0, 9), shared(0, 9), exclusive(20, 29))
    ours.update([shared(0, 9), shared(0, 9), exclusive(20, 29)], [shared(0, 9), exclusive(20, 29)])
    assert ours.missing == (shared(0, 9), shared(0, 9))


def test_what_comes_back_in_another_form_between_two_readings_is_back() -> None:
    ours = account(exclusive(0, 9), exclusive(10, 19))
    ours.update([exclusive(0, 9)], [exclusive(0, 19)])
    assert ours.missing == (exclusive(10, 19),)


def test_an_estimate_is_never_all_back() -> None:
    ours = account(exclusive(0, 9), exact=False)
    ours.update([exclusive(0, 9)])
    assert (ours.exact, ours.missing, ours.all_back) == (False, (), False)


def test_where_nobody_held_a_lock_everything_is_back_at_once_unless_that_is_an_estimate() -> None:
    assert account().all_back
    assert not account(exact=False).all_back


# Readings that are not of one moment


def test_what_a_single_reading_shows_was_held() -> None:
    locks = (shared(0, 9), shared(0, 9), exclusive(20, 29))
    assert gathered([locks]) == locks


def test_a_lock_that_readings_left_out_was_held() -> None:
    assert gathered([[], [exclusive(0, 9)], [], [shared(20, 29)], []]) == (exclusive(0, 9), shared(20, 29))


def test_a_lock_that_came_twice_in_one_reading_has_one_holder() -> None:
    once, twice = [shared(0, 9)], [shared(0, 9), shared(0, 9)]
    assert gathered([once, twice, once, once, once]) == tuple(once)


def test_two_who_share_are_two_even_when_most_readings_left_one_out() -> None:
    once, twice = [shared(0, 9)], [shared(0, 9), shared(0, 9)]
    assert gathered([once, twice, once, [], twice]) == tuple(twice)


def test_an_exclusive_lock_has_one_holder_however_often_it_was_shown() -> None:
    assert gathered([[exclusive(0, 9)] * 2] * 5) == (exclusive(0, 9),)


@given(locks=LOCKS, choices=st.data())
def test_what_each_lock_was_left_out_of_is_made_up_by_the_other_readings(
    locks: list[HeldLock], choices: st.DataObject
) -> None:
    """Three of five readings leave something out; no lock is lost, however often it was held."""
    kept = [choices.draw(st.lists(st.sampled_from(locks), max_size=5)) if locks else [] for _ in range(3)]
    wanted = Counter(lock for lock in locks if not lock.exclusive) | Counter(set(locks))
    assert not wanted - Counter(gathered([locks, *kept, locks]))


# From the kernel's table


def test_locks_are_known_by_partition_and_those_of_other_file_systems_are_left_out() -> None:
    table = [
        Lock("98:0", 13, 100, 199, exclusive=True, pid=214),
        Lock("98:16", 13, 0, EOF, exclusive=False, pid=214),
        Lock("8:1", 13, 0, EOF, exclusive=True, pid=214),
    ]
    assert held({"98:0": HOME, "98:16": MAIL}, table) == (exclusive(100, 199), shared(0, EOF, uuid=MAIL))


# In words


def words(locks: Iterable[HeldLock], paths: dict[tuple[str, int], Path] | None = None) -> list[str]:
    return in_words(locks, paths or {}, {HOME: Path("/srv/home")})


def test_a_lock_is_named_by_path_and_range() -> None:
    paths = {(HOME, 13): Path("/srv/home/data/mbox"), (HOME, 14): Path("/srv/home/data/inbox")}
    assert words([exclusive(100, 199), shared(0, EOF, inode=14)], paths) == [
        "/srv/home/data/inbox bytes 0-end shared",
        "/srv/home/data/mbox bytes 100-199 exclusive",
    ]


def test_a_file_that_was_not_found_is_named_by_its_inode_and_where_it_is() -> None:
    assert words([shared(5, 5), shared(0, 3, uuid=MAIL)]) == [
        "inode 13 of /srv/home bytes 5-5 shared",
        f"inode 13 of {MAIL} bytes 0-3 shared",
    ]


def test_several_who_hold_the_same_take_one_line() -> None:
    assert words([shared(0, 9)] * 3) == ["inode 13 of /srv/home bytes 0-9 shared, 3 holders"]


def test_a_name_made_to_deceive_a_terminal_is_shown_harmless() -> None:
    (line,) = words([shared(0, 9)], {(HOME, 13): Path("/srv/home/\x1b[2J\nall\udcff")})
    assert line == "/srv/home/?[2J?all? bytes 0-9 shared"


def test_many_are_counted_and_only_those_are_named_whose_paths_are_asked_for() -> None:
    locks = [exclusive(0, EOF, inode=inode) for inode in range(100, 100 + NAMED + 5)] + [shared(0, 1, inode=999)] * 2
    asked = named(locks)
    lines = words(locks, {(lock.uuid, lock.inode): Path(f"/srv/home/{lock.inode}") for lock in asked})
    assert len(asked) == NAMED
    assert lines == [f"/srv/home/{lock.inode} bytes 0-end exclusive" for lock in asked] + ["7 more"]


def test_nothing_missing_takes_no_words() -> None:
    assert words([]) == []
