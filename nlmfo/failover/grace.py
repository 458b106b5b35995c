# SPDX-License-Identifier: GPL-2.0-or-later
"""When the grace period may end before its time: only when nobody can be left who has a lock to reclaim.

A client whose lock was not reclaimed when grace ends has lost it in silence, so whatever is not known means: wait.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from nlmfo.config import Consistency, EndGrace, Isolation, Service
from nlmfo.records.ledger import Standing

#: Standings of clients that can have nothing to reclaim any more, once every lock is held again.
DONE = frozenset({Standing.BACK, Standing.LEFT, Standing.ANSWERED})


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of the clients: ``standings`` of everybody who was on record when the service came here.

    ``locks``: how many were held before, None when nobody noted them; ``exact``: noted by the release that came just
    before this takeover, so nothing was added since; ``missing``: how many of them are not held again.
    """

    standings: Collection[Standing]
    locks: int | None
    exact: bool
    missing: int
    complete: bool


def why_it_may_end(service: Service, known: Known) -> str:
    """Why grace may end now, as far as locks and clients can tell; empty while it may not.

    A node's nfsd that several services share has one grace for all, and no service knows of the others' clients.
    """
    if service.end_grace is EndGrace.NEVER or service.isolation is Isolation.HOST:
        return ""
    if not known.standings:
        return _nobody(service, known)
    if known.locks is None or known.missing or not set(known.standings) <= DONE:
        return ""
    if known.exact:
        return "every lock is held again"
    return "every lock of the estimate is held again" if service.end_grace is EndGrace.ESTIMATE else ""


def _nobody(service: Service, known: Known) -> str:
    """Where nobody is on record nobody holds a lock, if records are durable before locks are granted."""
    if known.locks or not known.complete:
        return ""
    planned = known.exact and known.locks == 0
    return "nobody was on record" if planned or service.consistency is Consistency.SYNC else ""
