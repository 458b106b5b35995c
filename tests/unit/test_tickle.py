# SPDX-License-Identifier: GPL-2.0-or-later
"""A tickle ends a connection whose server has moved, harms no other, and is right byte for byte.

A client and two nodes on one bridge, with this machine's kernel. The client's retransmission timer is a minute away
(rto_min), so what ends a connection within the time of a test is not that the client sent again.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlmfo.deadline import Deadline, poll_until
from nlmfo.host import addresses, tickle
from nlmfo.host.addresses import Interface
from nlmfo.host.namespaces import Namespaces
from nlmfo.kernel.sockdiag import Connection
from nlmfo.run import run
from tests.unit.namespaced import SECONDS, made

V4, V6 = ip_interface("10.10.0.100/24"), ip_interface("fd00::100/64")
CLIENT = {4: ip_interface("10.10.0.17/24"), 6: ip_interface("fd00::17/64")}
PORT = 2049
ESTABLISHED, SYN_SENT, CLOSED = 1, 2, 7
PORTS = st.integers(1, 65535)
NUMBERS = st.integers(0, 2**32 - 1)


def summed(data: bytes) -> int:
    """The sum of RFC 1071: 0xffff over what has its right checksum in it."""
    total = sum(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))
    return total % 0xFFFF or 0xFFFF


def test_the_ipv4_packet_by_the_layout_of_rfc_791_and_rfc_9293() -> None:
    connection = Connection(V4.ip, PORT, IPv4Address("192.0.2.17"), 871)
    found = tickle.packet(connection, tickle.segment(connection, 0x01020304, 0xA1A2A3A4))
    assert found[:36] + found[38:] == bytes.fromhex(
        "45 00"  # version 4, 5 words; service
        "00 28"  # total length: 40
        "00 00 40 00"  # the kernel gives it a number; don't fragment
        "40 06 00 00"  # 64 hops, TCP; the kernel's checksum
        "0a 0a 00 64"  # source
        "c0 00 02 11"  # destination
        "08 01 03 67"  # ports
        "01 02 03 04"  # sequence
        "a1 a2 a3 a4"  # acknowledgement
        "50 10 04 00"  # 5 words, ACK and nothing else, window
        "00 00"  # urgent pointer
    )
    assert summed(found[12:20] + b"\0\6\0\x14" + found[20:]) == 0xFFFF


def test_the_ipv6_packet_by_the_layout_of_rfc_8200() -> None:
    connection = Connection(V6.ip, PORT, IPv6Address("2001:db8::17"), 871)
    content = tickle.segment(connection, 0x01020304, 0xA1A2A3A4)
    found = tickle.packet(connection, content)
    assert found[:40] == bytes.fromhex(
        "60 00 00 00"  # version 6
        "00 14 06 40"  # payload: 20 bytes of TCP; 64 hops
        "fd 00 00 00 00 00 00 00 00 00 00 00 00 00 01 00"  # source
        "20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 17"  # destination
    )
    assert found[40:] == content


@given(st.ip_addresses(v=4), st.ip_addresses(v=4), PORTS, PORTS, NUMBERS, NUMBERS)
def test_the_checksum_is_right_over_ipv4(
    local: IPv4Address, remote: IPv4Address, port: int, remote_port: int, sequence: int, acknowledgement: int
) -> None:
    found = tickle.segment(Connection(local, port, remote, remote_port), sequence, acknowledgement)
    assert summed(local.packed + remote.packed + b"\0\6\0\x14" + found) == 0xFFFF


@given(st.ip_addresses(v=6), st.ip_addresses(v=6), PORTS, PORTS, NUMBERS, NUMBERS)
def test_the_checksum_is_right_over_ipv6(
    local: IPv6Address, remote: IPv6Address, port: int, remote_port: int, sequence: int, acknowledgement: int
) -> None:
    found = tickle.segment(Connection(local, port, remote, remote_port), sequence, acknowledgement)
    assert summed(local.packed + remote.packed + b"\0\0\0\x14\0\0\0\6" + found) == 0xFFFF


@dataclass(frozen=True, slots=True)
class Info:
    """What of struct tcp_info (linux/tcp.h) tells why a connection ended."""

    state: int
    rto: int
    unacked: int
    sent_again: int
    segments_in: int

    @classmethod
    def of(cls, sock: socket.socket) -> Info:
        found = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        rto, unacked = struct.unpack_from("=I12xI", found, 8)
        return cls(found[0], rto, unacked, *struct.unpack_from("=I", found, 100), *struct.unpack_from("=I", found, 140))


class Network:
    """One wire, a client, and two nodes of which the first has the address."""

    def __init__(self, stack: ExitStack) -> None:
        self.client, self.old, self.new = (stack.enter_context(made()) for _ in range(3))
        # An address of its own: with that of a port that goes away the client would forget who its neighbours are.
        self._ip(self.client, "link add wire address 02:00:5e:10:00:11 type bridge stp_state 0 forward_delay 0")
        for name, node in (("old", self.old), ("new", self.new)):
            peer = f"peer name {addresses.LINK} netns {node.net.name}"
            self._ip(self.client, f"link add {name} type veth {peer}")
            self._ip(self.client, f"link set {name} master wire up")
        # Somebody else is on the wire as well: what the client says is lost there. Without a carrier it would wait.
        self._ip(self.client, "link add else type veth peer name other")
        self._ip(self.client, "link set else master wire up")
        self._ip(self.client, "link set other up")
        self._ip(self.client, "link set wire up")
        for address in CLIENT.values():
            self._ip(self.client, f"address add {address} dev wire noprefixroute nodad")
            self._ip(self.client, f"route add {address.network} dev wire rto_min 60s")
        # No tail loss probe either: it would be sent after twice the round trip time.
        self.client.call(lambda: Path("/proc/sys/net/ipv4/tcp_early_retrans").write_text("0\n", encoding="ascii"))
        self._stack = stack

    def serve(self, node: Namespaces, address: Interface) -> socket.socket:
        addresses.bring_up(node, [address], ())
        sock = self._socket(node, address)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((str(address.ip), PORT))
        sock.listen()
        return sock

    def connect(self, address: Interface, port: int = 0) -> socket.socket:
        sock = self._socket(self.client, address)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((str(CLIENT[address.version].ip), port))
        sock.connect((str(address.ip), PORT))
        return sock

    def accept(self, server: socket.socket) -> socket.socket:
        sock, _ = server.accept()
        sock.settimeout(SECONDS)
        return self._stack.enter_context(closing(sock))

    def move(self, address: Interface) -> socket.socket:
        """The address, from the old node to the new one, which has the same port open."""
        addresses.take_down(self.old)
        return self.serve(self.new, address)

    def _socket(self, node: Namespaces, address: Interface) -> socket.socket:
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        sock = self._stack.enter_context(closing(node.open_socket(family, socket.SOCK_STREAM)))
        sock.settimeout(SECONDS)
        return sock

    def _ip(self, node: Namespaces, words: str) -> None:
        # Only its network: the pins of the others are not seen among its mounts.
        run(["nsenter", f"--net={node.net}", "ip", *words.split()], deadline=SECONDS)


@pytest.fixture
def network() -> Iterator[Network]:
    with ExitStack() as stack:
        yield Network(stack)


def ends(sock: socket.socket) -> Connection:
    """A client's connection, as its server knew it."""
    (local, port, *_), (remote, remote_port, *_) = sock.getpeername(), sock.getsockname()
    return Connection(ip_address(local), port, ip_address(remote), remote_port)


