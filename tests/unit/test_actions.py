# SPDX-License-Identifier: GPL-2.0-or-later
"""What the real hands do where it does not take a kernel with nfsd: evidence, claims, records, and letting go."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest

from nlmfo.config import Isolation, Service
from nlmfo.deadline import Deadline
from nlmfo.errors import DeadlineExceeded, NlmfoError, Refused
from nlmfo.failover import actions, progress, reclaims, runs
from nlmfo.failover.actions import LISTEN, LISTEN_RECORDED, Actions, Standpoint
from nlmfo.failover.events import ClientNotTold, ClientQuiet, LocksMissing, Progressed
from nlmfo.failover.netns import NetnsActions
from nlmfo.failover.plan import Action, Step
from nlmfo.failover.progress import Locks, Progress, Waiting
from nlmfo.failover.watch import Watch
from nlmfo.host import daemons, keeper_process, mmp, own_mounts, own_nfsd, partitions, probe
from nlmfo.host.namespaces import Namespaces
from nlmfo.host.node import Node
from nlmfo.host.view import StatdUser
from nlmfo.kernel import dropping, nfsd
from nlmfo.ownership import copy
from nlmfo.ownership.proof import Proof, Word
from nlmfo.ownership.record import OwnerRecord, Standing, boot_id
from nlmfo.ownership.registry import DirectoryRegistry, NoRegistry
from nlmfo.records.callout import callout_addresses
from nlmfo.records.ledger import Standing as Ledger
from nlmfo.records.locks import HeldLock, read_locks
from nlmfo.records.store import Store
from tests.unit import shapes
from tests.unit.cluster_fake import Log
from tests.unit.shapes import EARLIER_BOOT, HERE, THERE

T = TypeVar("T")

CLAIM = Step(Action.CLAIM, "home")
DISOWN = Step(Action.DISOWN, "home")
PROVE = Step(Action.PROVE, "10.10.0.100/24")
RECORDS = Step(Action.RECORDS, "")
COLLECT = Step(Action.COLLECT, "")
VERIFY = Step(Action.VERIFY_UNLOCKED, "/srv/other")
EIGHT = Standpoint(proof=Proof("because", 8), known_state=17)


@pytest.fixture
def registry(tmp_path: Path) -> DirectoryRegistry:
    (tmp_path / "services/home/owner").mkdir(parents=True)
    return DirectoryRegistry(tmp_path)


@pytest.fixture
def service(tmp_path: Path) -> Service:
    (tmp_path / "state").mkdir()
    return shapes.service(state=tmp_path / "state")


@pytest.fixture
def make(registry: DirectoryRegistry, service: Service) -> Iterator[Callable[..., Actions]]:
    made, config = ExitStack(), shapes.config(registry.directory)

    def hands(standpoint: Standpoint | None = None) -> Actions:
        one = runs.hands_of(config, service, registry, standpoint or Standpoint(), Log())
        return made.enter_context(closing(one))

    with made:
        yield hands


@pytest.fixture
def nothing_against_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_mounts, "of", lambda *_: ())
    monkeypatch.setattr(partitions, "find", lambda _: Path("/dev/vdb"))
    monkeypatch.setattr(partitions, "refuse_if_held", lambda *_: None)
    monkeypatch.setattr(mmp, "holder", lambda *_, **__: None)
    monkeypatch.setattr(probe, "answering", lambda *_, **__: {})


def do(hands: Actions, step: Step) -> str:
    return hands.do(step, Deadline(30))


def test_what_a_plan_can_have_the_hands_of_one_isolation_or_the_other_can_do(
    registry: DirectoryRegistry, service: Service
) -> None:
    config = shapes.config(registry.directory)
    of = {
        isolation: set(
            runs.hands_of(config, service._replace(isolation=isolation), registry, Standpoint(), Log())._does
        )
        for isolation in Isolation
    }
    assert of[Isolation.NETNS] | of[Isolation.HOST] == set(Action)
    assert set(Action) - of[Isolation.NETNS] == {Action.DETACH, Action.GRACE}
    assert set(Action) - of[Isolation.HOST] == {
        Action.ISOLATE,
        Action.UNISOLATE,
        Action.START_DAEMONS,
        Action.STOP_DAEMONS,
        Action.SET_UP_NFSD,
        Action.START_NFSD,
        Action.STOP_NFSD,
        Action.REVIVE,
    }


def test_a_claim_stands_on_a_proof(make: Callable[..., Actions], registry: DirectoryRegistry) -> None:
    with pytest.raises(NlmfoError, match="nothing is claimed without a proof"):
        do(make(), CLAIM)
    assert registry.read("home") is None


def test_a_claim_is_in_the_name_of_this_node_and_this_boot(
    make: Callable[..., Actions], registry: DirectoryRegistry
) -> None:
    assert do(make(EIGHT), CLAIM) == "epoch 8"
    found = registry.read("home")
    assert found is not None
    assert (found.node, found.boot_id, found.epoch, found.standing) == (HERE, boot_id(), 8, Standing.SERVING)


def test_a_claim_carries_on_which_generation_of_the_records_was_served_last(
    make: Callable[..., Actions], registry: DirectoryRegistry
) -> None:
    """Or a takeover that fails before it has seen the records would make everybody forget it."""
    do(make(EIGHT), CLAIM)
    found = registry.read("home")
    assert found is not None
    assert found.state == 17


def held(*_: object, **__: object) -> Path:
    raise Refused("device-held", "in use")


@pytest.mark.usefixtures("nothing_against_it")
@pytest.mark.parametrize(
    ("where", "name", "found", "code"),
    [
        (own_mounts, "of", lambda *_: (Path("/mnt/home"),), "own-client"),
        (partitions, "refuse_if_held", held, "device-held"),
        (mmp, "holder", lambda *_, **__: "node9", "mmp-in-use"),
        (probe, "answering", lambda _, some, **__: {some[0].ip: "02:00:00:00:00:09"}, "address-answers"),
    ],
)
def test_each_sign_of_another_server_is_refused_and_named(
    make: Callable[..., Actions],
    monkeypatch: pytest.MonkeyPatch,
    where: object,
    name: str,
    found: object,
    code: str,
) -> None:
    monkeypatch.setattr(where, name, found)
    with pytest.raises(Refused) as caught:
        do(make(EIGHT), PROVE)
    assert caught.value.code == code


@pytest.mark.usefixtures("nothing_against_it")
def test_where_nothing_speaks_against_it_that_is_said(make: Callable[..., Actions]) -> None:
    assert do(make(EIGHT), PROVE) == "nobody has the device, nobody answers"


@pytest.mark.usefixtures("nothing_against_it")
@pytest.mark.parametrize(
    ("recorded", "silent", "asked"),
    [
        (True, True, []),
        (True, False, [LISTEN_RECORDED]),
        (False, True, [LISTEN]),
        (False, False, [LISTEN]),
        (True, None, [LISTEN_RECORDED]),
    ],
)
def test_who_has_heard_silence_and_knows_of_a_release_asks_no_more(
    make: Callable[..., Actions],
    monkeypatch: pytest.MonkeyPatch,
    recorded: bool,
    silent: bool | None,
    asked: list[float],
) -> None:
    heard: list[float] = []
    ended: list[bool] = []

    class Heard:
        def __init__(self, *_: object, seconds: float) -> None:
            assert seconds == LISTEN_RECORDED

        def lasts(self) -> bool:
            return bool(silent)

        def end(self) -> None:
            ended.append(True)

        def close(self) -> None:
            """It asked nobody."""

    def answering(*_: object, seconds: float) -> dict[object, str]:
        heard.append(seconds)
        return {}

    monkeypatch.setattr(actions, "Silence", Heard)
    monkeypatch.setattr(probe, "answering", answering)
    assert EIGHT.proof is not None
    hands = make(replace(EIGHT, proof=replace(EIGHT.proof, recorded=recorded)))
    if silent is not None:
        hands.stand_by()
    do(hands, PROVE)
    assert heard == asked
    assert ended == ([] if silent is None else [True])


@pytest.mark.usefixtures("nothing_against_it")
def test_a_node_that_is_its_own_client_may_be_forced_and_evidence_may_not(
    make: Callable[..., Actions], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_mounts, "of", lambda *_: (Path("/mnt/home"),))
    with pytest.raises(Refused) as caught:
        do(make(), PROVE)
    assert caught.value.forcible
    forced = Word(forced=frozenset({"own-client", "mmp-in-use"}))
    do(make(Standpoint(forced)), PROVE)
    monkeypatch.setattr(mmp, "holder", lambda *_, **__: "node9")
    with pytest.raises(Refused, match="node9 has it mounted") as evidence:
        do(make(Standpoint(forced)), PROVE)
    assert not evidence.value.forcible


def test_opening_the_records_begins_a_generation_and_leaves_a_copy_of_the_owner_record(
    make: Callable[..., Actions], registry: DirectoryRegistry, service: Service
) -> None:
    hands = make(Standpoint(proof=Proof("because", 8)))
    do(hands, CLAIM)
    assert do(hands, RECORDS) == "0 clients on record, NSM state 1"
    found = registry.read("home")
    assert found is not None
    assert found.state == 1
    assert copy.read(service.state) == found
    assert not hands.keeper.shared.told()


def test_records_older_than_what_was_served_last_are_refused_unless_forced(
    make: Callable[..., Actions], registry: DirectoryRegistry
) -> None:
    hands = make(EIGHT)
    do(hands, CLAIM)
    with pytest.raises(Refused, match="generation 17 was served") as caught:
        do(hands, RECORDS)
    assert caught.value.forcible
    forced = replace(EIGHT, word=Word(forced=frozenset({"stale-records"})))
    assert do(make(forced), RECORDS) == "0 clients on record, NSM state 19"
    found = registry.read("home")
    assert found is not None
    assert found.state == 19


def test_a_copy_that_knows_of_a_later_owner_than_the_registry_is_refused(
    make: Callable[..., Actions], service: Service
) -> None:
    copy.write(service.state, shapes.record(9, THERE))
    hands = make(Standpoint(proof=Proof("because", 8)))
    do(hands, CLAIM)
    with pytest.raises(Refused) as caught:
        do(hands, RECORDS)
    assert caught.value.code == "newer-copy"


def test_collecting_says_in_the_copy_that_the_owner_let_go(make: Callable[..., Actions], service: Service) -> None:
    hands = make(Standpoint(proof=Proof("because", 8)))
    do(hands, CLAIM)
    do(hands, RECORDS)
    do(hands, COLLECT)
    found = copy.read(service.state)
    assert found is not None
    assert (found.node, found.epoch, found.standing) == (HERE, 8, Standing.RELEASED)


@pytest.mark.parametrize("boot", [None, EARLIER_BOOT])
def test_letting_go_is_written_down_under_the_same_epoch(
    make: Callable[..., Actions], registry: DirectoryRegistry, boot: str | None
) -> None:
    registry.claim(shapes.record(7, boot=boot))
    do(make(), DISOWN)
    found = registry.read("home")
    assert found is not None
    assert (found.node, found.epoch, found.standing) == (HERE, 7, Standing.RELEASED)


def test_a_successor_who_came_while_we_let_go_is_not_declared_released(
    make: Callable[..., Actions], registry: DirectoryRegistry
) -> None:
    """We were fenced, or thought to be. If its record said released, a third node could mount beside it."""
    other: OwnerRecord = shapes.record(8, THERE)
    registry.claim(shapes.record(7))
    registry.claim(other)
    do(make(), DISOWN)
    assert registry.read("home") == other


def test_the_lock_table_decides_whether_the_locks_are_gone(
    make: Callable[..., Actions], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(partitions, "lock_device", lambda _: "8:1")
    monkeypatch.setattr(dropping, "verify", lambda mounted, **_: asked.append(mounted))
    do(make(), VERIFY)
    assert asked == [{"8:1": Path("/srv/other")}]


def test_a_keeper_that_cannot_be_started_fails_the_step_because_nobody_would_tell_the_clients(
    make: Callable[..., Actions], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise NlmfoError("cannot start")

    monkeypatch.setattr(keeper_process, "start", broken)
    with pytest.raises(NlmfoError, match="cannot start"):
        do(make(), Step(Action.KEEP, ""))


def test_work_with_records_on_a_storage_that_hangs_ends_at_its_deadline(
    make: Callable[..., Actions], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actions, "STORE", 0.2)
    hands = make()
    monkeypatch.setattr(hands.keeper, "keep", lambda _: signal.pause())
    with pytest.raises(DeadlineExceeded, match="work in "):
        do(hands, COLLECT)


# Watching how the keeper tells the clients


CLIENTS = ("192.0.2.17", "192.0.2.18")
NOTIFY, RECLAIM = Step(Action.NOTIFY, ""), Step(Action.RECLAIM, "")


class Telling:
    """Hands in the midst of a takeover, and what the keeper of the service says of its work."""

    def __init__(self, hands: Actions, home: Path) -> None:
        self.hands = hands
        hands.place = Node("home")
        hands.keeper.place = shapes.place(home)
        hands.keeper.begin(StatdUser(os.geteuid(), os.getegid()))
        self.number = hands.keeper.shared.state_number()

    @property
    def log(self) -> Log:
        assert isinstance(self.hands.sink, Log)
        return self.hands.sink

    def says(self, *waiting: Waiting, back: int = 0, told: bool = True, in_grace: bool = False, **more: Any) -> None:
        clients = {Ledger.BACK: back} | Counter(each.standing for each in waiting)
        found = Progress(
            more.pop("state", self.number), told=told, in_grace=in_grace, clients=clients, waiting=waiting, **more
        )
        progress.write(self.hands.keeper.place.progress, found)


@pytest.fixture
def telling(make: Callable[..., Actions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Telling:
    monkeypatch.setattr(keeper_process, "runs", lambda _: True)
    return Telling(make(), tmp_path)


def test_everybody_is_told_once_the_keeper_says_so_of_this_generation(telling: Telling) -> None:
    telling.says(Waiting(CLIENTS[0], Ledger.ANSWERED, ""), back=2)
    assert do(telling.hands, NOTIFY) == "3 clients told"
    telling.says(back=7, state=telling.number - 2)
    with pytest.raises(DeadlineExceeded, match="telling every client"):
        telling.hands.do(NOTIFY, Deadline(0.2))


def test_who_could_not_be_told_is_named(telling: Telling) -> None:
    telling.says(Waiting(CLIENTS[1], Ledger.UNREACHABLE, "no route"), back=1)
    assert do(telling.hands, NOTIFY) == "1 clients told"
    assert telling.log.of(ClientNotTold) == [ClientNotTold(CLIENTS[1], "no route")]


def test_a_keeper_that_has_ended_without_telling_anybody_fails_the_takeover(
    telling: Telling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_process, "runs", lambda _: False)
    with pytest.raises(NlmfoError, match=r"'nlmfo keep'. has ended"):
        do(telling.hands, NOTIFY)


def test_who_asks_for_no_lock_again_is_named(telling: Telling) -> None:
    quiet = Waiting(CLIENTS[1], Ledger.ANSWERED, "")
    telling.says(quiet, Waiting("192.0.2.19", Ledger.UNREACHABLE, "no route"), back=1)
    assert do(telling.hands, RECLAIM) == "1 of 3 clients are back"
    assert telling.log.of(ClientQuiet) == [ClientQuiet(CLIENTS[1])]


@pytest.mark.parametrize("exact", [True, False])
def test_locks_that_are_not_held_again_are_named(telling: Telling, exact: bool) -> None:
    telling.says(back=1, locks=Locks(30, 29, exact, ("/srv/home/a bytes 0-9 shared",)))
    estimate = "" if exact else " (estimate)"
    assert do(telling.hands, RECLAIM) == f"1 of 1 clients are back, 29 of 30 locks{estimate}"
    assert telling.log.of(LocksMissing) == [LocksMissing(1, 30, exact, ("/srv/home/a bytes 0-9 shared",))]


def test_where_every_lock_is_held_again_and_everybody_back_nothing_is_amiss(telling: Telling) -> None:
    telling.says(back=2, locks=Locks(30, 30, exact=True), ended="every lock is held again")
    said = "2 of 2 clients are back, 30 of 30 locks; grace ended: every lock is held again"
    assert do(telling.hands, RECLAIM) == said
    assert {type(event) for event in telling.log.events} == {Progressed}


def test_whoever_stops_to_watch_does_not_take_the_service_down(
    telling: Telling, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    telling.says(back=2)
    monkeypatch.setattr(Watch, "until_quiet", interrupted)
    do(telling.hands, RECLAIM)
    monkeypatch.setattr(Watch, "until_told", interrupted)
    with pytest.raises(KeyboardInterrupt):
        do(telling.hands, NOTIFY)


# Noting the locks


def test_the_locks_that_are_noted_are_exact_and_of_the_generation_that_is_served(
    make: Callable[..., Actions], monkeypatch: pytest.MonkeyPatch
) -> None:
    held_now = (HeldLock("uuid", 13, 0, 9, exclusive=True), HeldLock("uuid", 14, 0, -1, exclusive=False))
    monkeypatch.setattr(reclaims, "held_now", lambda _: held_now)
    hands = make()
    hands.keeper.begin(StatdUser(os.geteuid(), os.getegid()))
    assert do(hands, Step(Action.NOTE_LOCKS, "")) == "2 locks"
    number = hands.keeper.shared.state_number()
    noted = read_locks(hands.service.state, number)
    assert noted.exact
    assert noted.locks == held_now
    assert not read_locks(hands.service.state, number + 2).locks


# Records that were elsewhere, or of another


def test_records_in_the_place_where_they_are_by_default_count_too(
    make: Callable[..., Actions], registry: DirectoryRegistry, service: Service
) -> None:
    """The state directory was moved since, and somebody served from where it had been."""
    default = registry.directory / "services/home/state"
    default.mkdir()
    address = service.addresses[0].ip
    earlier = Store(default, [address])
    earlier.prepare(os.geteuid(), os.getegid())
    earlier.add(address, CLIENTS[0], "home")
    hands = make(Standpoint(proof=Proof("because", 8)))
    do(hands, CLAIM)
    assert do(hands, RECORDS) == f"1 clients on record, 1 more from {default}, NSM state 1"


@pytest.fixture
def alone(tmp_path: Path, service: Service) -> Iterator[Callable[[Word], Actions]]:
    """The hands of a node without a registry."""
    made = ExitStack()

    def hands(word: Word) -> Actions:
        memory = NoRegistry(tmp_path / "memory")
        standpoint = Standpoint(word, Proof("because", 1))
        return made.enter_context(closing(runs.hands_of(shapes.config(None), service, memory, standpoint, Log())))

    with made:
        yield hands


def test_without_a_registry_the_epoch_goes_on_from_that_of_the_copy(
    alone: Callable[[Word], Actions], service: Service
) -> None:
    copy.write(service.state, shapes.record(9, THERE))
    hands = alone(Word(fenced=THERE))
    do(hands, CLAIM)
    do(hands, RECORDS)
    found = hands.registry.read("home")
    assert found is not None
    assert (found.node, found.epoch, found.state) == (HERE, 10, 1)
    assert copy.read(service.state) == found


def test_without_a_registry_the_copy_says_whether_the_right_node_was_named(
    alone: Callable[[Word], Actions], service: Service
) -> None:
    copy.write(service.state, shapes.record(9, THERE))
    hands = alone(Word(fenced="node3"))
    do(hands, CLAIM)
    with pytest.raises(Refused, match="you named node3, but node2 had it last") as caught:
        do(hands, RECORDS)
    assert caught.value.code == "wrong-node"
    assert not (service.state / "sm_10.10.0.100").exists(), "nothing of the records was touched"


def test_collecting_what_is_not_ours_leaves_the_copy_to_its_owner(
    make: Callable[..., Actions], registry: DirectoryRegistry, service: Service
) -> None:
    """The rest of a run that another node has succeeded: its copy says who serves."""
    hands = make(Standpoint(proof=Proof("because", 8)))
    do(hands, CLAIM)
    do(hands, RECORDS)
    theirs = shapes.record(9, THERE)
    registry.claim(theirs)
    copy.write(service.state, theirs)
    do(hands, COLLECT)
    assert copy.read(service.state) == theirs


# In namespaces of its own


class InPlace(Namespaces):
    """Namespaces that need not be there: work in them is done here, within the deadline that is noted."""

    home = Path()
    deadlines: ClassVar[list[float]] = []

    @property
    def directory(self) -> Path:
        return self.home

    def call(self, function: Callable[[], T], *, deadline: float = 0) -> T:
        self.deadlines.append(deadline)
        return function()


@pytest.fixture
def isolated(make: Callable[..., Actions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NetnsActions:
    monkeypatch.setattr(InPlace, "home", tmp_path)
    monkeypatch.setattr(InPlace, "deadlines", [])
    (tmp_path / "run/nlmfo").mkdir(parents=True)
    hands = make()
    assert isinstance(hands, NetnsActions)
    hands.namespaces = hands.place = InPlace("home")
    return hands


def test_records_are_frozen_and_thawed_in_what_the_callout_is_told(isolated: NetnsActions, tmp_path: Path) -> None:
    told = tmp_path / "run/nlmfo/callout.conf"
    do(isolated, Step(Action.FREEZE, ""))
    assert callout_addresses(told) == {isolated.service.addresses[0].ip: True}
    do(isolated, Step(Action.THAW, ""))
    assert callout_addresses(told) == {isolated.service.addresses[0].ip: False}
    assert f"directory {isolated.service.state}/sm_10.10.0.100\n" in told.read_text()


def test_locks_are_dropped_on_the_file_system_that_is_mounted_within_what_is_left_of_the_time(
    isolated: NetnsActions, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[object, ...]] = []

    def drop(*what: object) -> dropping.Dropped:
        asked.append(what)
        return dropping.Dropped(dropping.Way.PROCFS, 3)

    monkeypatch.setattr(partitions, "lock_device", lambda _: "8:1")
    monkeypatch.setattr(dropping, "drop_of_filesystem", drop)
    unlock = Step(Action.UNLOCK, "/srv/other")
    assert isolated.do(unlock, Deadline(7)) == "3 locks, by procfs"
    assert asked == [(Path("/srv/other"), "8:1")]
    assert 6 < InPlace.deadlines[-1] <= 7
    # The kernel would drop those of the file system above it.
    monkeypatch.setattr(partitions, "lock_device", lambda _: None)
    with pytest.raises(NlmfoError, match="/srv/other is not mounted any more"):
        do(isolated, unlock)
    assert len(asked) == 1


def test_nfsd_has_time_to_stop_for_each_client_on_record(
    isolated: NetnsActions, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[int] = []
    monkeypatch.setattr(nfsd, "threads", lambda: 8)
    monkeypatch.setattr(own_nfsd, "stop", lambda _, clients: stopped.append(clients))
    isolated.keeper.begin(StatdUser(os.geteuid(), os.getegid()))
    for client in CLIENTS:
        isolated.keeper.shared.add(isolated.service.addresses[0].ip, client, "home")
    assert do(isolated, Step(Action.STOP_NFSD, "")) == "2 clients on record"
    assert stopped == [2]


def test_nfsd_that_was_only_set_up_is_stopped_without_a_look_at_records_that_are_elsewhere(
    isolated: NetnsActions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A takeover that waited in vain: another node serves, and has the records mounted."""
    stopped: list[int] = []
    monkeypatch.setattr(nfsd, "threads", lambda: 0)
    monkeypatch.setattr(own_nfsd, "stop", lambda _, clients: stopped.append(clients))
    isolated.service.state.rmdir()
    assert do(isolated, Step(Action.STOP_NFSD, "")) == "it had not been started"
    assert stopped == [0]


