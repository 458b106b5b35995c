# SPDX-License-Identifier: GPL-2.0-or-later
"""What a notifier is told to do and what it has to say about each client."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum

from nlmfo.notify.wire import RPCBIND_PORT


class Outcome(StrEnum):
    """How it ended for one client."""

    TOLD = "told"  #: every name was acknowledged by the client's statd
    UNREACHABLE = "unreachable"  #: not every name was acknowledged before the deadline
    NO_STATD = "no-statd"  #: the client is up, and its rpcbind says that no statd is registered


@dataclass(frozen=True, slots=True)
class Notice:
    """The account of one client.

    An acknowledgement says that the client's statd read the notice, not that its locks came back: SM_NOTIFY
    has no result. What was reclaimed is seen in the server's lock table only.
    """

    client: str
    outcome: Outcome
    names: tuple[str, ...]  #: acknowledged, in the order of sending
    attempts: int  #: datagrams sent and TCP connections begun
    seconds: float  #: from the start of the run to the outcome
    detail: str  #: how it was told, or what stood in the way


@dataclass(frozen=True, slots=True)
class Settings:
    """How patient and how fast the notifier is; the defaults suit ten clients as well as ten thousand."""

    retry: float = 0.25  #: seconds until the first retransmission; doubles each time
    retry_cap: float = 5.0  #: seconds, the longest wait between two retransmissions
    udp_tries: int = 3  #: datagrams without an answer before the port is asked for again, and TCP is tried too
    window: int = 1024  #: calls in flight at most; fewer if the kernel grants a smaller receive buffer
    #: Datagrams per second at most, so that not all clients begin to reclaim in the same instant: with a question and
    #: three names each, 5,000 clients a second. No lower by default: whoever is told late has less of the grace period
    #: left, while a reclaim that waits in lockd's queue is in time; a client has one of them under way (its reclaimer
    #: is one thread), so the queue is no longer than the list of clients, however slow rpc.statd makes lockd
    #: (docs/records.md, "What it costs"). More gains nothing: it is what one processor can do.
    rate: float = 20_000.0
    connections: int = 256  #: TCP conversations at once; systemd's default allows 1024 open files
    tcp_timeout: float = 4.0  #: seconds for one TCP conversation: time for two lost SYNs (sent at 0, 1 and 3 s)
    receive_buffer: int = 4 << 20  #: bytes asked for, for receiving and for sending
    rpcbind_port: int = RPCBIND_PORT

    def __post_init__(self) -> None:
        if any(getattr(self, item.name) <= 0 for item in fields(self)):
            raise ValueError(f"every setting must be above 0: {self}")


DEFAULTS = Settings()
