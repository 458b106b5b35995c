# SPDX-License-Identifier: GPL-2.0-or-later
"""The registry: one winner, rising epochs, and a refusal wherever it cannot be sure."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from threading import Barrier

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nlmfo.errors import Refused
from nlmfo.ownership.record import OwnerRecord, Standing
from nlmfo.ownership.registry import KEPT, DirectoryRegistry, NoRegistry
from tests.unit import shapes

#: Nothing here takes this long unless it hangs.
SECONDS = 60
CLAIMANTS = 8


@pytest.fixture
def registry(tmp_path: Path) -> DirectoryRegistry:
    (tmp_path / "services").mkdir()
    return DirectoryRegistry(tmp_path)


def owner_directory(registry: DirectoryRegistry, service: str = "home") -> Path:
    directory = registry.directory / "services" / service / "owner"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def names(registry: DirectoryRegistry) -> list[str]:
    return sorted(entry.name for entry in owner_directory(registry).iterdir())


def refusal(act: Callable[[], object]) -> Refused:
    with pytest.raises(Refused) as caught:
        act()
    return caught.value


def test_a_service_that_was_never_served_has_no_owner(registry: DirectoryRegistry) -> None:
    assert registry.read("home") is None


def test_what_was_claimed_is_read_back_by_another_node(registry: DirectoryRegistry) -> None:
    registry.claim(shapes.record(1))
    assert DirectoryRegistry(registry.directory).read("home") == shapes.record(1)


def test_the_highest_epoch_counts(registry: DirectoryRegistry) -> None:
    for epoch in range(1, 12):
        registry.claim(shapes.record(epoch, f"node{epoch}"))
    assert registry.read("home") == shapes.record(11, "node11")


def test_services_do_not_see_each_others_owners(registry: DirectoryRegistry) -> None:
    registry.claim(shapes.record(1, service="home"))
    assert registry.read("mail") is None


def test_an_epoch_that_is_taken_stays_with_its_owner(registry: DirectoryRegistry) -> None:
    registry.claim(shapes.record(1, "node1"))
    assert refusal(lambda: registry.claim(shapes.record(1, "node2"))).code == "claim-lost"
    assert registry.read("home") == shapes.record(1, "node1")


def test_an_epoch_that_has_passed_cannot_be_claimed_again(registry: DirectoryRegistry) -> None:
    """A node that was stopped between its observation and its claim wakes up much later."""
    for epoch in range(1, KEPT + 10):
        registry.claim(shapes.record(epoch))
    assert refusal(lambda: registry.claim(shapes.record(2, "node2"))).code == "claim-lost"
    assert registry.read("home") == shapes.record(KEPT + 9)


def test_a_lost_claim_leaves_no_file_behind(registry: DirectoryRegistry) -> None:
    registry.claim(shapes.record(1, "node1"))
    refusal(lambda: registry.claim(shapes.record(1, "node2")))
    assert names(registry) == ["000001"]


def test_of_many_threads_that_claim_at_once_one_wins(registry: DirectoryRegistry) -> None:
    for epoch in range(1, 21):
        start = Barrier(CLAIMANTS)

        def claim(number: int, epoch: int = epoch, start: Barrier = start) -> str | None:
            start.wait(SECONDS)
            return claimed(registry.directory, epoch, f"node{number}")

        with ThreadPoolExecutor(CLAIMANTS) as pool:
            winners = [node for node in pool.map(claim, range(CLAIMANTS)) if node]
        assert len(winners) == 1
        assert registry.read("home") == shapes.record(epoch, winners[0])


def claimed(directory: Path, epoch: int, node: str) -> str | None:
    """The node's name when it won the epoch."""
    try:
        DirectoryRegistry(directory).claim(shapes.record(epoch, node))
    except Refused as error:
        if error.code != "claim-lost":
            raise
        return None
    return node


def won_epochs(directory: Path, node: str, epochs: int) -> list[int]:
    return [epoch for epoch in range(1, epochs + 1) if claimed(directory, epoch, node)]


def test_of_many_processes_each_epoch_has_at_most_one_winner(registry: DirectoryRegistry) -> None:
    epochs = 40
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        runs = [pool.submit(won_epochs, registry.directory, f"node{n}", epochs) for n in range(4)]
        won = [epoch for run in runs for epoch in run.result(timeout=SECONDS)]
    assert len(won) == len(set(won))
    newest = registry.read("home")
    assert newest is not None
    assert newest.epoch == epochs


def test_two_nodes_with_the_same_host_name_and_process_id_do_not_write_into_each_others_file(
    registry: DirectoryRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cloned machines and containers have them. The second writes its file while the first is about to link."""
    link = os.link

    def meanwhile(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "link", link)
        link(source, target)
        refusal(lambda: registry.claim(shapes.record(1, "node2")))

    monkeypatch.setattr(os, "link", meanwhile)
    registry.claim(shapes.record(1, "node1"))
    assert registry.read("home") == shapes.record(1, "node1")


def test_a_claim_whose_answer_was_lost_on_the_way_is_still_won(
    registry: DirectoryRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS: the first LINK was done, its reply was lost, and the retransmission finds the name taken."""
    link = os.link

    def answered_twice(source: Path, target: Path) -> None:
        link(source, target)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(target))

    monkeypatch.setattr(os, "link", answered_twice)
    registry.claim(shapes.record(1))
    assert registry.read("home") == shapes.record(1)


