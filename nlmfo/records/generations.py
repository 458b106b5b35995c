# SPDX-License-Identifier: GPL-2.0-or-later
"""Several copies of one service's records: which of them count, and bringing them together.

Copies come about by cloned or mirrored disks, by a disk that was away for a while, and by a state directory that
was moved. The NSM state number rises with each takeover, so the copy with the highest number is the newest, and
lower ones are stale: their clients were told, or settled, by a takeover that the stale copy did not see. Copies of
the same number cannot be told apart. Then everybody in any of them counts.
"""

from __future__ import annotations

from collections.abc import Sequence

from nlmfo.records.store import Store


def newest(copies: Sequence[Store]) -> tuple[Store, ...]:
    """The copies of the highest generation, in the order given; the others are stale. Raises StoreError."""
    numbers = [copy.state_number() for copy in copies]
    highest = max(numbers, default=0)
    return tuple(copy for copy, number in zip(copies, numbers, strict=True) if number == highest)


def absorb(store: Store, copy: Store) -> tuple[str, ...]:
    """Owe a notice to whoever is in ``copy``, of the same generation, and not in ``store``; returns them.

    Raises StoreError. Can be interrupted and run again.
    """
    absorbed = []
    for address in store.addresses:
        known = {record.client for record in (*store.owed(address), *store.current(address))}
        for record in (*copy.owed(address), *copy.current(address)):
            if record.client not in known and store.owe(address, record):
                absorbed.append(record.client)
    return tuple(sorted(set(absorbed)))
