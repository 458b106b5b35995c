# SPDX-License-Identifier: GPL-2.0-or-later
"""The fence hook: only its exit status 0 says that a node is off, and whatever happens is written down."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from nlmfo.deadline import Deadline, poll_until
from nlmfo.errors import ExitCode, Refused
from nlmfo.ownership import fence as module
from nlmfo.ownership.fence import argv, fence

SECONDS = 30.0
#: For a command that hangs, so this is waited out.
SOON = 0.5


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "fence.log"


def sh(script: str) -> tuple[str, ...]:
    return ("/bin/sh", "-c", script, "fence", "{node}")


def refusal(command: tuple[str, ...], node: str, log: Path, *, deadline: float = SECONDS) -> Refused:
    with pytest.raises(Refused) as caught:
        fence(command, node, deadline=deadline, log=log)
    assert caught.value.code == "fence-failed"
    assert caught.value.exit_code is ExitCode.REFUSED
    assert not caught.value.forcible
    assert "so it may still serve" in caught.value.text
    assert "--fenced once it is off for certain" in str(caught.value.hint)
    return caught.value


def test_a_command_that_succeeds_has_turned_the_node_off_and_is_named_as_who_says_so(tmp_path: Path, log: Path) -> None:
    said = fence(sh(f'echo "$1" > {tmp_path}/off'), "server-b", deadline=SECONDS, log=log)
    assert (tmp_path / "off").read_text(encoding="ascii") == "server-b\n"
    assert said == "server-b is fenced: /bin/sh says so"


def test_the_node_is_put_wherever_its_name_is_wanted_and_nowhere_else() -> None:
    command = (
        "/usr/sbin/ipmi",
        "-H",
        "{node}-bmc.example",
        "{node}",
        "--why=nlmfo:{node},{node}",
        "{Node}",
        "$node",
        "{}",
    )
    assert argv(command, "server-b") == [
        *("/usr/sbin/ipmi", "-H", "server-b-bmc.example", "server-b", "--why=nlmfo:server-b,server-b"),
        *("{Node}", "$node", "{}"),
    ]


@pytest.mark.parametrize(
    "node",
    ["", "-a", "server b", "server-b;reboot", "$(reboot)", "../server-b", "server-b\n", "10.0.0.1", "{node}", "n" * 64],
)
def test_what_is_no_host_name_never_gets_into_a_command(tmp_path: Path, log: Path, node: str) -> None:
    """The name may have come from a record on shared storage."""
    assert refusal(sh(f"touch {tmp_path}/ran"), node, log).text.isprintable()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("exit 1", "ended with status 1"),
        ("exit 255", "ended with status 255"),
        ("kill -9 $$", "ended with signal 9"),
        ("echo 'no route to power switch' >&2; exit 3", "no route to power switch"),
    ],
)
def test_a_command_that_fails_in_whatever_way_proves_nothing(log: Path, script: str, why: str) -> None:
    assert why in refusal(sh(script), "server-b", log).text


def test_a_command_that_does_not_answer_in_time_proves_nothing_and_is_ended(tmp_path: Path, log: Path) -> None:
    found = refusal(sh(f"echo $$ > {tmp_path}/pid; exec sleep 1000"), "server-b", log, deadline=SOON)
    assert "not within 0.5 s" in found.text
    pid = (tmp_path / "pid").read_text(encoding="ascii").strip()
    poll_until("the command to end", lambda: not Path(f"/proc/{pid}").exists(), Deadline(SECONDS))


def test_a_command_that_is_not_there_proves_nothing(log: Path) -> None:
    assert "cannot start '/no/such/program'" in refusal(("/no/such/program", "{node}"), "server-b", log).text


def entries(log: Path) -> list[str]:
    """What the log says, without the time that each entry begins with."""
    lines = log.read_text(encoding="utf-8").splitlines()
    return [line if line.startswith(" ") else line.split(" ", 1)[1] for line in lines]


def test_the_log_has_what_was_run_what_it_said_and_how_it_ended(log: Path) -> None:
    fence(("/bin/echo", "off:", "{node}"), "server-b", deadline=SECONDS, log=log)
    refusal(sh("echo 'no route' >&2; exit 3"), "server-c", log)
    assert entries(log) == [
        "fencing server-b: /bin/echo off: server-b",
        "server-b is off",
        "    off: server-b",
        "fencing server-c: /bin/sh -c 'echo '\"'\"'no route'\"'\"' >&2; exit 3' fence server-c",
        "server-c is not known to be off",
        "    '/bin/sh -c 'echo '\"'\"'no route'\"'\"' >&2; exit 3' fence server-c' ended with status 3: no route",
    ]


def test_what_is_to_be_run_is_in_the_log_before_it_runs(log: Path) -> None:
    fence(sh(f"grep -q 'fencing server-b' {log}"), "server-b", deadline=SECONDS, log=log)


def test_a_power_switch_cannot_drive_the_terminal_of_who_reads_the_log(log: Path) -> None:
    fence(sh(r"printf 'a\033[2Jb\rc\nd'"), "server-b", deadline=SECONDS, log=log)
    assert entries(log)[-3:] == ["    a [2Jb", "    c", "    d"]


def test_what_a_command_says_without_end_is_cut(log: Path) -> None:
    fence(sh("head -c 1000000 /dev/zero | tr '\\0' x"), "server-b", deadline=SECONDS, log=log)
    assert log.stat().st_size < module.KEPT + 1000


def test_the_log_is_appended_to_and_not_for_everybody(log: Path) -> None:
    before = os.umask(0)
    try:
        fence(("/bin/true", "{node}"), "server-b", deadline=SECONDS, log=log)
        first = log.read_text(encoding="utf-8")
        fence(("/bin/true", "{node}"), "server-b", deadline=SECONDS, log=log)
    finally:
        os.umask(before)
    assert stat.S_IMODE(log.stat().st_mode) == 0o640
    assert log.read_text(encoding="utf-8").startswith(first)
    assert log.read_text(encoding="utf-8") != first


def make_link(path: Path) -> None:
    path.symlink_to(path.parent / "elsewhere")


@pytest.mark.parametrize("trap", [make_link, os.mkfifo, Path.mkdir], ids=["link", "fifo", "directory"])
def test_a_log_that_is_no_file_is_refused_and_nothing_is_run(tmp_path: Path, log: Path, trap: object) -> None:
    assert callable(trap)
    trap(log)
    found = refusal(sh(f"touch {tmp_path}/ran"), "server-b", log)
    assert str(log) in found.text
    assert [entry.name for entry in tmp_path.iterdir()] == ["fence.log"]


def test_a_fifo_with_a_reader_is_no_log_either(tmp_path: Path, log: Path) -> None:
    os.mkfifo(log)
    reader = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert "not a regular file" in refusal(sh(f"touch {tmp_path}/ran"), "server-b", log).text
    finally:
        os.close(reader)
    assert [entry.name for entry in tmp_path.iterdir()] == ["fence.log"]


@pytest.mark.parametrize("off", [True, False])
def test_a_disk_that_is_full_by_then_does_not_change_whether_the_node_is_off(
    log: Path, monkeypatch: pytest.MonkeyPatch, off: bool
) -> None:
    write, count = os.write, iter(range(10))

    def full(descriptor: int, data: bytes) -> int:
        if next(count) > 0:
            raise OSError(28, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", full)
    if off:
        assert "is fenced" in fence(("/bin/true", "{node}"), "server-b", deadline=SECONDS, log=log)
    else:
        assert "ended with status 1" in refusal(("/bin/false", "{node}"), "server-b", log).text


def test_no_descriptor_is_left_open(log: Path) -> None:
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir()))
    fence(("/bin/true", "{node}"), "server-b", deadline=SECONDS, log=log)
    refusal(("/bin/false", "{node}"), "server-b", log)
    assert len(list(descriptors.iterdir())) == before
