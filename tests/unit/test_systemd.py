# SPDX-License-Identifier: GPL-2.0-or-later
"""What the service manager hears: real datagrams; and never a run that stops because nobody listens."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from nlmfo.cli import manager
from nlmfo.failover.engine import seconds
from nlmfo.failover.events import CleaningUp, StepStarted
from nlmfo.failover.plan import Action, Step
from nlmfo.host import systemd


@pytest.fixture(params=["path", "abstract"])
def listening(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """A manager's socket, as it is named in the environment."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@nlmfo-test-{os.getpid()}"
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as sock:
        sock.bind("\0" + name[1:] if name.startswith("@") else name)
        sock.settimeout(5)
        monkeypatch.setenv(systemd.SOCKET, name)
        yield sock


def heard(listening: socket.socket) -> dict[str, str]:
    lines = listening.recv(4096).decode().split("\n")
    return dict(line.split("=", 1) for line in lines)


def test_each_variable_is_a_line(listening: socket.socket) -> None:
    systemd.notify(READY=1, STATUS="two\nlines")
    assert heard(listening) == {"READY": "1", "STATUS": "two; lines"}


def test_a_step_asks_for_the_time_that_it_may_take(listening: socket.socket) -> None:
    manager.hear(CleaningUp("home"))
    manager.hear(StepStarted(Step(Action.STOP_NFSD, "8 threads")))
    said = heard(listening)
    assert said["STATUS"] == "stop nfsd: 8 threads"
    assert int(said["EXTEND_TIMEOUT_USEC"]) / 1e6 > seconds(Action.STOP_NFSD)


@pytest.mark.parametrize("name", ["", "/nowhere/at/all", "@nlmfo-nobody"])
def test_where_nobody_listens_nothing_happens(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(systemd.SOCKET, name)
    systemd.notify(READY=1)


@pytest.mark.parametrize(
    ("usec", "pid", "expected"),
    [("120000000", None, 120.0), ("120000000", "1", None), ("0", None, None), ("soon", None, None), (None, None, None)],
)
def test_the_watchdog_is_that_of_this_process(
    monkeypatch: pytest.MonkeyPatch, usec: str | None, pid: str | None, expected: float | None
) -> None:
    for name, value in ((systemd.WATCHDOG, usec), (systemd.WATCHDOG_PID, pid)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert systemd.watchdog() == expected
