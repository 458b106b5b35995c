# SPDX-License-Identifier: GPL-2.0-or-later
"""A service's exports in a table that it shares: they come and go alone, as the real exportfs(8) has it.

A mount namespace stands for the node; what is in its /etc and its table is the test's.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from nlmfo.config import Export, Service
from nlmfo.errors import CommandFailed, NlmfoError
from nlmfo.failover import reload
from nlmfo.host import exports, node_exports
from nlmfo.host.namespaces import Namespaces
from nlmfo.host.node import Node
from nlmfo.kernel import caches, syscalls
from nlmfo.run import ENVIRONMENT, run
from tests.lab import root
from tests.unit import shapes
from tests.unit.namespaced import SECONDS, made

T = TypeVar("T")

HOSTS = "127.0.0.1 localhost\n192.0.2.7 canonical.example alias.example\n"
#: One of each kind of client that exports(5) knows.
CLIENTS = ("*", "10.0.0.0/24", "192.0.2.1", "fd00::/64", "fd00::7", "@group", "*.example", "gss/krb5")


@dataclass(frozen=True, slots=True)
class ANode:
    """A node, and a directory on it for its partitions."""

    inside: Namespaces
    srv: Path

    def call(self, function: Callable[[], T]) -> T:
        return self.inside.call(function, deadline=SECONDS)

    def exportfs(self, *words: str) -> None:
        run(self.inside.command("exportfs", *words), deadline=SECONDS)

    def lines(self) -> list[str]:
        """The table, each entry as PATH CLIENT(OPTIONS)."""
        return self.call(lambda: exports.ETAB.read_text().splitlines())

    def pairs(self) -> set[tuple[Path, str]]:
        return set(exports.entries("\n".join(self.lines())))

    def make(self, *directories: Path) -> None:
        run(self.inside.command("mkdir", "-p", *directories), deadline=SECONDS)

    def load(self, service: Service) -> tuple[str, ...]:
        return self.call(lambda: node_exports.load(service))

    def unload(self, service: Service) -> None:
        self.call(lambda: node_exports.unload(service))

    def service(self, *paths: str, clients: tuple[str, ...] = ("*",), name: str = "home") -> Service:
        """A service with a partition at SRV/NAME that exports the ``paths`` below it, which are made."""
        mountpoint = self.srv / name
        found = [mountpoint / path for path in paths]
        self.make(*found)
        pairs = tuple((client, "rw,no_subtree_check") for client in clients)
        listed = tuple(Export(path, str(number), pairs) for number, path in enumerate(found, start=10))
        return shapes.service(name=name)._replace(partitions=(shapes.partition(1, mountpoint),), exports=listed)


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[ANode]:
    monkeypatch.setitem(ENVIRONMENT, "PATH", f"{ENVIRONMENT['PATH']}:{where_exportfs_is()}")
    with made() as namespaces:
        srv = namespaces.directory / "srv"
        srv.mkdir()

        def lay_out() -> None:
            for place in (Path("/etc"), Path("/var/lib/nfs"), srv):
                syscalls.mount("tmpfs", place, "tmpfs")
            for file in ("/etc/exports", "/var/lib/nfs/etab", "/var/lib/nfs/rmtab"):
                Path(file).touch()
            Path("/etc/hosts").write_text(HOSTS)
            Path("/etc/nsswitch.conf").write_text("hosts: files\n")

        namespaces.call(lay_out)
        yield ANode(namespaces, srv)


def where_exportfs_is() -> Path:
    """It comes with the NFS server, which need not be installed here: the lab's nodes have one."""
    installed = shutil.which("exportfs")
    return Path(installed).parent if installed else root.tree() / "usr/sbin"


def test_every_path_is_exported_to_each_kind_of_client_and_taken_back_again(node: ANode) -> None:
    service = node.service("data", "other", clients=CLIENTS)
    assert node.load(service) == ()
    assert node.pairs() == {(export.path, client) for export in service.exports for client in CLIENTS}
    node.unload(service)
    assert node.lines() == []


def test_options_are_those_of_the_configuration_with_fsid_and_guard(node: ANode) -> None:
    service = node.service("data")
    node.load(service)
    (line,) = node.lines()
    options = line.partition("(")[2].rstrip(")").split(",")
    assert {"rw", "no_subtree_check", "fsid=10", f"mountpoint={node.srv}/home"} <= set(options)


