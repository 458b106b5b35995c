# SPDX-License-Identifier: GPL-2.0-or-later
"""Which programs make up a service, which versions of NFS they are told to leave out, and who has ended."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import inotify_simple
import pytest

from nlmfo.errors import DeadlineExceeded, NlmfoError
from nlmfo.host import daemons, view
from nlmfo.host.daemons import (
    LOOPBACK,
    RPCBIND,
    START,
    Program,
    Started,
    _await,
    _watches,
    programs,
    start,
    start_tracking,
    start_tracking_again,
    unwanted,
)
from nlmfo.host.namespaces import Namespaces
from nlmfo.host.node import Node
from tests.unit import shapes

T = TypeVar("T")


@pytest.mark.parametrize(
    ("versions", "off"),
    [(("3",), ("4",)), (("4",), ("3",)), (("4.2",), ("3",)), (("3", "4"), ()), (("3", "4.1"), ())],
)
def test_versions_that_are_not_wanted_are_switched_off(versions: tuple[str, ...], off: tuple[str, ...]) -> None:
    assert unwanted(shapes.service()._replace(versions=versions)) == off


def test_an_nfsv3_service_answers_only_when_all_of_its_programs_do() -> None:
    names = [program.name for program in programs(shapes.service())]
    assert names == ["rpcbind", "rpc.statd", "rpc.mountd", "nfsd", "lockd"]


def test_the_program_numbers_are_the_registered_ones() -> None:
    numbers = {program.name: (program.number, program.version) for program in programs(shapes.service())}
    assert numbers == {
        "rpcbind": (100000, 2),
        "rpc.statd": (100024, 1),
        "rpc.mountd": (100005, 3),
        "nfsd": (100003, 3),
        "lockd": (100021, 4),
    }


def started(pid: int, log: Path) -> Started:
    """A daemon that has said one line in the run before this one, and two in this."""
    log.write_text("of last time\n")
    since = log.stat().st_size
    with log.open("a") as more:
        more.write("good morning\nno such \x1b[2J file\n\n")
    return Started("rpcbind", pid, log, since)


def test_nfsdcld_has_not_ended_because_it_closes_a_file_while_it_is_looked_at(tmp_path: Path) -> None:
    # Of this process, too: the descriptor by which the directory is read is in it, and closed afterwards.
    with inotify_simple.INotify() as watch:
        later = fcntl.fcntl(watch, fcntl.F_DUPFD_CLOEXEC, 500)
    try:
        assert _watches(started(os.getpid(), tmp_path / "log"))
    finally:
        os.close(later)


def test_a_daemon_that_has_ended_is_noticed_whether_or_not_anybody_has_waited_for_it(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(NlmfoError, match="ended as soon as"):
            _watches(started(ended.pid, tmp_path / "log"))
    with pytest.raises(NlmfoError, match="ended as soon as"):
        _watches(started(ended.pid, tmp_path / "log"))


@pytest.mark.timeout(START / 2)
def test_nobody_waits_for_an_answer_of_a_daemon_that_has_ended_and_its_last_words_are_told(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as ended:
        pass
    nowhere = SurroundedByNobody("home")
    with pytest.raises(NlmfoError) as caught:
        _await(nowhere, {RPCBIND: started(ended.pid, tmp_path / "rpcbind.log")}, LOOPBACK)
    assert caught.value.text == "rpcbind ended as soon as it was started: no such ?[2J file"
    assert caught.value.hint is not None
    assert str(tmp_path / "rpcbind.log") in caught.value.hint


class SurroundedByNobody(Node):
    """A network in which nothing answers."""

    def open_socket(self, family: int, kind: int) -> socket.socket:
        raise DeadlineExceeded(f"an answer ({family}, {kind})", 0)


class InPlace(Namespaces):
    """Namespaces that need not be there: work in them is done here."""

    def call(self, function: Callable[[], T], *, deadline: float = 0) -> T:
        del deadline
        return function()


# What is started, and in which order


class Spawned:
    """In the place of the daemons: which were started and which were waited for, and with which words."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.events: list[str] = []
        self.words: dict[str, list[str]] = {}
        patch.setattr(daemons, "spawn", self.spawn)
        patch.setattr(daemons, "_await", self.wait)

    def spawn(self, argv: list[str], *, log: Path) -> int:
        inside = argv[argv.index("--") + 1 :]
        self.events.append(f"start {inside[0]}")
        self.words[inside[0]] = inside[1:]
        assert log.stem == inside[0]
        return 4711

    def wait(self, _: object, wanted: Mapping[Program, Started], address: object) -> None:
        assert address == LOOPBACK
        assert all(program.name == daemon.name for program, daemon in wanted.items())
        self.events.append("await " + " ".join(program.name for program in wanted))


@pytest.fixture
def spawned(monkeypatch: pytest.MonkeyPatch) -> Spawned:
    return Spawned(monkeypatch)


def test_what_needs_no_partition_is_started_side_by_side_as_soon_as_rpcbind_answers(spawned: Spawned) -> None:
    start(InPlace("home"), shapes.service())
    assert spawned.events == [
        "start rpcbind", "await rpcbind", "start rpc.statd", "start rpc.mountd", "await rpc.statd rpc.mountd",
    ]  # fmt: skip


def test_statd_tells_nobody_by_itself_and_asks_our_callout(spawned: Spawned) -> None:
    start(InPlace("home"), shapes.service())
    for daemon in ("rpc.statd", "rpc.mountd"):
        words = spawned.words[daemon]
        assert "--foreground" in words
        assert words[words.index("--ha-callout") + 1] == str(view.CALLOUT)
    assert "--no-notify" in spawned.words["rpc.statd"]
    assert spawned.words["rpc.mountd"][-2:] == ["--no-nfs-version", "4"]


def test_nfsdcld_is_started_apart_and_waited_for_until_it_watches(
    spawned: Spawned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it, when nfsd starts, the kernel's NFSv4 grace keeps NLM in grace, and nothing can end it."""
    tracking, watches = tmp_path / "nfsdcld", [False, False, True]
    monkeypatch.setattr(daemons, "_watches", lambda daemon: daemon.name == "nfsdcld" and watches.pop(0))
    start_tracking(InPlace("home"), tracking)
    assert spawned.events == ["start nfsdcld"]
    assert spawned.words["nfsdcld"] == ["--foreground", "-p", str(view.PIPEFS), "-s", str(tracking)]
    assert watches == []
    assert tracking.stat().st_mode & 0o777 == 0o700
    watches.append(True)
    start_tracking(InPlace("home"), tracking)  # the list of the service's last time is there already


def test_one_that_hangs_is_ended_only_where_nfsdcld_is_started_again(
    spawned: Spawned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To look for it through all processes of a node takes time, and in a takeover clients wait."""
    monkeypatch.setattr(daemons, "_watches", lambda _: True)
    monkeypatch.setattr(daemons, "_end", lambda _, name: spawned.events.append(f"end {name}"))
    start_tracking(InPlace("home"), tmp_path / "nfsdcld")
    assert spawned.events == ["start nfsdcld"]
    start_tracking_again(InPlace("home"), tmp_path / "nfsdcld")
    assert spawned.events == ["start nfsdcld", "end nfsdcld", "start nfsdcld"]
