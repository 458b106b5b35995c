# SPDX-License-Identifier: GPL-2.0-or-later
"""Looks after a service that is served here: whether all of it answers, and mending of what does not.

Nothing is touched while another nlmfo is at work on the service, and nothing that is not this node's any more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from nlmfo.config import Config, Isolation, Service
from nlmfo.errors import NlmfoError, NotOwned
from nlmfo.failover import health, mending
from nlmfo.failover.events import Mended, Sink, StartedAgain, Troubled
from nlmfo.failover.health import Trouble
from nlmfo.failover.runs import Busy, alone
from nlmfo.host import daemons

#: How often one part is mended, without the service being well in between, before that counts as being of no use.
TRIES = 3
#: Rounds in a row in which something is wrong before a takeover is worth its grace period.
PATIENCE = 2
#: What a takeover would make no better: somebody has to see to it.
TOLD_ONLY = frozenset({"records", "storage"})

Troubles = tuple[Trouble, ...]


class BeyondMending(NlmfoError):
    """Only a takeover helps here, with its grace period."""

    def __init__(self, service: str, troubles: Iterable[Trouble]) -> None:
        super().__init__(
            f"service '{service}': {'; '.join(trouble.text for trouble in troubles)}",
            hint=f"'nlmfo takeover {service}' takes down what is left and serves it again; clients reclaim their locks",
        )


class Supervisor:
    """One service, round after round."""

    def __init__(self, service: str, sink: Sink) -> None:
        self._service = service
        self._sink = sink
        self._told: set[Trouble] = set()
        self._tries: Counter[str] = Counter()
        self._bad = 0

    def round(self, config: Config) -> Troubles:
        """Look, mend what can be mended, and return what is wrong still.

        Raises NotOwned when the service is not this node's any more, BeyondMending when only a takeover helps.
        """
        service = config.service(self._service)
        found = health.troubles(config, service)
        if found:
            try:
                with alone(service):
                    found = self._mend(config, service)
            except Busy:  # whoever is at work takes it down, or brings it up
                return found
        if not found:
            mending.note(service)
            self._tries.clear()
        self._say(found)
        self._judge(service, found)
        return found

    def cannot_tell(self, error: Exception) -> Troubles:
        """A round that came to nothing; whatever is wrong with the service, nothing is done about it."""
        found = (Trouble("unknown", f"nobody can tell how it is: {error}"),)
        self._say(found)
        return found

    def _mend(self, config: Config, service: Service) -> Troubles:
        """Looks again, since nobody else changes anything now, and after each part that was mended."""
        while found := health.troubles(config, service):
            self._say(found)
            _see_ours(found)
            part = mending.first(service, [trouble for trouble in found if self._tries[trouble.part] < TRIES])
            if part is None:
                break
            self._tries[part] += 1
            try:
                mending.mend(config, service, part)
            except NlmfoError as error:
                self._sink(Troubled(service.name, f"{part} cannot be started again: {error}"))
                break
            self._sink(StartedAgain(service.name, part))
        return found

    def _say(self, found: Troubles) -> None:
        for trouble in found:
            if trouble not in self._told:
                self._sink(Troubled(self._service, trouble.text))
        if self._told and not found:
            self._sink(Mended(self._service))
        self._told = set(found)

    def _judge(self, service: Service, found: Troubles) -> None:
        _see_ours(found)
        bad = [trouble for trouble in found if trouble.part not in _told_only(service)]
        self._bad = self._bad + 1 if bad else 0
        if self._bad >= PATIENCE:
            raise BeyondMending(service.name, bad)


def _see_ours(found: Troubles) -> None:
    """What another node owns by now is not mended."""
    for trouble in found:
        if trouble.part == "owner":
            raise NotOwned(trouble.text)


def _told_only(service: Service) -> frozenset[str]:
    """In host isolation the daemons are the node's, and what looks after those is its service manager."""
    programs = frozenset({daemons.RPCBIND.name, daemons.NSM.name, daemons.MOUNT.name})
    return TOLD_ONLY | programs if service.isolation is Isolation.HOST else TOLD_ONLY
