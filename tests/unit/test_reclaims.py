# SPDX-License-Identifier: GPL-2.0-or-later
"""Grace ends early once nobody can have anything left to reclaim, and for nothing less."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from nlmfo.config import EndGrace, Isolation, Service
from nlmfo.failover import reclaims
from nlmfo.failover.progress import Locks, Progress, Waiting
from nlmfo.failover.reclaims import COMPARED, NAMED, STILL, Reclaims, held_now, note
from nlmfo.host import partitions
from nlmfo.kernel import grace, lockd_settings, locks, nfsd
from nlmfo.kernel.locks import Lock
from nlmfo.records.ledger import Entry, Standing
from nlmfo.records.locks import HeldLock, LockSnapshot, read_locks, write_locks
from nlmfo.records.store import Store
from tests.unit import shapes

ADDRESS = ip_address("10.10.0.100")
NUMBER = 7
UUID = shapes.service().partitions[0].uuid
ONE, TWO = HeldLock(UUID, 13, 0, 9, exclusive=True), HeldLock(UUID, 14, 0, -1, exclusive=True)
BOTH = (ONE, TWO)
SETTLE = shapes.service().settle
BACK = {"192.0.2.1": Standing.BACK, "192.0.2.2": Standing.LEFT, "192.0.2.3": Standing.ANSWERED}


def exact(*held: HeldLock, state: int = NUMBER - 2) -> LockSnapshot:
    return LockSnapshot(state, 1_700_000_000.0, exact=True, locks=held)


def entries(standings: Mapping[str, Standing]) -> dict[str, Entry]:
    return {client: Entry(ADDRESS, client, NUMBER, standing, 1.0, 1.0) for client, standing in standings.items()}


class Server:
    """A node's lock table, grace and clock; a service that was just taken over there."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.held: tuple[HeldLock, ...] = ()
        #: What the next readings show instead of what is held.
        self.readings: list[tuple[HeldLock, ...]] = []
        self.in_grace = True
        self.ends_while_it_is_read = False
        self.ended = 0
        self.v4_ended = True
        self.clock = 1000.0
        patch.setattr(reclaims, "held_now", self._held_now)
        patch.setattr(time, "monotonic", lambda: self.clock)
        patch.setattr(grace, "on", lambda: self.in_grace)
        patch.setattr(grace, "end", self._end)
        patch.setattr(nfsd, "v4_grace_ended", lambda: self.v4_ended)
        patch.setattr(lockd_settings, "next_grace", lambda: 50)

    def _held_now(self, _: Service) -> tuple[HeldLock, ...]:
        if self.ends_while_it_is_read:
            self.in_grace = False
        return self.readings.pop(0) if self.readings else self.held

    def _end(self) -> None:
        assert self.in_grace
        self.ended += 1
        self.in_grace = False

    def look(self, of: Reclaims, standings: Mapping[str, Standing] = BACK, *, told: bool = True) -> bool:
        return of.look(entries(standings), told=told, in_grace=self.in_grace)

    def ends(self, of: Reclaims, standings: Mapping[str, Standing] = BACK, *, told: bool = True) -> bool:
        """Whether grace is ended however long one looks."""
        for _ in range(5):
            self.look(of, standings, told=told)
            self.clock += SETTLE
        return self.ended > 0


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    return Server(monkeypatch)


def begun(before: LockSnapshot | None = None, service: Service | None = None, *, complete: bool = True) -> Reclaims:
    return Reclaims(service or shapes.service(), NUMBER, before or exact(*BOTH), complete=complete)


