# SPDX-License-Identifier: GPL-2.0-or-later
"""The registry: where every node can read at any time who serves what.

A directory that all nodes see: on a cluster file system, or NFS-mounted from a machine that is none of them.

    REGISTRY/services/NAME/owner/000042     the owner record of epoch 42, one line of JSON

The record with the highest epoch counts. An epoch is claimed by link(2)ing a finished file to its name, which one
node can do and no second: two that claim at once get one winner. Only the owner of an epoch ever writes it again,
to say that it has released. A few older epochs are kept for those who want to know what happened.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from nlmfo.errors import Refused
from nlmfo.ownership.record import OwnerRecord, from_json

#: How many epochs stay readable after they have passed.
KEPT = 20
#: The names under which ``_path`` files them; anything else in the directory is nobody's epoch.
_EPOCH = re.compile(r"[0-9]{6}|[1-9][0-9]{6,}")


class Registry(Protocol):
    """What a store of owner records has to offer. Every method raises Refused when it cannot be sure."""

    def read(self, service: str) -> OwnerRecord | None:
        """The record of the highest epoch; None when the service was never served."""

    def claim(self, record: OwnerRecord) -> None:
        """Make ``record`` the newest one; Refused (``claim-lost``) when its epoch is taken."""

    def update(self, record: OwnerRecord) -> None:
        """Replace the record of an epoch that this node owns."""


class DirectoryRegistry:
    """A registry in a directory that all nodes see."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def read(self, service: str) -> OwnerRecord | None:
        newest = max(self._epochs(service), default=None)
        if newest is None:
            return None
        return _read(self._path(service, newest), service, newest)

    def claim(self, record: OwnerRecord) -> None:
        epochs = self._epochs(record.service)
        path = self._path(record.service, record.epoch)
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        new = self._write(record)
        try:
            # link() fails where rename() would replace. The answer can be lost on NFS: what counts is who is there.
            with contextlib.suppress(FileExistsError):
                os.link(new, path)
            won = new.samefile(path)
        finally:
            new.unlink()
        _sync(path.parent)
        if not won or max(self._epochs(record.service)) != record.epoch:
            raise Refused(
                "claim-lost",
                f"service '{record.service}': another node claimed epoch {record.epoch} at the same moment",
                hint=f"'nlmfo status {record.service}' shows who serves it now",
            )
        for old in sorted(epochs)[:-KEPT]:
            self._path(record.service, old).unlink(missing_ok=True)

    def update(self, record: OwnerRecord) -> None:
        path = self._path(record.service, record.epoch)
        self._write(record).replace(path)
        _sync(path.parent)

    def _epochs(self, service: str) -> list[int]:
        services = self.directory / "services"
        owner = services / service / "owner"
        with _refused_when_unavailable(self.directory):
            if not services.is_dir():
                raise Refused(
                    "registry-unavailable",
                    f"registry {self.directory}: there is no 'services' in it, so nobody can tell who serves",
                    hint=f"mount it; if it is new, prepare it once: mkdir {services}",
                )
            names = [entry.name for entry in owner.iterdir()] if owner.exists() else []
        return [int(name) for name in names if _EPOCH.fullmatch(name)]

    def _path(self, service: str, epoch: int) -> Path:
        return self.directory / "services" / service / "owner" / f"{epoch:06d}"

    def _write(self, record: OwnerRecord) -> Path:
        """The record in a file of its own beside its place, durable."""
        place = self._path(record.service, record.epoch)
        # Cloned machines and containers share host names and process ids, so neither would tell claimants apart.
        new = place.with_name(f".{place.name}.{record.node}.{os.urandom(8).hex()}")
        with new.open("x", encoding="utf-8") as file:
            file.write(record.to_json())
            file.flush()
            os.fsync(file.fileno())
        return new


class NoRegistry:
    """Without a registry each node only knows what it did itself, in this boot; others are vouched for."""

    def __init__(self, run: Path) -> None:
        self.run = run

    def read(self, service: str) -> OwnerRecord | None:
        path = self.run / service / "owner"
        return _read(path, service) if path.exists() else None

    def claim(self, record: OwnerRecord) -> None:
        self.update(record)

    def update(self, record: OwnerRecord) -> None:
        path = self.run / record.service / "owner"
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        new = path.with_name(".owner")
        new.write_text(record.to_json(), encoding="utf-8")
        new.replace(path)


def _read(path: Path, service: str, epoch: int | None = None) -> OwnerRecord:
    """The record at ``path``, if it is of the service and epoch that it is filed under."""
    with _refused_when_unavailable(path):
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    record = from_json(text, str(path))
    if record.service != service or epoch not in (None, record.epoch):
        raise Refused(
            "owner-unreadable",
            f"{path}: says that it is the record of service '{record.service}', epoch {record.epoch}",
            hint="find out on each node who serves ('nlmfo status'), then remove the file",
        )
    return record


@contextlib.contextmanager
def _refused_when_unavailable(path: Path) -> Iterator[None]:
    """A registry that answers with an error (EIO, ESTALE, ...) is not an empty one."""
    try:
        yield
    except OSError as error:
        raise Refused(
            "registry-unavailable",
            f"registry {path}: {error.strerror}, so nobody can tell who serves",
            hint="see that the registry is mounted and answers ('ls'), on this node",
        ) from error


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
