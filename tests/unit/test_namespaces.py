# SPDX-License-Identifier: GPL-2.0-or-later
"""Real namespaces: work inside them comes back or is ended, and nothing of them stays."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nlmfo.deadline import Deadline, poll_until
from nlmfo.errors import CommandFailed, DeadlineExceeded, NlmfoError, Refused
from nlmfo.host import daemons, mounts
from nlmfo.host.namespaces import Namespaces
from nlmfo.kernel import syscalls
from nlmfo.run import run
from tests.unit.namespaced import SECONDS, made, unmade

#: For work that hangs, so this is waited out.
SOON = 0.5


@pytest.fixture(scope="module")
def inside() -> Iterator[Namespaces]:
    """Namespaces for the tests that leave them as they were."""
    with made() as namespaces:
        yield namespaces


def namespace(kind: str) -> str:
    return os.readlink(f"/proc/self/ns/{kind}")  # noqa: PTH115


def all_namespaces() -> tuple[str, ...]:
    return tuple(namespace(kind) for kind in ("net", "mnt", "uts"))


def children() -> set[str]:
    """Every child of this process, zombies too."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split())


def test_work_runs_in_all_three_namespaces_and_its_value_comes_back(inside: Namespaces) -> None:
    there = inside.call(all_namespaces)
    assert not set(there) & set(all_namespaces())
    assert there == inside.call(all_namespaces)


def test_the_caller_stays_where_it_is(inside: Namespaces) -> None:
    before = all_namespaces()
    inside.call(all_namespaces)
    assert all_namespaces() == before


def test_a_large_answer_comes_back_whole(inside: Namespaces) -> None:
    assert inside.call(lambda: b"x" * 5_000_000) == b"x" * 5_000_000


def test_what_the_work_raises_is_raised_here_with_all_that_it_carries(inside: Namespaces) -> None:
    def refuse() -> None:
        raise Refused("device-held", "in use", hint="look who has it")

    with pytest.raises(Refused, match="in use") as caught:
        inside.call(refuse)
    assert (caught.value.code, caught.value.hint) == ("device-held", "look who has it")


def test_an_operating_system_error_keeps_its_number_and_its_file(inside: Namespaces) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        inside.call(lambda: Path("/no/such/file").read_bytes())
    assert caught.value.filename == "/no/such/file"
    assert "in <lambda>" in caught.value.__notes__[0]


def test_an_error_that_cannot_travel_is_told_in_words(inside: Namespaces) -> None:
    class Local(Exception):
        """Nobody outside knows this class."""

    def fail() -> None:
        raise Local("something odd")

    with pytest.raises(NlmfoError, match="Local: something odd"):
        inside.call(fail)


def test_an_answer_that_cannot_travel_is_an_error(inside: Namespaces) -> None:
    with pytest.raises(Exception, match="pickle"):
        inside.call(lambda: lambda: None)


def test_a_child_that_dies_without_an_answer_is_an_error(inside: Namespaces) -> None:
    with pytest.raises(NlmfoError, match="died"):
        inside.call(lambda: os.kill(os.getpid(), signal.SIGKILL))


def test_work_that_hangs_is_ended_at_its_deadline(inside: Namespaces, tmp_path: Path) -> None:
    def hang() -> None:
        (tmp_path / "pid").write_text(str(os.getpid()), encoding="ascii")
        signal.pause()

    before = children()
    with pytest.raises(DeadlineExceeded, match=f"inside the namespaces of '{inside.service}': not within 0.5 s"):
        inside.call(hang, deadline=SOON)
    assert (tmp_path / "pid").exists()
    assert children() == before


@pytest.mark.usefixtures("alarm")
def test_work_does_not_outlive_the_interruption_of_the_one_who_waits_for_it(inside: Namespaces) -> None:
    """An address that comes up behind our back would be up after the rollback has looked for it."""
    before = children()
    signal.setitimer(signal.ITIMER_REAL, SOON)
    with pytest.raises(KeyboardInterrupt):
        inside.call(signal.pause)
    assert children() == before


def test_no_call_leaves_a_process_or_a_descriptor_behind(inside: Namespaces) -> None:
    before = children(), len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(10):
        inside.call(os.getpid)
    assert (children(), len(os.listdir("/proc/self/fd"))) == before  # noqa: PTH208


def test_a_call_into_namespaces_that_are_not_there_says_so() -> None:
    with unmade() as namespaces, pytest.raises(FileNotFoundError):
        namespaces.call(os.getpid)


