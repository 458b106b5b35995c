# SPDX-License-Identifier: GPL-2.0-or-later
"""The copy of the owner record that travels with the service's state, and what it says against a takeover.

    STATE/owner     the record of the last owner that got as far as its state directory, one line of JSON

It can be read only after mounting, so it never proves that nobody serves. But it is written to the very disks that
are served, by whoever served them last, so it shows when the registry is not the one that they were served by, or
when the word that stands in for a registry was about the wrong node.

The state directory may be on a file system that clients reach, so what is in the file is not trusted either: a record
that is forged can keep a service from being taken over, and nothing else.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from nlmfo.config import fields
from nlmfo.config.values import Invalid
from nlmfo.errors import Refused
from nlmfo.ownership.proof import Word
from nlmfo.ownership.record import OwnerRecord, Standing, from_json
from nlmfo.records.directory import Directory

NAME = "owner"
#: Bytes. A record has some 200.
LIMIT = 65536
#: A number that fits everywhere; a record may claim any that Python can read.
MOST = 2**53
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def read(state: Path) -> OwnerRecord | None:
    """The copy in the state directory; None when there is none. May hang where the file system does.

    Raises Refused (``owner-unreadable``): what cannot be read is not the same as nothing.
    """
    path = state / NAME
    try:
        content = _content(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    record = from_json(content.decode("utf-8", errors="surrogateescape"), str(path))
    try:
        fields.service_name(record.service)
        fields.host_name(record.node)
    except Invalid as invalid:
        raise _unreadable(path, invalid.reason) from invalid
    if record.epoch > MOST:
        raise _unreadable(path, "nobody has changed hands so many times")
    return record


def write(state: Path, record: OwnerRecord) -> None:
    """Put the copy in place, durably: a crash leaves the old one or the new one. May hang where the file system does.

    Raises StoreError.
    """
    with Directory.open(state) as directory:
        directory.replace(NAME, record.to_json().encode(), 0o644)


def evidence(copy: OwnerRecord | None, claimed: OwnerRecord, word: Word, has_registry: bool) -> None:
    """Refuse when the copy contradicts what this node has ``claimed``, by the registry or by the ``word``.

    Raises Refused: ``wrong-state``, ``newer-copy`` (with a registry) or ``wrong-node`` (without).
    """
    if copy is None:
        return
    if copy.service != claimed.service:
        raise _wrong_state(copy, claimed)
    if has_registry:
        _compare_epochs(copy, claimed)
    else:
        _compare_nodes(copy, claimed, word)


def _content(path: Path) -> bytes:
    descriptor = os.open(path, _READ)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise _unreadable(path, "not a regular file")
        if found.st_size > LIMIT:
            raise _unreadable(path, f"{found.st_size} bytes are no owner record")
        return os.read(descriptor, LIMIT)
    finally:
        os.close(descriptor)


def _compare_epochs(copy: OwnerRecord, claimed: OwnerRecord) -> None:
    """Epochs are claimed before anything is mounted, so no disk can know of one that the registry has not seen."""
    ours = (copy.node, copy.boot_id) == (claimed.node, claimed.boot_id)
    if ours or copy.epoch < claimed.epoch:
        return
    raise Refused(
        "newer-copy",
        f"service '{copy.service}': {copy.node} had it in epoch {copy.epoch}, says the copy in its state directory, "
        f"but the registry has come to epoch {claimed.epoch} only: it is an old copy, or another registry",
        hint=f"see that every node has the same registry mounted, and look on {copy.node} whether it serves; "
        f"if the registry is new and no other node serves for certain, remove '{NAME}' from the state directory",
    )


def _compare_nodes(copy: OwnerRecord, claimed: OwnerRecord, word: Word) -> None:
    """Who was named must be who had it; with this node itself as the last owner there is nobody to be wrong about."""
    if copy.standing is Standing.RELEASED or copy.node in (claimed.node, word.fenced, word.released_by):
        return
    named = word.fenced or word.released_by or "nobody"
    raise Refused(
        "wrong-node",
        f"service '{copy.service}': you named {named}, but {copy.node} had it last (epoch {copy.epoch}), "
        "says the copy of the owner record in its state directory",
        hint=f"release it on {copy.node}, or fence that node and name it: --fenced {copy.node}",
    )


def _wrong_state(copy: OwnerRecord, claimed: OwnerRecord) -> Refused:
    return Refused(
        "wrong-state",
        f"service '{claimed.service}': its state directory is that of service '{copy.service}'",
        hint=f"set 'state' in the service's file right; if the service was renamed, remove '{NAME}' from there",
    )


def _unreadable(path: Path, why: str) -> Refused:
    return Refused(
        "owner-unreadable",
        f"{path}: not a copy of an owner record: {why}",
        hint="find out on each node who serves ('nlmfo status'), then remove the file",
    )
