# SPDX-License-Identifier: GPL-2.0-or-later
"""What ``nlmfo status`` says of a service: the owner record beside what is here of it.

People and programs ask for it all the time, on each node, and mostly of what another node serves: then there is nothing
to look at, and what looking takes is not even imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from nlmfo.config import Config, Isolation, Service
from nlmfo.errors import NlmfoError
from nlmfo.failover import last_run
from nlmfo.failover.last_run import RUNS
from nlmfo.failover.owner import owner_of, registry_of
from nlmfo.host import mounts, pins
from nlmfo.ownership.record import OwnerRecord

if TYPE_CHECKING:
    from nlmfo.failover.observe import Observed
    from nlmfo.failover.progress import Progress


class ServiceStatus(NamedTuple):
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
        owner = owner_of(service, registry_of(config))
        seen = None if _is_nowhere_here(config, service, owner) else _look(config, service, owner)
    except NlmfoError as error:
        return ServiceStatus(service.name, None, "unknown", in_grace=False, problem=error.text)
    if seen is None:
        return ServiceStatus(service.name, owner, "no", in_grace=False, problem=None, unfinished=unfinished(service))
    from nlmfo.failover import status_here  # noqa: PLC0415 - see above

    return status_here.of_service(config, service, seen)


def unfinished(service: Service) -> str | None:
    """The last run here, where it did not come to its end."""
    past = last_run.newest(RUNS, service.name)
    return None if past is None or past.finished else past.reached


def _look(config: Config, service: Service, owner: OwnerRecord | None) -> Observed:
    from nlmfo.failover.look import look_as_owned  # noqa: PLC0415 - 20 ms: see above

    return look_as_owned(config, service, owner)


def _is_nowhere_here(config: Config, service: Service, owner: OwnerRecord | None) -> bool:
    """Whether nothing of it can be here: all else that nlmfo.failover.look sees of it lives in its namespaces."""
    return (
        service.isolation is Isolation.NETNS
        and not (owner is not None and owner.serves(config.node))
        and not any(mounts.is_mounted(partition) for partition in service.partitions)
        and not pins.any_there(service.name)
    )
