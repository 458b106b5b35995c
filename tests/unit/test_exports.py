# SPDX-License-Identifier: GPL-2.0-or-later
"""The exports file says what the configuration says, whatever characters a path has, and etab is read back whole."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlmfo.config import Export, Service
from nlmfo.errors import CommandFailed, NlmfoError
from nlmfo.host import exports
from nlmfo.host.exports import parse, render
from nlmfo.kernel import caches, exportable
from nlmfo.kernel.files import ControlError
from tests.unit import shapes
from tests.unit.kernel_fake import FakeKernel

T = TypeVar("T")

#: What the configuration lets through: any character but control characters.
NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="/"), min_size=1)
PATHS = st.lists(NAMES.filter(lambda n: n not in (".", "..")), min_size=1, max_size=3).map(
    lambda parts: Path("/" + "/".join(parts))
)


def exporting(*path_and_clients: tuple[Path, dict[str, str]]) -> Service:
    found = (Export(p, str(n), tuple(c.items())) for n, (p, c) in enumerate(path_and_clients, start=1))
    return shapes.service()._replace(exports=tuple(found))


def lines(service: Service) -> list[str]:
    """What exportfs(8) reads: comments are not."""
    return [line for line in render(service).split("\n") if line and not line.startswith("#")]


def as_exportfs_reads(line: str) -> tuple[bytes, list[str]]:
    r"""A path and its clients, by the rules of exports(5): words end at blanks, ``\ooo`` stands for a byte."""
    path, *clients = re.split(r"[ \t]+", line)
    assert not re.search(r'["#]', line)
    raw = re.sub(rb"\\([0-3][0-7]{2})", lambda found: bytes((int(found[1], 8),)), os.fsencode(path))
    return raw, clients


def as_exportfs_writes(path: bytes) -> bytes:
    """A path in etab: nfs-utils, support/nfs/exports.c, putexportent()."""
    quoted = (b"\\%03o" % c if c <= 32 or c == 127 or c in b'"\\#' else bytes((c,)) for c in path)
    return b"".join(quoted) + b"\t*(rw,sync,fsid=1)\n"


def test_a_line_has_the_path_and_each_client_with_its_options_and_the_fsid() -> None:
    service = exporting((Path("/srv/home"), {"10.0.0.0/24": "rw,no_root_squash", "*.example": "ro"}))
    assert lines(service) == ["/srv/home 10.0.0.0/24(rw,no_root_squash,fsid=1) *.example(ro,fsid=1)"]


def test_a_client_without_options_of_its_own_gets_the_fsid_all_the_same() -> None:
    assert lines(exporting((Path("/srv/home"), {"*": ""}))) == ["/srv/home *(fsid=1)"]


def test_exports_keep_the_order_of_the_configuration() -> None:
    service = exporting((Path("/srv/b"), {"*": "rw"}), (Path("/srv/a"), {"*": "rw"}))
    assert lines(service) == ["/srv/b *(rw,fsid=1)", "/srv/a *(rw,fsid=2)"]


def test_the_file_warns_the_one_who_is_about_to_edit_it() -> None:
    assert render(shapes.service()).startswith("# nlmfo service 'home', from /etc/nlmfo/services.d/home.toml:")


@given(st.lists(PATHS, max_size=4))
def test_exportfs_finds_every_path_again_in_what_we_write(paths: list[Path]) -> None:
    read = [as_exportfs_reads(line) for line in lines(exporting(*((path, {"*": "rw"}) for path in paths)))]
    assert [path for path, _ in read] == [os.fsencode(path) for path in paths]
    assert all(len(clients) == 1 for _, clients in read)


@given(st.sets(PATHS, max_size=4))
def test_we_find_every_path_again_in_what_exportfs_writes(paths: set[Path]) -> None:
    etab = b"".join(as_exportfs_writes(os.fsencode(path)) for path in paths)
    assert parse(etab.decode("utf-8", errors="surrogateescape")) == paths


@given(st.sets(PATHS, max_size=4))
def test_a_path_whose_every_byte_is_in_octal_is_the_same_path(paths: set[Path]) -> None:
    octal = ("".join(f"\\{byte:03o}" for byte in os.fsencode(path)) for path in paths)
    assert parse("".join(f"{path}\t*(rw)\n" for path in octal)) == paths


@pytest.mark.parametrize(
    "name", ["a b", "tab\tnewline\n", r"back\slash", "#hash", '"quoted"', "ü€😀", "\u2028", r"\040"]
)
def test_names_that_are_hard_on_the_syntax(name: str) -> None:
    path = Path("/srv") / name
    ((read, _),) = [as_exportfs_reads(line) for line in lines(exporting((path, {"*": "rw"})))]
    assert read == os.fsencode(path)
    assert parse(as_exportfs_writes(read).decode("utf-8")) == {path}


def test_one_path_for_several_clients_is_one_path() -> None:
    assert parse("/srv/home\ta(rw)\n/srv/home\tb(ro)\n") == {Path("/srv/home")}


def test_an_empty_table_exports_nothing() -> None:
    assert parse("") == set()


@given(st.text())
def test_no_table_whatever_breaks_the_reading(etab: str) -> None:
    assert len(parse(etab)) <= etab.count("\n") + 1


class Namespaces:
    """Namespaces in which everything is called here."""

    service = "home"

    def call(self, function: Callable[[], T]) -> T:
        return function()

    def run(self, *argv: str) -> str:
        raise AssertionError(f"nobody runs {argv} here")


class Exportfs:
    """In the place of exportfs(8), which reads what ``writes`` says and complains of what it should."""

    def __init__(self, patch: pytest.MonkeyPatch, etab: Path) -> None:
        self.etab = etab
        self.writes = ""
        self.complains = ""
        patch.setattr(Namespaces, "run", lambda _, *argv: self.run(*argv))

    def run(self, *argv: str) -> str:
        assert argv == ("exportfs", "-r")
        self.etab.write_text(self.writes, encoding="utf-8")
        if self.complains:
            raise CommandFailed(argv, 1, self.complains)
        return ""


@pytest.fixture
def etab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The export table, as the service's daemons see it."""
    table = tmp_path / "etab"
    table.touch()
    monkeypatch.setattr(exports, "ETAB", table)
    return table


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> FakeKernel:
    kernel = FakeKernel()
    monkeypatch.setattr(caches, "flush", partial(caches.flush, files=kernel))
    return kernel


