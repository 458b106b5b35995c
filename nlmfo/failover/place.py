# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the files of a service are that stay on this node."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

from nlmfo.config import Isolation, Service
from nlmfo.host import view
from nlmfo.host.namespaces import Namespaces
from nlmfo.host.pins import RUN
from nlmfo.records.callout import CALLOUT_CONFIG


@dataclass(frozen=True, slots=True)
class Place:
    """Where the files that stay on this node are, for whoever looks.

    ``spool``, ``records`` and ``callout``, its configuration: see nlmfo.records.layout. ``progress``: what the keeper
    says of its work (nlmfo.failover.progress); ``wake``: the socket at which it is told to look at once.
    """

    spool: Path
    statd: Path
    records: Path
    callout: Path
    progress: Path
    wake: Path

    @classmethod
    def inside(cls) -> Self:
        """As seen in the service's namespaces."""
        statd, own = view.STATD_DIRECTORY / "sm", view.SPOOL.parent
        return cls(view.SPOOL, statd, view.RECORDS, CALLOUT_CONFIG, own / "progress.json", own / "wake")

    @classmethod
    def of(cls, service: Service) -> Self:
        """As ``nlmfo keep`` sees them."""
        return cls.of_node(service.name) if service.isolation is Isolation.HOST else cls.inside()

    @classmethod
    def of_node(cls, service: str) -> Self:
        """Those of the node itself, in host isolation: all its services share the first of them."""
        statd = next((home for home in view.STATD_HOMES if home.is_dir()), view.STATD_HOMES[0])
        own = RUN / service
        return cls(view.SPOOL, statd, view.RECORDS, CALLOUT_CONFIG, own / "progress.json", own / "wake")

    @classmethod
    def seen_by_node(cls, service: Service) -> Self:
        """As whoever is not inside sees them."""
        host = service.isolation is Isolation.HOST
        return cls.of_node(service.name) if host else cls.on_node(Namespaces(service.name))

    @classmethod
    def on_node(cls, namespaces: Namespaces) -> Self:
        """As seen on the node."""
        inside = cls.inside()
        return cls(*(view.on_node(namespaces, getattr(inside, each.name)) for each in fields(cls)))