def test_new_namespaces_have_a_loopback_and_nothing_else(inside: Namespaces) -> None:
    assert [name for _, name in inside.call(socket.if_nameindex)] == ["lo"]
    with inside.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("127.0.0.1", 9))
        assert probe.getsockname()[0] == "127.0.0.1"


def test_the_host_name_inside_is_the_services_and_outside_it_stays(inside: Namespaces) -> None:
    """lockd tells clients this name: it has to be the same on each node."""
    assert inside.call(socket.gethostname) == inside.service
    assert socket.gethostname() != inside.service


def test_a_socket_lives_inside_while_its_user_stays_outside(inside: Namespaces) -> None:
    home = namespace("net")
    with inside.open_socket(socket.AF_INET, socket.SOCK_STREAM) as server:
        assert namespace("net") == home
        assert not server.get_inheritable()
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with inside.open_socket(socket.AF_INET, socket.SOCK_STREAM) as client:
            client.settimeout(SECONDS)
            client.connect(("127.0.0.1", port))
        with socket.socket() as outsider, pytest.raises(ConnectionRefusedError):
            outsider.connect(("127.0.0.1", port))


def test_programs_are_started_inside(inside: Namespaces) -> None:
    words = inside.command("readlink", "/proc/self/ns/net", "/proc/self/ns/mnt", "/proc/self/ns/uts")
    assert tuple(run(words, deadline=SECONDS).split()) == inside.call(all_namespaces)


def test_other_tools_find_the_network_by_its_name(inside: Namespaces) -> None:
    assert inside.net.name in run(["ip", "netns", "list"], deadline=SECONDS)


def test_what_is_mounted_inside_is_not_seen_outside(inside: Namespaces, tmp_path: Path) -> None:
    inside.call(lambda: syscalls.mount("none", tmp_path, "tmpfs"))
    assert inside.call(lambda: mounts.at(tmp_path) is not None)
    assert mounts.at(tmp_path) is None
    inside.call(lambda: syscalls.umount(tmp_path))


def test_no_namespace_holds_a_copy_of_a_pin_that_would_keep_it_alive() -> None:
    """Seen: the address stayed up on a node that had released it, because another service's mounts held the network."""

    def pins() -> list[Path]:
        return [mount.mountpoint for mount in mounts.table() if mount.kind == "nsfs"]

    with made() as first, made() as second:
        assert {first.net, second.net} <= set(pins())
        assert second.call(pins) == []


