# SPDX-License-Identifier: GPL-2.0-or-later
"""A service that was just taken over here, and whose clients have not been told yet."""

from __future__ import annotations

import os
from ipaddress import ip_address
from pathlib import Path

from nlmfo.config import Config, Isolation, Service
from nlmfo.ownership.registry import DirectoryRegistry
from nlmfo.records.store import Store
from tests.unit import shapes

ADDRESS, OTHER = ip_address("10.10.0.100"), ip_address("fd00::100")


def taken_over(directory: Path, *owed: str) -> tuple[Config, Service, Store, DirectoryRegistry]:
    """With two addresses, on the node itself; the clients ``owed`` a notice are on record since before."""
    state, registry = directory / "state", DirectoryRegistry(directory / "registry")
    state.mkdir()
    (registry.directory / "services").mkdir(parents=True)
    registry.claim(shapes.record())
    service = shapes.service(addresses=2, state=state)._replace(isolation=Isolation.HOST)
    store = Store(state, (ADDRESS, OTHER))
    store.prepare(os.getuid(), os.getgid())
    for client in owed:
        store.add(ADDRESS, client, "nfs100.example")
    store.begin_generation()
    return shapes.config(registry.directory, {"home": service}), service, store, registry
