# SPDX-License-Identifier: GPL-2.0-or-later
"""What the services of ``host`` isolation share on a node: one callout configuration, one spool, one nfsd.

/run/nlmfo/callout.conf       every attached service's addresses, for the callout of the node's rpc.statd
/run/nlmfo/spool/             statd's, 0700: what the callout could not bring to the shared storage
/run/nlmfo/NAME/attached      this service's records are written by the node's callout
/run/nlmfo/host.lock          one run at a time: each may restart the nfsd of all
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from nlmfo.config import Config, Service
from nlmfo.failover import neighbours
from nlmfo.failover.actions import callout_entries
from nlmfo.failover.keeper import Keeper
from nlmfo.failover.place import Place
from nlmfo.host import view
from nlmfo.records.callout import CalloutEntry, callout_config, write_callout_config


def keepers(services: Iterable[Service]) -> tuple[Keeper, ...]:
    return tuple(Keeper(service, Place.of_node(service.name)) for service in services)


def attach(config: Config, service: Service, user: view.StatdUser) -> None:
    """Let the node's callout write the service's records from now on."""
    view.SPOOL.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.chown(view.SPOOL, user.uid, user.gid)
    (neighbours.mark(service.name).parent / "log").mkdir(mode=0o755, parents=True, exist_ok=True)
    for keeper in keepers([service]):
        keeper.open_live(user)
    neighbours.mark(service.name).touch()
    tell_callout(config)


def detach(config: Config, service: Service) -> None:
    """The opposite; the others' records go on being written."""
    neighbours.mark(service.name).unlink(missing_ok=True)
    tell_callout(config)


def tell_callout(config: Config, frozen: Iterable[str] = ()) -> None:
    """Write down where the records of every attached service go; of those ``frozen`` none is deleted."""
    names = frozenset(frozen)
    entries = list(_entries(config, names))
    text = callout_config(entries, frozen=False, node=os.uname().nodename, spool=view.SPOOL)
    write_callout_config(view.CALLOUT_CONFIG, text)


def _entries(config: Config, frozen: frozenset[str]) -> Iterator[CalloutEntry]:
    for keeper in keepers(neighbours.attached(config)):
        yield from callout_entries(keeper, frozen=keeper.service.name in frozen)
