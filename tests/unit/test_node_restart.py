# SPDX-License-Identifier: GPL-2.0-or-later
"""The node's nfsd goes down and comes up as it was, in grace, whatever happens meanwhile: with a kernel in memory."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import TypeVar

import pytest

from nlmfo.errors import DeadlineExceeded, NlmfoError, Refused
from nlmfo.host import mounts, nfs_conf, node_listeners, node_locks, node_restart, own_mounts
from nlmfo.host.mounts import Mount
from nlmfo.kernel import lockd, nfsd, nfsd_settings, proposed, version
from nlmfo.kernel.dropping import Kernel
from nlmfo.kernel.files import ControlError
from nlmfo.kernel.nfsd_settings import Listener
from tests.unit.kernel_fake import Answer, FakeKernel

T = TypeVar("T")

HOME, OTHER = Path("/srv/home"), Path("/srv/other")
DEVICES = {HOME: "8:16", OTHER: "8:32"}


class Node(FakeKernel):
    """A kernel that also takes sockets by the numbers of their descriptors, and tells rpcbind of those."""

    def __init__(self, version: tuple[int, int, int]) -> None:
        super().__init__(version)
        self.registered: list[Listener] = []

    def _portlist(self, data: bytes) -> bytes:
        if data.strip().isdigit():
            number = int(data)
            listener = Listener("tcp" if number < 2_000_000 else "udp", number % 1_000_000 // 10)
            self.registered.append(listener)
            if (listener.transport, listener.port) in self.listeners:  # the other family's
                return b""
            data = f"{listener.transport} {listener.port}\n".encode()
        return super()._portlist(data)


class Numbered:
    """A socket of which nothing is needed but its number: 1 or 2 for tcp or udp, the port, 4 or 6."""

    def __init__(self, listener: Listener, family: int) -> None:
        self.number = (1_000_000 if listener.transport == "tcp" else 2_000_000) + listener.port * 10 + family

    def fileno(self) -> int:
        return self.number


class NoNetlink:
    """A kernel that has no commands of nfsd's, as all before 6.7."""

    def exchange(self, _: bytes) -> bytes:
        raise FileNotFoundError


@dataclass
class Place:
    """A node whose kernel is in memory: what is called there is called here."""

    service: str = "home"
    directory: Path = Path("/nowhere")
    deadlines: list[float] = field(default_factory=list)

    def call(self, function: Callable[[], T], *, deadline: float = 30.0) -> T:
        self.deadlines.append(deadline)
        return function()

    def command(self, *argv: str | os.PathLike[str]) -> list[str]:
        return [os.fspath(word) for word in argv]

    def open_socket(self, family: int, kind: int) -> socket.socket:
        raise AssertionError(f"nothing here needs a socket of family {family} and kind {kind}")


@pytest.fixture(autouse=True)
def around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node around the kernel: no scope in nfs.conf, no mount of its own, and a place for the note."""
    monkeypatch.setattr(node_restart, "NOTE", tmp_path / "run/nfsd.json")
    monkeypatch.setattr(nfs_conf, "get", lambda *_: None)
    monkeypatch.setattr(node_listeners, "sockets", lambda listener: (Numbered(listener, family) for family in (4, 6)))
    monkeypatch.setattr(own_mounts, "v3_clients", lambda: ())
    table = {path: Mount(device, "/", path, "ext4", "/dev/sdb", "rw") for path, device in DEVICES.items()}
    monkeypatch.setattr(mounts, "at", table.get)


def serving(numbers: tuple[int, int, int] = (6, 1, 176), *, versions: bytes = b"+3 +4 -4.0") -> Node:
    """A kernel that has served for a while: out of grace, with a client's lock on each of two file systems."""
    fake = Node(numbers)
    for path, device in DEVICES.items():
        fake.mount(path, device)
    fake.write(nfsd.CONTROL / "versions", versions + b"\n")
    for listener in (b"tcp 2049\n", b"udp 2049\n"):
        fake.write(nfsd.CONTROL / "portlist", listener)
    fake.write(nfsd.CONTROL / "threads", b"16\n")
    fake.tick(600)
    fake.lock("8:16", 13, server_ip="10.0.0.100")
    fake.lock("8:32", 14, server_ip="10.0.0.101")
    assert not fake.in_grace
    fake.writes.clear()
    return fake


