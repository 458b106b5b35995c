# SPDX-License-Identifier: GPL-2.0-or-later
"""Who has an address already: asked on a real link between two network namespaces, one of which stands for the network.

What the kernel answers is the kernel's own; what it would never say is injected there as raw frames.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_interface
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlmfo.deadline import Deadline, poll_until
from nlmfo.errors import DeadlineExceeded, NlmfoError
from nlmfo.host import probe
from nlmfo.host.addresses import Address, Interface, arp_frame
from nlmfo.host.namespaces import Namespaces
from nlmfo.host.probe import BETWEEN, Answer, Silence, answer, answering, arp_probe, neighbour_probe
from nlmfo.run import run
from tests.unit.namespaced import SECONDS, made, own_mounts
from tests.unit.test_addresses import icmpv6_sum

#: What the node has, and what is at the other end.
ETH, WIRE = "eth0", "wire"
OURS, THEIRS = bytes.fromhex("02005e100001"), bytes.fromhex("02005e100002")
V4, V6 = ip_interface("10.10.0.100/24"), ip_interface("fd00::100/64")
OTHER_V4, OTHER_V6 = ip_interface("10.10.0.101/24"), ip_interface("fd00::101/64")
#: Waited out only where nobody answers.
SHORT = 0.3
ETH_P_ALL = 3


@dataclass(frozen=True, slots=True)
class Network:
    """A node with ETH, which is joined to WIRE."""

    node: Namespaces
    wire: Namespaces

    def holds(self, *addresses: Interface) -> None:
        """Give the other end addresses of its own, to be answered for by its kernel."""
        for address in addresses:
            more = ["nodad"] if address.version == 6 else []
            ip(self.wire, "address", "add", str(address), "dev", WIRE, *more)

    def answering(self, *addresses: Interface, seconds: float = SECONDS) -> dict[Address, str]:
        return self.node.call(lambda: answering(ETH, addresses, seconds=seconds))


def ip(where: Namespaces, *words: str) -> str:
    return run(where.command("ip", *words), deadline=SECONDS)


@pytest.fixture
def network() -> Iterator[Network]:
    with own_mounts(), made() as node, made() as wire:
        ends = ["name", ETH, "address", OURS.hex(":"), "netns", node.net.name]
        peer = ["peer", "name", WIRE, "address", THEIRS.hex(":"), "netns", wire.net.name]
        run(["ip", "link", "add", *ends, "type", "veth", *peer], deadline=SECONDS)
        ip(node, "link", "set", ETH, "up")
        ip(wire, "link", "set", WIRE, "up")
        poll_until("the carrier", lambda: "LOWER_UP" in ip(node, "link", "show", ETH), Deadline(SECONDS))
        yield Network(node, wire)


class Stranger:
    """At the other end: hears everything, and sends ``frames`` when the first question of the kind comes."""

    def __init__(self, network: Network, question: Callable[[bytes], bool], frames: list[bytes]) -> None:
        self.heard: list[tuple[float, bytes]] = []
        self._question, self._frames = question, frames
        self._socket = network.wire.open_socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._socket.bind((WIRE, ETH_P_ALL))
        self._over, self._end = socket.socketpair()
        self._thread = threading.Thread(target=self._listen)

    def __enter__(self) -> Stranger:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.close()
        self._thread.join(SECONDS)
        self._socket.close()
        self._over.close()

    def questions(self) -> list[tuple[float, bytes]]:
        return [(when, frame) for when, frame in self.heard if self._question(frame)]

    def _listen(self) -> None:
        while True:
            ready, _, _ = select.select([self._socket, self._over], [], [])
            if self._socket in ready:
                self._hear()
            elif self._over in ready:  # only when there is nothing left to hear
                return

    def _hear(self) -> None:
        try:
            frame, (_, _, direction, *_) = self._socket.recvfrom(4096)
        except OSError:  # the test itself has taken the link down
            return
        if direction == socket.PACKET_OUTGOING:
            return
        self.heard.append((time.monotonic(), frame))
        if self._question(frame):
            for answer_to_it in self._frames:
                self._socket.send(answer_to_it)
            self._frames = []


def is_arp(frame: bytes) -> bool:
    return frame[12:14] == b"\x08\x06"


def is_solicitation(frame: bytes) -> bool:
    """Of a global address: the kernel asks for its own link-local one in the same manner."""
    return frame[12:14] == b"\x86\xdd" and frame[20:21] == b"\x3a" and frame[54:55] == b"\x87" and frame[62] == 0xFD


# What is on the wire, by the layout of the RFCs


def test_an_arp_probe_names_no_sender_address_so_that_nobody_learns_anything_from_it() -> None:
    assert arp_probe(IPv4Address("10.10.0.100"), OURS) == bytes.fromhex(
        "ff ff ff ff ff ff"  # Ethernet: to everybody
        "02 00 5e 10 00 01"  # from us
        "08 06"  # ARP
        "00 01 08 00 06 04"  # Ethernet and IPv4, and their lengths
        "00 01"  # operation: request
        "02 00 5e 10 00 01"  # sender hardware address
        "00 00 00 00"  # sender protocol address: none (RFC 5227 2.1.1)
        "00 00 00 00 00 00"  # target hardware address
        "0a 0a 00 64"  # target protocol address
    )


def test_a_neighbour_probe_is_the_solicitation_of_duplicate_address_detection() -> None:
    frame = neighbour_probe(IPv6Address("fd00::1:2345:6789"), OURS)
    assert icmpv6_sum(frame) == 0xFFFF
    assert frame[:56] + b"\0\0" + frame[58:] == bytes.fromhex(
        "33 33 ff 45 67 89"  # Ethernet: to the solicited-node multicast address (RFC 2464 7)
        "02 00 5e 10 00 01"
        "86 dd"
        "60 00 00 00 00 18 3a ff"  # IPv6: 24 octets of ICMPv6, hop limit 255
        "00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00"  # from the unspecified address
        "ff 02 00 00 00 00 00 00 00 00 00 01 ff 45 67 89"
        "87 00 00 00"  # type 135, code 0, checksum
        "00 00 00 00"
        "fd 00 00 00 00 00 00 00 00 00 00 01 23 45 67 89"  # target; no option, because there is no source
    )


# Real kernels on a real link


@pytest.mark.parametrize(("held", "free"), [(V4, OTHER_V4), (V6, OTHER_V6)], ids=["IPv4", "IPv6"])
def test_who_has_the_address_is_found_by_its_hardware_address(
    network: Network, held: Interface, free: Interface
) -> None:
    network.holds(held)
    assert network.answering(held, free, seconds=SHORT) == {held.ip: "02:00:5e:10:00:02"}


def test_a_network_in_which_nobody_has_the_addresses_is_silent(network: Network) -> None:
    network.holds(OTHER_V4, OTHER_V6)
    assert network.answering(V4, V6, seconds=SHORT) == {}


def test_when_all_have_been_answered_for_nobody_waits_on(network: Network) -> None:
    network.holds(V4, V6, OTHER_V4, OTHER_V6)
    began = time.monotonic()
    assert network.answering(V4, V6, OTHER_V4, OTHER_V6).keys() == {V4.ip, V6.ip, OTHER_V4.ip, OTHER_V6.ip}
    assert time.monotonic() - began < SECONDS / 2


def test_many_addresses_take_no_longer_than_one(network: Network) -> None:
    wanted = [ip_interface(f"10.10.1.{n}/16") for n in range(1, 101)]
    began = time.monotonic()
    assert network.answering(*wanted, seconds=SHORT) == {}
    assert time.monotonic() - began < SHORT * 10


def test_an_interface_without_any_address_can_ask(network: Network) -> None:
    """Nor does it need IPv6: the service has it in namespaces of its own."""
    network.node.call(lambda: disable_ipv6(ETH))
    network.holds(V4, V6)
    assert ip(network.node, "-brief", "address", "show", ETH).split()[2:] == []
    assert network.answering(V4, V6).keys() == {V4.ip, V6.ip}


def disable_ipv6(interface: str) -> None:
    Path(f"/proc/sys/net/ipv6/conf/{interface}/disable_ipv6").write_text("1\n", encoding="ascii")


def test_no_addresses_are_no_question() -> None:
    assert answering("eth99", []) == {}


def test_nobody_learns_a_wrong_address_from_being_asked(network: Network) -> None:
    network.holds(V4, V6)
    network.answering(V4, V6, OTHER_V4, OTHER_V6, seconds=SHORT)
    assert ip(network.wire, "neighbour", "show", "nud", "all").count(OURS.hex(":")) == 0


@pytest.mark.parametrize(("address", "question"), [(V4, is_arp), (V6, is_solicitation)], ids=["IPv4", "IPv6"])
def test_a_question_that_gets_lost_is_asked_again_three_times_in_the_first_half(
    network: Network, address: Interface, question: Callable[[bytes], bool]
) -> None:
    seconds = 1.2
    with Stranger(network, question, []) as stranger:
        network.answering(address, seconds=seconds)
    times = [when for when, _ in stranger.questions()]
    assert len(times) == 3
    assert times[-1] - times[0] <= seconds / 2
    assert all(later - earlier >= seconds / 20 for earlier, later in pairwise(times))


@pytest.mark.parametrize(("address", "question"), [(V4, is_arp), (V6, is_solicitation)], ids=["IPv4", "IPv6"])
def test_an_answer_after_the_last_question_still_counts(
    network: Network, address: Interface, question: Callable[[bytes], bool]
) -> None:
    """A switch that drops frames while a port comes up, say."""
    count = iter(range(10))

    def third(frame: bytes) -> bool:
        return question(frame) and next(count) == 2

    with Stranger(network, third, [good_answer(address)]):
        assert network.answering(address, seconds=1.0) == {address.ip: THEIRS.hex(":")}


# Frames that nobody should believe


def arp(operation: int = 2, sender: Interface = V4, hardware: bytes = THEIRS, *, start: str = "000108000604") -> bytes:
    head = bytes.fromhex(start) + struct.pack("!H", operation)
    body = head + hardware + sender.ip.packed + OURS + b"\0" * 4
    return OURS + hardware + b"\x08\x06" + body


def advertisement(
    target: Interface = V6,
    *,
    kind: int = 136,
    code: int = 0,
    hops: int = 255,
    following: int = 58,
    version: int = 6,
    length: int = 32,
    hardware: bytes = THEIRS,
) -> bytes:
    """With a checksum of nought: what a hostile frame lacks is never that, so nobody looks at it."""
    header = struct.pack("!IHBB", version << 28, length, following, hops)
    addresses = IPv6Address("fe80::1").packed + IPv6Address("ff02::1").packed
    message = struct.pack("!BBHI", kind, code, 0, 0x20000000) + target.ip.packed + b"\2\1" + hardware
    return b"\x33\x33\0\0\0\1" + hardware + b"\x86\xdd" + header + addresses + message


def good_answer(address: Interface) -> bytes:
    return arp(sender=address) if address.version == 4 else advertisement(address)


GARBAGE = {
    "a frame of an Ethernet header only": arp()[:14],
    "an answer that is cut off": arp()[:41],
    "another operation": arp(operation=3),
    "an operation of nought": arp(operation=0),
    "another hardware type": arp(start="000608000604"),
    "another protocol": arp(start="000186dd0604"),
    "addresses of another length": arp(start="000108000804"),
    "an answer for another address": arp(sender=OTHER_V4),
    "our own hardware address": arp(hardware=OURS),
    "our own question": arp_probe(IPv4Address("10.10.0.100"), OURS),
    "somebody else's question": arp_probe(IPv4Address("10.10.0.100"), THEIRS),
    "an advertisement that is cut off": advertisement()[:77],
    "an advertisement that claims to be longer than it is": advertisement(length=33),
    "an advertisement that claims to be shorter than any": advertisement(length=23),
    "a solicitation": advertisement(kind=135),
    "a code": advertisement(code=1),
    "a hop limit of a router": advertisement(hops=254),
    "another protocol over IPv6": advertisement(following=17),
    "another version of IP": advertisement(version=4),
    "an advertisement of another address": advertisement(OTHER_V6),
    "our own advertisement": advertisement(hardware=OURS),
    "somebody else's duplicate address detection": neighbour_probe(IPv6Address("fd00::100"), THEIRS),
    "noise": bytes(range(256)),
}
#: The same answers, on VLAN 5: another network.
TAGGED = [frame[:12] + bytes.fromhex("81000005") + frame[12:] for frame in (arp(), advertisement())]


def test_frames_that_are_no_answers_to_the_letter_are_none(network: Network) -> None:
    """And none of them keeps an answer that follows them from being heard."""
    garbage = [*GARBAGE.values(), *TAGGED]
    with Stranger(network, is_arp, garbage):
        assert network.answering(V4, V6, seconds=SHORT) == {}
    with Stranger(network, is_arp, [*garbage, arp(), advertisement()]):
        assert network.answering(V4, V6) == {V4.ip: THEIRS.hex(":"), V6.ip: THEIRS.hex(":")}


@pytest.mark.parametrize("frame", GARBAGE.values(), ids=GARBAGE)
def test_each_of_them_is_refused_for_its_own_reason(frame: bytes) -> None:
    """The filter in the kernel would hide what the parser lets through."""
    found = answer(frame)
    assert found is None or found.address not in (V4.ip, V6.ip) or found.hardware == OURS


def test_the_frames_that_the_garbage_was_made_of_are_answers() -> None:
    assert answer(arp()) == Answer(IPv4Address("10.10.0.100"), THEIRS)
    assert answer(advertisement()) == Answer(IPv6Address("fd00::100"), THEIRS)
    assert answer(arp() + b"\0" * 18) == Answer(IPv4Address("10.10.0.100"), THEIRS), "padded to 60 octets"


def test_a_node_that_announces_the_address_or_asks_from_it_has_it() -> None:
    """RFC 5227 2.1.1: a request counts like a reply."""
    for operation in (1, 2):
        assert answer(arp_frame(IPv4Address("10.10.0.100"), THEIRS, operation)) == Answer(V4.ip, THEIRS)


@given(st.binary(max_size=120), st.sampled_from([b"", arp()[:14], advertisement()[:14], advertisement()[:54]]))
def test_no_frame_whatsoever_is_more_than_an_answer_or_none(noise: bytes, start: bytes) -> None:
    found = answer(start + noise)
    assert found is None or len(found.hardware) == 6


def test_what_this_node_says_itself_is_no_answer_under_whatever_hardware_address(network: Network) -> None:
    """Of a bridge or bond, say: a packet socket hears what goes out as well."""
    send = probe._send

    def send_and_answer(*arguments: Any) -> set[Address]:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as tap:
            tap.bind((ETH, 0))
            tap.send(arp())
        return send(*arguments)

    def ask() -> dict[Address, str]:
        probe._send = send_and_answer  # type: ignore[assignment]
        return answering(ETH, [V4], seconds=SHORT)

    assert network.node.call(ask) == {}


def test_the_first_who_answers_is_named(network: Network) -> None:
    second = bytes.fromhex("02005e100003")
    with Stranger(network, is_arp, [arp(), arp(hardware=second)]):
        assert network.answering(V4, OTHER_V4, seconds=SHORT) == {V4.ip: THEIRS.hex(":")}


def test_a_flood_of_frames_ends_at_the_deadline_all_the_same(network: Network) -> None:
    """Each is one that the filter lets through."""
    over = threading.Event()
    flood = arp(sender=OTHER_V4)

    def pour() -> None:
        with closing(network.wire.open_socket(socket.AF_PACKET, socket.SOCK_RAW)) as tap:
            tap.bind((WIRE, 0))
            while not over.is_set():
                tap.send(flood)

    thread = threading.Thread(target=pour)
    thread.start()
    try:
        began = time.monotonic()
        assert network.answering(V4, seconds=SHORT) == {}
        assert time.monotonic() - began < SECONDS / 2
    finally:
        over.set()
        thread.join(SECONDS)


# Where nobody can be heard


def refusal(network: Network, interface: str = ETH) -> NlmfoError:
    with pytest.raises(NlmfoError) as caught:
        network.node.call(lambda: answering(interface, [V4, V6], seconds=SHORT))
    assert f"interface '{interface}'" in caught.value.text
    assert f"ip link show {interface}" in str(caught.value.hint)
    return caught.value


def test_an_interface_that_is_missing_is_named(network: Network) -> None:
    assert "No such device" in refusal(network, "eth99").text


def test_an_interface_that_is_down_is_named_and_not_taken_for_silence(network: Network) -> None:
    ip(network.node, "link", "set", ETH, "down")
    assert "it is down" in refusal(network).text


def test_a_cable_that_is_unplugged_is_not_taken_for_silence(network: Network) -> None:
    ip(network.wire, "link", "set", WIRE, "down")
    poll_until("the carrier to go", lambda: "NO-CARRIER" in ip(network.node, "link", "show", ETH), Deadline(SECONDS))
    assert "it has no carrier" in refusal(network).text


def test_an_interface_without_hardware_addresses_is_named(network: Network) -> None:
    assert "not an Ethernet interface" in refusal(network, "lo").text


def pulling(network: Network, where: Namespaces, end: str) -> Stranger:
    """Takes the link down at the first question."""

    def pull(frame: bytes) -> bool:
        if is_arp(frame):
            ip(where, "link", "set", end, "down")
        return False

    return Stranger(network, pull, [])


def test_an_interface_that_goes_down_meanwhile_is_not_taken_for_silence(network: Network) -> None:
    with pulling(network, network.node, ETH), pytest.raises(NlmfoError, match=r"interface 'eth0'.*down"):
        network.answering(V4)


def test_a_cable_that_is_unplugged_meanwhile_is_not_taken_for_silence(network: Network) -> None:
    asked = probe._ask

    def ask_and_let_it_show(*arguments: Any) -> object:
        """The kernel may take a second to tell (net/core/link_watch.c)."""
        found = asked(*arguments)
        gone = "the carrier to go"
        poll_until(gone, lambda: "NO-CARRIER" in run(["ip", "link", "show", ETH], deadline=SECONDS), Deadline(SECONDS))
        return found

    def ask() -> object:
        probe._ask = ask_and_let_it_show  # type: ignore[assignment]
        return answering(ETH, [V4], seconds=SHORT)

    with pulling(network, network.wire, WIRE), pytest.raises(NlmfoError, match=r"interface 'eth0'.*no carrier"):
        network.node.call(ask)


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOBUFS])
def test_questions_that_never_got_out_are_not_taken_for_silence(network: Network, number: int) -> None:
    assert "queue was full" in with_full_queue(network, number, range(probe.PROBES * 2)).text


def test_a_queue_that_is_full_for_a_moment_does_no_harm(network: Network) -> None:
    network.holds(V4, V6)
    with pytest.raises(NlmfoError, match="answers came after all"):
        raise with_full_queue(network, errno.ENOBUFS, range(3))


def with_full_queue(network: Network, number: int, full: range) -> NlmfoError:
    """What comes of asking when these sends fail, counted from 0; there are two in each round."""

    def ask() -> NlmfoError:
        count = iter(range(1000))

        class Wire(socket.socket):
            def send(self, *arguments: object) -> int:
                if next(count) in full:
                    raise OSError(number, "full")
                return super().send(*arguments)  # type: ignore[arg-type]

        socket.socket = Wire  # type: ignore[misc]
        try:
            found = answering(ETH, [V4, V6], seconds=SHORT * 2)
        except NlmfoError as error:
            return error
        return NlmfoError("answers came after all" if len(found) == 2 else "no answers")

    return network.node.call(ask)


def test_the_filter_is_in_place_before_the_first_frame_can_come(network: Network) -> None:
    """A packet socket hears from the moment when it has a protocol."""

    def order() -> list[str]:
        done: list[str] = []

        class Wire(socket.socket):
            def setsockopt(self, *arguments: object) -> None:
                done.append(f"option {arguments[1]}")
                super().setsockopt(*arguments)  # type: ignore[call-overload]

            def bind(self, address: object) -> None:
                done.append("bind")
                super().bind(address)  # type: ignore[arg-type]

        with Wire(socket.AF_PACKET, socket.SOCK_RAW, 0) as wire:
            probe._listen(wire, ETH)
        return done

    assert network.node.call(order) == [f"option {probe.SO_ATTACH_FILTER}", "option 1", "bind"]


def lasts_within(network: Network, seconds: float) -> bool:
    """Whether silence is found on the node's interface within so many seconds of listening for it."""

    def listen() -> bool:
        with closing(Silence(ETH, [V4], seconds=SHORT)) as silence:
            try:
                poll_until("silence", silence.lasts, Deadline(seconds))
            except DeadlineExceeded:
                return False
            return True

    return network.node.call(listen)


