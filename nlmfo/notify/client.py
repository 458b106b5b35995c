# SPDX-License-Identifier: GPL-2.0-or-later
"""One client on its way to being told: its address, and how far the conversation has come."""

from __future__ import annotations

import ipaddress
import math
import socket
from enum import Enum, auto

from nlmfo.errors import NlmfoError
from nlmfo.notify.notice import Notice, Outcome
from nlmfo.notify.sockets import Address, Peer, peer_of, scope_index


class Unusable(NlmfoError):
    """A client that no packet can be addressed to."""


class Stage(Enum):
    """Where a client is in the UDP sender."""

    READY = auto()  #: queued: its next datagram goes out as soon as there is room
    WAITING = auto()  #: for an answer; at ``due`` the datagram counts as lost
    RESTING = auto()  #: until ``due``, because the last try failed
    DONE = auto()


class Client:
    """What is known about one client. UDP and TCP both work on it; whoever is answered first moves it on."""

    __slots__ = (
        "address",
        "attempts",
        "calls",
        "detail_tcp",
        "detail_udp",
        "due",
        "misses",
        "port",
        "port_known",
        "registered",
        "scope",
        "seconds",
        "silent",
        "slot",
        "stage",
        "streaming",
        "talking",
        "text",
        "told",
    )

    def __init__(self, text: str, address: Address, scope: int) -> None:
        self.text = text
        self.address = address
        self.scope = scope
        self.told = 0  # how many names were acknowledged, in order
        self.attempts = 0
        self.misses = 0  # datagrams since the last progress; sets the back-off
        self.silent = 0  # datagrams since the last answer, whatever it was; decides when to try TCP
        self.port = 0  # where to send SM_NOTIFY; 0: ask rpcbind
        self.port_known = 0  # the last port that rpcbind named: naming it again is no progress
        self.registered: bool | None = None  # rpcbind's last word on statd
        self.stage = Stage.READY
        self.due = math.inf
        self.slot = 0.0  # until when it has a place in the window; 0: it has none
        self.calls: dict[tuple[int, int], int] = {}  # (step, port) -> xid, kept over retransmissions
        self.streaming = False  # a TCP conversation is running or queued
        self.talking = False  # it has found statd: no notice goes out over UDP, or it would be heard twice
        self.seconds = 0.0
        self.detail_udp = "no answer from rpcbind"
        self.detail_tcp = ""

    def peer(self, port: int) -> Peer:
        return peer_of(self.address, port, self.scope)

    def notice(self, names: tuple[str, ...]) -> Notice:
        """The account as it stands now."""
        if self.told == len(names):
            outcome = Outcome.TOLD
        else:
            outcome = Outcome.NO_STATD if self.registered is False else Outcome.UNREACHABLE
        detail = "; ".join(text for text in (self.detail_udp, self.detail_tcp) if text)
        return Notice(self.text, outcome, names[: self.told], self.attempts, self.seconds, detail)


def parse_client(text: str, source: Address, sock: socket.socket) -> Client:
    """Read an address as text: IPv4, IPv6 or IPv6%scope. Raises Unusable, with the reason.

    There is no name service in this path: a resolver that hangs would stop all notices while grace runs out.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise Unusable("not an address, and names are not looked up while notices are sent") from None
    mapped = getattr(address, "ipv4_mapped", None)
    address = mapped or address
    if address.version != source.version:
        raise Unusable(f"cannot send from {source} to an IPv{address.version} address")
    scope = getattr(address, "scope_id", None)
    if scope is None and address.is_link_local:
        scope = getattr(source, "scope_id", None)
    try:
        return Client(text, address, scope_index(sock, scope))
    except OSError as error:
        raise Unusable(f"interface {scope!r}: {error.strerror}") from None


def unusable(text: str, reason: Unusable) -> Notice:
    return Notice(text, Outcome.UNREACHABLE, (), 0, 0.0, reason.text)
