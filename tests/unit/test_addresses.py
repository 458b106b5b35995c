# SPDX-License-Identifier: GPL-2.0-or-later
"""Floating addresses: what goes out on the wire, byte for byte, and what is up in a real network namespace.

The link is one end of a veth pair here, because not every kernel has ipvlan; ipvlan itself is for the lab's kernels.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from contextlib import closing
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface

import pytest

from nlmfo.host import addresses
from nlmfo.host.addresses import AddressError, Route, arp_frame, neighbour_advertisement
from nlmfo.host.namespaces import Namespaces
from nlmfo.run import run
from tests.unit.namespaced import SECONDS, made

MAC = bytes.fromhex("02 00 5e 10 00 01")
V4 = ip_interface("10.10.0.100/24")
V6 = ip_interface("fd00::100/64")
#: The other end of the link: what the network hears.
WIRE = "wire"
ETH_P_ALL = 3


def test_the_arp_request_by_the_layout_of_rfc_826_and_rfc_5227() -> None:
    assert arp_frame(IPv4Address("10.10.0.100"), MAC, 1) == bytes.fromhex(
        "ff ff ff ff ff ff"  # Ethernet: to everybody
        "02 00 5e 10 00 01"  # from us
        "08 06"  # ARP
        "00 01"  # hardware type: Ethernet
        "08 00"  # protocol type: IPv4
        "06 04"  # their lengths
        "00 01"  # operation: request
        "02 00 5e 10 00 01"  # sender hardware address
        "0a 0a 00 64"  # sender protocol address
        "00 00 00 00 00 00"  # target hardware address: ignored in a request
        "0a 0a 00 64"  # target protocol address: the same, which makes it an announcement
    )


def test_the_arp_reply_differs_in_operation_and_target() -> None:
    request, reply = (arp_frame(IPv4Address("10.10.0.100"), MAC, operation) for operation in (1, 2))
    assert reply[20:22] == b"\0\2"
    assert reply[32:38] == b"\xff" * 6
    assert (reply[:20], reply[22:32], reply[38:]) == (request[:20], request[22:32], request[38:])


def test_the_neighbour_advertisement_by_the_layout_of_rfc_4861() -> None:
    assert neighbour_advertisement(IPv6Address("fd00::100"), MAC) == bytes.fromhex(
        "88"  # type 136
        "00"  # code
        "00 00"  # checksum: the kernel's work
        "20 00 00 00"  # R=0, S=0, O=1, reserved
        "fd 00 00 00 00 00 00 00 00 00 00 00 00 00 01 00"  # target address
        "02 01"  # option: target link-layer address, 8 octets
        "02 00 5e 10 00 01"
    )


@pytest.fixture
def network() -> Iterator[Namespaces]:
    """Namespaces with a link that is down, and somebody to hear what it says."""
    with made() as namespaces:
        for words in (
            ("link", "add", addresses.LINK, "address", MAC.hex(":"), "type", "veth", "peer", "name", WIRE),
            ("link", "set", WIRE, "up"),
        ):
            run(namespaces.command("ip", *words), deadline=SECONDS)
        yield namespaces


def listen(namespaces: Namespaces) -> socket.socket:
    ear = namespaces.open_socket(socket.AF_PACKET, socket.SOCK_RAW)
    # A packet socket takes its link from the namespace that it was made in.
    ear.bind((WIRE, ETH_P_ALL))
    return ear


def heard(ear: socket.socket, kind: bytes, wanted: int) -> list[bytes]:
    """The first ``wanted`` frames of an Ethernet type; for IPv6 only neighbour advertisements."""
    frames: list[bytes] = []
    while len(frames) < wanted:
        ready, _, _ = select.select([ear], [], [], SECONDS)
        assert ready, f"{len(frames)} of {wanted} announcements came"
        frame, (_, _, direction, *_) = ear.recvfrom(2048)
        advertises = kind != b"\x86\xdd" or (frame[20:21] == b"\x3a" and frame[54:55] == b"\x88")
        if direction != socket.PACKET_OUTGOING and frame[12:14] == kind and advertises:
            frames.append(frame)
    return frames


def icmpv6_sum(frame: bytes) -> int:
    """RFC 4443 2.3 over pseudo header and message: 0xffff when the checksum in it is right."""
    packet = frame[14:]
    message = packet[40:]
    data = packet[8:40] + len(message).to_bytes(4, "big") + b"\0\0\0\x3a" + message
    total = sum(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def test_an_ipv4_address_is_announced_three_times_in_both_forms(network: Namespaces) -> None:
    with closing(listen(network)) as ear:
        addresses.bring_up(network, [V4], ())
        frames = heard(ear, b"\x08\x06", 6)
    wanted = [arp_frame(IPv4Address("10.10.0.100"), MAC, operation) for operation in (1, 2)] * 3
    assert [frame[: len(wanted[0])] for frame in frames] == wanted


def test_an_ipv6_address_is_announced_three_times_to_all_nodes(network: Namespaces) -> None:
    with closing(listen(network)) as ear:
        addresses.bring_up(network, [V6], ())
        frames = heard(ear, b"\x86\xdd", 3)
    for frame in frames:
        assert frame[:6] == bytes.fromhex("33 33 00 00 00 01")
        assert frame[6:12] == MAC
        assert frame[21] == 255, "RFC 4861 7.1.2: any other hop limit is discarded"
        assert (ip_address(frame[22:38]), ip_address(frame[38:54])) == (V6.ip, IPv6Address("ff02::1"))
        message = frame[54:]
        assert (
            message[:2] + message[4:]
            == neighbour_advertisement(IPv6Address("fd00::100"), MAC)[:2]
            + (neighbour_advertisement(IPv6Address("fd00::100"), MAC)[4:])
        )
        assert icmpv6_sum(frame) == 0xFFFF


def test_addresses_are_up_when_they_can_be_bound_and_only_then(network: Namespaces) -> None:
    assert [addresses.is_up(network, a.ip) for a in (V4, V6)] == [False, False]
    addresses.bring_up(network, [V4, V6], ())
    assert [addresses.is_up(network, a.ip) for a in (V4, V6)] == [True, True]
    assert not addresses.is_up(network, IPv4Address("10.10.0.101"))


def test_an_ipv6_address_can_be_used_at_once_without_the_silence_of_duplicate_detection(network: Namespaces) -> None:
    addresses.bring_up(network, [V6], ())
    said = run(network.command("ip", "-6", "address", "show", "dev", addresses.LINK), deadline=SECONDS)
    line = next(line for line in said.splitlines() if "fd00::100/64" in line)
    assert "nodad" in line
    assert "tentative" not in line


def test_going_down_takes_link_and_addresses_and_may_be_done_twice(network: Namespaces) -> None:
    addresses.bring_up(network, [V4, V6], ())
    addresses.take_down(network)
    assert not network.call(addresses.link_exists)
    assert [addresses.is_up(network, a.ip) for a in (V4, V6)] == [False, False]
    addresses.take_down(network)


def test_what_a_router_suggests_is_not_taken_up(network: Namespaces) -> None:
    addresses.bring_up(network, [V6], ())
    setting = f"/proc/sys/net/ipv6/conf/{addresses.LINK}/accept_ra"
    assert run(network.command("cat", setting), deadline=SECONDS) == "0\n"


def test_an_address_that_is_there_already_is_an_error_that_names_it(network: Namespaces) -> None:
    addresses.bring_up(network, [V4], ())
    with pytest.raises(AddressError, match=r"cannot give nlmfo0 the address 10\.10\.0\.100/24: File exists"):
        addresses.bring_up(network, [V4], ())


def test_clients_in_other_networks_are_reached_by_the_nodes_own_routes(network: Namespaces) -> None:
    routes = (
        Route(socket.AF_INET, "default", "10.10.0.1"),
        Route(socket.AF_INET, "192.0.2.0/24", "10.10.0.2"),
        Route(socket.AF_INET6, "default", "fd00::1"),
        Route(socket.AF_INET, "198.51.100.0/24", "203.0.113.1"),  # its gateway cannot be reached from here
    )
    addresses.bring_up(network, [V4, V6], routes)
    said = run(network.command("ip", "route"), deadline=SECONDS)
    assert "default via 10.10.0.1 dev nlmfo0" in said
    assert "192.0.2.0/24 via 10.10.0.2 dev nlmfo0" in said
    assert "198.51.100.0/24" not in said
    assert "default via fd00::1 dev nlmfo0" in run(network.command("ip", "-6", "route"), deadline=SECONDS)


def test_the_nodes_routes_are_those_with_a_gateway_on_the_services_interface(network: Namespaces) -> None:
    """The namespace stands for the node."""
    for words in (
        ("link", "add", "other", "type", "veth", "peer", "name", "another"),
        ("link", "set", "other", "up"),
        ("address", "add", "192.0.2.1/24", "dev", "other"),
        ("address", "add", "10.10.0.1/24", "dev", WIRE),
        ("-6", "address", "add", "fd00::1/64", "dev", WIRE, "nodad"),
        ("route", "add", "default", "via", "10.10.0.254"),
        ("route", "add", "198.51.100.0/24", "via", "10.10.0.253"),
        ("route", "add", "203.0.113.0/24", "via", "192.0.2.254"),
        ("-6", "route", "add", "2001:db8::/32", "via", "fd00::fe"),
    ):
        run(network.command("ip", *words), deadline=SECONDS)
    found = network.call(lambda: addresses.routes_of(WIRE))
    assert set(found) == {
        Route(socket.AF_INET, "default", "10.10.0.254"),
        Route(socket.AF_INET, "198.51.100.0/24", "10.10.0.253"),
        Route(socket.AF_INET6, "2001:db8::/32", "fd00::fe"),
    }


def test_an_interface_that_the_node_has_not_got_is_named_with_the_way_to_find_it(network: Namespaces) -> None:
    for act in (lambda: addresses.create_link(network, "eth99"), lambda: addresses.routes_of("eth99")):
        with pytest.raises(AddressError, match="'eth99': not on this node") as caught:
            act()
        assert "ip link" in str(caught.value.hint)


def test_a_link_that_the_kernel_refuses_to_make_is_an_error_of_ours() -> None:
    """No kernel makes an ipvlan link on the loopback, and some make none at all."""
    with made() as namespaces, pytest.raises(AddressError, match="cannot make an ipvlan link on 'lo'"):
        addresses.create_link(namespaces, "lo")
