# SPDX-License-Identifier: GPL-2.0-or-later
"""Has clients that are owed a notice told now, instead of at their next turn, and waits for what becomes of it.

For after a network or a firewall was mended: who did not answer is tried again ever more rarely. The keeper does the
sending, here as well, because two senders would tell a client twice; it is asked through the socket at which runs wake
it, and what came of it is read from the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from nlmfo.child import in_child
from nlmfo.config import Config, Service
from nlmfo.deadline import Deadline, poll_until
from nlmfo.errors import DeadlineExceeded, NlmfoError
from nlmfo.failover import keep
from nlmfo.failover.clients import entries_of_now, not_owed, refuse_if_not_served, store_of
from nlmfo.failover.place import Place
from nlmfo.host import keeper_process
from nlmfo.host.namespaces import Namespaces
from nlmfo.host.node import Node, surroundings_of
from nlmfo.kernel import grace
from nlmfo.records import ledger
from nlmfo.records.ledger import Entry, Key, Standing

T = TypeVar("T")

#: Seconds until the keeper has told everybody: a round that is under way and one after it; more for each client.
PATIENCE, EACH = 45.0, 0.06
#: Seconds between two looks at the ledger, and for each to be read.
LOOK, READ = 0.5, 30.0
#: What a try ends with.
ENDS = (Standing.ANSWERED, Standing.UNREACHABLE, Standing.BACK, Standing.LEFT)


@dataclass(frozen=True, slots=True)
class ClientTold:
    """How a client stands now. ``tried``: it was told since this was asked for; ``detail``: why it did not answer."""

    client: str
    standing: Standing
    tried: bool
    detail: str

    @property
    def answered(self) -> bool:
        """Whether there is nothing left to tell it."""
        return self.standing in (Standing.ANSWERED, Standing.BACK, Standing.LEFT)


@dataclass(frozen=True, slots=True)
class Told:
    """Everybody who was to be told. ``in_grace``: whether they could still get back what they held."""

    service: str
    in_grace: bool
    clients: tuple[ClientTold, ...]


@dataclass(frozen=True, slots=True)
class _Owed:
    """``told``: whether everybody has been sent a notice once."""

    entries: Mapping[Key, Entry | None]
    told: bool


def tell(config: Config, service: Service, client: str = "") -> Told:
    """Have ``client`` told, or everybody who is owed a notice and has not answered, and wait until they were.

    NotOwned where the service is not served; NlmfoError when the client is owed none, when the keeper does not run, and
    when grace ended before everybody was told for the first time: a notice would only make them lose what they have.
    """
    refuse_if_not_served(config, service)
    before = _read(service, partial(_owed, config, service, client))
    here = surroundings_of(service)
    in_grace = here.call(grace.on)
    waiting = {key for key, entry in before.entries.items() if entry is None or entry.standing is not Standing.ANSWERED}
    now = before.entries
    if waiting:
        _refuse_if_nobody_tells(service, here, told=before.told or in_grace)
        _ask(service, Place.seen_by_node(service), client)
        now = _await(config, service, before.entries, waiting)
    names = sorted({name for _, name in before.entries})
    return Told(service.name, in_grace, tuple(_of_client(name, before.entries, now) for name in names))


def _owed(config: Config, service: Service, client: str) -> _Owed:
    store = store_of(config, service)
    keys = {(address, name) for address in store.addresses for name in store.owed_names(address)}
    if client:
        keys = {key for key in keys if key[1] == client}
        if not keys:
            raise not_owed(service, store, client)
    entries = entries_of_now(store)
    return _Owed({key: entries.get(key) for key in keys}, store.told())


def _refuse_if_nobody_tells(service: Service, here: Node | Namespaces, *, told: bool) -> None:
    again = f"'nlmfo takeover {service.name}'"
    if not keeper_process.runs(here):
        raise NlmfoError(
            f"service '{service.name}': 'nlmfo keep' has ended, which tells clients",
            hint=f"{again} starts it again",
        )
    if not told:
        raise NlmfoError(
            f"service '{service.name}': grace ended before everybody was told: who is told now could reclaim nothing",
            hint=f"{again} begins a new grace period",
        )


def _ask(service: Service, place: Place, client: str) -> None:
    try:
        keep.tell(place.wake, client)
    except OSError as error:
        raise NlmfoError(f"service '{service.name}': 'nlmfo keep' does not listen at {place.wake}: {error}") from error


def _await(
    config: Config, service: Service, before: Mapping[Key, Entry | None], waiting: set[Key]
) -> Mapping[Key, Entry | None]:
    """The entries once everybody of ``waiting`` was tried; as they are when that does not come in time."""
    now: Mapping[Key, Entry | None] = before

    def tried() -> bool:
        nonlocal now
        found = _read(service, partial(_entries, config, service))
        now = {key: found.get(key) for key in before}
        return all(_was_tried(before[key], now[key]) for key in waiting)

    with suppress(DeadlineExceeded):
        poll_until("the notices", tried, Deadline(PATIENCE + EACH * len(waiting)), interval=LOOK)
    return now


def _entries(config: Config, service: Service) -> Mapping[Key, Entry]:
    return entries_of_now(store_of(config, service))


def _was_tried(before: Entry | None, now: Entry | None) -> bool:
    return now is not None and now != before and now.standing in ENDS


def _of_client(client: str, before: Mapping[Key, Entry | None], now: Mapping[Key, Entry | None]) -> ClientTold:
    """Of all its addresses, the one that is the least far."""
    keys = [key for key in before if key[1] == client]
    entries = [entry for key in keys if (entry := now[key]) is not None]
    if len(entries) < len(keys):
        return ClientTold(client, Standing.PENDING, tried=False, detail="")
    said = ledger.overall(entries)
    tried = all(_was_tried(before[key], now[key]) for key in keys)
    return ClientTold(client, said.standing, tried, said.detail)


def _read(service: Service, look: Callable[[], T]) -> T:
    return in_child(f"reading {service.state}", look, deadline=READ)