@pytest.fixture
def exportfs(monkeypatch: pytest.MonkeyPatch, etab: Path) -> Exportfs:
    return Exportfs(monkeypatch, etab)


@pytest.fixture
def proved(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Which directories the kernel was asked about."""
    asked: list[Path] = []
    monkeypatch.setattr(exportable, "prove", asked.append)
    return asked


HOME = exporting((Path("/srv/home"), {"*": "rw", "10.0.0.1": "ro"}))
TABLE = "/srv/home\t*(rw,sync)\n/srv/home\t10.0.0.1(ro,sync)\n"
NOT_THERE_YET = "exportfs: Failed to stat /srv/home: No such file or directory\n"


def prepare(service: Service = HOME) -> None:
    exports.prepare(Namespaces(), service)  # type: ignore[arg-type]


def load(service: Service = HOME) -> None:
    exports.load(Namespaces(), service)  # type: ignore[arg-type]


def unload() -> None:
    exports.unload(Namespaces())  # type: ignore[arg-type]


def test_nothing_is_exported_while_the_table_is_only_prepared(exportfs: Exportfs, etab: Path) -> None:
    exportfs.writes, exportfs.complains = TABLE, NOT_THERE_YET
    prepare()
    assert etab.read_bytes() == b""


def test_what_was_prepared_is_exported_once_the_kernel_can_export_it(
    exportfs: Exportfs, etab: Path, proved: list[Path], kernel: FakeKernel
) -> None:
    exportfs.writes, exportfs.complains = TABLE, NOT_THERE_YET
    prepare()
    before, flushed = etab.stat().st_ino, dict(kernel.flushed)
    load()
    assert proved == [Path("/srv/home")]
    assert etab.read_text(encoding="utf-8") == TABLE
    assert etab.stat().st_ino != before, "rpc.mountd reads it again when it is another file"
    assert all(kernel.flushed[name] > flushed[name] for name in caches.ORDER)


def test_what_was_prepared_can_be_exported_again_after_it_was_taken_back(
    exportfs: Exportfs, etab: Path, proved: list[Path], kernel: FakeKernel
) -> None:
    exportfs.writes = TABLE
    prepare()
    load()
    unload()
    load()
    assert etab.read_text(encoding="utf-8") == TABLE
    assert len(proved) == 2
    assert kernel.writes


@pytest.mark.parametrize("left_out", ["10.0.0.1(ro,sync)", "*(rw,sync)"])
def test_a_client_that_exportfs_leaves_out_is_an_error_before_anybody_waits(exportfs: Exportfs, left_out: str) -> None:
    exportfs.writes = TABLE.replace(f"/srv/home\t{left_out}\n", "")
    exportfs.complains = NOT_THERE_YET + 'exportfs: /etc/exports:2: unknown keyword "rww"\n'
    with pytest.raises(NlmfoError, match=r'home to each of its clients: exportfs: /etc/exports:2: .*"rww"$') as caught:
        prepare()
    assert "exports(5)" in str(caught.value.hint)


def test_an_export_that_exportfs_leaves_out_without_a_word_is_an_error_that_names_it(exportfs: Exportfs) -> None:
    exportfs.writes = TABLE
    more = HOME._replace(exports=(*HOME.exports, Export(Path("/srv/gone"), "2", (("*", "rw"),))))
    with pytest.raises(NlmfoError, match=r"exportfs does not export /srv/gone to each of its clients$"):
        prepare(more)


def test_what_the_kernel_cannot_export_is_not_exported_and_told_with_what_an_export_needs(
    exportfs: Exportfs, etab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise ControlError(f"exporting {path}: there is no such directory (ENOENT)", 2)

    exportfs.writes = TABLE
    prepare()
    monkeypatch.setattr(exportable, "prove", refuse)
    with pytest.raises(NlmfoError, match="service 'home': exporting /srv/home: there is no such directory") as caught:
        load()
    assert caught.value.hint == exports.MUST
    assert etab.read_bytes() == b""


def test_a_table_that_does_not_have_everything_when_it_is_in_place_is_an_error(
    exportfs: Exportfs, etab: Path, proved: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    exportfs.writes = TABLE
    prepare()
    monkeypatch.setattr(caches, "flush", lambda: etab.write_bytes(b""))
    with pytest.raises(NlmfoError, match="not exported: /srv/home"):
        load()
    assert proved


def test_after_all_were_taken_back_the_table_is_empty_and_no_cache_knows_of_them(
    etab: Path, kernel: FakeKernel
) -> None:
    etab.write_text("/srv/home\t*(rw)\n/srv/other\t*(rw)\n", encoding="utf-8")
    before = dict(kernel.flushed)
    unload()
    assert etab.read_bytes() == b""
    assert all(kernel.flushed[name] > before[name] for name in caches.ORDER)


def test_the_table_is_empty_before_the_kernel_forgets_what_was_in_it(
    etab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """rpc.mountd fills the caches from the table: in the other order a client that asks brings an export back."""
    at_the_flush: list[bytes] = []
    monkeypatch.setattr(caches, "flush", lambda: at_the_flush.append(etab.read_bytes()))
    etab.write_text("/srv/home\t*(rw)\n", encoding="utf-8")
    unload()
    assert at_the_flush == [b""]


@pytest.mark.usefixtures("etab")
def test_caches_that_are_not_flushed_keep_the_service_from_being_let_go(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "write", lambda _file, _data: None)
    with pytest.raises(NlmfoError, match="its flush time did not rise"):
        unload()


def test_an_export_that_stays_after_all_were_taken_back_is_an_error_that_names_it(
    etab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caches, "flush", lambda: etab.write_text("/srv/home\t*(rw)\n", encoding="utf-8"))
    with pytest.raises(NlmfoError, match="still exported: /srv/home"):
        unload()