def test_a_takeover_that_waits_has_heard_that_nobody_answers(network: Network) -> None:
    assert lasts_within(network, SECONDS)


def test_a_takeover_that_waits_hears_whoever_answers(network: Network) -> None:
    network.holds(V4)
    assert not lasts_within(network, 4 * (BETWEEN + SHORT))


class Rounds:
    """In the place of ``answering``: each round answers with the next of these."""

    def __init__(self, patch: pytest.MonkeyPatch, *rounds: object) -> None:
        self._rounds = list(rounds)
        self.over = threading.Event()
        patch.setattr(probe, "BETWEEN", 0.01)
        patch.setattr(probe, "answering", self)

    def __call__(self, _: str, __: object, *, seconds: float) -> object:
        assert seconds == SHORT
        if len(self._rounds) == 1:
            self.over.set()
        found = self._rounds.pop(0) if self._rounds else {}
        if isinstance(found, NlmfoError):
            raise found
        return found


@pytest.mark.parametrize(
    "last", [{V4.ip: "02:00:5e:10:00:02"}, NlmfoError("the interface is down")], ids=["answer", "deaf"]
)
def test_silence_is_over_with_the_first_answer_and_when_nothing_can_be_heard(
    monkeypatch: pytest.MonkeyPatch, last: object
) -> None:
    monkeypatch.setattr(probe, "FRESH", 3600.0)
    rounds = Rounds(monkeypatch, {}, {}, last, *[last] * 10_000)
    with closing(Silence(ETH, [V4], seconds=SHORT)) as silence:
        poll_until("silence", silence.lasts, Deadline(SECONDS), interval=0.001)
        poll_until("its end", lambda: not silence.lasts(), Deadline(SECONDS), interval=0.001)
    assert not rounds.over.is_set()


def test_what_was_heard_is_no_evidence_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    first, goes_on = threading.Event(), threading.Event()

    def answering(*_: object, **__: object) -> dict[Address, str]:
        if first.is_set():
            goes_on.wait(SECONDS)
        first.set()
        return {}

    monkeypatch.setattr(probe, "BETWEEN", 0.01)
    monkeypatch.setattr(probe, "FRESH", 0.2)
    monkeypatch.setattr(probe, "answering", answering)
    with closing(Silence(ETH, [V4], seconds=SHORT)) as silence:
        poll_until("silence", silence.lasts, Deadline(SECONDS), interval=0.001)
        poll_until("its end", lambda: not silence.lasts(), Deadline(SECONDS), interval=0.001)
        goes_on.set()