def kernel_of(fake: FakeKernel) -> Kernel:
    running = version.parse(fake.release)
    return Kernel(fake, NoNetlink(), running, fake.is_mountpoint)  # type: ignore[arg-type]


def restart(fake: FakeKernel, **more: object) -> Place:
    place = Place()
    arguments: dict[str, object] = {"grace": None, "between": lambda: None} | more
    node_restart.restart(place, kernel=kernel_of(fake), **arguments)  # type: ignore[arg-type]
    return place


def short(fake: FakeKernel) -> list[tuple[str, str]]:
    return [(Path(file).name, data.decode()) for file, data in fake.writes]


def test_nfsd_comes_up_as_it_was_and_in_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = serving()
    before = (nfsd_settings.versions(files=fake), nfsd_settings.listeners(files=fake), fake.threads)
    monkeypatch.setattr(fake, "times", {"nfsv4leasetime": 45, "nfsv4gracetime": 60})
    restart(fake)
    assert (nfsd_settings.versions(files=fake), nfsd_settings.listeners(files=fake), fake.threads) == before
    assert fake.times == {"nfsv4leasetime": 45, "nfsv4gracetime": 60}
    assert lockd.in_grace(files=fake)
    assert fake.request("8:16", 13, reclaim=True) is Answer.GRANTED
    assert fake.request("8:16", 99) is Answer.GRACE
    assert not node_restart.NOTE.exists()


def test_the_order_of_writes_is_the_only_one_that_the_kernel_takes() -> None:
    fake = serving()
    restart(fake, grace=20, between=lambda: fake.writes.append(("between", b"")))
    assert short(fake) == [
        ("threads", "0\n"),
        ("between", ""),
        ("nfsv4leasetime", "20\n"),
        ("nfsv4gracetime", "20\n"),
        ("portlist", "1020494\n"),
        ("portlist", "1020496\n"),
        ("portlist", "2020494\n"),
        ("portlist", "2020496\n"),
        ("nlm_grace_period", "20\n"),
        ("threads", "16\n"),
    ]


def test_rpcbind_is_told_of_each_listener_once_for_each_address_family() -> None:
    """Of a port that is only named to the kernel it is not, and NFSv3 clients would not find it."""
    fake = serving()
    restart(fake)
    assert fake.registered == [Listener("tcp", 2049)] * 2 + [Listener("udp", 2049)] * 2


def test_versions_that_the_kernel_has_forgotten_are_set_again() -> None:
    fake = serving(versions=b"+3 -4")

    def forget() -> None:
        fake.write(nfsd.CONTROL / "versions", b"+4\n")

    restart(fake, between=forget)
    assert nfsd_settings.versions(files=fake).on == {"3"}


def test_between_runs_when_nfsd_is_down_and_has_dropped_every_lock() -> None:
    fake = serving()
    seen: list[tuple[int, int, bool]] = []
    restart(fake, between=lambda: seen.append((fake.threads, len(fake.locks), fake.in_grace)))
    assert seen == [(0, 0, False)]


@pytest.mark.parametrize("error", [OSError("disk full"), NlmfoError("no"), KeyboardInterrupt()])
def test_whatever_goes_wrong_between_the_other_services_are_served_again_first(error: BaseException) -> None:
    fake = serving()

    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        restart(fake, between=fail)
    assert caught.value is error
    assert fake.threads == 16
    assert nfsd_settings.listeners(files=fake) == (Listener("tcp", 2049), Listener("udp", 2049))
    assert not node_restart.NOTE.exists()


def test_a_failed_start_after_a_failure_tells_of_both() -> None:
    fake = serving()

    def fail() -> None:
        fake.missing.add(nfsd.CONTROL / "portlist")
        raise NlmfoError("the records are away")

    with pytest.raises(
        NlmfoError, match=r"the records are away; and nfsd could not be started again: .*not mounted"
    ) as c:
        restart(fake, between=fail)
    assert "systemctl restart nfs-server" in str(c.value.hint)
    assert node_restart.NOTE.exists()


