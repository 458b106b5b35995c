# SPDX-License-Identifier: GPL-2.0-or-later
"""What the real hands do where it does not take a kernel with nfsd: evidence, claims, records, and letting go."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nlmfo.config import Isolation, Service
from nlmfo.deadline import Deadline
from nlmfo.errors import DeadlineExceeded, NlmfoError, Refused
from nlmfo.failover import actions, runs
from nlmfo.failover.actions import Actions, Standpoint
from nlmfo.failover.events import RecordsNotKept
from nlmfo.failover.plan import Action, Step
from nlmfo.host import daemons, mmp, own_mounts, partitions, probe
from nlmfo.kernel import dropping
from nlmfo.ownership import copy
from nlmfo.ownership.proof import Proof, Word
from nlmfo.ownership.record import OwnerRecord, Standing, boot_id
from nlmfo.ownership.registry import DirectoryRegistry
from tests.unit import shapes
from tests.unit.cluster_fake import Log
from tests.unit.shapes import EARLIER_BOOT, HERE, THERE

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
def make(registry: DirectoryRegistry, service: Service) -> Callable[..., Actions]:
    def hands(standpoint: Standpoint | None = None) -> Actions:
        return runs.hands_of(shapes.config(registry.directory), service, registry, standpoint or Standpoint(), Log())

    return hands


@pytest.fixture
def nothing_against_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_mounts, "of", lambda *_: ())
    monkeypatch.setattr(partitions, "refuse_if_held", lambda _: Path("/dev/vdb"))
    monkeypatch.setattr(mmp, "holder", lambda *_, **__: None)
    monkeypatch.setattr(probe, "answering", lambda *_: {})


def do(hands: Actions, step: Step) -> str:
    return hands.do(step, Deadline(30))


def test_what_a_plan_can_have_the_hands_of_one_isolation_or_the_other_can_do(
    registry: DirectoryRegistry, service: Service
) -> None:
    config = shapes.config(registry.directory)
    of = {
        isolation: set(
            runs.hands_of(config, replace(service, isolation=isolation), registry, Standpoint(), Log())._does
        )
        for isolation in Isolation
    }
    assert of[Isolation.NETNS] | of[Isolation.HOST] == set(Action)
    assert set(Action) - of[Isolation.NETNS] == {Action.DETACH, Action.GRACE}
    assert set(Action) - of[Isolation.HOST] == {
        Action.ISOLATE,
        Action.UNISOLATE,
        Action.START_DAEMONS,
        Action.START_NFSD,
        Action.STOP_NFSD,
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


def held(_: object) -> Path:
    raise Refused("device-held", "in use")


@pytest.mark.usefixtures("nothing_against_it")
@pytest.mark.parametrize(
    ("where", "name", "found", "code"),
    [
        (own_mounts, "of", lambda *_: (Path("/mnt/home"),), "own-client"),
        (partitions, "refuse_if_held", held, "device-held"),
        (mmp, "holder", lambda *_, **__: "node9", "mmp-in-use"),
        (probe, "answering", lambda _, some: {some[0].ip: "02:00:00:00:00:09"}, "address-answers"),
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
def test_a_node_that_is_its_own_client_may_be_forced_and_evidence_may_not(
    make: Callable[..., Actions], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_mounts, "of", lambda *_: (Path("/mnt/home"),))
    forced = Word(forced=frozenset({"own-client", "mmp-in-use"}))
    do(make(Standpoint(forced)), PROVE)
    monkeypatch.setattr(mmp, "holder", lambda *_, **__: "node9")
    with pytest.raises(Refused, match="node9 has it mounted"):
        do(make(Standpoint(forced)), PROVE)


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


def test_a_service_that_serves_is_not_failed_because_nobody_looks_after_its_records(
    make: Callable[..., Actions], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise NlmfoError("cannot start")

    monkeypatch.setattr(daemons, "start_keeper", broken)
    hands = make()
    do(hands, Step(Action.KEEP, ""))
    assert hands.sink.of(RecordsNotKept) == [RecordsNotKept("cannot start")]  # type: ignore[attr-defined]


def test_work_with_records_on_a_storage_that_hangs_ends_at_its_deadline(
    make: Callable[..., Actions], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actions, "STORE", 0.2)
    hands = make()
    monkeypatch.setattr(hands.keeper, "keep", lambda _: signal.pause())
    with pytest.raises(DeadlineExceeded, match="work in "):
        do(hands, COLLECT)
