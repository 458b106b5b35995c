# SPDX-License-Identifier: GPL-2.0-or-later
"""How long the room on each file system lasts: samples that survive anything, and forecasts from them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlmfo.config import Config
from nlmfo.failover import last_run, readiness, room
from nlmfo.failover.forecast import DAY, HOUR
from nlmfo.failover.readiness import Severity
from nlmfo.host import mounts, space
from nlmfo.host.space import EVERY, KEPT, Sample, remember, remembered
from nlmfo.records.directory import StoreError
from tests.unit import shapes

MIB = 1 << 20
NOW = 1_800_000_000
SIZE = 1000 * MIB


def sample(hours: float = 0, free: int = 500 * MIB, inodes: int | None = 1000, size: int = SIZE) -> Sample:
    return Sample(NOW + int(hours * HOUR), size, free, inodes)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(space, "HOME", tmp_path / "nlmfo/space")
    return space.HOME


# The samples


def test_samples_come_back_in_order_each_hour_once_and_no_older_than_two_weeks(home: Path) -> None:
    for minutes in range(0, 15 * 24 * 60, 20):
        latest = sample(minutes / 60, inodes=None if minutes % 60 else 7)
        remember("node", remembered("node", latest))
    found = remembered("node", latest)
    assert {later.at - earlier.at for earlier, later in pairwise(found[:-1])} == {EVERY}
    assert found[0].at >= latest.at - KEPT
    assert len(found) == KEPT // EVERY + 1
    assert {each.inodes for each in found[:-1]} == {7}
    assert (home / "node").stat().st_size < space.LIMIT
    assert [path.name for path in home.iterdir()] == ["node"]


@given(st.binary(max_size=300), st.integers(0, 200))
def test_whatever_is_in_the_file_what_is_whole_is_used_and_the_next_one_is_whole(junk: bytes, at: int) -> None:
    before = b"".join(b"%d %d %d 9\n" % (NOW - n * 3600, SIZE, 500 * MIB) for n in range(9, 0, -1))
    at = min(at, len(before))
    with tempfile.TemporaryDirectory() as home, pytest.MonkeyPatch.context() as patch:
        patch.setattr(space, "HOME", Path(home))
        (Path(home) / "node").write_bytes(before[:at] + junk + before[at:])
        found = remembered("node", sample())
        assert found[-1] == sample()
        assert len(found) >= 9  # only the line that was spoilt is missing
        assert [each.at for each in found] == sorted({each.at for each in found})
        remember("node", found)
        assert remembered("node", sample(2)) == (*found, sample(2))


@pytest.mark.parametrize("strange", [sample(1), sample(-400), sample(-1, size=2 * SIZE)])
def test_what_is_of_another_time_or_another_file_system_does_not_count(home: Path, strange: Sample) -> None:
    remember("node", [strange])
    assert (home / "node").exists()
    assert remembered("node", sample()) == (sample(),)


def test_a_directory_that_others_can_write_to_is_neither_read_nor_written(home: Path) -> None:
    remember("node", [sample(-2)])
    before = (home / "node").read_text()
    home.chmod(0o777)
    for act in (lambda: remembered("node", sample()), lambda: remember("node", [sample(-2), sample()])):
        with pytest.raises(StoreError, match="by others than root"):
            act()
    assert (home / "node").read_text() == before


def test_a_link_in_the_place_of_the_file_is_not_followed(home: Path, tmp_path: Path) -> None:
    home.mkdir(parents=True)
    target = tmp_path / "target"
    target.write_text(f"{NOW - 7200} {SIZE} 5 5\n")
    (home / "node").symlink_to(target)
    assert remembered("node", sample()) == (sample(),)
    remember("node", [sample()])
    assert target.read_text() == f"{NOW - 7200} {SIZE} 5 5\n"


def test_on_a_full_disk_nothing_is_left_behind(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remember("node", [sample(-2)])
    monkeypatch.setattr(os, "write", lambda *_: 0)
    with pytest.raises(StoreError, match="No space left"):
        remember("node", [sample(-2), sample()])
    monkeypatch.undo()
    assert [path.name for path in home.iterdir()] == ["node"]


# The file systems, and what is said of them


class Scene:
    """A node with a registry, and a service whose partitions are mounted; each on a device of its own."""

    def __init__(self, directory: Path, patch: pytest.MonkeyPatch) -> None:
        self.hours, self.away = 0.0, set[Path]()
        self.free: dict[Path, int] = {}
        self.inodes: dict[Path, int] = {}
        self.devices: dict[Path, int] = {}
        self.served = True
        found = shapes.service()
        self.service = found._replace(state=found.partitions[0].mountpoint / ".nlmfo")
        self.config: Config = shapes.config(directory / "registry")._replace(services={"home": self.service})
        patch.setattr(space, "HOME", directory / "space")
        patch.setattr(space, "measure", self.measure)
        patch.setattr(room, "time", SimpleNamespace(time=lambda: NOW + self.hours * HOUR))
        patch.setattr(mounts, "is_mounted", lambda _: self.served)

    def measure(self, path: Path, now: float) -> space.Measured:
        if path in self.away:
            raise OSError(5, "Input/output error")
        free = self.free.get(path, 500 * MIB)
        found = Sample(int(now), SIZE, free, self.inodes.get(path, 1000))
        return space.Measured(self.devices.get(path, hash(path)), found)

    def pass_hours(self, hours: int, less: Mapping[Path, int], fewer: Mapping[Path, int]) -> tuple[room.Room, ...]:
        """Look each hour, while something gets less."""
        for _ in range(hours):
            self.hours += 1
            for path, by in less.items():
                self.free[path] = self.free.get(path, 500 * MIB) - by
            for path, by in fewer.items():
                self.inodes[path] = self.inodes.get(path, 1000) - by
            found = room.look(self.config)
        return found

    @property
    def data(self) -> Path:
        return self.service.partitions[0].mountpoint


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(tmp_path, monkeypatch)


def test_the_node_the_registry_and_what_is_mounted_are_looked_at_each_once(scene: Scene) -> None:
    paths = [each.place.path for each in room.look(scene.config)]
    mounted = [partition.mountpoint for partition in scene.service.partitions]
    assert paths == [last_run.RUNS.parent, scene.config.registry, *mounted]
    scene.devices = dict.fromkeys(paths, 7)
    assert [each.place.subject for each in room.look(scene.config)] == [room.NODE]
    scene.served = False
    assert {each.place.subject for each in room.look(scene.config)} == {room.NODE}


def test_a_state_directory_on_no_partition_is_looked_at_wherever_it_is_served(scene: Scene) -> None:
    scene.served = False
    apart = scene.service._replace(state=Path("/elsewhere/state"))
    scene.config = scene.config._replace(services={"home": apart})
    assert [each.place.path for each in room.look(scene.config)][-1] == apart.state


def test_after_hours_of_getting_less_it_is_known_when_it_will_be_full_and_who_says_how_to_mend_it(scene: Scene) -> None:
    found = scene.pass_hours(5, {scene.data: 10 * MIB}, {})
    assert [each.full_in for each in found] == [None] * len(found)
    assert list(readiness.full_soon(found)) == []
    found = scene.pass_hours(5, {scene.data: 10 * MIB}, {})
    (filling,) = [each for each in found if each.full_in is not None]
    assert (filling.place.path, filling.bytes_in, filling.inodes_in) == (scene.data, 40 * HOUR, None)
    (said,) = readiness.full_soon(found)
    assert (said.severity, said.subject, said.code) == (Severity.WARNING, "home", "full-soon")
    assert f"{scene.data}, where" in said.text
    assert "will be full in about 40 hours: 400 of 1000 MiB are free" in said.text
    assert "make room" in said.mend


def test_inodes_may_be_used_up_before_bytes_are(scene: Scene) -> None:
    found = scene.pass_hours(10, {scene.data: MIB}, {scene.data: 10})
    (said,) = readiness.full_soon(found)
    assert "in about 3 days: 900 inodes are free" in said.text


def test_what_lasts_for_more_than_a_week_is_no_reason_to_worry(scene: Scene) -> None:
    found = scene.pass_hours(10, {scene.data: MIB}, {})
    assert [each.full_in for each in found if each.full_in is not None] == [490 * HOUR]
    assert 490 * HOUR > 7 * DAY
    assert list(readiness.full_soon(found)) == []


def test_storage_that_does_not_answer_is_left_to_others(scene: Scene) -> None:
    scene.away = {scene.data}
    assert scene.data not in [each.place.path for each in room.look(scene.config)]


def test_where_samples_cannot_be_kept_there_is_still_an_answer(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "HOME", Path("/dev/null/space"))
    found = scene.pass_hours(10, {scene.data: MIB}, {})
    assert [(each.since, each.enough, each.full_in) for each in found] == [(0, False, None)] * len(found)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "an hour"), (1.9 * HOUR, "an hour"), (5 * HOUR, "5 hours"), (47.9 * HOUR, "47 hours"), (6.9 * DAY, "6 days")],
)
def test_times_are_said_in_round_numbers_never_longer_than_they_are(seconds: float, said: str) -> None:
    assert room.span(seconds) == said


def test_a_real_file_system_is_measured_also_by_a_path_that_is_not_there_yet(tmp_path: Path) -> None:
    found = space.measure(tmp_path / "not/there", NOW)
    assert found.device == tmp_path.stat().st_dev
    assert 0 < found.sample.free <= found.sample.size
