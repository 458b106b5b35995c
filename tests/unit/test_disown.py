# SPDX-License-Identifier: GPL-2.0-or-later
"""Nobody is told that a service was released while this node still has one of its devices in use."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from nlmfo.deadline import Deadline
from nlmfo.failover import actions, runs
from nlmfo.failover.actions import Standpoint
from nlmfo.failover.plan import Action, Step
from nlmfo.host import holders, partitions
from nlmfo.host.partitions import PartitionError, PartitionNotThere
from nlmfo.ownership.record import Standing
from nlmfo.ownership.registry import DirectoryRegistry
from tests.unit import shapes

DEVICE = Path("/dev/null")


@pytest.fixture
def registry(tmp_path: Path) -> DirectoryRegistry:
    (tmp_path / "services/home/owner").mkdir(parents=True)
    found = DirectoryRegistry(tmp_path)
    found.claim(shapes.record())
    return found


def disown(registry: DirectoryRegistry, *first: Step) -> Standing:
    """What the owner record says afterwards."""
    hands = runs.hands_of(shapes.config(registry.directory), shapes.service(), registry, Standpoint(), lambda _: None)
    with closing(hands):
        for step in (*first, Step(Action.DISOWN, "home")):
            hands.do(step, Deadline(30))
    record = registry.read("home")
    assert record is not None
    return record.standing


@pytest.fixture(autouse=True)
def disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actions, "FREE", 0.05)
    monkeypatch.setattr(partitions, "find", lambda _: DEVICE)
    monkeypatch.setattr(holders, "of", lambda *_, **__: ())


def test_an_unmount_that_was_cut_off_before_its_proof_is_proved_before_the_release_is_on_record(
    registry: DirectoryRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is at the mount point any more, so no plan has an unmount; a forgotten namespace still has it mounted."""
    monkeypatch.setattr(partitions, "is_free", lambda _: False)
    with pytest.raises(PartitionError, match="still in use"):
        disown(registry)
    record = registry.read("home")
    assert record is not None
    assert record.standing is Standing.SERVING


def test_a_device_that_is_free_is_released(registry: DirectoryRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitions, "is_free", lambda _: True)
    assert disown(registry) is Standing.RELEASED


def test_what_this_run_unmounted_is_not_asked_for_again_while_clients_wait(
    registry: DirectoryRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "unmount", lambda *_, **__: None)
    monkeypatch.setattr(partitions, "is_free", lambda _: pytest.fail("it was proved already"))
    (partition,) = shapes.service().partitions
    assert disown(registry, Step(Action.UMOUNT, str(partition.mountpoint))) is Standing.RELEASED


def test_a_disk_that_this_node_does_not_see_any_more_keeps_nobody_from_letting_go(
    registry: DirectoryRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(uuid: str) -> Path:
        raise PartitionNotThere(f"partition {uuid}: no block device on this node carries it")

    monkeypatch.setattr(partitions, "find", missing)
    assert disown(registry) is Standing.RELEASED
