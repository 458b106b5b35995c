# SPDX-License-Identifier: GPL-2.0-or-later
"""The store when it is cut off, or when two write to it at once: at every system call, nobody is forgotten."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nlmfo.records import directory, spool
from nlmfo.records.generations import absorb
from nlmfo.records.layout import format_record
from nlmfo.records.snapshot import restore_snapshot, take_snapshot
from nlmfo.records.spool import drain_spool
from nlmfo.records.store import Store

ADDRESS = ip_address("10.10.0.100")
NAME = "nfs100.example"
SECONDS = 60.0
ENOUGH_CALLS = 2000

filesystem_test = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Cut(BaseException):
    """The power went."""


#: They leave no trace in a file system; close must also work for those who were cut off.
HARMLESS = ("fspath", "fsdecode", "fsencode", "strerror", "geteuid", "getegid", "close")


class SteppedOs:
    """The module os, with a stop before each system call; every thread passes for a process of its own."""

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop

    def __getattr__(self, name: str) -> Any:
        found = getattr(os, name)
        if name == "getpid":
            return threading.get_ident
        if name in HARMLESS or not callable(found):
            return found

        def stopped(*args: Any, **kwargs: Any) -> Any:
            self._stop()
            return found(*args, **kwargs)

        return stopped


class Writer:
    """An operation that runs in a thread of its own, one system call whenever it is told to."""

    def __init__(self, operation: Callable[[], object]) -> None:
        self._go = threading.Semaphore(0)
        self._there = threading.Semaphore(0)
        self._operation = operation
        self.running = True
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def step(self) -> None:
        """Let it run to its next system call, or to its end."""
        self._go.release()
        assert self._there.acquire(timeout=SECONDS), "the operation hangs"

    def finish(self) -> None:
        """Let it run to its end."""
        for _ in range(ENOUGH_CALLS):
            if not self.running:
                return
            self.step()

    def stop(self) -> None:
        self._there.release()
        self._go.acquire()

    def _run(self) -> None:
        self._go.acquire()
        try:
            self._operation()
        except BaseException as error:
            self.error = error
        self.running = False
        self._there.release()


def run_interleaved(
    monkeypatch: pytest.MonkeyPatch, choose: Callable[[], bool], one: Callable[[], object], two: Callable[[], object]
) -> None:
    """Run two operations at once, switching at system calls as ``choose`` says."""
    writers = (Writer(one), Writer(two))
    by_thread = {writer.thread: writer for writer in writers}

    def stop() -> None:
        by_thread[threading.current_thread()].stop()

    with monkeypatch.context() as patch:
        stepped = SteppedOs(stop)
        patch.setattr(directory, "os", stepped)
        patch.setattr(spool, "os", stepped)
        try:
            for _ in range(ENOUGH_CALLS):
                ready = [writer for writer in writers if writer.running]
                if not ready:
                    break
                (ready[choose()] if len(ready) > 1 else ready[0]).step()
        finally:  # hypothesis may break off an example that it finds too long: nobody stays half-way, with open files
            for writer in writers:
                writer.finish()
    for writer in writers:
        writer.thread.join(SECONDS)
        assert not writer.running
        if writer.error is not None:
            raise writer.error


def run_cut_off(monkeypatch: pytest.MonkeyPatch, calls: int, operation: Callable[[], object]) -> bool:
    """Run an operation until just before its next system call after so many; false if it ended before."""
    left = iter(range(calls))

    def stop() -> None:
        if next(left, None) is None:
            raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(directory, "os", SteppedOs(stop))
        try:
            operation()
        except Cut:
            return True
    return False


def fresh(root: Path, earlier: set[str], current: set[str]) -> Store:
    root.mkdir()
    store = Store(root, (ADDRESS,))
    store.prepare(os.geteuid(), os.getegid())
    for client in sorted(earlier):
        store.add(ADDRESS, client, NAME)
    store.begin_generation()
    for client in sorted(current):
        store.add(ADDRESS, client, NAME)
    return store


def known(store: Store) -> set[str]:
    return {record.client for record in (*store.owed(ADDRESS), *store.current(ADDRESS))}


def owed(store: Store) -> set[str]:
    return {record.client for record in store.owed(ADDRESS)}


EARLIER = {"192.0.2.1", "192.0.2.2"}
CURRENT = {"192.0.2.2", "192.0.2.3"}
NEW = "192.0.2.4"


def test_a_generation_that_is_cut_off_forgets_nobody_and_can_be_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for calls in range(ENOUGH_CALLS):
        store = fresh(tmp_path / str(calls), EARLIER, CURRENT)
        before = store.state_number()
        cut = run_cut_off(monkeypatch, calls, store.begin_generation)
        assert known(store) == EARLIER | CURRENT
        if not cut:
            break
        assert store.begin_generation() > before
        assert owed(store) == EARLIER | CURRENT
    assert calls > 20, "there were system calls to cut at"


def test_settling_that_is_cut_off_drops_nobody_who_is_not_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for calls in range(ENOUGH_CALLS):
        store = fresh(tmp_path / str(calls), EARLIER, CURRENT)
        cut = run_cut_off(monkeypatch, calls, partial(store.settle, ADDRESS, EARLIER | CURRENT))
        assert known(store) == EARLIER | CURRENT
        assert owed(store) >= EARLIER - CURRENT
        if not cut:
            break
    assert calls > 5, "there were system calls to cut at"


def test_a_record_that_is_cut_off_is_there_or_not_and_spoils_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for calls in range(ENOUGH_CALLS):
        store = fresh(tmp_path / str(calls), EARLIER, CURRENT)
        cut = run_cut_off(monkeypatch, calls, partial(store.add, ADDRESS, NEW, NAME))
        assert EARLIER | CURRENT <= known(store) <= EARLIER | CURRENT | {NEW}
        store.add(ADDRESS, NEW, NAME)
        assert all(record.intact for record in store.current(ADDRESS))
        if not cut:
            break
    assert calls > 5, "there were system calls to cut at"


def test_a_snapshot_that_is_cut_off_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for calls in range(ENOUGH_CALLS):
        local = fresh(tmp_path / f"local{calls}", set(), CURRENT)
        shared = fresh(tmp_path / str(calls), set(), set())
        take_snapshot(local, shared, "home", now=10.0)
        local.add(ADDRESS, NEW, NAME)
        cut = run_cut_off(monkeypatch, calls, partial(take_snapshot, local, shared, "home", now=20.0))
        restored = restore_snapshot(shared, "home")
        assert restored.complete
        assert set(restored.clients) in (CURRENT, CURRENT | {NEW})
        if not cut:
            break
    assert calls > 20, "there were system calls to cut at"


def test_a_snapshot_whose_use_is_cut_off_can_be_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for calls in range(ENOUGH_CALLS):
        local = fresh(tmp_path / f"local{calls}", set(), CURRENT)
        shared = fresh(tmp_path / str(calls), EARLIER, set())
        take_snapshot(local, shared, "home", now=10.0)
        cut = run_cut_off(monkeypatch, calls, partial(restore_snapshot, shared, "home"))
        if cut:
            restore_snapshot(shared, "home")
        assert owed(shared) == EARLIER | CURRENT
        if not cut:
            break
    assert calls > 10, "there were system calls to cut at"


@filesystem_test
@given(choices=st.data())
def test_a_record_made_while_a_generation_begins_is_not_lost(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, choices: st.DataObject
) -> None:
    store = fresh(tmp_path_factory.mktemp("state") / "store", EARLIER, CURRENT)
    run_interleaved(
        monkeypatch,
        lambda: choices.draw(st.booleans()),
        store.begin_generation,
        lambda: store.add(ADDRESS, NEW, NAME),
    )
    assert known(store) == EARLIER | CURRENT | {NEW}
    assert owed(store) >= EARLIER | CURRENT


@filesystem_test
@given(choices=st.data())
def test_two_that_begin_a_generation_at_once_lose_nobody(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, choices: st.DataObject
) -> None:
    store = fresh(tmp_path_factory.mktemp("state") / "store", EARLIER, CURRENT)
    before = store.state_number()
    run_interleaved(monkeypatch, lambda: choices.draw(st.booleans()), store.begin_generation, store.begin_generation)
    assert owed(store) == EARLIER | CURRENT
    assert store.state_number() > before


@filesystem_test
@given(choices=st.data())
def test_settling_while_clients_come_back_drops_nobody_else(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, choices: st.DataObject
) -> None:
    store = fresh(tmp_path_factory.mktemp("state") / "store", EARLIER, CURRENT)
    run_interleaved(
        monkeypatch,
        lambda: choices.draw(st.booleans()),
        lambda: store.settle(ADDRESS, EARLIER | CURRENT | {"192.0.2.1"}),
        lambda: store.add(ADDRESS, "192.0.2.1", NAME),
    )
    assert known(store) == EARLIER | CURRENT
    assert {record.client for record in store.current(ADDRESS)} == CURRENT | {"192.0.2.1"}


@filesystem_test
@given(choices=st.data())
def test_two_writers_of_one_record_leave_it_whole(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, choices: st.DataObject
) -> None:
    store = fresh(tmp_path_factory.mktemp("state") / "store", set(), set())
    run_interleaved(
        monkeypatch,
        lambda: choices.draw(st.booleans()),
        lambda: store.add(ADDRESS, NEW, NAME),
        lambda: store.add(ADDRESS, NEW, NAME),
    )
    (record,) = store.current(ADDRESS)
    assert (record.client, record.intact) == (NEW, True)


@filesystem_test
@given(choices=st.data())
def test_the_spool_and_another_copy_can_come_to_the_store_at_once(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, choices: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("state")
    store = fresh(root / "store", EARLIER, set())
    copy = fresh(root / "copy", set(), CURRENT)
    waiting = root / "spool" / f"sm_{ADDRESS}"
    waiting.mkdir(parents=True)
    (waiting / "add.1.0").write_bytes(format_record(NEW, NAME))
    run_interleaved(
        monkeypatch,
        lambda: choices.draw(st.booleans()),
        lambda: drain_spool(store, root / "spool", deadline=SECONDS),
        lambda: absorb(store, copy),
    )
    assert known(store) == EARLIER | CURRENT | {NEW}
    assert list(waiting.glob("add.*")) == []
