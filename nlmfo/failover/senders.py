# SPDX-License-Identifier: GPL-2.0-or-later
"""Who sends the notices of a service: nlmfo itself, or sm-notify of nfs-utils, as its configuration says."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nlmfo.config import Service
from nlmfo.failover.notices import Send
from nlmfo.notify import Notice, names_for, notify
from nlmfo.records import Address


def sender_of(service: Service) -> Send:
    """Runs where ``nlmfo keep`` does: in the service's network."""
    return _by_ourselves(service)


def _by_ourselves(service: Service) -> Send:
    def send(
        address: Address, clients: Sequence[str], state: int, seconds: float, hear: Callable[[Notice], None]
    ) -> None:
        names = names_for(service.names, address)
        notify(clients, source=address, names=names, state=state, deadline=seconds, on_notice=hear)

    return send
