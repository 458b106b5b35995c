# SPDX-License-Identifier: GPL-2.0-or-later
"""libmount says why it cannot mount. What it does when it can: see test_partitions."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from nlmfo.errors import NlmfoError
from nlmfo.host import libmount
from nlmfo.host.libmount import MountFailed


@pytest.fixture
def unloaded() -> Iterator[None]:
    libmount.library.cache_clear()
    yield
    libmount.library.cache_clear()


@pytest.mark.usefixtures("unloaded")
def test_a_node_without_the_library_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libmount, "LIBRARY", "libmount-that-is-not-there.so.1")
    with pytest.raises(NlmfoError, match=r"libmount-that-is-not-there\.so\.1") as caught:
        libmount.umount(Path("/nowhere"))
    assert str(caught.value.hint) == "install libmount (util-linux)"


def test_what_cannot_be_mounted_is_said_in_the_words_of_mount(tmp_path: Path) -> None:
    with pytest.raises(MountFailed, match=f"mount of /dev/null on {tmp_path}: ") as caught:
        libmount.mount(Path("/dev/null"), tmp_path, "defaults")
    assert "/dev/null" in caught.value.said or "block device" in caught.value.said


def test_what_is_not_mounted_cannot_be_unmounted(tmp_path: Path) -> None:
    with pytest.raises(MountFailed, match=f"umount of {tmp_path}: not mounted") as caught:
        libmount.umount(tmp_path)
    assert caught.value.number in (0, errno.EINVAL)


def test_options_that_are_none_are_refused_before_anything_is_mounted(tmp_path: Path) -> None:
    with pytest.raises(MountFailed):
        libmount.mount(Path("/dev/null"), tmp_path, 'context="unfinished')


def test_the_library_is_loaded_once() -> None:
    assert isinstance(libmount.library(), ctypes.CDLL)
    assert libmount.library() is libmount.library()
