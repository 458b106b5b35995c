# SPDX-License-Identifier: GPL-2.0-or-later
"""The keeper of a service works once its records are its own, and needs nobody to tell whoever is owed a notice."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from nlmfo.cli import text
from nlmfo.errors import NlmfoError
from nlmfo.failover import keep as keeping
from nlmfo.failover import notices, progress, reclaims, standdown
from nlmfo.failover.events import Event, Mended, StoodDown, Troubled
from nlmfo.failover.keep import Keep, wake
from nlmfo.failover.keeper import Keeper
from nlmfo.failover.notices import Notices
from nlmfo.failover.place import Place
from nlmfo.failover.progress import Locks, Progress
from nlmfo.host import daemons
from nlmfo.host.view import StatdUser
from nlmfo.kernel import grace, lockd_settings, sockdiag
from nlmfo.kernel.sockdiag import Connection
from nlmfo.notify import Notice, Outcome
from nlmfo.ownership.record import OwnerRecord
from nlmfo.records.callout import CalloutEntry, callout_config, write_callout_config
from nlmfo.records.connections import read_connections, write_connections
from nlmfo.records.layout import Address, directory_name
from nlmfo.records.ledger import Standing
from nlmfo.records.listening import read_listening, write_listening
from nlmfo.records.locks import HeldLock, LockSnapshot, read_locks, write_locks
from tests.unit import shapes
from tests.unit.shapes import THERE

ADDRESS = ip_address("10.10.0.100")
CLIENTS = ("192.0.2.17", "192.0.2.18")
LOCK = HeldLock(shapes.service().partitions[0].uuid, 13, 0, -1, exclusive=True)
#: lockd's port here, and on the node before.
LOCKD, LOCKD_BEFORE = 4045, 4046
FROM_CLIENT = Connection(ADDRESS, 2049, ip_address(CLIENTS[0]), 800)


class Node:
    """A node on which ``home`` was just taken over, up to the keeper; its clients answer every notice."""

    def __init__(self, directory: Path, patch: pytest.MonkeyPatch) -> None:
        self.service = shapes.service(state=directory / "state")
        self.place = shapes.place(directory)
        self.in_grace = True
        self.ended = 0
        self.answers = True
        self.asked: list[Address] = []
        self.sent: list[str] = []
        self.told: list[Event] = []
        self.held: tuple[HeldLock, ...] = ()
        self.connections: tuple[Connection, ...] = ()
        self.clock = 1000.0
        before = Keeper(self.service, self.place)
        before.begin(StatdUser(os.geteuid(), os.getegid()))
        for client in CLIENTS:
            before.shared.add(ADDRESS, client, "nfs100.example")
        write_locks(self.service.state, LockSnapshot(before.shared.state_number(), 1.0, exact=True, locks=(LOCK,)))
        before.begin(StatdUser(os.geteuid(), os.getegid()))
        self.shared = before.shared
        self.number = self.shared.state_number()
        patch.setattr(Place, "of", lambda _: self.place)
        patch.setattr(keeping, "sender_of", lambda *_: self._send)
        patch.setattr(notices, "_in_thread", lambda run: run())
        patch.setattr(sockdiag, "established", lambda: self.connections)
        patch.setattr(grace, "on", lambda: self.in_grace)
        patch.setattr(grace, "end", self._end)
        patch.setattr(daemons, "answer", self._answer)
        patch.setattr(daemons, "kernel_ports", lambda *_: frozenset({2049, LOCKD}))
        patch.setattr(reclaims, "held_now", lambda _: self.held)
        patch.setattr(keeping, "held_now", lambda _: self.held)
        patch.setattr(lockd_settings, "next_grace", lambda: 50)
        patch.setattr(time, "monotonic", lambda: self.clock)
        patch.setattr(keeping, "HEAD_START", 0.0)
        self.keep = Keep(shapes.config(None), self.service, self.told.append)

    def _send(self, _: Address, clients: Sequence[str], state: int, __: float, hear: Callable[[Notice], None]) -> None:
        assert state == self.number
        self.sent += clients
        for client in clients:
            hear(Notice(client, Outcome.TOLD, (), 1, 0.1, ""))

    def _answer(self, _here: object, _wanted: object, address: Address) -> bool:
        self.asked.append(address)
        return self.answers

    def _end(self) -> None:
        self.ended += 1
        self.in_grace = False

    def attach(self, *, frozen: bool = False) -> None:
        """The callout is told to write the service's records here."""
        entry = CalloutEntry(ADDRESS, self.service.state / directory_name(ADDRESS), "home", frozen=frozen)
        write_callout_config(self.place.callout, callout_config([entry], frozen=frozen))

    def look(self, times: int = 1, *, whole: bool = False) -> None:
        for _ in range(times):
            self.keep._look(whole=whole)

    def reclaim(self) -> None:
        """Every client is back, with its locks."""
        for client in CLIENTS:
            self.shared.add(ADDRESS, client, "nfs100.example")
        self.held = (LOCK,)

    def said(self) -> Progress | None:
        return progress.read(self.place.progress)

    def noted(self) -> LockSnapshot:
        return read_locks(self.service.state, self.number)

    def close(self) -> None:
        self.keep.notices.close()
        self.keep.wake.close()


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    made = Node(tmp_path, monkeypatch)
    yield made
    made.close()


