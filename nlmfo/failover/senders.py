# SPDX-License-Identifier: GPL-2.0-or-later
"""Who sends the notices of a service: nlmfo itself, or sm-notify of nfs-utils, as its configuration says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from nlmfo.config import Isolation, Notifier, Service
from nlmfo.failover.notices import Send
from nlmfo.host import view
from nlmfo.notify import Notice, names_for, notify
from nlmfo.records.layout import Address

#: Seconds that sm-notify needs: it waits for 2, 4, 8 s until it tries again, and takes 10 s for 1,000 clients.
ROUND, ROUND_EACH = 30.0, 0.05


def sender_of(service: Service, run: Path) -> Send:
    """Runs where ``nlmfo keep`` does: in the service's network. ``run`` is a directory of root's for working files."""
    return _by_sm_notify(service, run) if service.notifier is Notifier.SM_NOTIFY else _by_ourselves(service)


def _by_ourselves(service: Service) -> Send:
    def send(
        address: Address, clients: Sequence[str], state: int, seconds: float, hear: Callable[[Notice], None]
    ) -> None:
        names = names_for(service.names, address)
        notify(clients, source=address, names=names, state=state, deadline=seconds, on_notice=hear)

    return send


def _by_sm_notify(service: Service, run: Path) -> Send:
    from nlmfo.notify.smnotify import sm_notify  # noqa: PLC0415 - only for those who want it

    def send(
        address: Address, clients: Sequence[str], state: int, seconds: float, hear: Callable[[Notice], None]
    ) -> None:
        user = _statd_user(service)
        sm_notify(
            run,
            clients,
            source=address,
            name=service.names[0],
            state=state,
            user=(user.uid, user.gid),
            deadline=max(seconds, ROUND, ROUND_EACH * len(clients)),
            on_notice=hear,
        )

    return send


def _statd_user(service: Service) -> view.StatdUser:
    """Who rpc.statd runs as. In a service's own namespaces the distribution's directory is not to be seen."""
    if service.isolation is Isolation.HOST:
        return view.statd_user()
    found = (view.STATD_DIRECTORY / "sm").stat()
    return view.StatdUser(found.st_uid, found.st_gid)
