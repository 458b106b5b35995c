# SPDX-License-Identifier: GPL-2.0-or-later
"""A client that is kept from running while it compares clocks knows how wrong it may be."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.torture import workload

#: What to add to the client's clock for the host's.
OFFSET = 1000.25


class Host:
    """Stamps files to the second; the guest's clock goes on a bit at each look, and a lot at some."""

    def __init__(self, stalls: dict[int, float]) -> None:
        self.now, self.calls, self.stalls, self.stamp = 50.0, 0, stalls, 0.0

    def monotonic(self) -> float:
        self.calls += 1
        self.now += 0.0005 + self.stalls.get(self.calls, 0.0)
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def touch(self, *_: Any, **__: Any) -> None:
        self.stamp = float(int(self.now + OFFSET))


def compared(monkeypatch: pytest.MonkeyPatch, stalls: dict[int, float]) -> dict[str, float]:
    host = Host(stalls)
    monkeypatch.setattr(workload, "time", host)
    file: Any = SimpleNamespace(
        touch=host.touch, stat=lambda: SimpleNamespace(st_mtime=host.stamp), unlink=lambda: None
    )
    found: dict[str, float] = json.loads(workload.clock(file))
    return found


def test_the_offset_is_found_to_a_few_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    found = compared(monkeypatch, {})
    assert found["clock"] == pytest.approx(OFFSET, abs=0.005)
    assert found["within"] < 0.005


@pytest.mark.parametrize("stall", range(1, 30))
def test_however_long_it_was_kept_from_running_the_error_is_not_larger_than_said(
    monkeypatch: pytest.MonkeyPatch, stall: int
) -> None:
    stalls = dict.fromkeys(range(stall, 9000, 30), 0.3)
    found = compared(monkeypatch, stalls)
    assert abs(found["clock"] - OFFSET) <= found["within"] + 1e-9


def test_a_comparison_by_real_files_leaves_none_behind(tmp_path: Path) -> None:
    found = json.loads(workload.clock(tmp_path / "clock"))
    assert found["within"] < 1.0
    assert list(tmp_path.iterdir()) == []
