# SPDX-License-Identifier: GPL-2.0-or-later
"""mountinfo: read whatever names people gave their mount points, because one bad name must not blind us to the rest."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlmfo.host import mounts
from nlmfo.host.mounts import Mount, parse
from nlmfo.kernel import syscalls

Mounter = Callable[..., None]

#: As the kernel writes it: blanks, tabs, newlines and backslashes in octal (fs/proc_namespace.c, mangle).
TABLE = r"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
26 22 0:5 /sub/dir /srv/a\040b rw master:7 propagate_from:2 - tmpfs none rw,size=4k
27 22 0:4 net:[4026532281] /run/netns/nlmfo-home rw - nsfs nsfs rw
28 22 8:17 / /srv/back\134slash\011tab rw - xfs /dev/disk/by-id/x\040y rw
"""

NAMES = st.text(st.characters(exclude_characters="\0/", codec="utf-8"), min_size=1, max_size=20).filter(
    lambda name: name not in (".", "..")
)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))
MOUNTS = st.builds(
    Mount,
    device=st.tuples(st.integers(0, 4095), st.integers(0, 2**20 - 1)).map(lambda pair: f"{pair[0]}:{pair[1]}"),
    root=PATHS,
    mountpoint=PATHS.map(Path),
    kind=st.sampled_from(["ext4", "xfs", "fuse.sshfs", "nsfs"]),
    source=st.one_of(PATHS, st.just(""), st.just("none")),
    options=st.sampled_from(["rw", "ro,size=4k", "rw,vers=3,addr=10.0.0.1", ""]),
)


def mangled(text: str) -> str:
    return "".join(f"\\{ord(c):03o}" if c in " \t\n\\" else c for c in text)


def line(mount: Mount, optional: list[str]) -> str:
    fields = ["22", "1", mount.device, mangled(mount.root), mangled(str(mount.mountpoint)), "rw,relatime", *optional]
    return " ".join([*fields, "-", mount.kind, mangled(mount.source), mount.options]) + "\n"


@pytest.fixture
def mount(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mounter]:
    """mount(2), which needs root; what is still mounted at the end of the test is unmounted without our parser."""
    mounted: list[Path] = []
    umount = syscalls.umount

    def do(source: str, target: Path, kind: str = "tmpfs", flags: int = 0) -> None:
        syscalls.mount(source, target, kind, flags)
        mounted.append(target)

    def undo(target: Path) -> None:
        umount(target)
        mounted.remove(target)

    monkeypatch.setattr(syscalls, "umount", undo)
    yield do
    for target in reversed(mounted):
        umount(target)


def test_the_mounts_of_a_real_table() -> None:
    assert parse(TABLE) == (
        Mount("254:0", "/", Path("/"), "ext4", "/dev/vda", "rw"),
        Mount("0:5", "/sub/dir", Path("/srv/a b"), "tmpfs", "none", "rw,size=4k"),
        Mount("0:4", "net:[4026532281]", Path("/run/netns/nlmfo-home"), "nsfs", "nsfs", "rw"),
        Mount("8:17", "/", Path("/srv/back\\slash\ttab"), "xfs", "/dev/disk/by-id/x y", "rw"),
    )


@given(st.lists(st.tuples(MOUNTS, st.lists(st.sampled_from(["shared:1", "master:2", "unbindable"]), max_size=2))))
def test_every_mount_that_the_kernel_prints_is_read_back(found: list[tuple[Mount, list[str]]]) -> None:
    assert parse("".join(line(mount, optional) for mount, optional in found)) == tuple(m for m, _ in found)


@given(st.binary(max_size=200).map(lambda raw: raw.replace(b"\0", b"").replace(b"/", b"")).filter(bool))
def test_a_name_that_is_no_text_comes_back_byte_for_byte(name: bytes) -> None:
    text = name.decode("utf-8", errors="surrogateescape")
    (found,) = parse(line(Mount("0:5", "/", Path("/srv") / f"x{text}", "ext4", "none"), []))
    assert os.fsencode(found.mountpoint) == b"/srv/x" + name


@pytest.mark.parametrize("name", ["cr\rlf", "page\fbreak", "nel\x85", "line\u2028separator", "a b\tc\nd\\e", "ü"])
def test_no_mount_point_of_any_name_hides_the_others(tmp_path: Path, mount: Mounter, name: str) -> None:
    """Where anybody may mount something of his own (FUSE), anybody chooses such names."""
    target = tmp_path / name
    target.mkdir()
    mount("none", target)
    found = mounts.at(target)
    assert found is not None
    assert found.kind == "tmpfs"
    assert mounts.at(Path("/")) is not None


def test_of_two_mounts_in_one_place_the_one_on_top_is_meant(tmp_path: Path, mount: Mounter) -> None:
    mount("below", tmp_path)
    mount("above", tmp_path)
    found = mounts.at(tmp_path)
    assert found is not None
    assert found.source == "above"
    syscalls.umount(tmp_path)
    found = mounts.at(tmp_path)
    assert found is not None
    assert found.source == "below"


def test_a_place_where_nothing_is_mounted_has_no_mount(tmp_path: Path) -> None:
    assert mounts.at(tmp_path) is None


def test_a_bind_mount_says_which_part_of_its_file_system_it_shows(tmp_path: Path, mount: Mounter) -> None:
    for name in ("disk", "view"):
        (tmp_path / name).mkdir()
    mount("none", tmp_path / "disk")
    (tmp_path / "disk/part").mkdir()
    mount(os.fspath(tmp_path / "disk/part"), tmp_path / "view", "none", syscalls.MS_BIND)
    found = mounts.at(tmp_path / "view")
    assert found is not None
    assert found.root == "/part"


def test_what_is_busy_is_not_unmounted_behind_its_users_back(tmp_path: Path, mount: Mounter) -> None:
    mount("none", tmp_path)
    with (tmp_path / "open").open("w"), pytest.raises(OSError, match="busy") as caught:
        syscalls.umount(tmp_path)
    assert caught.value.filename == str(tmp_path)
    assert mounts.at(tmp_path) is not None


def test_unmounting_what_is_not_mounted_names_the_place(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Invalid argument") as caught:
        syscalls.umount(tmp_path)
    assert caught.value.filename == str(tmp_path)
