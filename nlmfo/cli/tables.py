# SPDX-License-Identifier: GPL-2.0-or-later
"""Clients and locks as tables."""

from __future__ import annotations

from collections.abc import Sequence

from nlmfo.cli import words
from nlmfo.failover.clients import ClientOnRecord, ClientState
from nlmfo.failover.held import LockOnFile
from nlmfo.plain import plain
from nlmfo.records.ledger import Standing


def clients(found: list[ClientOnRecord]) -> str:
    """A table of the clients on record."""
    if not found:
        return "nobody is on record here"
    rows = [("SERVICE", "CLIENT", "ADDRESSES", "FSIDS", "SINCE", "STATE")]
    rows += [
        (
            client.service,
            plain(client.client),
            ",".join(client.addresses),
            ",".join(client.fsids) or "any",
            words.when(client.since),
            _state(client),
        )
        for client in found
    ]
    return words.columns(rows)


def locks(found: Sequence[LockOnFile]) -> str:
    """A table of the locks that clients hold."""
    if not found:
        return "no client holds a lock here, as far as the kernel shows"
    rows = [("SERVICE", "FILE", "BYTES", "TYPE", "HOLDERS", "CLIENTS THAT MAY HOLD IT")]
    rows += [
        (
            lock.service,
            f"inode {lock.inode} of {plain(lock.mountpoint)}" if lock.path is None else plain(lock.path),
            f"{lock.first}-{'end' if lock.last is None else lock.last}",
            "exclusive" if lock.exclusive else "shared",
            str(lock.holders),
            words.listed(lock.clients) or "nobody on record",
        )
        for lock in found
    ]
    return words.columns(rows)


def _state(client: ClientOnRecord) -> str:
    said, notice = str(client.state), client.notice
    if notice is None:
        said += f", {Standing.PENDING}" if client.state is ClientState.OWED else ""
    elif notice.standing is Standing.UNREACHABLE:
        said += f", unreachable since {words.when(notice.since)}"
    elif notice.standing is Standing.LEFT:
        said += f", left {words.when(notice.at)}: {plain(notice.detail)}"
    elif notice.standing is Standing.PENDING:
        said += f", pending since {words.when(notice.since)}"
    else:
        said += f", {notice.standing} {words.when(notice.at)}"
    return said if client.intact else f"{said}, record damaged"
