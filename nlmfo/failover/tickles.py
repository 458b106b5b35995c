# SPDX-License-Identifier: GPL-2.0-or-later
"""Has the clients of a takeover come back that still wait for the server before, as long as grace lasts.

Their old connections are ended from here (nlmfo.host.tickle): first those that somebody noted, which the run has told
once; and then, of whoever has answered its notice and lacks one, any that it may have. Such a client has a connection
that came after the last look of a server that crashed, and its TCP waits for as long as the outage was: perhaps until
grace is over. One to lockd counts as lacking until the client is on record again, because lockd has another port.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from ipaddress import ip_address

from nlmfo.config import Service
from nlmfo.host.tickle import from_reserved_ports, tickle
from nlmfo.kernel.sockdiag import Connection
from nlmfo.records.connections import Ends, Remembered, read_connections
from nlmfo.records.layout import Address
from nlmfo.records.ledger import Entry, Standing
from nlmfo.records.listening import Listener, read_listening

#: Seconds after which those of before are told again: a packet may be lost, and clients answer once in half a second
#: (tcp_invalid_ratelimit).
AGAIN = (1.0, 2.5)
#: Seconds from a client's answer to its first reclaim, at the most: then, and once more, its ports are gone through.
SEARCHES = (2.0, 5.0)
#: Clients that are gone through at the most: each takes some 3,000 packets, and a fifth of a second.
SEARCHED = 250


class Tickles:
    """Those of one generation of one service. Runs where ``nlmfo keep`` does."""

    def __init__(self, service: Service, number: int, *, send: Callable[[Iterable[Ends]], int] = tickle) -> None:
        """``number``: of this server; 0 is none, with nobody before it."""
        addresses = [address.ip for address in service.addresses]
        self.number = number
        self.connections: tuple[Remembered, ...] = read_connections(service.state, addresses) if number else ()
        self.listening: frozenset[Listener] = read_listening(service.state, addresses) if number else frozenset()
        self._send = send
        self._due = [time.monotonic() + seconds for seconds in AGAIN]
        self._searched: dict[Address, int] = {}

    def again(self, here: AbstractSet[Connection]) -> None:
        """Tell those of before once more, if it is time; ``here`` are the connections that there are."""
        if self._due and time.monotonic() >= self._due[0]:
            self._due.pop(0)
            self._send(self.waiting(here))

    def waiting(self, here: AbstractSet[Connection]) -> list[Remembered]:
        """The connections of before whose clients are not back on the same port."""
        back = {(each.remote, each.remote_port) for each in here}
        return [each for each in self.connections if (each.remote, each.remote_port) not in back]

    def search(
        self, standings: Mapping[str, Entry], here: AbstractSet[Connection], listening: AbstractSet[Listener]
    ) -> None:
        """Go through the ports of one client that may wait for the server before, if it is somebody's turn.

        ``here`` are the connections that there are, ``listening`` is where clients may have some now.
        """
        connected = {(each.remote, each.local, each.port) for each in here}
        for name, entry in sorted(standings.items(), key=lambda item: item[1].standing is not Standing.ANSWERED):
            client = _address(name)
            if client is None or not self._is_due(client, entry):
                continue
            lost = [
                (local, port)
                for local, port in self.listening
                if local.version == client.version
                and (client, local, port) not in connected
                and ((local, port) in listening or entry.standing is Standing.ANSWERED)
            ]
            if lost:
                self._searched[client] = self._searched.get(client, 0) + 1
                for local, port in lost:
                    self._send(from_reserved_ports(local, port, client))
                return

    def _is_due(self, client: Address, entry: Entry) -> bool:
        done = self._searched.get(client, 0)
        if done == len(SEARCHES) or (not done and len(self._searched) == SEARCHED):
            return False
        return entry.standing in (Standing.ANSWERED, Standing.BACK) and time.time() - entry.at >= SEARCHES[done]


def _address(client: str) -> Address | None:
    """lockd names clients by their addresses; of another name nobody here knows one."""
    try:
        return ip_address(client)
    except ValueError:
        return None
