# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel is asked whether it can export a directory in the words that exportfs(8) has for it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from nlmfo.kernel.exportable import prove
from nlmfo.kernel.files import ControlError


class Channels:
    """The channels of the kernel's export caches; the second refuses with ``number``, if that is not 0."""

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.written: list[tuple[str, bytes]] = []

    def exists(self, _: Path) -> bool:
        return True

    def write(self, file: Path, data: bytes) -> None:
        self.written.append((str(file), data))
        if self.number and "nfsd.export" in str(file):
            raise OSError(self.number, os.strerror(self.number))


def test_nobody_is_made_known_and_the_directory_exported_to_him_long_ago() -> None:
    kernel = Channels()
    prove(Path("/srv/a b"), files=kernel)  # type: ignore[arg-type]
    assert kernel.written == [
        ("/proc/net/rpc/auth.unix.ip/channel", b"nfsd 0.0.0.0 2147483647 -test-client-\n"),
        ("/proc/net/rpc/nfsd.export/channel", b"-test-client- /srv/a\\040b 3 8192 65534 65534 0\n"),
    ]


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (errno.ENOENT, "no such directory"),
        (errno.ENOTDIR, "not a directory"),
        (errno.EINVAL, "cannot be exported by NFS"),
        (errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_a_refusal_is_told_with_the_path_and_the_reason(number: int, why: str) -> None:
    with pytest.raises(ControlError, match=f"exporting /srv/home: .*{why}"):
        prove(Path("/srv/home"), files=Channels(number))  # type: ignore[arg-type]


def test_a_kernel_that_takes_exports_by_netlink_only_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """rpc.mountd finds out what can be exported there, and a missing file is no missing directory."""
    kernel = Channels(errno.ENOENT)
    monkeypatch.setattr(kernel, "exists", lambda _: False)
    prove(Path("/srv/home"), files=kernel)  # type: ignore[arg-type]
    assert kernel.written == []
