# SPDX-License-Identifier: GPL-2.0-or-later
"""Which services share the node's nfsd, in host isolation (see nlmfo.failover.shared)."""

from __future__ import annotations

from pathlib import Path

from nlmfo.config import Config, Isolation, Service
from nlmfo.host.pins import RUN


def mark(service: str) -> Path:
    """The file that says that a service is attached here."""
    return RUN / service / "attached"


def attached(config: Config) -> tuple[Service, ...]:
    """The services whose records the node's callout writes now."""
    return tuple(
        service
        for service in config.services.values()
        if service.isolation is Isolation.HOST and mark(service.name).exists()
    )


def of(config: Config, service: Service) -> tuple[Service, ...]:
    """The other services that share the node's nfsd."""
    return tuple(other for other in attached(config) if other.name != service.name)
