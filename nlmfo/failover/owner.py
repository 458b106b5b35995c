# SPDX-License-Identifier: GPL-2.0-or-later
"""Who serves a service, by the registry of the configuration."""

from __future__ import annotations

from functools import partial

from nlmfo.child import in_child
from nlmfo.config import Config, Service
from nlmfo.errors import DeadlineExceeded, Refused
from nlmfo.host.pins import RUN
from nlmfo.ownership.record import OwnerRecord
from nlmfo.ownership.registry import DirectoryRegistry, NoRegistry, Registry

#: Seconds to read a record.
READ = 5.0


def registry_of(config: Config) -> Registry:
    """Where the owner records of this configuration are."""
    return NoRegistry(RUN) if config.registry is None else DirectoryRegistry(config.registry)


def owner_of(service: Service, registry: Registry) -> OwnerRecord | None:
    """The newest record. Refused when the registry cannot be read in time: NFS hangs when its server is away."""
    try:
        return in_child("reading the registry", partial(registry.read, service.name), deadline=READ)
    except DeadlineExceeded as error:
        raise Refused(
            "registry-unavailable",
            f"the registry does not answer ({READ:g} s), so nobody can tell who serves '{service.name}'",
            hint="see that it is mounted and answers ('ls'), on this node",
        ) from error
