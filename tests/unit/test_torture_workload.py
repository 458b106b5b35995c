# SPDX-License-Identifier: GPL-2.0-or-later
"""A client logs what it does: nothing comes before its log, and nothing is done under a lock that was refused."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.torture import workload
from tests.torture.history import History, Reader


def test_a_client_that_is_killed_as_soon_as_it_works_is_known_to_have_been_cut_off(tmp_path: Path) -> None:
    home, log = tmp_path / "home", tmp_path / "history.jsonl"
    home.mkdir()
    for _ in range(2):
        command = [sys.executable, workload.__file__, "0", "1", "a seed", str(log), str(home)]
        work = subprocess.Popen(command, start_new_session=True)
        try:
            end = time.monotonic() + 30
            while not any(home.iterdir()) and time.monotonic() < end:
                time.sleep(0.001)
            assert any(home.iterdir())
        finally:
            os.killpg(work.pid, signal.SIGKILL)
            work.wait()
        for path in sorted(home.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    history = History()
    Reader("0", history).read(log.read_text().splitlines() if log.exists() else [])
    assert len(history.cut_off["0"]) == 1


@pytest.mark.parametrize("name", workload.workers(0, 1))
def test_who_is_refused_a_lock_does_nothing_under_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def refused(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "lockf", refused)
    out, into = os.pipe()
    workload.workers(0, 1)[name](workload.Process(f"0/home/{name}", "a seed", tmp_path, into))
    os.close(into)
    with os.fdopen(out) as said:
        events = [json.loads(line) for line in said]
    assert [event["refused"] for event in events if "n" in event] == ["No locks available"]
