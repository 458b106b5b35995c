# SPDX-License-Identifier: GPL-2.0-or-later
"""Who is connected to which of our addresses, as the kernel of this machine tells it."""

from __future__ import annotations

import contextlib
import socket
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlmfo.kernel import sockdiag
from nlmfo.kernel.messages import messages
from nlmfo.kernel.sockdiag import Connection


@pytest.mark.parametrize(
    ("family", "listen", "connect"),
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
        (socket.AF_INET6, "::1", "::1"),
    ],
)
def test_an_established_connection_is_seen_with_both_its_ends(family: int, listen: str, connect: str) -> None:
    with socket.socket(family) as server:
        server.bind((listen, 0))
        server.listen()
        port = server.getsockname()[1]
        with socket.create_connection((connect, port)) as client:
            own, address = client.getsockname()[1], ip_address(connect)
            assert {Connection(address, port, address, own), Connection(address, own, address, port)} <= set(
                sockdiag.established()
            )


def test_an_ipv4_client_of_an_ipv6_socket_is_an_ipv4_client() -> None:
    with socket.socket(socket.AF_INET6) as server:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        server.bind(("::", 0))
        server.listen()
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            own, address = client.getsockname()[1], ip_address("127.0.0.1")
            assert Connection(address, port, address, own) in sockdiag.established()


def test_a_socket_that_only_listens_is_no_connection() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        assert server.getsockname()[1] not in {found.port for found in sockdiag.established()}


def test_many_connections_are_seen_although_they_need_more_than_one_datagram() -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(500)
        port = server.getsockname()[1]
        for _ in range(400):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        assert sum(found.port == port for found in sockdiag.established()) == 400


@given(st.binary(max_size=200))
def test_what_is_no_netlink_message_ends(data: bytes) -> None:
    """The kernel would not send it; a parser that stands still would be worse than one that is wrong."""
    total = sum(len(content) for _, content in messages(data))
    assert total <= len(data) * (len(data) + 1)
