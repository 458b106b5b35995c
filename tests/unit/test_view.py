# SPDX-License-Identifier: GPL-2.0-or-later
"""The files that a service's daemons see: its own exports, host names from files only, nothing of the node's NFS."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from nlmfo.errors import NlmfoError
from nlmfo.host import mounts, view
from nlmfo.host.namespaces import Namespaces
from nlmfo.host.view import StatdUser, files_only, on_node, put_in_place_already
from tests.unit import shapes

STATD = StatdUser(65534, 65534)
NSSWITCH = "passwd: files systemd\nhosts:          files mdns4_minimal [NOTFOUND=return] dns\nnetgroup: nis\n"


def test_host_names_come_from_files_only_and_everything_else_as_the_node_has_it() -> None:
    assert files_only(NSSWITCH) == "passwd: files systemd\nhosts: files\nnetgroup: nis\n"


def test_every_hosts_line_is_replaced_because_the_last_one_counts() -> None:
    assert files_only("hosts: dns\nhosts: nis\n") == "hosts: files\nhosts: files\n"


def test_a_node_that_says_nothing_about_host_names_gets_a_line() -> None:
    """Without one, glibc would ask a name server: nsswitch.conf(5)."""
    assert files_only("") == "hosts: files\n"
    assert files_only("passwd: files\n") == "passwd: files\nhosts: files\n"


def test_the_added_line_is_a_line_of_its_own_where_the_file_ends_without_a_newline() -> None:
    assert files_only("passwd: files") == "passwd: files\nhosts: files\n"


def test_a_comment_about_hosts_is_no_setting() -> None:
    assert files_only("# hosts: dns\n") == "# hosts: dns\nhosts: files\n"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    view._lay_out(tmp_path, shapes.service(), STATD)
    return tmp_path


def owner_and_mode(path: Path) -> tuple[int, int, str]:
    found = path.stat()
    return found.st_uid, found.st_gid, stat.filemode(found.st_mode)


def test_statd_can_write_to_its_own_directories_and_nobody_else_can_look(home: Path) -> None:
    assert os.geteuid() == 0, "these tests run as root: they give files to statd's user"
    for name in ("run/statd/sm", "run/statd/sm.bak", "run/nlmfo/spool"):
        assert owner_and_mode(home / name) == (65534, 65534, "drwx------")


def test_statd_can_write_to_nothing_else(home: Path) -> None:
    """Whoever owns the directory above could put a link in its place (CVE-2019-3689)."""
    theirs = {path for path in home.rglob("*") if path.stat().st_uid == 65534}
    assert theirs == {home / name for name in ("run/statd/sm", "run/statd/sm.bak", "run/nlmfo/spool")}


def test_the_services_exports_are_written_and_its_table_is_empty(home: Path) -> None:
    assert "/srv/other *(rw,fsid=100)" in (home / "etc/exports").read_text(encoding="utf-8")
    assert (home / "nfs/etab").read_text(encoding="ascii") == ""
    assert list((home / "etc/empty").iterdir()) == []


def test_laying_out_again_after_a_cut_does_no_harm(home: Path) -> None:
    view._lay_out(home, shapes.service(exports=("/srv/other/new",)), STATD)
    assert "/srv/other/new" in (home / "etc/exports").read_text(encoding="utf-8")


def test_the_node_sees_the_services_run_below_its_own() -> None:
    assert on_node(Namespaces("home"), view.CALLOUT_CONFIG) == Path("/run/nlmfo/home/run/nlmfo/callout.conf")


@pytest.mark.parametrize(
    ("root", "ours"),
    [
        ("/nlmfo/home/run", True),  # /run is a tmpfs of its own
        ("/run/nlmfo/home/run", True),  # /run is a directory of the root file system
        ("/", False),
        ("/run", False),
    ],
)
def test_a_service_is_in_place_when_its_own_run_covers_the_nodes(
    monkeypatch: pytest.MonkeyPatch, root: str, ours: bool
) -> None:
    monkeypatch.setattr(mounts, "at", lambda _: mounts.Mount("0:5", root, Path("/run"), "tmpfs", "tmpfs"))
    assert put_in_place_already() is ours


def test_where_nothing_covers_run_no_service_is_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "at", lambda _: None)
    assert put_in_place_already() is False


def test_statd_runs_as_whoever_owns_the_distributions_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    homes = (tmp_path / "sm", tmp_path / "statd/sm")
    monkeypatch.setattr(view, "STATD_HOMES", homes)
    with pytest.raises(NlmfoError, match="cannot tell who") as caught:
        view.statd_user()
    assert "install" in str(caught.value.hint)
    homes[1].mkdir(parents=True)
    os.chown(homes[1], 29, 31)
    assert view.statd_user() == StatdUser(29, 31)


def test_the_callout_that_statd_runs_is_found_and_can_be_run() -> None:
    assert os.access(view.callout_program(), os.X_OK)