def test_grace_ends_once_every_lock_is_held_again_and_everybody_done_for_a_while(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    found = begun()
    server.held = BOTH
    assert server.look(found) is True
    server.clock += SETTLE - 0.01
    assert server.look(found) is True
    assert server.ended == 0
    server.clock += 0.01
    assert server.look(found) is False
    assert server.ended == 1
    assert capsys.readouterr().err == "grace ended early: every lock is held again\n"


@pytest.mark.parametrize("waiting", [Standing.PENDING, Standing.TOLD, Standing.UNREACHABLE])
def test_the_while_begins_anew_when_somebody_turns_up_who_may_have_something_to_reclaim(
    server: Server, waiting: Standing
) -> None:
    found = begun()
    server.held = BOTH
    server.look(found)
    server.clock += SETTLE - 0.01
    server.look(found, BACK | {"192.0.2.9": waiting})
    server.clock += 0.02
    assert server.look(found) is True
    server.clock += SETTLE - 0.01
    assert server.look(found) is True
    server.clock += 0.01
    assert server.look(found) is False


@pytest.mark.parametrize("waiting", [Standing.PENDING, Standing.TOLD, Standing.UNREACHABLE])
def test_it_never_ends_while_one_client_is_waited_for(server: Server, waiting: Standing) -> None:
    server.held = BOTH
    assert not server.ends(begun(), BACK | {"192.0.2.9": waiting})


def test_it_never_ends_while_a_lock_is_missing_or_shorter_or_of_another_kind(server: Server) -> None:
    for held in ((), (ONE,), (replace(ONE, last=8), TWO), (ONE, replace(TWO, exclusive=False)), (ONE, ONE)):
        server.held = held
        assert not server.ends(begun())


def test_it_never_ends_by_what_was_seen_before_a_crash_unless_that_is_wanted(server: Server) -> None:
    server.held = BOTH
    estimate = replace(exact(*BOTH), exact=False)
    assert not server.ends(begun(estimate))
    assert server.ends(begun(estimate, shapes.service()._replace(end_grace=EndGrace.ESTIMATE)))


@pytest.mark.parametrize("of", [NUMBER, NUMBER - 4])
def test_what_was_noted_under_another_generation_counts_for_nothing(server: Server, tmp_path: Path, of: int) -> None:
    write_locks(tmp_path, exact(*BOTH, state=of))
    server.held = BOTH
    assert not server.ends(begun(read_locks(tmp_path, NUMBER - 2)))
    write_locks(tmp_path, exact(*BOTH))
    assert server.ends(begun(read_locks(tmp_path, NUMBER - 2)))


def test_it_never_ends_before_everybody_was_sent_a_notice(server: Server) -> None:
    server.held = BOTH
    assert not server.ends(begun(), told=False)
    assert not server.ends(begun(exact()), {}, told=False)


def test_where_nobody_was_on_record_it_ends_only_if_no_record_can_be_missing(server: Server) -> None:
    assert not server.ends(begun(exact(), complete=False), {})
    assert not server.ends(begun(exact(ONE)), {})
    assert server.ends(begun(exact()), {})


@pytest.mark.parametrize("changes", [{"isolation": Isolation.HOST}, {"end_grace": EndGrace.NEVER}])
def test_it_never_ends_where_it_is_others_as_well_or_where_that_is_not_wanted(
    server: Server, changes: dict[str, object]
) -> None:
    server.held = BOTH
    service = shapes.service()._replace(**changes)  # type: ignore[arg-type]
    assert not server.ends(begun(service=service))


def test_nfsv4_clients_that_still_reclaim_are_waited_for(server: Server) -> None:
    server.held, server.v4_ended = BOTH, False
    assert not server.ends(begun(service=shapes.service()._replace(versions=("3", "4.2"))))
    assert server.ends(begun()), "where there are none, NFSv4's grace is ended with lockd's"
    server.in_grace, server.ended, server.v4_ended = True, 0, True
    assert server.ends(begun(service=shapes.service()._replace(versions=("3", "4.2"))))


def test_a_lock_counts_only_if_it_was_seen_while_reclaims_were_granted(server: Server) -> None:
    """Out of grace somebody else may have taken it."""
    found = begun()
    server.look(found)
    server.held, server.ends_while_it_is_read = BOTH, True
    assert server.look(found) is False
    assert not found.all_back
    assert server.look(found) is False
    assert not found.all_back
    assert server.ended == 0


@pytest.mark.parametrize("short", range(COMPARED))
def test_a_lock_counts_only_if_every_reading_of_the_table_shows_it(server: Server, short: int) -> None:
    """One reading can show a lock twice that is held once."""
    found = begun(exact(ONE))
    server.readings = [() if n == short else (ONE,) for n in range(COMPARED)]
    server.look(found)
    assert not found.all_back
    server.readings = [(ONE,)] * COMPARED
    server.look(found)
    assert found.all_back


def test_a_lock_that_was_back_once_stays_so_because_its_owner_may_unlock_it(server: Server) -> None:
    found = begun()
    for held in ((ONE,), (TWO,), ()):
        server.held = held
        server.look(found, {"192.0.2.1": Standing.TOLD})
    assert found.all_back
    assert server.ends(found)


def test_a_second_grace_is_not_ended_because_the_locks_went_once_more(server: Server) -> None:
    """As after a restart of nfsd by hand, in the same generation."""
    found = begun()
    server.held = BOTH
    assert server.ends(found)
    server.in_grace, server.held = True, ()
    assert server.ends(found)
    assert server.ended == 1
    # The same where the first was over by itself.
    found = begun()
    server.look(found, {"192.0.2.1": Standing.TOLD})
    server.in_grace = False
    server.look(found)
    server.in_grace, server.held = True, BOTH
    server.ends(found)
    assert server.ended == 1


def test_a_look_before_grace_has_begun_does_not_say_that_it_is_over(server: Server) -> None:
    found = begun()
    server.in_grace = False
    assert server.look(found) is False
    server.in_grace, server.held = True, BOTH
    assert server.ends(found)


# What is said meanwhile


def said(server: Server, of: Reclaims, standings: Mapping[str, Standing], *, told: bool = True) -> Progress:
    server.look(of, standings, told=told)
    return of.progress(entries(standings), told=told, in_grace=server.in_grace, problem="")


def test_the_progress_counts_clients_and_locks_and_names_who_is_not_settled(server: Server) -> None:
    server.held = (ONE,)
    found = said(server, begun(), BACK | {"192.0.2.9": Standing.UNREACHABLE})
    assert found.clients == {**dict.fromkeys(BACK.values(), 1), Standing.UNREACHABLE: 1}
    assert found.waiting == (
        Waiting("192.0.2.3", Standing.ANSWERED, ""),
        Waiting("192.0.2.9", Standing.UNREACHABLE, ""),
    )
    assert found.locks == Locks(2, 1, exact=True)
    assert (found.state, found.told, found.in_grace, found.ended) == (NUMBER, True, True, "")


def test_of_very_many_clients_the_first_are_named_and_all_counted(server: Server) -> None:
    many = {f"192.0.2.{n}": Standing.TOLD for n in range(NAMED + 9)}
    found = said(server, begun(), many)
    assert len(found.waiting) == NAMED
    assert found.everybody == NAMED + 9


def test_where_nobody_noted_the_locks_nothing_is_said_of_them(server: Server, tmp_path: Path) -> None:
    unknown = read_locks(tmp_path, NUMBER - 2)
    assert said(server, begun(unknown), BACK).locks is None


def test_missing_locks_are_named_once_no_more_come_back(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def paths(_service: Service, missing: Iterable[HeldLock]) -> dict[tuple[str, int], Path]:
        asked.extend(lock.inode for lock in missing)
        return {(UUID, 14): Path("/srv/other/a\x1b")}

    monkeypatch.setattr(reclaims, "paths_of", paths)
    found = begun()
    assert said(server, found, BACK, told=False).locks == Locks(2, 0, exact=True)
    server.held = (ONE,)
    said(server, found, BACK)
    server.clock += STILL - 0.01
    assert said(server, found, BACK).locks == Locks(2, 1, exact=True)
    assert asked == []
    server.clock += 0.01
    for _ in range(2):  # they are looked for once
        assert said(server, found, BACK).locks == Locks(2, 1, True, ("/srv/other/a? bytes 0-end exclusive",))
    assert asked == [14]
    server.held = BOTH
    assert said(server, found, BACK).locks == Locks(2, 2, exact=True)


def test_why_grace_ended_and_until_when_it_lasts_is_said(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_700_000_000.0)
    server.held = BOTH
    for service, seconds in ((shapes.service(), 50), (shapes.service()._replace(grace=90), 90)):
        server.in_grace = True
        found = begun(service=service)
        assert said(server, found, BACK).grace_until == 1_700_000_000.0 + seconds
        server.clock += SETTLE
        ended = said(server, found, BACK)
        assert (ended.in_grace, ended.grace_until, ended.ended) == (False, 0.0, "every lock is held again")


# What is noted


def test_what_is_held_now_is_what_clients_hold_on_the_services_own_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    service = shapes.service(3)
    devices = dict(zip(service.partitions, ("8:1", None, "8:3"), strict=True))
    asked: list[set[str]] = []

    def held(on: set[str]) -> tuple[Lock, ...]:
        asked.append(on)
        return tuple(Lock(device, 7, 0, -1, exclusive=True, pid=13) for device in ("8:1", "8:2"))

    monkeypatch.setattr(partitions, "lock_device", devices.__getitem__)
    monkeypatch.setattr(locks, "held_by_clients", held)
    assert held_now(service) == (HeldLock(service.partitions[0].uuid, 7, 0, -1, exclusive=True),)
    assert asked == [{"8:1", "8:3"}]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path, [ADDRESS])
    made.prepare(os.geteuid(), os.getegid())
    made.begin_generation()
    return made


def test_a_note_has_every_lock_that_any_reading_shows_and_is_exact(server: Server, store: Store) -> None:
    service = shapes.service()._replace(state=store.state)
    server.readings = [(ONE,), (TWO,), (), (ONE,)]
    noted = note(service, store)
    assert sorted(noted.locks) == sorted(BOTH)
    found = read_locks(store.state, store.state_number())
    assert (found.exact, sorted(found.locks)) == (True, sorted(BOTH))


def test_a_release_that_goes_on_adds_to_what_the_one_that_was_cut_off_had_noted(server: Server, store: Store) -> None:
    """It may have dropped locks already: what is left is not all."""
    service = shapes.service()._replace(state=store.state)
    server.held = (ONE,)
    note(service, store)
    server.held = (TWO,)
    note(service, store)
    server.held = ()
    note(service, store)
    assert sorted(read_locks(store.state, store.state_number()).locks) == sorted(BOTH)


def test_what_the_generation_before_had_noted_is_not_added(server: Server, store: Store) -> None:
    service = shapes.service()._replace(state=store.state)
    server.held = (ONE,)
    note(service, store)
    store.begin_generation()
    server.held = (TWO,)
    note(service, store)
    assert read_locks(store.state, store.state_number()).locks == (TWO,)
