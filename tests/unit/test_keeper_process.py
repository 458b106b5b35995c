# SPDX-License-Identifier: GPL-2.0-or-later
"""The keeper as a process, known by its process id and by what it was started as."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from nlmfo.deadline import Deadline, poll_until
from nlmfo.host import keeper_process
from nlmfo.host.node import Node
from tests.unit.namespaced import SECONDS, made


@dataclass(frozen=True, slots=True)
class Here(Node):
    """The node, with a directory of the test's."""

    home: Path

    @property
    def directory(self) -> Path:
        return self.home


@pytest.fixture
def here(tmp_path: Path) -> Here:
    (tmp_path / "log").mkdir()
    return Here("home", tmp_path)


#: Says when it can be signalled, and ends at its end of input.
STAYS = "import signal, sys; {}; print('up', flush=True); sys.stdin.read()"


@contextmanager
def keeper(here: Here, *words: str, before: str = "pass") -> Iterator[subprocess.Popen[str]]:
    """A process that was started as ``words``, under the number in the keeper's file."""
    argv = [sys.executable, "-c", STAYS.format(before), *words]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        (here.directory / keeper_process.KEEPER).write_text(f"{process.pid}\n")
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.timeout(20)
def test_the_keeper_of_a_service_is_ended_and_seen_gone(here: Here) -> None:
    with keeper(here, "keep", "home") as process:
        assert keeper_process.runs(here)
        keeper_process.stop(here)
        assert not keeper_process.runs(here)
        assert process.wait(10) == -signal.SIGTERM


@pytest.mark.timeout(20)
def test_a_keeper_that_does_not_listen_is_killed(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_process, "POLITE", 0.2)
    with keeper(here, "keep", "home", before="signal.signal(signal.SIGTERM, signal.SIG_IGN)") as process:
        keeper_process.stop(here)
        assert process.wait(10) == -signal.SIGKILL


@pytest.mark.parametrize("words", [("keep", "mail"), ("keep", "home", "more"), ("tail", "home"), ()])
def test_another_process_that_has_the_keepers_number_now_is_left_alone(here: Here, words: tuple[str, ...]) -> None:
    with keeper(here, *words) as process:
        assert not keeper_process.runs(here)
        keeper_process.stop(here)
        assert process.poll() is None


@pytest.mark.parametrize("content", [None, "", "x\n", "-1\n", "99999999999\n", "\ufffd\n"])
def test_where_no_number_is_noted_no_keeper_runs_and_none_is_ended(here: Here, content: str | None) -> None:
    if content is not None:
        (here.directory / keeper_process.KEEPER).write_text(content, encoding="utf-8")
    assert not keeper_process.runs(here)
    keeper_process.stop(here)


def test_a_keeper_that_runs_is_not_started_twice(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []

    def spawn(argv: list[str], **_: object) -> int:
        started.append(list(map(str, argv)))
        return 4711

    monkeypatch.setattr(keeper_process, "spawn", spawn)
    with keeper(here, "keep", "home"):
        keeper_process.start(here, Path("/etc/nlmfo"))
    assert started == []
    keeper_process.start(here, Path("/etc/nlmfo"))
    (words,) = started
    assert words[words.index("--") + 1 :] == [sys.executable, "-m", "nlmfo", "--config", "/etc/nlmfo", "keep", "home"]
    assert (here.directory / keeper_process.KEEPER).read_text() == "4711\n"


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
def test_the_keeper_calls_the_node_by_its_own_name_where_the_configuration_names_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the service's host name for the node's it took the owner for another node, and stood down."""
    program, said = tmp_path / "python", tmp_path / "said"
    program.write_text(f"#!/bin/sh\nuname -n > {said}.new\nmv {said}.new {said}\n", encoding="ascii")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", program)
    with made() as namespaces:
        (namespaces.directory / "log").mkdir()
        keeper_process.start(namespaces, Path("/etc/nlmfo"))
        poll_until("the keeper to say", said.exists, Deadline(SECONDS))
    assert said.read_text(encoding="ascii").strip() == os.uname().nodename
