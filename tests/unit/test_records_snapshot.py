# SPDX-License-Identifier: GPL-2.0-or-later
"""Mode snapshot: a copy that is valid, of this service, of this generation and recent is used, once."""

from __future__ import annotations

import os
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nlmfo.records.directory import Directory, StoreError
from nlmfo.records.sealed import seal, unseal
from nlmfo.records.snapshot import Restored, restore_snapshot, take_snapshot
from nlmfo.records.store import Store

V4 = ip_address("10.10.0.100")
V6 = ip_address("fd00::100")
NAME = "nfs100.example"
TAKEN = 1_000.0


class Node:
    """Records kept on a node, and the shared state directory they are copied to."""

    def __init__(self, root: Path) -> None:
        self.local = self._store(root / "local")
        self.shared = self._store(root / "shared")
        self.snapshot = self.shared.state / "snapshot"

    def take(self) -> int:
        return take_snapshot(self.local, self.shared, "home", now=TAKEN)

    def restore(self, *, service: str = "home") -> Restored:
        return restore_snapshot(self.shared, service)

    def owed(self) -> set[str]:
        return {record.client for address in (V4, V6) for record in self.shared.owed(address)}

    def _store(self, state: Path) -> Store:
        state.mkdir()
        store = Store(state, (V4, V6))
        store.prepare(os.geteuid(), os.getegid())
        store.begin_generation()
        return store


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_everybody_on_record_on_the_node_is_owed_a_notice_by_the_next_one(node: Node) -> None:
    node.local.add(V4, "192.0.2.1", NAME)
    node.local.begin_generation()
    node.local.add(V4, "192.0.2.2", NAME)
    node.local.add(V6, "2001:db8::2", NAME)
    assert node.take() == 3
    assert node.restore() == Restored(("192.0.2.1", "192.0.2.2", "2001:db8::2"), complete=True)
    assert {record.client for record in node.shared.owed(V4)} == {"192.0.2.1", "192.0.2.2"}
    assert {record.my_name for record in node.shared.owed(V4)} == {NAME}
    assert {record.client for record in node.shared.owed(V6)} == {"2001:db8::2"}


def test_a_snapshot_is_used_once(node: Node) -> None:
    node.local.add(V4, "192.0.2.1", NAME)
    node.take()
    node.restore()
    assert node.restore().ignored == "there is none that can be read"


def test_a_snapshot_of_another_service_is_ignored_with_the_reason(node: Node) -> None:
    node.local.add(V4, "192.0.2.1", NAME)
    node.take()
    assert "of this service" in str(node.restore(service="other").ignored)
    assert node.owed() == set()


@pytest.mark.parametrize("taken", ["0.0", "99999999999.9", "nonsense"])
def test_when_a_snapshot_says_that_it_was_taken_is_no_reason_to_ignore_it(node: Node, taken: str) -> None:
    """Clients wait for days with their locks, and clocks are set: the generation tells whose they are."""
    node.local.add(V4, "192.0.2.1", NAME)
    node.take()
    text, _ = unseal(node.snapshot.read_bytes())
    node.snapshot.write_bytes(seal(text.replace(f"taken {TAKEN}", f"taken {taken}")))
    assert node.restore() == Restored(("192.0.2.1",), complete=True)


def test_a_damaged_snapshot_whose_generation_cannot_be_told_counts(node: Node) -> None:
    node.local.add(V4, "192.0.2.1", NAME)
    node.take()
    node.snapshot.write_bytes(node.snapshot.read_bytes().replace(b"generation 1", b"generation ?"))
    assert node.restore() == Restored(("192.0.2.1",), complete=False)


def test_a_snapshot_from_before_a_takeover_is_ignored(node: Node) -> None:
    node.local.add(V4, "192.0.2.1", NAME)
    node.take()
    node.shared.begin_generation()
    assert "of generation '1'" in str(node.restore().ignored)
    assert node.owed() == set()


def test_an_empty_snapshot_says_that_there_was_nobody(node: Node) -> None:
    assert node.take() == 0
    assert node.restore() == Restored((), complete=True)


def test_a_record_that_could_not_be_read_is_in_the_snapshot_by_its_name(node: Node) -> None:
    (node.local.state / f"sm_{V4}" / "sm" / "192.0.2.1").write_text("damaged")
    node.take()
    assert node.restore().clients == ("192.0.2.1",)
    (record,) = node.shared.owed(V4)
    assert not record.intact


def test_a_record_whose_name_cannot_be_kept_makes_the_snapshot_incomplete(node: Node) -> None:
    (node.local.state / f"sm_{V4}" / "sm" / "a;b").write_text("damaged")
    node.local.add(V4, "192.0.2.1", NAME)
    node.take()
    assert node.restore() == Restored(("192.0.2.1",), complete=False)


def test_what_is_not_read_back_as_written_never_becomes_valid(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.local.add(V4, "192.0.2.1", NAME)
    node.take()
    before = node.snapshot.read_bytes()
    node.local.add(V4, "192.0.2.2", NAME)
    monkeypatch.setattr(Directory, "read", lambda *_: b"something else")
    with pytest.raises(StoreError, match="not what was read back"):
        node.take()
    assert node.snapshot.read_bytes() == before


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_snapshot_that_lost_its_end_still_names_whom_it_can_and_says_so(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    node = Node(tmp_path_factory.mktemp("node"))
    clients = [f"192.0.2.{number}" for number in range(10, 15)]
    for client in clients:
        node.local.add(V4, client, NAME)
    node.take()
    content = node.snapshot.read_bytes()
    kept = content[: data.draw(st.integers(content.index(b"client"), len(content) - 1))]
    node.snapshot.write_bytes(kept)
    restored = node.restore()
    assert not restored.complete
    whole_lines = {line.split()[2].decode() for line in kept.split(b"\n")[:-1] if line.startswith(b"client")}
    assert set(restored.clients) >= whole_lines


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.binary(max_size=200))
def test_noise_in_a_snapshot_neither_breaks_the_reader_nor_leaves_the_store(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes
) -> None:
    node = Node(tmp_path_factory.mktemp("node"))
    node.local.add(V4, "192.0.2.1", NAME)
    node.take()
    node.snapshot.write_bytes(node.snapshot.read_bytes() + b"client 10.10.0.100 ../escaped x y\n" + noise)
    restored = node.restore()
    assert "192.0.2.1" in restored.clients
    assert not restored.complete
    assert not (node.shared.state / f"sm_{V4}" / "escaped").exists()


def test_a_client_of_an_address_that_is_gone_is_owed_a_notice_from_all(node: Node) -> None:
    node.local.add(V4, "192.0.2.1", NAME)
    node.take()
    node.snapshot.write_text(node.snapshot.read_text().replace("client 10.10.0.100", "client 10.10.0.99"))
    node.restore()
    assert len(node.shared.owed(V4)) == len(node.shared.owed(V6)) == 1