def test_exporting_twice_changes_nothing_and_a_changed_option_counts(node: ANode) -> None:
    service = node.service("data")
    for _ in range(2):
        node.load(service)
    before = node.lines()
    assert len(before) == 1
    changed = service._replace(exports=(service.exports[0]._replace(clients=(("*", "ro,no_subtree_check"),)),))
    node.load(changed)
    (line,) = node.lines()
    assert "(ro," in line


def test_what_others_have_exported_stays_whatever_we_do(node: ANode) -> None:
    other = node.srv / "other"
    node.make(other)
    node.exportfs("-i", "-o", "rw,fsid=99", f"*:{other}")
    service = node.service("data")
    node.load(service)
    assert (other, "*") in node.pairs()
    node.unload(service)
    assert node.pairs() == {(other, "*")}
    assert node.call(node_exports.table) == {other}


def remade(node: ANode, service: Service) -> str:
    """The table that a reload would put there."""
    text = exports.render(service, guarded=True)
    return node.call(lambda: exports.made(Node(service.name), service, text))


def given(service: Service, options: str) -> Service:
    return service._replace(exports=tuple(e._replace(clients=(("*", options),)) for e in service.exports))


def test_a_table_made_aside_changes_nothing_that_is_exported(node: ANode) -> None:
    service = node.service("data")
    node.load(service)
    before = node.lines()
    found = remade(node, given(node.service("data", "more"), "ro"))
    assert {path.name for path, _ in exports.entries(found)} == {"data", "more"}
    assert node.lines() == before


def test_a_table_made_aside_is_what_exporting_anew_would_give(node: ANode) -> None:
    service = node.service("data", "a b#\"c'", clients=CLIENTS)
    node.load(service)
    assert exports.table(remade(node, service)) == exports.table("\n".join(node.lines()))


def test_a_mistake_in_an_option_is_told_in_exportfs_words_while_nothing_is_changed(node: ANode) -> None:
    service = node.service("data")
    node.load(service)
    before = node.lines()
    with pytest.raises(NlmfoError, match=r"exportfs does not export .*/data to each of its clients: .*rww"):
        remade(node, given(service, "rww"))
    assert node.lines() == before


@pytest.mark.parametrize(("before", "after"), [("rw,sec=sys:krb5", "rw"), ("ro,anonuid=7,all_squash", "rw,insecure")])
def test_replacing_leaves_no_option_of_before_and_nobody_else_without_an_export(
    node: ANode, before: str, after: str
) -> None:
    """exportfs -i adds to the options of an entry that is there: the flavour of before would stay."""
    other = node.srv / "other"
    node.make(other)
    node.exportfs("-i", "-o", "rw,fsid=99", f"*:{other}")
    node.load(given(node.service("data", "old"), before))
    service = given(node.service("data"), after)
    table = remade(node, service)
    node.call(lambda: node_exports.replace(service, table))
    assert node.pairs() == {(other, "*"), (service.exports[0].path, "*")}
    assert node.call(lambda: exports.table(node_exports.of(service))) == exports.table(table)
    lines = sorted(node.lines())
    node.exportfs("-r")  # what the node's own reload makes of it
    assert [line for line in lines if "/home/" in line] == node.lines()


def test_the_fsid_of_each_export_is_read_from_the_table_as_it_was_configured(node: ANode) -> None:
    service = node.service("data", "more")
    uuid = "11111111-2222-3333-4444-555555555555"
    first, second = service.exports
    service = service._replace(exports=(first, second._replace(fsid=uuid)))
    found = reload._fsids(exports.table(remade(node, service)))
    assert found == {first.path: first.fsid, second.path: uuid}


def test_two_services_come_and_go_without_each_other(node: ANode) -> None:
    one, two = node.service("data", name="one"), node.service("data", name="two")
    for service in (one, two):
        node.load(service)
    node.unload(one)
    assert node.call(node_exports.table) == {two.exports[0].path}
    assert node.call(lambda: (node_exports.traces(one), node_exports.traces(two))) == (False, True)


def test_an_administrators_reload_neither_drops_nor_changes_our_exports(node: ANode) -> None:
    service = node.service("data", "a b#\"c'", clients=CLIENTS)
    node.load(service)
    before = sorted(node.lines())
    node.exportfs("-r")
    assert sorted(node.lines()) == before


def test_a_reload_after_the_release_does_not_bring_them_back(node: ANode) -> None:
    service = node.service("data")
    node.load(service)
    node.unload(service)
    node.exportfs("-r")
    assert node.lines() == []
    assert not node.call(lambda: node_exports.traces(service))