def rounds_of(node: Node, monkeypatch: pytest.MonkeyPatch, *rounds: Callable[[], object]) -> list[str]:
    """Let the keeper go round after each of these, until another node owns the service; what it did to stand down."""
    left, stood_down = list(rounds), list[str]()

    def wait(_: float) -> None:
        node.clock += keeping.INTERVAL
        left.pop(0)()

    def successor(*_: object) -> OwnerRecord | None:
        return None if left else shapes.record(7, THERE)

    monkeypatch.setattr(node.keep, "_wait", wait)
    monkeypatch.setattr(standdown, "successor", successor)
    monkeypatch.setattr(standdown, "stand_down", lambda service: stood_down.append(service.name))
    node.keep.run()
    assert node.told[-1] == StoodDown("home", THERE, 7)
    return stood_down


def looks_of(node: Node, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When it looked, from now on."""
    looked: list[float] = []

    def look(**_: bool) -> tuple[float, str]:
        looked.append(node.clock)
        return 1.0, ""

    monkeypatch.setattr(node.keep, "_look", look)
    return looked


def nothing() -> None:
    """Time passes."""


# When it works, and when it stands still


def test_it_says_what_goes_wrong_when_it_begins_and_ends_when_another_node_owns_the_service(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = NlmfoError("the storage is stale")
    troubles = [None, stale, stale, OSError(5, "Input/output error"), None, None]

    def look(*, whole: bool) -> tuple[float, str]:
        assert whole
        trouble = troubles.pop(0)
        if trouble is not None:
            raise trouble
        return 0.0, ""

    monkeypatch.setattr(node.keep, "_look", look)
    node.attach()
    assert rounds_of(node, monkeypatch, *[nothing] * len(troubles)) == ["home"]
    assert troubles == []
    assert node.told == [
        Troubled("home", "the storage is stale"),
        Troubled("home", "[Errno 5] Input/output error"),
        Mended("home"),
        StoodDown("home", THERE, 7),
    ]
    assert [text.line(event) for event in node.told][2:] == [
        "all is in order again",
        "node2 owns it (epoch 7): stood down",
    ]


def test_what_keeps_the_notices_from_being_sent_is_said_as_well(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise NlmfoError("no such interface")

    monkeypatch.setattr(node.keep.notices, "_send", fail)
    node.attach()
    rounds_of(node, monkeypatch, nothing, nothing)
    assert node.told == [Troubled("home", "no such interface"), StoodDown("home", THERE, 7)]
    found = node.said()
    assert found is not None
    assert found.problem == "no such interface"


def test_it_touches_no_record_and_tells_nobody_before_its_service_is_attached(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A takeover that waits has started it while another node serves, perhaps from the same shared directory."""
    before = {path: path.stat().st_mtime_ns for path in node.service.state.rglob("*")}
    looked: list[bool | None] = []
    asked: list[bool | None] = []
    frozen = node.keep._frozen

    def noticed() -> bool | None:
        looked.append(frozen())
        return looked[-1]

    def wait(_: float) -> None:
        if len(looked) == 3:
            node.attach(frozen=True)

    def successor(*_: object) -> OwnerRecord:
        asked.append(looked[-1])
        return shapes.record(7, THERE)

    for name in ("keep", "settle", "asking"):
        monkeypatch.setattr(Keeper, name, must_not)
    monkeypatch.setattr(Notices, "sweep", must_not)
    monkeypatch.setattr(node.keep, "_frozen", noticed)
    monkeypatch.setattr(node.keep, "_wait", wait)
    monkeypatch.setattr(standdown, "successor", successor)
    monkeypatch.setattr(standdown, "stand_down", lambda _: None)
    node.keep.run()
    assert looked == [None, None, None, True]
    assert asked == [True], "who serves is not its business before, and it does not stand down"
    assert {path: path.stat().st_mtime_ns for path in node.service.state.rglob("*")} == before


@pytest.mark.parametrize("at_work", [True, False])
def test_it_stands_down_while_its_own_storage_hangs_and_only_if_it_was_at_work(
    node: Node, monkeypatch: pytest.MonkeyPatch, at_work: bool
) -> None:
    """As on a node that was fenced from its disks: whoever writes there waits for ever (found by torture)."""
    hanging, answering, stood_down = threading.Event(), threading.Event(), threading.Event()

    def hang(**_: bool) -> tuple[float, str]:
        hanging.set()
        assert answering.wait(30)
        return 0.0, ""

    if at_work:
        monkeypatch.setattr(node.keep, "_look", hang)
        node.attach()
    else:
        monkeypatch.setattr(node.keep, "_wait", lambda _: hang())
    monkeypatch.setattr(keeping, "INTERVAL", 0.01)
    monkeypatch.setattr(standdown, "successor", lambda *_: shapes.record(7, THERE) if hanging.is_set() else None)
    monkeypatch.setattr(standdown, "stand_down", lambda _: stood_down.set())
    running = threading.Thread(target=node.keep.run, daemon=True)
    running.start()
    assert hanging.wait(30)
    assert stood_down.wait(30 if at_work else 0.2) == at_work
    node.attach()
    answering.set()
    running.join(30)
    assert not running.is_alive()
    assert node.told == [StoodDown("home", THERE, 7)], "once"


def must_not(*_: object, **__: object) -> None:
    raise AssertionError("the records are another node's")


def test_it_leaves_a_run_that_is_under_way_a_head_start(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run calls it when it is its turn: until then clients wait for what the run does, on the same processor."""
    monkeypatch.setattr(keeping, "HEAD_START", 3 * keeping.INTERVAL)
    looked = looks_of(node, monkeypatch)
    node.attach()
    begin = node.clock
    rounds_of(node, monkeypatch, *[nothing] * 4)
    assert looked == [begin + 3 * keeping.INTERVAL]


def test_a_run_that_calls_it_ends_the_head_start(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "HEAD_START", 1000.0)
    looked = looks_of(node, monkeypatch)
    node.attach()
    begin = node.clock

    def call() -> None:
        node.keep._ready = node.number

    rounds_of(node, monkeypatch, nothing, call, nothing)
    assert looked == [begin + 2 * keeping.INTERVAL]


def test_it_stands_still_while_a_release_has_the_records_frozen_and_goes_on_when_they_are_thawed(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    look = node.keep._look

    def counted(*, whole: bool) -> tuple[float, str]:
        looks.append(len(looks))
        return look(whole=whole)

    monkeypatch.setattr(node.keep, "_look", counted)
    node.attach(frozen=True)
    seen: list[int] = []
    rounds_of(node, monkeypatch, nothing, lambda: seen.append(len(looks)), node.attach, lambda: seen.append(len(looks)))
    assert seen == [0, 1]
    assert node.sent == list(CLIENTS)


def test_of_a_service_of_two_addresses_both_have_to_be_attached(node: Node) -> None:
    node.keep.service = node.service._replace(addresses=shapes.service(addresses=2).addresses)
    node.attach()
    assert node.keep._frozen() is None


# Telling the clients


def test_it_tells_everybody_by_itself_once_everything_answers(node: Node) -> None:
    node.answers = False
    node.look(2)
    assert node.sent == []
    assert node.said() is None, "of grace nothing is said before"
    assert not node.shared.told()
    node.answers = True
    node.look(2)
    assert node.sent == list(CLIENTS)
    assert node.shared.told()
    found = node.said()
    assert found is not None
    assert (found.state, found.told, found.clients) == (node.number, True, {Standing.ANSWERED: 2})


def test_out_of_grace_it_tells_nobody_for_the_first_time(node: Node) -> None:
    node.in_grace = False
    node.look(3)
    assert node.sent == []
    assert not node.shared.told()


def test_whether_everything_answers_is_asked_once_for_each_generation(node: Node) -> None:
    node.look(3)
    assert node.asked == [ADDRESS]
    node.shared.begin_generation()
    node.number = node.shared.state_number()
    node.answers = False
    node.look(2)
    assert node.asked == [ADDRESS] * 3


def test_a_run_that_has_seen_everything_answer_says_so_and_it_is_not_asked_again(node: Node) -> None:
    node.answers = False
    wake(node.place.wake, node.number - 2)
    node.keep._wait(10)
    node.look()
    assert node.sent == []
    wake(node.place.wake, node.number)
    node.keep._wait(10)
    asked = len(node.asked)
    node.look()
    assert node.sent == list(CLIENTS)
    assert len(node.asked) == asked


@pytest.mark.parametrize("client", ["", CLIENTS[1]])
def test_whoever_the_operator_wants_to_be_told_is_told_at_the_next_look(
    node: Node, monkeypatch: pytest.MonkeyPatch, client: str
) -> None:
    hurried: list[str] = []
    monkeypatch.setattr(node.keep.notices, "hurry", hurried.append)
    keeping.tell(node.place.wake, client)
    node.keep._wait(10)
    assert hurried == [client]
    assert node.keep._ready == 0, "it is no word that everything answers"


def test_a_keeper_that_is_not_there_cannot_be_asked(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        keeping.tell(tmp_path / "wake", "")


def test_waking_a_keeper_that_is_not_there_does_no_harm(tmp_path: Path) -> None:
    wake(tmp_path / "wake", 7)


def test_only_root_can_wake_it_also_where_another_socket_was_left_behind(node: Node) -> None:
    assert node.place.wake.stat().st_mode & 0o777 == 0o600
    node.close()
    node.keep = Keep(shapes.config(None), node.service, node.told.append)
    wake(node.place.wake, node.number)
    node.keep._wait(10)
    assert node.keep._ready == node.number


# Locks and grace


def test_grace_ends_once_everybody_and_every_lock_is_back_and_their_records_are_settled(node: Node) -> None:
    node.look(2)
    node.reclaim()
    node.look()
    assert node.ended == 0
    node.clock += node.service.settle
    node.look()
    assert node.ended == 1
    found = node.said()
    assert found is not None
    assert (found.in_grace, found.ended, found.locks) == (False, "every lock is held again", Locks(1, 1, exact=True))
    assert node.shared.owed(ADDRESS) == ()


def test_who_has_answered_and_is_not_back_holds_nothing_once_every_lock_is(node: Node) -> None:
    node.look(2)
    node.held = (LOCK,)
    node.shared.add(ADDRESS, CLIENTS[0], "nfs100.example")
    node.look()
    node.clock += node.service.settle
    node.look()
    assert node.ended == 1
    assert node.shared.owed(ADDRESS) == ()
    found = node.said()
    assert found is not None
    assert found.clients == {Standing.BACK: 1, Standing.LEFT: 1}


def test_when_grace_ends_by_itself_who_is_not_back_stays_on_record(node: Node) -> None:
    node.look(2)
    node.in_grace = False
    node.look()
    assert {record.client for record in node.shared.owed(ADDRESS)} == set(CLIENTS)


def test_when_grace_ends_by_itself_at_the_moment_of_a_look_nobody_is_let_go(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with everybody told: what was seen of the locks by then may be another's."""

    def ends(_: object) -> tuple[HeldLock, ...]:
        node.in_grace = False
        return (LOCK,)

    node.look(2)
    monkeypatch.setattr(reclaims, "held_now", ends)
    node.look()
    assert {record.client for record in node.shared.owed(ADDRESS)} == set(CLIENTS)
    found = node.said()
    assert found is not None
    assert (found.in_grace, found.ended, found.locks) == (False, "", Locks(1, 0, exact=True))


def test_the_progress_is_written_only_when_there_is_something_new(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Progress] = []
    monkeypatch.setattr(progress, "write", lambda _, found: written.append(found))
    node.look(5)
    assert len(written) == len({str(each) for each in written})
    count = len(written)
    node.look(5)
    assert len(written) == count
    node.in_grace = False
    node.look()
    assert len(written) == count + 1


# What the next owner has to know after a crash


def test_locks_are_noted_when_grace_is_over_and_only_then(node: Node) -> None:
    node.held = (LOCK,)
    node.look(3, whole=True)
    assert not node.noted().locks, "until then those of before count"
    node.in_grace = False
    node.look(whole=True)
    assert (node.noted().exact, node.noted().locks) == (False, (LOCK,))


def test_connections_are_noted_at_once_and_in_grace_those_of_who_is_not_back_stay(node: Node) -> None:
    """A server that crashes in its grace leaves clients that wait for it, and some that wait for the one before."""
    before = Connection(ADDRESS, LOCKD_BEFORE, ip_address(CLIENTS[1]), 801)
    write_connections(node.service.state, [before])
    write_listening(node.service.state, [(ADDRESS, 2049), (ADDRESS, LOCKD_BEFORE)])
    node.connections = (FROM_CLIENT, replace(FROM_CLIENT, local=ip_address("10.10.0.101")))
    node.look(whole=True)
    noted = read_connections(node.service.state, [ADDRESS])
    assert [(each.remote, each.remote_port) for each in noted] == [
        (FROM_CLIENT.remote, FROM_CLIENT.remote_port),
        (before.remote, before.remote_port),
    ]
    assert read_listening(node.service.state, [ADDRESS]) == {(ADDRESS, p) for p in (2049, LOCKD, LOCKD_BEFORE)}
    node.look(2)
    node.in_grace = False
    node.look(whole=True)
    (remembered,) = read_connections(node.service.state, [ADDRESS])
    assert (remembered.remote, remembered.remote_port) == (FROM_CLIENT.remote, FROM_CLIENT.remote_port)
    assert read_listening(node.service.state, [ADDRESS]) == {(ADDRESS, 2049), (ADDRESS, LOCKD)}


def test_where_the_kernel_listens_is_asked_again_when_nobody_said(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> frozenset[int]:
        raise NlmfoError("rpcbind does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(daemons, "kernel_ports", away)
        node.look(whole=True)
    assert not read_listening(node.service.state, [ADDRESS])
    node.look(whole=True)
    assert read_listening(node.service.state, [ADDRESS]) == {(ADDRESS, 2049), (ADDRESS, LOCKD)}


def test_of_a_server_that_told_nobody_no_locks_are_noted(node: Node) -> None:
    """It holds none of those that the clients believe in."""
    node.in_grace = node.answers = False
    node.held = (LOCK,)
    node.look(3, whole=True)
    assert not node.noted().locks


def test_what_is_noted_is_written_again_only_when_it_has_changed(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.look(2)
    node.in_grace = False
    writes: list[LockSnapshot] = []

    def write(state: Path, snapshot: LockSnapshot) -> bool:
        writes.append(snapshot)
        return write_locks(state, snapshot)

    monkeypatch.setattr(keeping, "write_locks", write)
    node.look(3, whole=True)
    assert len(writes) == 1
    node.held = (LOCK,)
    node.look(3, whole=True)
    assert len(writes) == 2


def test_what_a_release_noted_stays_until_it_is_discarded(node: Node) -> None:
    node.look(2)
    node.in_grace = False
    write_locks(node.service.state, LockSnapshot(node.number, 2.0, exact=True, locks=()))
    node.held = (LOCK,)
    node.look(whole=True)
    assert node.noted().exact
    (node.service.state / "locks").unlink()
    node.look(whole=True)
    assert node.noted().locks == (LOCK,)
