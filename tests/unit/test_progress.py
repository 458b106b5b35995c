# SPDX-License-Identifier: GPL-2.0-or-later
"""What a keeper says of its work is what runs and status read."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from nlmfo.failover import progress
from nlmfo.failover.progress import Locks, Progress, Waiting
from nlmfo.records.ledger import Standing

WHOLE = Progress(
    state=7,
    told=True,
    in_grace=False,
    grace_until=1795179814.5,
    ended="every lock is held again",
    problem="",
    clients=dict(Counter({Standing.BACK: 2, Standing.UNREACHABLE: 1})),
    waiting=(Waiting("192.0.2.1", Standing.UNREACHABLE, "no answer"),),
    locks=Locks(4, 3, exact=True, missing=("/srv/home/a bytes 0-9 shared",)),
)


@pytest.mark.parametrize("found", [WHOLE, Progress(1, told=False, in_grace=True)])
def test_what_was_written_is_read(found: Progress, tmp_path: Path) -> None:
    progress.write(tmp_path / "progress.json", found)
    assert progress.read(tmp_path / "progress.json") == found
    assert [path.name for path in tmp_path.iterdir()] == ["progress.json"]


def test_clients_are_counted_by_standing() -> None:
    assert WHOLE.everybody == 3
    assert WHOLE.of(Standing.BACK, Standing.LEFT) == 2


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"null", b"\xff", b'{"state": 7, "clients": 3}', b"{" * 9999])
def test_what_is_no_progress_is_none(content: bytes, tmp_path: Path) -> None:
    assert progress.read(tmp_path / "progress.json") is None
    (tmp_path / "progress.json").write_bytes(content)
    assert progress.read(tmp_path / "progress.json") is None