def test_a_client_that_the_configuration_no_longer_names_loses_the_export_all_the_same(node: ANode) -> None:
    service = node.service("data", clients=("10.0.0.0/24", "fd00::/64"))
    node.load(service)
    edited = service._replace(exports=(service.exports[0]._replace(clients=(("*", "ro"),)),))
    node.unload(edited)
    assert node.lines() == []


def test_taking_back_what_was_never_exported_is_fine(node: ANode) -> None:
    service = node.service("data")
    for _ in range(2):
        node.unload(service)
    assert node.call(node_exports.table) == set()


def test_a_path_that_is_missing_is_an_error_and_is_taken_back_with_the_rest(node: ANode) -> None:
    """exportfs puts it in the table all the same."""
    service = node.service("data", "gone")
    node.call(service.exports[1].path.rmdir)
    with pytest.raises(CommandFailed, match="No such file or directory") as caught:
        node.load(service)
    assert "must exist on the partition" in str(caught.value.hint)
    node.unload(service)
    assert node.lines() == []


def test_a_host_whose_address_is_unknown_is_told_though_exportfs_reports_success(node: ANode) -> None:
    service = node.service("data", clients=("unknown.example", "192.0.2.1"))
    left_out = node.load(service)
    assert left_out == (f"unknown.example:{service.exports[0].path}",)
    assert node.pairs() == {(service.exports[0].path, "192.0.2.1")}


def test_a_path_that_nobody_at_all_is_given_is_an_error(node: ANode) -> None:
    service = node.service("data", clients=("unknown.example",))
    with pytest.raises(NlmfoError, match=f"exportfs did not export {service.exports[0].path}"):
        node.load(service)


def test_a_host_known_by_another_name_is_not_reported_as_left_out(node: ANode) -> None:
    service = node.service("data", clients=("alias.example",))
    assert node.load(service) == ()
    node.unload(service)
    assert node.lines() == []


def test_an_export_that_comes_back_from_somewhere_else_is_an_error_that_names_it(
    node: ANode, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = node.service("data")
    node.load(service)
    monkeypatch.setattr(node_exports, "run", lambda *_, **__: "")
    with pytest.raises(NlmfoError, match=rf"still exported: \*:{service.exports[0].path}"):
        node.unload(service)


@pytest.mark.parametrize("character", [" ", ",", ")", '"', "\\", "#", "\u2028"])
def test_a_mountpoint_that_would_spoil_the_whole_table_is_refused_before_anything_is_written(
    node: ANode, character: str
) -> None:
    service = node.service("data", name="home")
    mountpoint = Path(f"/srv/a{character}b")
    odd = service._replace(
        partitions=(shapes.partition(1, mountpoint),),
        exports=(service.exports[0]._replace(path=mountpoint / "data"),),
    )
    with pytest.raises(NlmfoError, match="cannot stand in an option of exports"):
        node.load(odd)
    assert not node.call(lambda: node_exports.traces(odd))


def test_exportfs_cannot_read_what_it_wrote_of_a_mountpoint_with_a_blank(node: ANode) -> None:
    """Why such a mountpoint is refused. Once exportfs can, this fails, and the refusal may go."""
    path = node.srv / "a"
    node.make(path)
    node.exportfs("-i", "-o", "rw,fsid=1,mountpoint=/srv/a b", f"*:{path}")
    with pytest.raises(CommandFailed, match="etab:1: syntax error: bad option list"):
        node.exportfs("-i", "-o", "rw,fsid=2", f"*:{node.srv}")
    assert node.pairs() == {(node.srv, "*")}


def test_the_file_is_readable_and_none_that_exportfs_would_not_read_is_left_beside_it(node: ANode) -> None:
    service = node.service("data")
    node.load(service)
    (file,) = node.call(lambda: list(Path("/etc/exports.d").iterdir()))
    assert file.name == "nlmfo-home.exports"
    assert node.call(lambda: file.stat().st_mode & 0o777) == 0o644


def test_unexporting_flushes_the_caches_though_exportfs_has_done_so(
    node: ANode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """exportfs may have done it by netlink, which leaves nfsd's open files open."""
    service = node.service("data")
    node.load(service)
    monkeypatch.setattr(caches, "flush", (tmp_path / "flushed").touch)
    node.unload(service)
    assert (tmp_path / "flushed").exists()