def send_from(node: Namespaces, *connections: Connection) -> int:
    return node.call(lambda: tickle.tickle(connections))


@pytest.mark.parametrize("address", [V4, V6])
def test_a_client_in_the_middle_of_a_write_learns_at_once_that_its_server_has_moved(
    network: Network, address: Interface
) -> None:
    server = network.serve(network.old, address)
    client = network.connect(address)
    network.accept(server)
    addresses.take_down(network.old)
    client.send(b"a write that nobody hears")
    network.serve(network.new, address)
    network.connect(address)  # the client reaches the new node, and yet:
    before = Info.of(client)
    assert (before.state, before.unacked, before.sent_again) == (ESTABLISHED, 1, 0)
    assert before.rto >= 60_000_000, "the client must not send again while this test runs"

    assert send_from(network.new, ends(client)) == 1

    with pytest.raises(ConnectionResetError):
        client.recv(1)
    after = Info.of(client)
    assert (after.state, after.sent_again) == (CLOSED, 0)


@pytest.mark.parametrize("address", [V4, V6])
def test_an_idle_client_learns_it_too(network: Network, address: Interface) -> None:
    server = network.serve(network.old, address)
    client = network.connect(address)
    network.accept(server)
    network.move(address)
    assert send_from(network.new, ends(client)) == 1
    with pytest.raises(ConnectionResetError):
        client.recv(1)


