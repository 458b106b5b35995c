# SPDX-License-Identifier: GPL-2.0-or-later
"""A run watches the keeper: it goes on when everybody was told, and says so when nobody tells them."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nlmfo.deadline import Deadline
from nlmfo.errors import DeadlineExceeded, NlmfoError
from nlmfo.failover import progress, watch
from nlmfo.failover.events import Progressed
from nlmfo.failover.progress import Locks, Progress, Waiting
from nlmfo.failover.watch import QUIET, Watch, in_words
from nlmfo.records.ledger import Standing
from tests.unit import shapes
from tests.unit.cluster_fake import Log

NUMBER = 7
GRACE = Progress(NUMBER, told=False, in_grace=True)
TOLD = replace(GRACE, told=True)
OVER = replace(GRACE, in_grace=False)


class Keeper:
    """The keeper of ``home``: between two looks of the run it says what is next in ``says``."""

    def __init__(self, directory: Path, patch: pytest.MonkeyPatch) -> None:
        self.place = shapes.place(directory)
        self.says: list[Progress | None] = []
        self.runs = True
        self.clock = 1000.0
        self.looks = 0
        self.log = Log()
        patch.setattr(time, "monotonic", lambda: self.clock)
        patch.setattr(time, "sleep", self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.clock += seconds
        self.looks += 1
        found = self.says.pop(0) if self.says else None
        if found is not None:
            progress.write(self.place.progress, found)

    def watch(self) -> Watch:
        return Watch("home", self.place, NUMBER, lambda: self.runs, self.log)


@pytest.fixture
def keeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Keeper:
    return Keeper(tmp_path, monkeypatch)


@pytest.fixture
def woken(keeper: Keeper) -> Iterator[Callable[[], bytes]]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(os.fspath(keeper.place.wake))
        receiver.setblocking(False)
        yield lambda: receiver.recv(64)


def test_the_keeper_is_woken_for_this_generation_and_waited_for_until_everybody_was_told(
    keeper: Keeper, woken: Callable[[], bytes]
) -> None:
    keeper.says = [None, GRACE, replace(GRACE, problem="no route"), TOLD, OVER]
    found = keeper.watch()
    found.until_told(Deadline(60))
    assert woken() == b"ready 7"
    assert found.progress == TOLD
    assert keeper.looks == 4


def test_a_keeper_that_cannot_be_woken_looks_by_itself(keeper: Keeper) -> None:
    keeper.says = [TOLD]
    keeper.watch().until_told(Deadline(60))
    assert not keeper.place.wake.exists()


def test_each_progress_is_told_once(keeper: Keeper) -> None:
    other = replace(GRACE, clients={Standing.ANSWERED: 1})
    keeper.says = [GRACE, None, other, None, other, TOLD]
    keeper.watch().until_told(Deadline(60))
    assert keeper.log.events == [Progressed("home", each) for each in (other, TOLD)]


def test_what_the_keeper_said_of_another_generation_does_not_count(keeper: Keeper) -> None:
    progress.write(keeper.place.progress, replace(TOLD, state=NUMBER - 2))
    keeper.says = [replace(OVER, state=NUMBER + 2), replace(TOLD, state=NUMBER - 2)]
    with pytest.raises(DeadlineExceeded, match="service 'home': telling every client"):
        keeper.watch().until_told(Deadline(0.05))
    assert keeper.log.events == []


def test_when_grace_is_over_before_everybody_was_told_that_is_an_error(keeper: Keeper) -> None:
    keeper.says = [GRACE, OVER, TOLD]
    with pytest.raises(NlmfoError, match="grace ended before the clients could be told") as caught:
        keeper.watch().until_told(Deadline(60))
    assert "'grace'" in str(caught.value.hint)


def test_who_were_told_just_before_grace_ended_were_told(keeper: Keeper) -> None:
    keeper.says = [replace(TOLD, in_grace=False)]
    keeper.watch().until_told(Deadline(60))


def test_a_keeper_that_has_ended_is_not_waited_for(keeper: Keeper) -> None:
    keeper.runs = False
    with pytest.raises(NlmfoError, match=r"the process that tells the clients .* has ended") as caught:
        keeper.watch().until_told(Deadline(60))
    assert str(keeper.place.progress.parent) in str(caught.value.hint)
    # What it said before it ended counts.
    progress.write(keeper.place.progress, TOLD)
    keeper.watch().until_told(Deadline(60))


def test_a_keeper_that_gives_no_sign_of_life_is_not_waited_for_forever(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "ALIVE", 0.0)
    with pytest.raises(NlmfoError, match="has ended"):
        keeper.watch().until_told(Deadline(60))
    # One that has spoken may take its time.
    progress.write(keeper.place.progress, GRACE)
    keeper.says = [None] * 10 + [TOLD]
    keeper.watch().until_told(Deadline(60))


def test_watching_ends_when_grace_has_ended(keeper: Keeper) -> None:
    keeper.says = [TOLD, replace(TOLD, in_grace=False), None]
    found = keeper.watch()
    found.until_quiet(Deadline(60))
    assert not found.progress.in_grace
    assert keeper.looks == 2


def test_watching_goes_on_as_long_as_anything_happens_and_ends_when_nothing_does(keeper: Keeper) -> None:
    began = keeper.clock
    steps = round(QUIET / watch.LOOK) - 2
    for count in range(3):
        coming = {Standing.BACK: count, Standing.ANSWERED: 3 - count}
        keeper.says += [replace(TOLD, clients=coming, locks=Locks(9, count, exact=True)), *[None] * steps]
    found = keeper.watch()
    found.until_quiet(Deadline(60))
    assert found.progress.of(Standing.BACK) == 2
    assert keeper.clock - began > 3 * QUIET - 1


def test_watching_ends_when_everybody_is_back_where_grace_goes_on_all_the_same(keeper: Keeper) -> None:
    """As after a crash; where grace may still end early, that is waited for."""
    back = replace(TOLD, clients={Standing.BACK: 2, Standing.LEFT: 1})
    missing, estimate, exact = Locks(9, 8, exact=False), Locks(9, 9, exact=False), Locks(9, 9, exact=True)
    for locks, looks in ((None, 1), (estimate, 1), (missing, 3), (exact, 3)):
        keeper.looks, keeper.says = 0, [replace(back, locks=locks), None, replace(TOLD, in_grace=False)]
        progress.write(keeper.place.progress, GRACE)
        keeper.watch().until_quiet(Deadline(60))
        assert keeper.looks == looks


def test_the_answered_count_as_told_and_the_others_do_not() -> None:
    found = Watch("home", shapes.place(Path()), NUMBER, lambda: True, Log())
    found.progress = replace(TOLD, clients=dict.fromkeys(Standing, 1))
    assert found.told() == 3
    waiting = (Waiting("a", Standing.UNREACHABLE, "no route"), Waiting("b", Standing.TOLD, ""))
    found.progress = replace(found.progress, waiting=waiting)
    assert list(found.of(Standing.UNREACHABLE)) == [waiting[0]]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (replace(TOLD, clients={}), "0 of 0 clients are back"),
        (replace(TOLD, clients={Standing.BACK: 2, Standing.LEFT: 1}), "2 of 3 clients are back"),
        (replace(TOLD, locks=Locks(30, 29, exact=True)), "0 of 0 clients are back, 29 of 30 locks"),
        (replace(TOLD, locks=Locks(30, 29, exact=False)), "0 of 0 clients are back, 29 of 30 locks (estimate)"),
        (replace(OVER, ended="nobody was on record"), "0 of 0 clients are back; grace ended: nobody was on record"),
    ],
)
def test_how_the_reclaims_stand_is_one_line(found: Progress, said: str) -> None:
    assert in_words(found) == said
