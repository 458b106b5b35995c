# SPDX-License-Identifier: GPL-2.0-or-later
"""null_call returns when a program answers, and otherwise says in what way it does not."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address

import pytest

from nlmfo.errors import DeadlineExceeded
from nlmfo.notify import NotServing, null_call, tcp_port
from nlmfo.notify.wire import RPCBIND_PROGRAM, STATD_PROGRAM
from tests.unit.nsm_client_fake import PROG_UNAVAIL, Behaviour, FakeClients

HOST = IPv4Address("127.1.0.1")
NFS = 100003
PATIENCE = 20.0  # seconds

both_protocols = pytest.mark.parametrize("protocol", ["tcp", "udp"])


@both_protocols
def test_a_program_is_found_through_rpcbind_and_answers(protocol: str) -> None:
    with FakeClients() as hosts:
        null_call(
            HOST,
            None,
            STATD_PROGRAM,
            1,
            protocol=protocol,
            deadline=PATIENCE,
            rpcbind_port=hosts.rpcbind_port,
        )
    assert hosts.heard[str(HOST)].protocols == {protocol: 2}


@both_protocols
def test_the_same_over_ipv6(protocol: str) -> None:
    with FakeClients(ipv6=True) as hosts:
        here, rpcbind = IPv6Address("::1"), hosts.rpcbind_port
        null_call(here, None, STATD_PROGRAM, 1, protocol=protocol, deadline=PATIENCE, rpcbind_port=rpcbind)
    assert hosts.heard["::1"].protocols == {protocol: 2}


@both_protocols
def test_rpcbind_itself_needs_nobody_to_find_it(protocol: str) -> None:
    with FakeClients() as hosts:
        null_call(
            HOST,
            None,
            RPCBIND_PROGRAM,
            2,
            protocol=protocol,
            deadline=PATIENCE,
            rpcbind_port=hosts.rpcbind_port,
        )
    assert hosts.heard[str(HOST)].protocols == {protocol: 1}


@both_protocols
def test_a_given_port_is_called_without_asking(protocol: str) -> None:
    with FakeClients() as hosts:
        null_call(HOST, hosts.rpcbind_port, RPCBIND_PROGRAM, 2, protocol=protocol, deadline=PATIENCE)
    assert hosts.heard[str(HOST)].questions == 0


@both_protocols
def test_a_program_that_is_not_registered_is_not_serving(protocol: str) -> None:
    with FakeClients() as hosts, pytest.raises(NotServing, match="not registered with rpcbind") as error:
        null_call(HOST, None, NFS, 3, protocol=protocol, deadline=PATIENCE, rpcbind_port=hosts.rpcbind_port)
    assert error.value.what == f"RPC program 100003 version 3 at 127.1.0.1 over {protocol}"


@both_protocols
def test_another_program_on_the_port_is_not_serving(protocol: str) -> None:
    with FakeClients() as hosts, pytest.raises(NotServing, match="program unavailable"):
        null_call(HOST, hosts.rpcbind_port, NFS, 3, protocol=protocol, deadline=PATIENCE)


@both_protocols
def test_nobody_on_the_port_is_known_at_once(protocol: str) -> None:
    with pytest.raises(NotServing, match="Connection refused"):
        null_call(HOST, 1, NFS, 3, protocol=protocol, deadline=PATIENCE)


@both_protocols
def test_silence_is_a_deadline(protocol: str) -> None:
    mute = Behaviour(mangle=lambda _: [])
    with (
        FakeClients(default=mute) as hosts,
        pytest.raises(DeadlineExceeded, match=r"no answer: not within 0\.3 s"),
    ):
        null_call(HOST, None, STATD_PROGRAM, 1, protocol=protocol, deadline=0.3, rpcbind_port=hosts.rpcbind_port)
    assert hosts.heard[str(HOST)].questions == {"udp": 2, "tcp": 1}[protocol]  # at 0 and 0.25 s, or once


@both_protocols
def test_garbage_is_not_serving(protocol: str) -> None:
    garbage = Behaviour(mangle=lambda reply: [reply[:9]])
    with FakeClients(default=garbage) as hosts, pytest.raises(NotServing, match="message ends after 9 bytes"):
        null_call(
            HOST,
            None,
            STATD_PROGRAM,
            1,
            protocol=protocol,
            deadline=PATIENCE,
            rpcbind_port=hosts.rpcbind_port,
        )


def test_an_older_answer_is_passed_over() -> None:
    def after_an_older_one(reply: bytes) -> list[bytes]:
        return [bytes(4) + reply[4:20] + bytes([0, 0, 0, PROG_UNAVAIL]), reply]

    with FakeClients(default=Behaviour(mangle=after_an_older_one)) as hosts:
        null_call(HOST, None, STATD_PROGRAM, 1, protocol="udp", deadline=PATIENCE, rpcbind_port=hosts.rpcbind_port)


def test_a_connection_closed_without_an_answer_is_not_serving() -> None:
    with FakeClients(default=Behaviour(tcp=False)) as hosts, pytest.raises(NotServing, match=r"closed|reset"):
        null_call(HOST, None, STATD_PROGRAM, 1, deadline=PATIENCE, rpcbind_port=hosts.rpcbind_port)


def test_the_caller_opens_the_socket_so_that_it_can_be_in_another_namespace() -> None:
    opened: list[int] = []

    def open_socket(family: int, kind: int) -> socket.socket:
        opened.append(kind)
        return socket.socket(family, kind)

    with FakeClients() as hosts:
        null_call(HOST, hosts.rpcbind_port, RPCBIND_PROGRAM, 2, deadline=PATIENCE, open_socket=open_socket)
    assert opened == [socket.SOCK_STREAM]


def test_the_port_of_a_program_is_what_rpcbind_says_and_no_port_when_it_knows_none() -> None:
    with FakeClients() as hosts:
        rpcbind = hosts.rpcbind_port
        port = tcp_port(HOST, STATD_PROGRAM, 1, deadline=PATIENCE, rpcbind_port=rpcbind)
        null_call(HOST, port, STATD_PROGRAM, 1, deadline=PATIENCE)
        with pytest.raises(NotServing, match=f"the port of RPC program {NFS} version 3 .*not registered with rpcbind"):
            tcp_port(HOST, NFS, 3, deadline=PATIENCE, rpcbind_port=rpcbind)