def test_a_start_that_fails_says_what_to_do_and_leaves_the_note(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = serving()
    add = node_listeners.add

    def refuse(listener: Listener, **more: object) -> None:
        if listener.transport == "udp":
            raise ControlError("making nfsd listen on udp port 2049: the port is taken", 98)
        add(listener, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(node_listeners, "add", refuse)
    with pytest.raises(ControlError, match="the port is taken") as caught:
        restart(fake, grace=20)
    assert "systemctl restart nfs-server" in str(caught.value.hint)
    assert node_restart.interrupted(files=fake)

    monkeypatch.setattr(node_listeners, "add", add)
    fake.writes.clear()
    restart(fake, grace=20)  # with a listener nfsd takes no such setting any more; lockd does
    assert short(fake) == [
        ("portlist", "2020494\n"),
        ("portlist", "2020496\n"),
        ("nlm_grace_period", "20\n"),
        ("threads", "16\n"),
    ]


def test_a_run_that_was_killed_while_nfsd_was_down_is_made_good_by_the_next() -> None:
    fake = serving()
    before = nfsd_settings.versions(files=fake)

    class Killed(BaseException):
        """No ``except`` of ours sees a SIGKILL."""

    def kill() -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as context:
        context.setattr(node_restart, "_start_again", lambda *_: None)
        with pytest.raises(Killed):
            restart(fake, between=kill)
    assert node_restart.interrupted(files=fake)

    ran: list[int] = []
    restart(fake, between=lambda: ran.append(fake.threads))
    assert ran == [0]
    assert (fake.threads, nfsd_settings.versions(files=fake)) == (16, before)
    assert not node_restart.interrupted(files=fake)


def test_a_note_of_long_ago_does_not_count_when_nfsd_runs() -> None:
    fake = serving()
    node_restart.NOTE.parent.mkdir()
    node_restart.NOTE.write_text('{"threads": 1, "on": ["3"], "off": ["4"], "listeners": [["tcp", 1]]}')
    assert not node_restart.interrupted(files=fake)
    restart(fake)
    assert fake.threads == 16
    assert nfsd_settings.listeners(files=fake) == (Listener("tcp", 2049), Listener("udp", 2049))


def test_an_nfsd_that_the_administrator_has_stopped_is_not_started() -> None:
    fake = serving()
    fake.write(nfsd.CONTROL / "threads", b"0\n")
    with pytest.raises(Refused) as caught:
        restart(fake)
    assert caught.value.code == "nfsd-down"
    assert fake.threads == 0


@pytest.mark.parametrize("text", ["", "{", "[]", '{"threads": 8}', '{"threads":8,"on":[],"off":[],"listeners":[1]}'])
def test_a_note_that_makes_no_sense_is_named_and_nothing_is_started(text: str) -> None:
    fake = serving()
    fake.write(nfsd.CONTROL / "threads", b"0\n")
    node_restart.NOTE.parent.mkdir()
    node_restart.NOTE.write_text(text)
    with pytest.raises(NlmfoError, match=str(node_restart.NOTE)):
        restart(fake)
    assert fake.threads == 0


def test_a_mount_of_the_nodes_own_keeps_lockd_out_of_grace_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = serving()
    fake.mount_v3("/mnt/films")
    monkeypatch.setattr(own_mounts, "v3_clients", lambda: (Path("/mnt/films"),))
    with pytest.raises(NlmfoError, match="lockd is not in grace") as caught:
        restart(fake)
    assert "/mnt/films" in str(caught.value.hint)
    assert fake.threads == 16


def test_a_grace_that_was_on_before_does_not_pass_for_a_new_one() -> None:
    """Seen on 6.1: with a mount of the node's own, a second restart leaves lockd in what is left of its grace."""
    fake = serving()
    restart(fake)
    fake.mount_v3("/mnt/films")
    assert lockd.in_grace(files=fake)
    with pytest.raises(NlmfoError, match="lockd goes on, in the grace period of its last start"):
        restart(fake, between=lambda: pytest.fail("their locks are not gone"))
    assert fake.threads == 16


def test_a_second_restart_in_grace_begins_a_new_one() -> None:
    fake = serving()
    restart(fake)
    fake.tick(40)
    restart(fake)
    fake.tick(40)
    assert lockd.in_grace(files=fake)


def test_the_time_to_stop_grows_with_the_clients_that_statd_has_to_forget() -> None:
    assert max(restart(serving(), clients=500).deadlines) >= 500
    assert max(restart(serving()).deadlines) < 100


def test_an_nfsd_that_does_not_stop_is_left_running(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = serving()

    def hang(**_: object) -> None:
        raise DeadlineExceeded("work on the node", 30)

    monkeypatch.setattr(nfsd, "stop", hang)
    with pytest.raises(DeadlineExceeded):
        restart(fake, between=lambda: pytest.fail("nfsd is not down"))
    assert fake.threads == 16
    assert fake.writes == []


def test_locks_that_an_old_kernel_leaves_behind_are_dropped_in_grace() -> None:
    """Else the reclaims of those who held them would be denied, by the ghosts of their own locks."""
    fake = serving((6, 1, 176))
    fake.lockd_elsewhere = True
    left: list[int] = []
    restart(fake, between=lambda: left.append(len(fake.locks)), mountpoints=[HOME, OTHER, Path("/srv/elsewhere")])
    assert left == [2]
    assert fake.locks == []
    assert fake.in_grace
    unlocks = [position for position, (name, _) in enumerate(short(fake)) if name == "unlock_filesystem"]
    assert len(unlocks) == 2
    assert short(fake)[unlocks[0] - 1] == ("threads", "16\n")


@pytest.mark.parametrize("numbers", [(6, 4, 0), (6, 12, 60)])
def test_where_no_lock_is_left_none_is_dropped(numbers: tuple[int, int, int]) -> None:
    fake = serving(numbers)
    restart(fake, mountpoints=[HOME, OTHER])
    assert [name for name, _ in short(fake) if name == "unlock_filesystem"] == []


def test_a_server_scope_is_kept_by_having_rpc_nfsd_start_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = serving()
    ran: list[list[str]] = []

    def rpc_nfsd(argv: list[str], **_: object) -> str:
        ran.append(argv)
        fake.write(nfsd.CONTROL / "threads", argv[-1].encode() + b"\n")
        return ""

    monkeypatch.setattr(
        nfs_conf, "get", lambda section, key: "cluster" if (section, key) == ("nfsd", "scope") else None
    )
    monkeypatch.setattr(node_restart, "run", rpc_nfsd)
    restart(fake)
    assert ran == [["rpc.nfsd", "--", "16"]]
    assert fake.threads == 16


def test_an_rpc_nfsd_that_only_says_so_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = serving()
    monkeypatch.setattr(nfs_conf, "get", lambda *_: "cluster")
    monkeypatch.setattr(node_restart, "run", lambda *_, **__: "")
    with pytest.raises(NlmfoError, match="reported success, but 0 run"):
        restart(fake)


def test_locks_of_one_partition_are_dropped_and_the_caches_flushed() -> None:
    fake = serving()
    before = dict(fake.flushed)
    node_locks.drop_locks(HOME, kernel_of(fake))
    assert [lock.device for lock in fake.locks] == ["8:32"]
    assert all(fake.flushed[name] > before[name] for name in before)


def test_locks_are_not_dropped_where_nothing_is_mounted_or_nfsd_is_down() -> None:
    fake = serving((6, 12, 60))
    with pytest.raises(NlmfoError, match="/srv/nothing: nothing is mounted there"):
        node_locks.drop_locks(Path("/srv/nothing"), kernel_of(fake))
    fake.write(nfsd.CONTROL / "threads", b"0\n")
    fake.writes.clear()
    with pytest.raises(NlmfoError, match="nfsd does not run"):  # this kernel would crash
        node_locks.drop_locks(HOME, kernel_of(fake))
    assert fake.writes == []


def test_grace_of_an_address_is_offered_only_by_a_patched_kernel() -> None:
    assert not proposed.can_start_grace(files=serving())
    fake = FakeKernel(patched=True)
    kernel = kernel_of(fake)
    assert proposed.can_start_grace(files=fake)
    node_locks.start_grace_of(IPv4Address("10.10.0.100"), kernel)
    assert short(fake) == [("nlm_set_ip_grace", "10.10.0.100\n")]