def test_an_nfsd_that_was_stopped_runs_once_more_with_what_its_lockd_needs(
    isolated: NetnsActions, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(daemons, "answer", lambda _, programs, __: programs != [daemons.NSM])
    monkeypatch.setattr(daemons, "start_again", lambda _, __, program: done.append(program.name))
    monkeypatch.setattr(own_nfsd, "prepare", lambda *_: done.append("prepare"))
    monkeypatch.setattr(own_nfsd, "start", lambda *_: done.append("start"))
    do(isolated, Step(Action.REVIVE, ""))
    assert done == ["rpc.statd", "prepare", "start"]


@pytest.mark.parametrize(("left", "deadline"), [(7, 7), (1000, partitions.UMOUNT)])
def test_an_unmount_takes_no_longer_than_is_left_of_the_time(
    isolated: NetnsActions, monkeypatch: pytest.MonkeyPatch, left: float, deadline: float
) -> None:
    found: list[float] = []
    monkeypatch.setattr(partitions, "unmount", lambda *_, deadline: found.append(deadline))
    isolated.do(Step(Action.UMOUNT, "/srv/other"), Deadline(left))
    assert found == [pytest.approx(deadline, abs=1)]


def test_work_with_records_takes_no_longer_than_is_left_of_the_time(
    isolated: NetnsActions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolated.keeper, "keep", lambda _: signal.pause())
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        isolated.do(COLLECT, Deadline(0.3))
    assert time.monotonic() - began < 10


def test_with_a_registry_its_epoch_counts_and_not_that_of_a_copy_of_ours(
    make: Callable[..., Actions], registry: DirectoryRegistry, service: Service
) -> None:
    copy.write(service.state, shapes.record(30))
    hands = make(Standpoint(proof=Proof("because", 8)))
    do(hands, CLAIM)
    do(hands, RECORDS)
    found = registry.read("home")
    assert found is not None
    assert found.epoch == 8


@pytest.mark.usefixtures("nothing_against_it")
def test_looking_mounting_and_verifying_take_no_longer_than_is_left_of_the_time(
    make: Callable[..., Actions], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[float] = []
    monkeypatch.setattr(mmp, "holder", lambda _, deadline: found.append(deadline))
    monkeypatch.setattr(partitions, "make_ready", lambda _: None)
    monkeypatch.setattr(partitions, "mount", lambda *_, deadline: found.append(deadline))
    monkeypatch.setattr(partitions, "lock_device", lambda _: "8:1")
    monkeypatch.setattr(dropping, "verify", lambda _, seconds: found.append(seconds))
    hands = make()
    for step in (PROVE, Step(Action.MOUNT, "/srv/other"), VERIFY):
        hands.do(step, Deadline(5))
    assert found == [pytest.approx(5, abs=1)] * 3
    hands.do(VERIFY, Deadline(1000))
    assert found[-1] == actions.UNLOCK


def test_of_what_is_not_mounted_any_more_there_are_no_locks_to_look_for(
    make: Callable[..., Actions], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "lock_device", lambda _: None)
    monkeypatch.setattr(dropping, "verify", held)
    assert do(make(), VERIFY) == ""