@pytest.mark.parametrize("address", [V4, V6])
def test_a_client_learns_it_whose_port_nobody_noted_and_one_that_is_back_keeps_its_connection(
    network: Network, address: Interface
) -> None:
    server = network.serve(network.old, address)
    waiting = network.connect(address, tickle.RESERVED[0])
    network.accept(server)
    server = network.move(address)
    back = network.connect(address, tickle.RESERVED[-1])
    served = network.accept(server)

    every = tickle.from_reserved_ports(address.ip, PORT, CLIENT[address.version].ip)
    assert network.new.call(lambda: tickle.tickle(every)) == len(tickle.RESERVED)

    with pytest.raises(ConnectionResetError):
        waiting.recv(1)
    back.send(b"carried")
    assert served.recv(16) == b"carried"


@pytest.mark.parametrize("address", [V4, V6])
def test_a_client_that_is_back_with_the_same_ports_keeps_its_connection(network: Network, address: Interface) -> None:
    server = network.serve(network.old, address)
    client = network.connect(address)
    network.accept(server)
    old = ends(client)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    addresses.take_down(network.old)
    client.close()
    server = network.serve(network.new, address)
    client = network.connect(address, old.remote_port)
    served = network.accept(server)
    assert ends(client) == old
    before = Info.of(client).segments_in

    for _ in range(3):
        assert send_from(network.new, old) == 1

    poll_until("the tickles to come", lambda: Info.of(client).segments_in >= before + 12, Deadline(SECONDS))
    for one, other in ((client, served), (served, client)):
        one.send(b"carried")
        assert other.recv(16) == b"carried"
    assert Info.of(client).state == ESTABLISHED


def test_a_client_that_is_on_its_way_back_with_the_same_ports_arrives(network: Network) -> None:
    """Its SYN was lost; it takes the tickle for a wrong answer to it, and asks again."""
    server = network.serve(network.old, V4)
    client = network.connect(V4)
    network.accept(server)
    old = ends(client)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    addresses.take_down(network.old)
    client.close()
    back = network.client.open_socket(socket.AF_INET, socket.SOCK_STREAM)
    with closing(back):
        back.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        back.bind((str(old.remote), old.remote_port))
        back.setblocking(False)
        assert back.connect_ex((str(old.local), PORT)) == errno.EINPROGRESS
        server = network.serve(network.new, V4)
        assert Info.of(back).state in {SYN_SENT, ESTABLISHED}
        send_from(network.new, old)
        _, ready, _ = select.select([], [back], [], SECONDS)
        assert ready, "the client did not come back"
        assert back.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        served = network.accept(server)
        back.send(b"carried")
        assert served.recv(16) == b"carried"


def test_one_that_cannot_be_sent_keeps_no_other_from_it(network: Network) -> None:
    addresses.bring_up(network.new, [V4, V6], ())
    clients = (CLIENT[4].ip, ip_address("198.51.100.1"), V4.network.broadcast_address, CLIENT[6].ip)
    connections = [Connection(V6.ip if client.version == 6 else V4.ip, PORT, client, 871) for client in clients]
    # No route to the second; and nobody is told by broadcast.
    assert [send_from(network.new, connection) for connection in connections] == [1, 0, 0, 1]
    assert send_from(network.new, *connections) == 2


def test_nothing_is_sent_from_an_address_that_is_not_up_here(network: Network) -> None:
    addresses.bring_up(network.new, [V4], ())
    elsewhere = [Connection(address.ip + 1, PORT, CLIENT[address.version].ip, 871) for address in (V4, V6)]
    here = Connection(V4.ip, PORT, CLIENT[4].ip, 871)
    assert send_from(network.new, *elsewhere, here) == 1


class Recorder(socket.socket):
    """Keeps what would be sent."""

    def __init__(self) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_DGRAM)
        self.sent: list[bytes] = []

    def bind(self, _: object) -> None:
        pass

    def sendto(self, content: bytes, *_: object) -> int:  # type: ignore[override]
        self.sent.append(content)
        return len(content)