def test_a_pin_that_goes_while_the_copies_are_dropped_does_no_harm(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Seen: while one service was released, every fourth takeover of another failed on the same node."""
    (tmp_path / "unmounted").touch()
    stale = [mounts.Mount("0:4", "net:[1]", tmp_path / name, "nsfs", "nsfs") for name in ("unmounted", "unlinked")]
    table = mounts.table
    monkeypatch.setattr(mounts, "table", lambda: (*table(), *stale))
    with made() as namespaces:
        assert namespaces.exist()


def test_making_and_destroying_leaves_nothing() -> None:
    with unmade() as namespaces:
        assert not namespaces.exist()
        assert not namespaces.traces()
        namespaces.create()
        assert namespaces.exist()
        assert namespaces.traces()
        there = namespaces.call(all_namespaces)
        namespaces.destroy()
        assert not namespaces.exist()
        assert not namespaces.traces()
        assert not namespaces.net.exists()
        assert [m for m in mounts.table() if m.mountpoint.is_relative_to(namespaces.directory)] == []
        poll_until("the kernel to take them down", lambda: not set(there) & namespaces_in_use(), Deadline(SECONDS))


def namespaces_in_use() -> set[str]:
    """Every namespace that some process is in, or some mount pins."""
    listed = subprocess.run(
        ["lsns", "--noheadings", "--raw", "--output", "TYPE,NS"],
        capture_output=True, text=True, check=True, timeout=SECONDS,
    )  # fmt: skip
    return {f"{kind}:[{number}]" for kind, number in (line.split() for line in listed.stdout.splitlines())}


def test_they_can_be_made_again_after_they_were_destroyed() -> None:
    with made() as namespaces:
        first = namespaces.call(all_namespaces)
        namespaces.destroy()
        namespaces.create()
        assert namespaces.call(all_namespaces) != ()
        assert namespaces.exist()
        assert len(first) == 3


def test_destroying_what_is_not_there_does_no_harm() -> None:
    with unmade() as namespaces:
        namespaces.destroy()
        assert not namespaces.traces()


@pytest.mark.parametrize("missing", ["net", "mnt", "uts"])
def test_a_rest_of_them_counts_as_a_trace_and_can_be_destroyed(missing: str) -> None:
    with made() as namespaces:
        syscalls.umount(getattr(namespaces, missing))
        assert not namespaces.exist()
        assert namespaces.traces()
        namespaces.destroy()
        assert not namespaces.traces()


def test_making_them_that_fails_half_way_leaves_only_what_destroying_removes(monkeypatch: pytest.MonkeyPatch) -> None:
    with unmade() as namespaces:
        monkeypatch.setattr(socket, "sethostname", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            namespaces.create()
        assert namespaces.traces()
        namespaces.destroy()
        assert not namespaces.traces()


def test_the_processes_inside_are_found_and_no_others(inside: Namespaces) -> None:
    assert inside.processes() == []
    with subprocess.Popen(inside.command("sleep", "1000")) as process:
        poll_until("it to be inside", lambda: inside.processes() == [process.pid], Deadline(SECONDS))
        process.kill()


@pytest.mark.parametrize("script", ["exec sleep 1000", "trap '' TERM; while :; do sleep 0.1; done"])
def test_the_services_processes_are_ended_at_once_whether_they_would_listen_or_not(script: str) -> None:
    with made() as namespaces, subprocess.Popen(namespaces.command("sh", "-c", script)) as process:
        poll_until("it to be inside", lambda: process.pid in namespaces.processes(), Deadline(SECONDS))
        daemons.stop(namespaces)
        assert namespaces.processes() == []
        assert process.wait(SECONDS) == -signal.SIGKILL


def test_stopping_where_nothing_runs_is_done_at_once(inside: Namespaces) -> None:
    daemons.stop(inside)


# With a child that stays inside


@pytest.fixture
def agent(inside: Namespaces) -> Iterator[Namespaces]:
    """The same namespaces, for whoever calls often."""
    there = Namespaces.with_agent(inside.service)
    yield there
    there.leave()


def test_an_agent_works_in_all_three_namespaces_and_stays_there(inside: Namespaces, agent: Namespaces) -> None:
    assert agent.call(all_namespaces) == inside.call(all_namespaces)
    assert agent.call(os.getpid) == agent.call(os.getpid) != os.getpid()
    assert agent == inside


@pytest.mark.parametrize("stays", [False, True])
def test_a_program_runs_inside_to_its_end_and_what_it_wrote_comes_back(
    inside: Namespaces, agent: Namespaces, stays: bool
) -> None:
    there = agent if stays else inside
    links = [f"/proc/self/ns/{kind}" for kind in ("net", "mnt", "uts")]
    assert tuple(there.run("readlink", *links).split()) == inside.call(all_namespaces)
    with pytest.raises(CommandFailed, match="no-such-file") as caught:
        there.run("cat", Path("/no-such-file"))
    assert caught.value.argv[-2:] == ("cat", "/no-such-file")


@pytest.mark.parametrize("stays", [False, True])
def test_a_program_that_hangs_inside_is_ended_at_its_deadline(
    inside: Namespaces, agent: Namespaces, stays: bool
) -> None:
    with pytest.raises(DeadlineExceeded, match="did not end"):
        (agent if stays else inside).run("sleep", "1000", deadline=SOON)
    agent.leave()
    poll_until("nothing to be left inside", lambda: inside.processes() == [], Deadline(SECONDS))


def test_an_agent_is_there_before_it_is_needed_where_there_is_anything_to_enter() -> None:
    before = children()
    with unmade() as namespaces:
        there = Namespaces.with_agent(namespaces.service)
        there.enter()
        assert children() == before
        namespaces.create()
        there.enter()
        (child,) = children() - before
        assert there.call(os.getpid) == int(child)
        there.leave()
        assert children() == before


def test_namespaces_do_not_outlive_their_end_for_the_agent_that_was_in_them() -> None:
    before = children()
    with made() as namespaces:
        there = Namespaces.with_agent(namespaces.service)
        were = there.call(all_namespaces)
        there.destroy()
        assert children() == before
        poll_until("the kernel to take them down", lambda: not set(were) & namespaces_in_use(), Deadline(SECONDS))


def test_an_agent_is_ended_with_the_services_processes_and_the_next_call_is_made_all_the_same(
    inside: Namespaces, agent: Namespaces
) -> None:
    first = agent.call(os.getpid)
    assert first in inside.processes()
    daemons.stop(agent)
    assert inside.processes() == []
    assert agent.call(os.getpid) != first
    assert agent.call(all_namespaces) == inside.call(all_namespaces)
