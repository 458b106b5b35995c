# SPDX-License-Identifier: GPL-2.0-or-later
"""A node finds out that another one owns the service, and answers no client any more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nlmfo.config import Isolation
from nlmfo.errors import Refused
from nlmfo.failover import standdown
from nlmfo.host import addresses, node_addresses, node_exports
from nlmfo.kernel import nfsd
from nlmfo.ownership.record import Standing
from nlmfo.ownership.registry import DirectoryRegistry
from tests.unit import shapes
from tests.unit.shapes import EARLIER_BOOT, HERE, THERE

SERVICE = shapes.service()


@pytest.fixture
def registry(tmp_path: Path) -> DirectoryRegistry:
    (tmp_path / "services/home/owner").mkdir(parents=True)
    return DirectoryRegistry(tmp_path)


@pytest.mark.parametrize("standing", list(Standing))
def test_another_node_that_claimed_it_is_the_successor_whatever_became_of_it(
    registry: DirectoryRegistry, standing: Standing
) -> None:
    registry.claim(shapes.record(1))
    registry.claim(shapes.record(2, THERE, standing))
    found = standdown.successor(shapes.config(registry.directory), SERVICE)
    assert found is not None
    assert (found.node, found.epoch) == (THERE, 2)


@pytest.mark.parametrize(
    "record",
    [shapes.record(1), shapes.record(1, standing=Standing.RELEASED), shapes.record(1, HERE, boot=EARLIER_BOOT)],
)
def test_this_node_is_not_its_own_successor(registry: DirectoryRegistry, record: object) -> None:
    registry.claim(record)  # type: ignore[arg-type]
    assert standdown.successor(shapes.config(registry.directory), SERVICE) is None


def test_a_registry_that_cannot_be_read_is_no_successor_and_no_silence(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="nobody can tell who serves"):
        standdown.successor(shapes.config(tmp_path / "gone"), SERVICE)


def test_without_a_registry_nobody_can_tell() -> None:
    assert standdown.successor(shapes.config(None), SERVICE) is None


def test_in_namespaces_the_address_goes_before_nfsd(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(addresses, "remove_link", lambda: done.append("address"))
    monkeypatch.setattr(nfsd, "stop", lambda: done.append("nfsd"))
    standdown.stand_down(SERVICE)
    assert done == ["address", "nfsd"]


def test_on_a_shared_server_only_this_service_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[object] = []
    shared = replace(SERVICE, isolation=Isolation.HOST)
    monkeypatch.setattr(node_addresses, "take_down", lambda interface, some: done.append((interface, some)))
    monkeypatch.setattr(node_exports, "unload", done.append)
    monkeypatch.setattr(nfsd, "stop", lambda: done.append("nfsd"))
    standdown.stand_down(shared)
    assert done == [("eth0", shared.addresses), shared]