@pytest.fixture
def untracked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The machine that the tests run on may have a firewall."""
    monkeypatch.setattr(tickle, "TRACKED", tmp_path / "none")


@pytest.mark.usefixtures("untracked")
def test_the_numbers_are_others_each_time_because_some_client_may_find_them_right() -> None:
    recorder = Recorder()
    tickle.tickle([Connection(V4.ip, PORT, CLIENT[4].ip, 871)] * 50, open_socket=lambda *_: recorder)
    for number in (slice(24, 28), slice(28, 32)):
        assert len({content[number] for content in recorder.sent}) > 80


@given(NUMBERS, NUMBERS)
def test_one_of_four_looks_old_to_every_client_in_both_its_numbers(sequence: int, acknowledgement: int) -> None:
    """A client's firewall takes that one for late, and each of the others for invalid."""

    def old(found: bytes, now: int) -> bool:
        return 0 < (now - int.from_bytes(found, "big")) % 2**32 <= 2**31

    sent = tickle.acks(Connection(V4.ip, PORT, CLIENT[4].ip, 871))
    assert [old(one[24:28], sequence) and old(one[28:32], acknowledgement) for one in sent].count(True) == 1


def drop_invalid() -> None:
    """The firewall of the network namespace: ``ct state invalid drop`` on what comes in."""
    from pyroute2.nftables.expressions import genex, verdict
    from pyroute2.nftables.main import NFTables

    def value(data: bytes) -> dict[str, list[tuple[str, bytes]]]:
        return {"attrs": [("NFTA_DATA_VALUE", data)]}

    # linux/netfilter/nf_tables.h: load the connection's state, keep the bit of "invalid", compare with 0; NF_DROP.
    invalid, none = struct.pack("=I", 1), bytes(4)
    rule = [
        genex("ct", {"key": 0, "dreg": 1}),
        genex("bitwise", {"sreg": 1, "dreg": 1, "len": 4, "mask": value(invalid), "xor": value(none)}),
        genex("cmp", {"sreg": 1, "op": 1, "data": value(none)}),
        *verdict(0),
    ]
    with NFTables(nfgen_family=socket.AF_INET) as nft:
        nft.begin()
        nft.table("add", name="unit")
        nft.chain("add", table="unit", name="in", hook="input", type="filter", policy=1)
        nft.rule("add", table="unit", chain="in", expressions=[rule])
        nft.commit()


def test_connections_are_tracked_where_a_rule_asks_for_their_state_and_only_there(network: Network) -> None:
    network.new.call(drop_invalid)
    assert network.new.call(tickle.connections_are_tracked)
    assert not network.old.call(tickle.connections_are_tracked)


def test_clients_whose_firewalls_drop_what_is_invalid_hear_it_all_the_same(network: Network) -> None:
    """Of a single ACK with such numbers, three clients in four would not."""
    network.client.call(drop_invalid)
    server = network.serve(network.old, V4)
    clients = [network.connect(V4) for _ in range(8)]
    for _ in clients:
        network.accept(server)
    network.move(V4)
    assert send_from(network.new, *map(ends, clients)) == len(clients)
    for client in clients:
        with pytest.raises(ConnectionResetError):
            client.recv(1)


@pytest.mark.parametrize(("count", "sent"), [("0\n", 1), ("1\n", 0), ("nonsense", 0), (None, 1)])
def test_nothing_is_sent_where_connections_are_tracked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, count: str | None, sent: int
) -> None:
    monkeypatch.setattr(tickle, "TRACKED", tmp_path / "nf_conntrack_count")
    if count is not None:
        tickle.TRACKED.write_text(count, encoding="ascii")
    connection = Connection(V4.ip, PORT, CLIENT[4].ip, 871)
    assert tickle.tickle([connection], open_socket=lambda *_: Recorder()) == sent


@pytest.mark.usefixtures("untracked")
def test_who_may_not_open_such_sockets_sends_nothing() -> None:
    def refuse(*_: int) -> socket.socket:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    assert tickle.tickle([Connection(V4.ip, PORT, CLIENT[4].ip, 871)], open_socket=refuse) == 0


def test_clients_whose_machines_are_gone_take_no_room_from_the_others(network: Network) -> None:
    """What waits for their hardware addresses is held against the socket, as much as a socket has by default."""
    addresses.bring_up(network.new, [V4], ())
    gone = [Connection(V4.ip, PORT, V4.ip + 1 + number % 100, 1 + number) for number in range(5000)]
    assert send_from(network.new, *gone, Connection(V4.ip, PORT, CLIENT[4].ip, 871)) == 5001


def test_there_is_a_pause_after_each_burst(network: Network) -> None:
    addresses.bring_up(network.new, [V4], ())
    connection = Connection(V4.ip, PORT, CLIENT[4].ip, 871)

    def pauses(many: int) -> list[float]:
        taken: list[float] = []
        tickle.tickle([connection] * many, pause=taken.append)
        return taken

    found = [network.new.call(partial(pauses, many)) for many in (49, 50, 175)]
    assert found == [[], [tickle.PAUSE], [tickle.PAUSE] * 3]
