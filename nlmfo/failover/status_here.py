# SPDX-License-Identifier: GPL-2.0-or-later
"""What ``nlmfo status`` says of a service of which something is here: what the kernel shows, and the keeper says."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from nlmfo.config import Config, Service
from nlmfo.failover import progress
from nlmfo.failover.observe import Observed
from nlmfo.failover.place import Place
from nlmfo.failover.progress import Progress
from nlmfo.failover.status import ServiceStatus, unfinished
from nlmfo.host import view
from nlmfo.host.namespaces import Namespaces
from nlmfo.ownership.record import OwnerRecord
from nlmfo.records.spool import refused, spool_status


def of_service(config: Config, service: Service, seen: Observed) -> ServiceStatus:
    """Of a service that was looked at."""
    here: Literal["no", "partly", "serving"] = "no"
    if seen.serves(service):
        here = "serving"
    elif seen.anything() or seen.owned:
        here = "partly"
    state = ServiceStatus(
        service.name,
        seen.owner,
        here,
        in_grace=here != "no" and seen.in_grace,
        problem=None,
        untold=here == "serving" and not seen.told and not seen.unread,
        unread=bool(seen.unread),
        superseded=seen.superseded(config.node),
        unfinished=unfinished(service),
        progress=_progress(service, seen.owner) if here == "serving" and seen.owner is not None else None,
    )
    if seen.isolated:
        return _with_spool(state, service, view.on_node(Namespaces(service.name), view.SPOOL))
    return _with_spool(state, service, view.SPOOL) if seen.attached else state


def _progress(service: Service, owner: OwnerRecord) -> Progress | None:
    """What the keeper says of the clients, if it says so of the generation that is served here."""
    found = progress.read(Place.seen_by_node(service).progress)
    return found if found is not None and found.state == owner.state else None


def _with_spool(state: ServiceStatus, service: Service, spool: Path) -> ServiceStatus:
    found = [spool_status(spool, address.ip) for address in service.addresses]
    return state._replace(
        waiting=sum(each.waiting for each in found),
        stalled=next((each.stalled for each in found if each.stalled), None),
        refused=len(refused(spool)),
    )
