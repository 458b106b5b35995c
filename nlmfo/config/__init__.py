# SPDX-License-Identifier: GPL-2.0-or-later
"""Configuration: ``nlmfo.toml`` and ``services.d/NAME.toml``, read as data that does not change.

``model`` is what the rest of nlmfo sees. ``load`` makes it from files, with the help of ``reader`` (one file,
one table), ``values`` and ``fields`` (one value) and ``rules`` (what must hold between keys and services).
"""

from nlmfo.config.load import load
from nlmfo.config.model import Address, Config, Consistency, EndGrace, Export, Isolation, Notifier, Partition, Service

__all__ = [
    "Address",
    "Config",
    "Consistency",
    "EndGrace",
    "Export",
    "Isolation",
    "Notifier",
    "Partition",
    "Service",
    "load",
]
