# SPDX-License-Identifier: GPL-2.0-or-later
"""Which NFS mounts of this node matter, told from a table as the kernel prints it."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from nlmfo.host import mounts, own_mounts

#: fs/nfs/super.c, nfs_show_options: what stands there after a mount with nothing but the version given.
COMMON = "rsize=262144,wsize=262144,namlen=255,hard,proto=tcp,timeo=600,retrans=2,sec=sys"
V4, V6 = ip_address("10.10.0.100"), ip_address("fd00::100")


def v3(addr: str, *, local_lock: str = "none", lock: str = "", version: str = "3") -> str:
    mount = f"mountaddr={addr},mountvers=3,mountport=20048,mountproto=tcp"
    return f"rw,vers={version},{COMMON}{lock},{mount},local_lock={local_lock},addr={addr}"


def v4(addr: str) -> str:
    return f"rw,vers=4.2,{COMMON},clientaddr=10.10.0.7,local_lock=none,addr={addr}"


def line(mountpoint: str, source: str, options: str, kind: str = "nfs") -> str:
    return f"99 22 0:50 / {mountpoint} rw,relatime shared:7 - {kind} {source} {options}\n"


OTHERS = (
    "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
    "23 22 0:49 / /proc/fs/nfsd rw,relatime - nfsd nfsd rw\n"
    "24 22 0:48 / /run/rpc_pipefs rw,relatime - rpc_pipefs rpc_pipefs rw\n"
    "25 22 0:47 / /mnt/x rw - fuse.sshfs nfs100.example:/x rw,addr=10.10.0.100,vers=3\n"
)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines of mountinfo; the test adds its own."""
    lines = [OTHERS]
    monkeypatch.setattr(mounts, "table", lambda: mounts.parse("".join(lines)))
    return lines


@pytest.mark.parametrize(
    ("source", "options", "kind"),
    [
        ("10.10.0.100:/srv/home", v3("10.10.0.100"), "nfs"),
        ("10.10.0.100:/", v4("10.10.0.100"), "nfs4"),
        ("an-alias:/srv/home", v3("10.10.0.100"), "nfs"),
        ("[fd00::100]:/srv/home", v3("fd00::100"), "nfs"),
        ("[fd00:0::0100]:/srv/home", v4("fd00::9"), "nfs4"),
        ("an-alias:/srv/home", v4("fd00:0:0::100"), "nfs4"),
        ("an-alias:/srv/home", v4("fd00::100"), "nfs4"),
        ("an-alias:/srv/home", v3("::ffff:10.10.0.100"), "nfs"),
        ("nfs100.example:/srv/home", v3("10.9.9.9"), "nfs"),
        ("NFS100.Example.:/srv/home", v3("10.9.9.9"), "nfs"),
        ("nfs100.example:/srv/a:b", v4("10.9.9.9"), "nfs4"),
    ],
)
def test_a_mount_from_the_service_is_found_by_address_or_name_in_any_spelling(
    table: list[str], source: str, options: str, kind: str
) -> None:
    table.append(line("/mnt/home", source, options, kind))
    assert own_mounts.of([V4, V6], ["nfs100.example"]) == (Path("/mnt/home"),)


@pytest.mark.parametrize(
    ("source", "options", "kind"),
    [
        ("10.10.0.10:/srv/home", v3("10.10.0.10"), "nfs"),
        ("10.10.0.101:/10.10.0.100", v3("10.10.0.101"), "nfs"),
        ("nfs100.example.com:/srv/home", v3("10.9.9.9"), "nfs"),
        ("nfs100:/srv/home", v4("10.9.9.9"), "nfs4"),
        ("[fd00::1001]:/srv/home", v4("fd00::1001"), "nfs4"),
        # Whom we are to it, and who told us the way, is not who serves it.
        ("other:/srv/home", v4("10.9.9.9").replace("10.10.0.7", "10.10.0.100"), "nfs4"),
        ("other:/srv/home", v3("10.9.9.9").replace("mountaddr=10.9.9.9", "mountaddr=10.10.0.100"), "nfs"),
    ],
)
def test_a_mount_from_somebody_else_is_not(table: list[str], source: str, options: str, kind: str) -> None:
    table.append(line("/mnt/home", source, options, kind))
    assert own_mounts.of([V4, V6], ["nfs100.example"]) == ()


def test_all_of_them_are_named_with_their_real_names(table: list[str]) -> None:
    table.append(line(r"/mnt/my\040home", "10.10.0.100:/srv/home", v3("10.10.0.100")))
    table.append(line("/mnt/two", "[fd00::100]:/srv/home", v4("fd00::100"), "nfs4"))
    assert own_mounts.of([V4, V6], []) == (Path("/mnt/my home"), Path("/mnt/two"))
    assert own_mounts.of([V6], []) == (Path("/mnt/two"),)
    assert own_mounts.of([], []) == ()


@pytest.mark.parametrize(
    "options",
    [
        v3("10.9.9.9"),
        v3("10.9.9.9", version="2"),
        v3("10.9.9.9", local_lock="flock"),
        v3("10.9.9.9", local_lock="posix"),
        v3("10.9.9.9").replace("vers=3,", "").replace("local_lock=none,", ""),
    ],
)
def test_a_mount_that_locks_over_nlm_keeps_lockd(table: list[str], options: str) -> None:
    """With one of the two kinds of locks local, the other is lockd's; what says nothing is taken to use it."""
    table.append(line("/mnt/home", "other:/srv/home", options))
    assert own_mounts.v3_clients() == (Path("/mnt/home"),)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        (v3("10.9.9.9", local_lock="all"), "nfs"),
        (v3("10.9.9.9", local_lock="all", lock=",nolock"), "nfs"),
        (v3("10.9.9.9", lock=",nolock"), "nfs"),
        (v4("10.9.9.9"), "nfs4"),
        (v4("10.9.9.9"), "nfs"),
        (v4("10.9.9.9").replace("vers=4.2,", ""), "nfs4"),
    ],
)
def test_a_mount_that_does_not_lock_over_nlm_keeps_nothing(table: list[str], options: str, kind: str) -> None:
    table.append(line("/mnt/home", "other:/srv/home", options, kind))
    assert own_mounts.v3_clients() == ()


def test_this_machine_can_be_asked() -> None:
    """The real table, whatever is in it."""
    assert set(own_mounts.of([V4], ["nfs100.example"])) <= {mount.mountpoint for mount in mounts.table()}
    assert set(own_mounts.v3_clients()) <= {mount.mountpoint for mount in mounts.table() if mount.kind == "nfs"}
