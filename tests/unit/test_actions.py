# SPDX-License-Identifier: GPL-2.0-or-later
"""What the real hands do where it does not take a kernel with nfsd: claims, releases in the registry, and verifying."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from nlmfo.errors import DeadlineExceeded, NlmfoError, Refused
from nlmfo.failover import actions
from nlmfo.failover.actions import Actions
from nlmfo.failover.events import RecordsNotKept
from nlmfo.failover.plan import Action, Step
from nlmfo.host import daemons, partitions
from nlmfo.kernel import locks
from nlmfo.kernel.locks import EOF, Lock
from nlmfo.ownership.proof import Proof
from nlmfo.ownership.record import OwnerRecord, Standing, boot_id
from nlmfo.ownership.registry import DirectoryRegistry
from tests.unit import shapes
from tests.unit.node_fake import Log
from tests.unit.shapes import EARLIER_BOOT, HERE, THERE

SERVICE = shapes.service()
CLAIM = Step(Action.CLAIM, "home")
DISOWN = Step(Action.DISOWN, "home")
VERIFY = Step(Action.VERIFY_UNLOCKED, "/srv/other")


@pytest.fixture
def registry(tmp_path: Path) -> DirectoryRegistry:
    (tmp_path / "services/home/owner").mkdir(parents=True)
    return DirectoryRegistry(tmp_path)


@pytest.fixture
def hands(registry: DirectoryRegistry, monkeypatch: pytest.MonkeyPatch) -> Actions:
    monkeypatch.setattr(partitions, "refuse_if_held", lambda _: None)
    return Actions(shapes.config(registry.directory), SERVICE, registry, Log())


def test_every_action_that_a_plan_can_have_is_one_that_the_hands_can_do(hands: Actions) -> None:
    assert set(hands._does) == set(Action)


def test_a_claim_stands_on_a_proof(hands: Actions, registry: DirectoryRegistry) -> None:
    with pytest.raises(NlmfoError, match="nothing is claimed without a proof"):
        hands.do(CLAIM)
    assert registry.read("home") is None


def test_a_claim_is_in_the_name_of_this_node_and_this_boot(hands: Actions, registry: DirectoryRegistry) -> None:
    hands.proof = Proof("because", 8)
    assert hands.do(CLAIM) == "epoch 8"
    found = registry.read("home")
    assert found is not None
    assert (found.node, found.boot_id, found.epoch, found.standing) == (HERE, boot_id(), 8, Standing.SERVING)


def test_nothing_is_claimed_while_a_partition_is_in_use_here(
    hands: Actions, registry: DirectoryRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def held(_: object) -> None:
        raise Refused("device-held", "in use")

    monkeypatch.setattr(partitions, "refuse_if_held", held)
    hands.proof = Proof("because", 1)
    with pytest.raises(Refused):
        hands.do(CLAIM)
    assert registry.read("home") is None


def test_letting_go_is_written_down_under_the_same_epoch(hands: Actions, registry: DirectoryRegistry) -> None:
    registry.claim(shapes.record(7))
    hands.do(DISOWN)
    found = registry.read("home")
    assert found is not None
    assert (found.node, found.epoch, found.standing) == (HERE, 7, Standing.RELEASED)


@pytest.mark.parametrize("other", [shapes.record(8, THERE), shapes.record(8, HERE, boot=EARLIER_BOOT)])
def test_a_successor_who_came_while_we_let_go_is_not_declared_released(
    hands: Actions, registry: DirectoryRegistry, other: OwnerRecord
) -> None:
    """We were fenced, or thought to be. If its record said released, a third node could mount beside it."""
    registry.claim(shapes.record(7))
    registry.claim(other)
    hands.do(DISOWN)
    assert registry.read("home") == other


def lock(inode: int) -> Lock:
    return Lock("8:1", inode, 0, EOF, exclusive=True, pid=214)


def test_verifying_waits_until_the_last_lock_has_gone(hands: Actions, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = iter(((lock(1), lock(2)), (lock(2),), ()))
    monkeypatch.setattr(partitions, "lock_device", lambda _: "8:1")
    monkeypatch.setattr(locks, "held_by_clients", lambda _: next(tables))
    hands.do(VERIFY)
    assert next(tables, None) is None


def test_locks_that_stay_are_named_by_their_files(hands: Actions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actions, "UNLOCK", 0.0)
    monkeypatch.setattr(partitions, "lock_device", lambda _: "8:1")
    monkeypatch.setattr(locks, "held_by_clients", lambda _: (lock(13), lock(13), lock(7)))
    with pytest.raises(NlmfoError, match="/srv/other: 3 NFS locks are still held, on inodes 13, 7") as caught:
        hands.do(VERIFY)
    assert "find /srv/other -xdev -inum N" in str(caught.value.hint)


def test_a_service_that_serves_is_not_failed_because_nobody_looks_after_its_records(
    hands: Actions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise NlmfoError("cannot start")

    monkeypatch.setattr(daemons, "start_keeper", broken)
    hands.do(Step(Action.KEEP, ""))
    assert hands.sink.of(RecordsNotKept) == [RecordsNotKept("cannot start")]  # type: ignore[attr-defined]


def test_a_claim_carries_on_which_generation_of_the_records_was_served_last(
    hands: Actions, registry: DirectoryRegistry
) -> None:
    """Or a takeover that fails before it has seen the records would make everybody forget it."""
    hands.proof, hands.known_state = Proof("because", 8), 17
    hands.do(CLAIM)
    found = registry.read("home")
    assert found is not None
    assert found.state == 17


def test_work_with_records_on_a_storage_that_hangs_ends_at_its_deadline(
    hands: Actions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actions, "STORE", 0.2)
    monkeypatch.setattr(hands.keeper, "keep", lambda _: signal.pause())
    with pytest.raises(DeadlineExceeded, match="work in "):
        hands.do(Step(Action.COLLECT, ""))
