# SPDX-License-Identifier: GPL-2.0-or-later
"""What makes a node's NFS server unfit for host isolation is found, and named with what to change."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nlmfo.errors import Refused
from nlmfo.host import nfs_conf, node_restart, node_server
from nlmfo.host.node_server import Unfit, refuse_if_unfit
from nlmfo.kernel import nfsd, syscalls
from tests.unit.kernel_fake import FakeKernel
from tests.unit.namespaced import made

OURS, THEIRS = "4026531840", "4026532000"
WILDCARD = "00000000:0801 00000000:0000 0A"
WILDCARD_V6 = f"{'0' * 32}:0801 {'0' * 32}:0000 0A"
BOUND = "6400A8C0:0801 00000000:0000 0A"
CONNECTION = "6400A8C0:0801 0100A8C0:03FF 01"


@dataclass
class ANode:
    """A node as /proc, nfs.conf and the kernel show it; fit, until a test spoils something."""

    proc: Path
    callout: Path
    conf: dict[tuple[str, str], str] = field(default_factory=dict)
    kernel: FakeKernel = field(default_factory=FakeKernel)

    def run(
        self, pid: int, *argv: str, environment: Mapping[str, str] | None = None, network: str = OURS, comm: str = ""
    ) -> None:
        home = self.proc / str(pid)
        (home / "ns").mkdir(parents=True)
        (home / "ns/net").hardlink_to(self.proc / f"net-{network}")
        (home / "comm").write_text((comm or Path(argv[0]).name)[:15] + "\n")
        (home / "cmdline").write_bytes(b"".join(os.fsencode(word) + b"\0" for word in argv))
        pairs = (environment or {}).items()
        (home / "environ").write_bytes(b"".join(f"{key}={value}\0".encode() for key, value in pairs))

    def sockets(self, *lines: str, family: str = "tcp") -> None:
        directory = self.proc / "self/net"
        directory.mkdir(parents=True, exist_ok=True)
        numbered = (f"   {number}: {line} more of it\n" for number, line in enumerate(lines))
        (directory / family).write_text("  sl  local_address rem_address   st\n" + "".join(numbered))

    def unfit(self, *v3_clients: str, versions: tuple[str, ...] = ("3",)) -> tuple[Unfit, ...]:
        return node_server.unfit([Path(path) for path in v3_clients], versions, files=self.kernel)

    def codes(self, *v3_clients: str, versions: tuple[str, ...] = ("3",)) -> list[str]:
        return [one.code for one in self.unfit(*v3_clients, versions=versions)]


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ANode:
    """A node on which nothing runs yet but nfsd."""
    proc = tmp_path / "proc"
    (proc / "self/ns").mkdir(parents=True)
    for network in (OURS, THEIRS):
        (proc / f"net-{network}").touch()
    (proc / "self/ns/net").hardlink_to(proc / f"net-{OURS}")
    callout = tmp_path / "nlmfo-callout"
    callout.touch(0o755)
    # Where pytest keeps its directories only root may look.
    monkeypatch.setattr(node_server, "_everybody_may_run", lambda program: program.exists())
    node = ANode(proc, callout)
    node.sockets(WILDCARD, CONNECTION)
    node.conf["sm-notify", "lift-grace"] = "n"
    node.kernel.write(nfsd.CONTROL / "portlist", b"tcp 2049\n")
    node.kernel.write(nfsd.CONTROL / "threads", b"8\n")
    monkeypatch.setattr(node_server, "PROCESSES", proc)
    monkeypatch.setattr(node_restart, "NOTE", tmp_path / "nfsd.json")
    monkeypatch.setattr(nfs_conf, "get", lambda section, key: node.conf.get((section, key)))
    return node


@pytest.fixture
def tracked(empty: ANode) -> ANode:
    """The same with nfsdcld."""
    empty.run(20, "/usr/sbin/nfsdcld")
    return empty


@pytest.fixture
def node(tracked: ANode) -> ANode:
    """All of it."""
    tracked.run(10, "/sbin/rpc.statd", "--no-notify", "-H", str(tracked.callout))
    return tracked


def test_a_node_with_all_that_it_takes_is_fit(node: ANode) -> None:
    assert node.unfit() == ()
    refuse_if_unfit(node.unfit())


def test_an_nfsd_that_is_down_is_found(node: ANode) -> None:
    node.kernel.write(nfsd.CONTROL / "threads", b"0\n")
    assert node.codes() == ["nfsd-down"]


def test_an_nfsd_that_our_own_restart_left_down_is_ours_to_start(node: ANode) -> None:
    node.kernel.write(nfsd.CONTROL / "threads", b"0\n")
    node_restart.NOTE.touch()
    assert node.codes() == []


def test_a_version_that_the_service_needs_and_nfsd_leaves_out_is_found(node: ANode) -> None:
    node.kernel.write(nfsd.CONTROL / "threads", b"0\n")
    node.kernel.write(nfsd.CONTROL / "versions", b"-3\n")
    node.kernel.write(nfsd.CONTROL / "portlist", b"tcp 2049\n")
    node.kernel.write(nfsd.CONTROL / "threads", b"8\n")
    assert node.codes(versions=("4.1",)) == []
    (found,) = node.unfit(versions=("3", "4"))
    assert found.code == "version-off"
    assert "vers3=y" in found.hint


@pytest.mark.parametrize(("v4", "v6", "bound"), [
    ([WILDCARD], [WILDCARD_V6], False),
    ([BOUND], [], True),
    ([WILDCARD], [f"{'0' * 31}1:0801 {'0' * 32}:0000 0A"], True),
    ([WILDCARD, BOUND.replace(":0801", ":0016", 1)], [WILDCARD_V6], False),
    ([WILDCARD, CONNECTION], [], False),
])  # fmt: skip
def test_an_nfsd_that_would_not_hear_a_new_address_is_found(
    node: ANode, v4: list[str], v6: list[str], bound: bool
) -> None:
    node.sockets(*v4)
    node.sockets(*v6, family="tcp6")
    assert node.codes() == (["nfsd-bound"] if bound else [])


def test_a_statd_that_does_not_run_is_found(tracked: ANode) -> None:
    assert tracked.codes() == ["statd-down"]


def test_a_statd_of_a_service_in_namespaces_does_not_count_for_the_nodes(tracked: ANode) -> None:
    tracked.run(10, "rpc.statd", "-L", "-H", str(tracked.callout), network=THEIRS)
    assert tracked.codes() == ["statd-down"]


@pytest.mark.parametrize("words", [
    ["-H", "CALLOUT", "-L"],
    ["-FLH", "CALLOUT"],
    ["-LHCALLOUT"],
    ["-d", "-P", "/var/lib/nfs/statd", "-p", "4000", "-o", "1", "-T", "1", "-U", "2", "-n", "x", "-L", "-H", "CALLOUT"],
    ["--ha-callout", "CALLOUT", "--no-notify"],
    ["--ha-callout=CALLOUT", "--no-notify", "--foreground"],
    ["--ha-call=CALLOUT", "--no-not"],
])  # fmt: skip
def test_the_callout_and_silence_are_seen_however_statds_options_are_written(tracked: ANode, words: list[str]) -> None:
    tracked.run(10, "/sbin/rpc.statd", *(word.replace("CALLOUT", str(tracked.callout)) for word in words))
    assert tracked.codes() == []


@pytest.mark.parametrize(("words", "found"), [
    ([], ["statd-without-callout", "statd-notifies"]),
    (["-L"], ["statd-without-callout"]),
    (["-L", "-H", "/usr/lib/ctdb/statd-callout"], ["statd-without-callout"]),
    (["-L", "-H", "/nowhere/nlmfo-callout"], ["statd-without-callout"]),
    (["-n", "-L", "-H", "CALLOUT"], ["statd-notifies"]),
    (["-H", "CALLOUT"], ["statd-notifies"]),
    (["-H", "CALLOUT", "--", "-L"], ["statd-notifies"]),
    (["--unheard-of", "-L", "-H", "CALLOUT"], ["statd-without-callout", "statd-notifies"]),
])  # fmt: skip
def test_a_statd_that_calls_nobody_or_speaks_by_itself_is_found(
    tracked: ANode, words: list[str], found: list[str]
) -> None:
    tracked.run(10, "/sbin/rpc.statd", *(word.replace("CALLOUT", str(tracked.callout)) for word in words))
    assert tracked.codes() == found


def test_what_nfs_conf_says_of_statd_counts_where_its_command_line_says_nothing(tracked: ANode) -> None:
    tracked.run(10, "/sbin/rpc.statd")
    tracked.conf["statd", "ha-callout"] = str(tracked.callout)
    tracked.conf["statd", "no-notify"] = "1"
    assert tracked.codes() == []
    tracked.conf["statd", "no-notify"] = "0"
    tracked.conf["statd", "ha-callout"] = "/bin/true"
    assert tracked.codes() == ["statd-without-callout", "statd-notifies"]


def test_the_command_line_counts_before_nfs_conf(tracked: ANode) -> None:
    tracked.run(10, "/sbin/rpc.statd", "-L", "-H", "/bin/true")
    tracked.conf["statd", "ha-callout"] = str(tracked.callout)
    assert tracked.codes() == ["statd-without-callout"]


def test_an_environment_that_keeps_statd_quiet_is_seen(tracked: ANode) -> None:
    tracked.run(10, "/sbin/rpc.statd", "-H", str(tracked.callout), environment={"RPC_STATD_NO_NOTIFY": "1"})
    assert tracked.codes() == []


@pytest.mark.parametrize(("value", "fit"), [
    ("n", True), ("no", True), ("No", True), ("0", True), ("off", True), ("false", True),
    ("y", False), ("1", False), ("", False), ("maybe", False), (None, False),
])  # fmt: skip
def test_sm_notify_has_to_be_told_not_to_end_grace(node: ANode, value: str | None, fit: bool) -> None:
    """It does by default."""
    del node.conf["sm-notify", "lift-grace"]
    if value is not None:
        node.conf["sm-notify", "lift-grace"] = value
    assert node.codes() == ([] if fit else ["sm-notify-lifts-grace"])


def test_missing_client_tracking_is_found(empty: ANode) -> None:
    empty.run(10, "rpc.statd", "-L", "-H", str(empty.callout))
    empty.run(20, "nfsdcld", network=THEIRS)
    assert empty.codes() == ["no-client-tracking"]


def test_every_mount_of_the_nodes_own_that_keeps_lockd_alive_is_named(node: ANode) -> None:
    (found,) = node.unfit("/mnt/a", "/mnt/b")
    assert found.code == "v3-client-mount"
    assert "/mnt/a, /mnt/b" in found.text


def test_a_process_that_ends_while_we_look_is_no_trouble(node: ANode) -> None:
    (node.proc / "30").mkdir()
    node.run(31, "rpc.statd", "-L")
    (node.proc / "31/cmdline").unlink()
    assert node.codes() == []


def test_all_of_it_is_told_at_once_under_the_first_code(empty: ANode) -> None:
    with pytest.raises(Refused) as caught:
        refuse_if_unfit(empty.unfit("/mnt/a"))
    assert caught.value.code == "statd-down"
    for words in ("rpc.statd does not run", "nfsdcld does not run", "/mnt/a"):
        assert words in caught.value.text
    assert "systemctl start rpc-statd" in str(caught.value.hint)


def test_what_is_forced_is_let_pass_and_the_rest_is_not(empty: ANode) -> None:
    found = empty.unfit("/mnt/a")
    with pytest.raises(Refused) as caught:
        refuse_if_unfit(found, {"statd-down", "no-client-tracking"})
    assert caught.value.code == "v3-client-mount"
    assert "rpc.statd" not in caught.value.text
    refuse_if_unfit(found, {"statd-down", "no-client-tracking", "v3-client-mount"})


@pytest.mark.parametrize(("directory", "program", "may"), [
    (0o755, 0o755, True), (0o711, 0o555, True), (0o755, 0o750, False), (0o750, 0o755, False)
])  # fmt: skip
def test_statds_user_has_to_be_able_to_run_the_callout(directory: int, program: int, may: bool) -> None:
    with made() as namespaces:
        home = namespaces.directory / "libexec"
        home.mkdir()
        home.chmod(directory)
        callout = home / "nlmfo-callout"
        callout.touch()
        callout.chmod(program)
        assert node_server._everybody_may_run(callout) is may


def test_the_node_that_we_are_on_is_looked_at_without_harm() -> None:
    codes = {one.code for one in node_server.unfit([Path("/mnt/a")], ("3",))}
    assert "v3-client-mount" in codes


@pytest.mark.parametrize(("file", "key", "value"), [
    ("nfs.conf", ("sm-notify", "lift-grace"), "n"),
    ("nfs.conf.d/cluster.conf", ("statd", "ha-callout"), "/usr/libexec/nlmfo/nlmfo-callout"),
    ("nfs.conf", ("statd", "no-notify"), None),
])  # fmt: skip
def test_nfs_conf_is_read_as_nfs_utils_does(file: str, key: tuple[str, str], value: str | None) -> None:
    """With blanks in section names, keys in any case, and files in nfs.conf.d."""
    with made() as namespaces:

        def ask() -> str | None:
            syscalls.mount("tmpfs", Path("/etc"), "tmpfs")
            Path("/etc/nfs.conf.d").mkdir()
            Path("/etc/nfs.conf").touch()
            section, name = key
            text = f"[ {section} ]\n {name.title()} = {value}\n" if value is not None else "# nothing\n"
            (Path("/etc") / file).write_text(text)
            return nfs_conf.get(*key)

        assert namespaces.call(ask) == value
