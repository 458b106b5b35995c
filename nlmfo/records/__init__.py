# SPDX-License-Identifier: GPL-2.0-or-later
"""What survives a takeover: who may hold locks, and the state number that tells clients to reclaim them."""

from nlmfo.records.callout import (
    CALLOUT_CONFIG,
    SPOOL,
    CalloutEntry,
    Mode,
    callout_addresses,
    callout_config,
    write_callout_config,
)
from nlmfo.records.directory import StoreError
from nlmfo.records.generations import absorb, newest
from nlmfo.records.layout import Address, ClientRecord, directory_name
from nlmfo.records.snapshot import Restored, restore_snapshot, take_snapshot
from nlmfo.records.spool import SpoolStatus, drain_spool, refused, spool_status
from nlmfo.records.store import Store

__all__ = [
    "CALLOUT_CONFIG",
    "SPOOL",
    "Address",
    "CalloutEntry",
    "ClientRecord",
    "Mode",
    "Restored",
    "SpoolStatus",
    "Store",
    "StoreError",
    "absorb",
    "callout_addresses",
    "callout_config",
    "directory_name",
    "drain_spool",
    "newest",
    "refused",
    "restore_snapshot",
    "spool_status",
    "take_snapshot",
    "write_callout_config",
]
