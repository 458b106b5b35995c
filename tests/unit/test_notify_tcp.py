# SPDX-License-Identifier: GPL-2.0-or-later
"""A conversation over TCP beside the datagrams: no client hears a notice over both."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Callable
from ipaddress import IPv4Address

from nlmfo.deadline import Deadline, poll_until
from nlmfo.notify import Settings, wire
from nlmfo.notify.client import Client
from nlmfo.notify.sockets import open_from
from nlmfo.notify.tcp import Streams
from tests.unit.nsm_client_fake import FakeClients

HOST = IPv4Address("127.1.0.1")
NAMES = ("nfs100.example", "nfs100")
MESSAGES = tuple(wire.sm_notify(name, 7) for name in NAMES)
PATIENCE = 20.0  # seconds: far more than any of these takes


class Stand:
    """One client that is wanted over TCP, at the time 0 of a clock that the tests turn by hand."""

    def __init__(self, selector: selectors.BaseSelector, clients: FakeClients) -> None:
        self.selector = selector
        self.client = Client(str(HOST), HOST, 0)
        self.told: list[Client] = []
        self.now = 0.0
        settings = Settings(tcp_timeout=1000.0, rpcbind_port=clients.rpcbind_port)
        self.streams = Streams(selector, self.open, MESSAGES, settings, on_told=self.told.append)
        self.streams.want(self.client)

    def open(self) -> socket.socket:
        return open_from(socket.socket, IPv4Address("127.0.0.1"), socket.SOCK_STREAM)

    def run_until(self, what: str, condition: Callable[[], bool]) -> None:
        def turn() -> bool:
            self.streams.expire(self.now)
            for key, _ in self.selector.select(0):
                self.streams.resume(key.data)
            return condition()

        poll_until(what, turn, Deadline(PATIENCE), interval=0.001)

    def waits_for_the_clock(self) -> bool:
        return not self.selector.get_map()


def test_a_notice_that_went_out_over_udp_just_now_is_waited_for_and_then_each_is_heard_once() -> None:
    with selectors.DefaultSelector() as selector, FakeClients() as clients:
        stand = Stand(selector, clients)
        stand.client.port, stand.client.slot = 2049, 0.25  # what it is, does not matter
        stand.streams.start(0.0)
        stand.run_until("the conversation to wait", stand.waits_for_the_clock)
        assert (stand.client.talking, stand.client.told, stand.streams.pause(0.0)) == (True, 0, 0.25)
        stand.streams.expire(0.2)
        assert stand.waits_for_the_clock()
        stand.client.slot = 0.0
        stand.streams.expire(0.25)
        assert stand.streams.pause(0.25) == 999.75
        stand.now = 0.25
        stand.run_until("the end", lambda: bool(stand.told))
    assert clients.heard[str(HOST)].notices == [(name, 7) for name in NAMES]


def test_a_question_that_is_under_way_over_udp_is_not_waited_for() -> None:
    with selectors.DefaultSelector() as selector, FakeClients() as clients:
        stand = Stand(selector, clients)
        stand.client.slot = 0.25
        stand.streams.start(0.0)
        stand.run_until("the end", lambda: bool(stand.told))


def test_what_waits_for_the_clock_is_ended_with_the_rest_and_udp_has_its_say_again() -> None:
    with selectors.DefaultSelector() as selector, FakeClients() as clients:
        stand = Stand(selector, clients)
        stand.client.port, stand.client.slot = 2049, 5000.0
        stand.streams.start(0.0)
        stand.run_until("the conversation to wait", stand.waits_for_the_clock)
        stand.streams.expire(1000.0)
        assert (stand.client.talking, stand.client.streaming, stand.streams.pause(1000.0)) == (False, False, None)
        stand.streams.expire(5000.0)
    assert stand.told == []