def test_the_owner_says_in_place_that_it_has_released(registry: DirectoryRegistry) -> None:
    registry.claim(shapes.record(1))
    registry.update(shapes.record(1)._replace(standing=Standing.RELEASED))
    assert registry.read("home") == shapes.record(1, standing=Standing.RELEASED)
    assert names(registry) == ["000001"]


def test_an_update_that_is_cut_off_leaves_the_old_record_whole(
    registry: DirectoryRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.claim(shapes.record(1))

    def power_cut(_self: Path, _target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", power_cut)
    with pytest.raises(KeyboardInterrupt):
        registry.update(shapes.record(1, standing=Standing.RELEASED))
    assert registry.read("home") == shapes.record(1)


@pytest.mark.parametrize("change", ["claim", "update"])
def test_a_record_and_its_name_are_durable_before_anybody_relies_on_them(
    registry: DirectoryRegistry, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    done: list[str] = []
    fsync, link, rename = os.fsync, os.link, Path.replace

    def note_fsync(descriptor: int) -> None:
        fsync(descriptor)
        done.append("directory" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "content")  # noqa: PTH112

    def note_link(source: Path, target: Path) -> None:
        link(source, target)
        done.append("name")

    def note_rename(self: Path, target: Path) -> Path:
        done.append("name")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "link", note_link)
    monkeypatch.setattr(Path, "replace", note_rename)
    owner_directory(registry)
    (registry.claim if change == "claim" else registry.update)(shapes.record(1))
    assert done == ["content", "name", "directory"]


def test_old_epochs_go_and_the_newest_stay(registry: DirectoryRegistry) -> None:
    newest = KEPT * 2
    for epoch in range(1, newest + 1):
        registry.claim(shapes.record(epoch))
    kept = [int(name) for name in names(registry)]
    assert KEPT <= len(kept) <= KEPT + 1
    assert kept == list(range(newest - len(kept) + 1, newest + 1))


def test_epochs_go_on_rising_past_six_digits(registry: DirectoryRegistry) -> None:
    for epoch in (999_999, 1_000_000, 1_000_001):
        registry.claim(shapes.record(epoch))
    assert registry.read("home") == shapes.record(1_000_001)


@given(st.lists(st.sampled_from(["node1", "node2", "node3"]), max_size=KEPT + 5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20, deadline=None)
def test_a_history_of_claims_reads_as_its_last(registry: DirectoryRegistry, nodes: list[str]) -> None:
    before = registry.read("home")
    last: OwnerRecord | None = before
    for node in nodes:
        last = shapes.record(last.epoch + 1 if last else 1, node)
        registry.claim(last)
    assert registry.read("home") == last


def test_a_registry_that_is_not_mounted_is_unavailable_and_not_empty(tmp_path: Path) -> None:
    assert refusal(lambda: DirectoryRegistry(tmp_path).read("home")).code == "registry-unavailable"
    assert refusal(lambda: DirectoryRegistry(tmp_path).claim(shapes.record(1))).code == "registry-unavailable"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\0", b"{}", b"null", b"serving\n"])
def test_a_newest_record_that_cannot_be_understood_is_refused(registry: DirectoryRegistry, content: bytes) -> None:
    registry.claim(shapes.record(1))
    (owner_directory(registry) / "000002").write_bytes(content)
    found = refusal(lambda: registry.read("home"))
    assert found.code == "owner-unreadable"
    assert "000002" in found.text


def test_a_directory_where_a_record_should_be_is_refused(registry: DirectoryRegistry) -> None:
    (owner_directory(registry) / "000003").mkdir()
    assert refusal(lambda: registry.read("home")).code == "registry-unavailable"


@pytest.mark.parametrize("wrong", [shapes.record(2), shapes.record(5, service="mail")])
def test_a_record_in_a_place_that_is_not_its_own_is_refused(registry: DirectoryRegistry, wrong: OwnerRecord) -> None:
    """Copied by hand, or by a restore: believing its epoch or service would let somebody write over another's."""
    (owner_directory(registry) / "000005").write_text(wrong.to_json(), encoding="utf-8")
    assert refusal(lambda: registry.read("home")).code == "owner-unreadable"


@pytest.mark.parametrize("name", [".000009.node2.7", "README", "000009~", "²", "٩", "9"])
def test_files_that_are_no_epochs_do_not_count(registry: DirectoryRegistry, name: str) -> None:
    registry.claim(shapes.record(1))
    (owner_directory(registry) / name).write_text("junk", encoding="utf-8")
    assert registry.read("home") == shapes.record(1)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES, errno.ETIMEDOUT])
@pytest.mark.parametrize("method", ["read_text", "iterdir", "is_dir"])
def test_a_registry_that_answers_with_an_error_is_refused(
    registry: DirectoryRegistry, monkeypatch: pytest.MonkeyPatch, method: str, number: int
) -> None:
    registry.claim(shapes.record(1))

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, method, fail)
    found = refusal(lambda: registry.read("home"))
    assert found.code == "registry-unavailable"
    assert os.strerror(number) in found.text
    assert found.hint


def test_without_a_registry_a_node_remembers_what_it_did_itself(tmp_path: Path) -> None:
    memory = NoRegistry(tmp_path)
    assert memory.read("home") is None
    memory.claim(shapes.record(1))
    memory.update(shapes.record(1, standing=Standing.RELEASED))
    assert memory.read("home") == shapes.record(1, standing=Standing.RELEASED)
    assert sorted(p.name for p in (tmp_path / "home").iterdir()) == ["owner"]
