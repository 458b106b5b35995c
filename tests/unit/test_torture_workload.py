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
from pathlib import Path
from typing import Any

import pytest

from nlmfo.deadline import Deadline, poll_until
from tests.torture import workload
from tests.torture.history import History, Reader

CHECKOUT = Path(__file__).parents[2]


def test_a_client_that_is_killed_as_soon_as_it_works_is_known_to_have_been_cut_off(tmp_path: Path) -> None:
    log = tmp_path / "history.jsonl"
    for home in (tmp_path / "first" / "home", tmp_path / "second" / "home"):
        home.mkdir(parents=True)
        work = subprocess.Popen([sys.executable, workload.__file__, "0", "1", "a seed", log, home])
        try:
            poll_until("work", (home / "counter").exists, Deadline(30), interval=0.001)
        finally:
            children = Path(f"/proc/{work.pid}/task/{work.pid}/children").read_text().split()
            work.kill()
            work.wait()
            for child in map(int, children[:1]):  # it leads the others
                os.killpg(child, signal.SIGKILL)
    history = History()
    Reader("0", history).read(log.read_text().splitlines() if log.exists() else [])
    assert len(history.cut_off["0"]) == 1


#: A client in a hurry, whose log comes late.
HURRIED = """
import sys
from pathlib import Path
from tests.torture import workload
workload.PAUSE, workload.LONG, workload.FLUSH = (0.001, 0.01), (0.001, 0.01), 2.0
workload.main(0, 1, "a seed", Path(sys.argv[1]), [Path(sys.argv[2])])
"""


def test_a_client_that_is_told_to_end_has_logged_all_that_it_wrote(tmp_path: Path) -> None:
    home, log = tmp_path / "home", tmp_path / "history.jsonl"
    home.mkdir()
    work = subprocess.Popen([sys.executable, "-c", HURRIED, log, home], cwd=CHECKOUT)
    try:
        poll_until("work", (home / "counter").exists, Deadline(30))
        poll_until("twenty times", lambda: workload.parse((home / "counter").read_bytes())[0] > 20, Deadline(30))
    finally:
        work.terminate()
        assert work.wait(30) == 0
    history = History()
    Reader("0", history).read(log.read_text().splitlines())
    logged = {(write.file, write.slot, write.value, write.process) for write in history.writes()}
    written = {
        (f"home/{name}", at // workload.SLOT, *workload.parse(data[at : at + workload.SLOT]))
        for name in ("counter", "ranges", "long", "mortal", "names.lock")
        for data in [(home / name).read_bytes()]
        for at in range(0, len(data), workload.SLOT)
    }
    assert {each for each in written if each[2]} <= logged
    assert len(written) > 5


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
