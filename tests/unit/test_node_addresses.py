# SPDX-License-Identifier: GPL-2.0-or-later
"""Floating addresses beside the node's own: added, announced, and removed alone. A namespace stands for the node."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Iterator
from contextlib import closing
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_interface

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nlmfo.host import interfaces, node_addresses
from nlmfo.host.addresses import AddressError, arp_frame, neighbour_advertisement
from nlmfo.host.interfaces import Assigned
from nlmfo.host.namespaces import Namespaces
from nlmfo.host.node import Node
from nlmfo.run import run
from tests.unit.namespaced import SECONDS, made

MAC = bytes.fromhex("02 00 5e 10 00 01")
#: The node's interface, with a dot in its name as a VLAN's has, and the other end of its cable.
ETH, WIRE = "eth0.7", "wire"
V4 = ip_interface("10.10.0.100/24")
V6 = ip_interface("fd00::100/64")
OWN = ("10.10.0.1/24", "fd00::1/64")
ETH_P_ALL = 3


@pytest.fixture
def node() -> Iterator[Namespaces]:
    with made() as namespaces:
        ip(namespaces, "link", "add", ETH, "address", MAC.hex(":"), "type", "veth", "peer", "name", WIRE)
        for link in (ETH, WIRE):
            ip(namespaces, "link", "set", link, "up")
        ip(namespaces, "address", "add", OWN[0], "dev", ETH)
        ip(namespaces, "address", "add", OWN[1], "dev", ETH, "nodad")
        yield namespaces


def ip(namespaces: Namespaces, *words: str) -> str:
    return run(namespaces.command("ip", *words), deadline=SECONDS)


def bring_up(node: Namespaces, *wanted: IPv4Interface | IPv6Interface, link: str = ETH) -> None:
    node.call(lambda: node_addresses.bring_up(link, wanted))


def take_down(node: Namespaces, *wanted: IPv4Interface | IPv6Interface, link: str = ETH) -> None:
    node.call(lambda: node_addresses.take_down(link, wanted))


def up(node: Namespaces, address: str) -> bool:
    found = ip_interface(address).ip
    return node.call(lambda: node_addresses.is_up(found))


def global_addresses(node: Namespaces) -> set[str]:
    found = node.call(interfaces.assigned)
    return {f"{a.address}/{a.prefix}" for a in found if a.interface == ETH and not a.address.is_link_local}


def test_addresses_come_beside_the_nodes_own_with_the_prefix_that_is_configured(node: Namespaces) -> None:
    bring_up(node, V4, V6)
    assert global_addresses(node) == {*OWN, str(V4), str(V6)}
    assert (up(node, str(V4)), up(node, str(V6)), up(node, "10.10.0.101/24")) == (True, True, False)


def test_an_address_that_is_there_already_is_fine_whatever_prefix_it_has_there(node: Namespaces) -> None:
    ip(node, "address", "add", "10.10.0.100/32", "dev", ETH)
    for _ in range(2):
        bring_up(node, V4, V6)
    assert global_addresses(node) == {*OWN, "10.10.0.100/32", str(V6)}


def test_addresses_are_announced_also_when_they_are_there_already(node: Namespaces) -> None:
    bring_up(node, V4, V6)
    with closing(node.open_socket(socket.AF_PACKET, socket.SOCK_RAW)) as ear:
        ear.bind((WIRE, ETH_P_ALL))
        bring_up(node, V4, V6)
        frames = heard(ear, 9)
    arp = [arp_frame(IPv4Address("10.10.0.100"), MAC, operation) for operation in (1, 2)]
    assert [frame[:42] for frame in frames if frame[12:14] == b"\x08\x06"] == arp * 3
    said = [frame for frame in frames if frame[12:14] == b"\x86\xdd"]
    advertised = neighbour_advertisement(IPv6Address("fd00::100"), MAC)
    assert [frame[58:] for frame in said] == [advertised[4:]] * 3
    assert {frame[6:12] for frame in said} == {MAC}


def heard(ear: socket.socket, wanted: int) -> list[bytes]:
    """The first ``wanted`` announcements of the floating addresses."""
    frames: list[bytes] = []
    while len(frames) < wanted:
        ready, _, _ = select.select([ear], [], [], SECONDS)
        assert ready, f"{len(frames)} of {wanted} announcements came"
        frame, (_, _, direction, *_) = ear.recvfrom(2048)
        ours = frame[28:32] == V4.ip.packed or (frame[54:55] == b"\x88" and frame[62:78] == V6.ip.packed)
        if direction != socket.PACKET_OUTGOING and ours:
            frames.append(frame)
    return frames


def test_an_ipv6_address_works_at_once_and_is_nobodys_choice_for_the_nodes_own_connections(node: Namespaces) -> None:
    bring_up(node, V6)
    said = ip(node, "-6", "address", "show", "dev", ETH)
    line = next(line for line in said.splitlines() if "fd00::100/64" in line)
    assert "nodad" in line
    assert "deprecated" in line
    assert "tentative" not in line
    with closing(node.open_socket(socket.AF_INET6, socket.SOCK_DGRAM)) as sock:
        sock.connect(("fd00::2", 9))
        assert sock.getsockname()[0] == "fd00::1"


def test_only_the_services_addresses_go_and_going_twice_is_fine(node: Namespaces) -> None:
    other = ip_interface("10.10.0.101/24")
    bring_up(node, V4, V6, other)
    for _ in range(2):
        take_down(node, V4, V6)
        assert global_addresses(node) == {*OWN, str(other)}
    assert not up(node, str(V4))
    assert not up(node, str(V6))


def test_an_address_goes_whatever_prefix_it_has_been_given(node: Namespaces) -> None:
    ip(node, "address", "add", "10.10.0.100/32", "dev", ETH)
    ip(node, "address", "add", "fd00::100/128", "dev", ETH, "nodad")
    take_down(node, V4, V6)
    assert global_addresses(node) == set(OWN)


def test_the_other_services_address_stays_when_the_first_one_of_their_network_goes(node: Namespaces) -> None:
    """The kernel removes all addresses of a network with the first of them, unless it is told otherwise."""
    first, second = ip_interface("192.0.2.100/24"), ip_interface("192.0.2.101/24")
    setting = f"/proc/sys/net/ipv4/conf/{ETH}/promote_secondaries"
    run(node.command("sh", "-c", f"echo 0 > {setting}; echo 0 > {setting.replace(ETH, 'all')}"), deadline=SECONDS)
    bring_up(node, first, second)
    take_down(node, first)
    assert global_addresses(node) == {*OWN, str(second)}


def test_a_setting_that_is_not_needed_is_left_alone(node: Namespaces) -> None:
    setting = f"/proc/sys/net/ipv4/conf/{ETH}/promote_secondaries"
    run(node.command("sh", "-c", f"echo 0 > {setting}"), deadline=SECONDS)
    bring_up(node, V4)
    take_down(node, V4)
    assert run(node.command("cat", setting), deadline=SECONDS) == "0\n"


def test_an_address_is_not_up_because_anybody_may_bind_to_anything(node: Namespaces) -> None:
    run(node.command("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_nonlocal_bind"), deadline=SECONDS)
    with closing(node.open_socket(socket.AF_INET, socket.SOCK_DGRAM)) as anybody:
        anybody.bind((str(V4.ip), 0))
    assert not up(node, str(V4))


@pytest.mark.parametrize(("flags", "usable"), [(0, True), (0x40, False), (0x08, False), (0x20, True)])
def test_an_ipv6_address_is_not_up_while_or_after_a_duplicate_is_looked_for(flags: int, usable: bool) -> None:
    assert Assigned(ETH, IPv6Address("fd00::100"), 64, flags).usable is usable


def test_an_address_on_another_interface_is_refused_by_name_and_not_added_again(node: Namespaces) -> None:
    ip(node, "address", "add", str(V4), "dev", WIRE)
    with pytest.raises(AddressError, match=rf"10\.10\.0\.100 is on {WIRE} of this node already, not on {ETH}"):
        bring_up(node, V4)
    assert global_addresses(node) == set(OWN)


def test_an_address_that_stays_on_another_interface_is_not_reported_gone(node: Namespaces) -> None:
    ip(node, "address", "add", str(V4), "dev", WIRE)
    with pytest.raises(AddressError, match=rf"10\.10\.0\.100 is still on {WIRE}") as caught:
        take_down(node, V4)
    assert f"ip address del 10.10.0.100/24 dev {WIRE}" in str(caught.value.hint)
    assert up(node, str(V4))


def test_an_interface_that_is_missing_or_down_is_named_before_anything_is_added(node: Namespaces) -> None:
    with pytest.raises(AddressError, match="'eth99': not on this node"):
        bring_up(node, V4, link="eth99")
    ip(node, "link", "set", ETH, "down")
    with pytest.raises(AddressError, match=f"'{ETH}' is down") as caught:
        bring_up(node, V4)
    assert f"ip link set {ETH} up" in str(caught.value.hint)
    assert not up(node, str(V4))


def test_an_interface_that_has_gone_took_its_addresses_with_it(node: Namespaces) -> None:
    take_down(node, V4, V6, link="eth99")


def test_more_addresses_than_one_answer_of_the_kernel_holds_are_all_seen(node: Namespaces) -> None:
    many = [f"10.20.{number // 250}.{number % 250 + 1}/32" for number in range(1000)]
    batch = "".join(f"address add {address} dev {ETH}\n" for address in many)
    with node.directory.joinpath("batch").open("w") as file:
        file.write(batch)
    ip(node, "-batch", str(node.directory / "batch"))
    assert set(many) <= global_addresses(node)


def test_what_has_a_peer_is_known_by_our_address(node: Namespaces) -> None:
    ip(node, "address", "add", "192.0.2.1", "peer", "192.0.2.2/32", "dev", ETH)
    assert up(node, "192.0.2.1/32")
    assert not up(node, "192.0.2.2/32")


@given(st.binary(max_size=80))
@example(b"\0" * 8)  # an attribute of no length: the next one would be the same
def test_attributes_that_make_no_sense_do_not_hang_the_reading(junk: bytes) -> None:
    interfaces.parse(struct.pack("=BBBBI", socket.AF_INET, 24, 0, 0, 1) + b"\4\0\x63\0" + junk[: len(junk) & ~3], {})


def test_the_node_is_taken_where_namespaces_are() -> None:
    node = Node("home")
    assert node.command("exportfs", "-s") == ["exportfs", "-s"]
    assert node.directory == Namespaces("home").directory
    assert node.call(lambda: 40 + 2) == 42
    with node.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        assert not sock.get_inheritable()
        sock.bind(("127.0.0.1", 0))
