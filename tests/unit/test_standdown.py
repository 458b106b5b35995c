# SPDX-License-Identifier: GPL-2.0-or-later
"""A node finds out that another one owns the service, and answers no client any more."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path

import pytest

from nlmfo.config import Isolation
from nlmfo.errors import Refused
from nlmfo.failover import standdown
from nlmfo.host import addresses, node_addresses, node_exports
from nlmfo.host.addresses import arp_frame
from nlmfo.kernel import nfsd
from nlmfo.ownership.record import Standing
from nlmfo.ownership.registry import DirectoryRegistry
from tests.unit import shapes
from tests.unit.shapes import EARLIER_BOOT, HERE, THERE
from tests.unit.test_probe import OURS, THEIRS, Network, Stranger, is_arp, network

__all__ = ["network"]

SERVICE = shapes.service()


def nothing(_: object) -> None:
    """In the place of what has a test of its own."""


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
    monkeypatch.setattr(standdown, "_point_to_successor", nothing)
    standdown.stand_down(SERVICE)
    assert done == ["address", "nfsd"]


def test_on_a_shared_server_only_this_service_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[object] = []
    shared = SERVICE._replace(isolation=Isolation.HOST)
    monkeypatch.setattr(node_addresses, "take_down", lambda interface, some: done.append((interface, some)))
    monkeypatch.setattr(node_exports, "unload", done.append)
    monkeypatch.setattr(nfsd, "stop", lambda: done.append("nfsd"))
    monkeypatch.setattr(standdown, "_point_to_successor", nothing)
    standdown.stand_down(shared)
    assert done == [("eth0", shared.addresses), shared]


@pytest.mark.parametrize("interface", ["eth0", "not-there"])
def test_clients_are_sent_to_the_node_that_answers_for_the_address_and_to_nobody_else(
    network: Network, monkeypatch: pytest.MonkeyPatch, interface: str
) -> None:
    """They would go on sending to this node for a minute and a half: in the lab one was stuck for 112 s."""
    service = shapes.service(addresses=2)._replace(interface=interface)
    monkeypatch.setattr(addresses, "remove_link", lambda: None)
    monkeypatch.setattr(nfsd, "stop", lambda: None)
    monkeypatch.setattr(standdown, "NODE_NETWORK", network.node.net)
    network.holds(service.addresses[0])
    with Stranger(network, is_arp, []) as wire:
        standdown.stand_down(service)
    address = IPv4Address("10.10.0.100")
    said = [frame[:42] for _, frame in wire.heard if is_arp(frame) and frame[28:32] == address.packed]
    wanted = [arp_frame(address, THEIRS, operation, sender=OURS) for operation in (1, 2)]
    assert said == (wanted if interface == "eth0" else [])
