# SPDX-License-Identifier: GPL-2.0-or-later
"""What ``nlmfo status`` says of a service: the owner record beside what the kernel shows here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nlmfo.config import Config, Isolation, Service
from nlmfo.errors import NlmfoError
from nlmfo.failover import last_run
from nlmfo.failover.last_run import RUNS
from nlmfo.failover.look import look, registry_of
from nlmfo.failover.place import Place
from nlmfo.host import view
from nlmfo.host.namespaces import Namespaces
from nlmfo.ownership.record import OwnerRecord
from nlmfo.records.spool import refused, spool_status

if TYPE_CHECKING:
    from nlmfo.failover.progress import Progress


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """``here``: what of it is up on this node. ``problem``: why the owner could not be told.

    ``waiting``: records that are on this node only, because the shared storage did not take them; ``stalled`` says
    why. ``refused``: clients that could not be put on record, because their names cannot be a file's.
    ``untold``: clients of the server before this one have not been sent their notices; ``unread``: the records
    do not answer, so nobody knows. ``unfinished``: the run on this
    node that has not come to its end, and how far it came. ``superseded``: another node owns it, and this one still
    has it mounted. ``progress``: how far the clients have come, by the word of the keeper, where it is served here.
    """

    service: str
    owner: OwnerRecord | None
    here: Literal["no", "partly", "serving", "unknown"]
    in_grace: bool
    problem: str | None
    waiting: int = 0
    stalled: str | None = None
    refused: int = 0
    untold: bool = False
    unread: bool = False
    unfinished: str | None = None
    superseded: bool = False
    progress: Progress | None = None


def of_service(config: Config, service: Service) -> ServiceStatus:
    """Look at one service; needs root when something of it is up here."""
    try:
        seen = look(config, service, registry_of(config))
    except NlmfoError as error:
        return ServiceStatus(service.name, None, "unknown", in_grace=False, problem=error.text)
    here: Literal["no", "partly", "serving"] = "no"
    if seen.serves(service):
        here = "serving"
    elif seen.anything() or seen.owned:
        here = "partly"
    past = last_run.newest(RUNS, service.name)
    state = ServiceStatus(
        service.name,
        seen.owner,
        here,
        in_grace=here != "no" and seen.in_grace,
        problem=None,
        untold=here == "serving" and not seen.told and not seen.unread,
        unread=bool(seen.unread),
        superseded=seen.superseded(config.node),
        unfinished=None if past is None or past.finished else past.reached,
        progress=_progress(service, seen.owner) if here == "serving" and seen.owner is not None else None,
    )
    if seen.isolated:
        return _with_spool(state, service, view.on_node(Namespaces(service.name), view.SPOOL))
    return _with_spool(state, service, view.SPOOL) if seen.attached else state


def _progress(service: Service, owner: OwnerRecord) -> Progress | None:
    """What the keeper says of the clients, if it says so of the generation that is served here."""
    from nlmfo.failover import progress  # noqa: PLC0415 - 4 ms that a node which does not serve it needs not spend

    host = service.isolation is Isolation.HOST
    place = Place.of_node(service.name) if host else Place.on_node(Namespaces(service.name))
    found = progress.read(place.progress)
    return found if found is not None and found.state == owner.state else None


def _with_spool(state: ServiceStatus, service: Service, spool: Path) -> ServiceStatus:
    found = [spool_status(spool, address.ip) for address in service.addresses]
    return replace(
        state,
        waiting=sum(each.waiting for each in found),
        stalled=next((each.stalled for each in found if each.stalled), None),
        refused=len(refused(spool)),
    )
