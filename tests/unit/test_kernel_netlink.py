# SPDX-License-Identifier: GPL-2.0-or-later
"""Generic netlink: this machine's kernel for finding families, one in memory for the commands that it lacks."""

from __future__ import annotations

import errno
import os
import struct
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlmfo.kernel import netlink, nfsd
from nlmfo.kernel.files import ControlError
from nlmfo.kernel.messages import attributes, messages
from nlmfo.kernel.netlink import Cache, Command, Family
from tests.unit.kernel_fake import FakeKernel
from tests.unit.kernel_netlink_fake import FakeNetlink

NEW = (7, 2, 0)


def serving(version: tuple[int, int, int] = NEW) -> tuple[FakeKernel, FakeNetlink, Family]:
    kernel = FakeKernel(version)
    kernel.mount("/srv/a b", "8:16")
    nfsd.set_threads(8, files=kernel) if version < NEW else start(kernel)
    kernel.lock("8:16", 13, server_ip="10.0.0.100")
    kernel.lock("8:1", 14, server_ip="fd00::100")
    transport = FakeNetlink(kernel)
    found = netlink.nfsd(transport=transport)
    assert found is not None
    return kernel, transport, found


def start(kernel: FakeKernel) -> None:
    kernel.write(nfsd.CONTROL / "portlist", b"tcp 2049\n")
    nfsd.set_threads(8, files=kernel)


# -- this machine's kernel -----------------------------------------------------------------------------------


def test_the_family_that_knows_the_others_is_found_with_its_commands() -> None:
    found = netlink.family("nlctrl")
    assert found is not None
    assert found.number == netlink.NLCTRL
    assert netlink.CTRL_CMD_GETFAMILY in found.commands


def test_a_family_that_does_not_exist_is_none() -> None:
    assert netlink.family("nlmfo-none") is None


def test_a_command_that_a_family_does_not_have_is_refused_by_the_kernel() -> None:
    with pytest.raises(OSError, match=os.strerror(errno.EOPNOTSUPP)):
        netlink.call(netlink.NLCTRL, 200)


def test_a_real_refusal_is_explained() -> None:
    with pytest.raises(ControlError, match="has no such command") as raised:
        netlink.flush(Family("nlctrl", netlink.NLCTRL, frozenset()), Cache.EXPORT)
    assert raised.value.number == errno.EOPNOTSUPP


# -- a kernel in memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "commands"),
    [((6, 7, 0), {1}), ((6, 12, 117), {1, 2, 3, 4, 5, 6, 7, 8, 9}), (NEW, set(range(1, 19)))],
)
def test_what_the_kernel_can_is_what_it_lists(version: tuple[int, int, int], commands: set[int]) -> None:
    assert serving(version)[2].commands == commands


def test_a_kernel_without_the_family_has_none() -> None:
    assert netlink.nfsd(transport=FakeNetlink(FakeKernel((6, 1, 176)))) is None


def test_threads_are_counted() -> None:
    _, transport, family = serving()
    assert netlink.threads(family, transport=transport) == 8


@pytest.mark.parametrize(("address", "left"), [("10.0.0.100", [14]), ("fd00::100", [13]), ("10.0.0.99", [13, 14])])
def test_the_locks_of_one_address_are_dropped_of_either_family(address: str, left: list[int]) -> None:
    kernel, transport, family = serving()
    netlink.unlock_ip(family, ip_address(address), transport=transport)
    assert [lock.inode for lock in kernel.locks] == left


def test_the_locks_of_one_file_system_are_dropped_by_a_path_that_is_not_escaped() -> None:
    kernel, transport, family = serving()
    netlink.unlock_filesystem(family, Path("/srv/a b"), transport=transport)
    assert transport.calls == [(Command.UNLOCK_FILESYSTEM, b"/srv/a b\0")]
    assert [lock.inode for lock in kernel.locks] == [14]


def test_the_nfsv4_state_of_an_export_goes_and_nlms_locks_stay() -> None:
    kernel, transport, family = serving()
    netlink.unlock_export(family, Path("/srv/a b"), transport=transport)
    assert kernel.v4_revoked == ["/srv/a b"]
    assert len(kernel.locks) == 2


def test_caches_are_flushed_by_a_mask() -> None:
    _, transport, family = serving()
    netlink.flush(family, Cache.EXPORT | Cache.EXPKEY, transport=transport)
    assert transport.calls == [(Command.CACHE_FLUSH, struct.pack("=I", 3))]


def test_an_older_kernel_says_that_it_has_no_such_command() -> None:
    _, transport, family = serving((6, 12, 117))
    with pytest.raises(ControlError, match="has no such command") as raised:
        netlink.unlock_ip(family, ip_address("10.0.0.100"), transport=transport)
    assert raised.value.hint == "kernels from 7.2 on have it"


def test_a_lock_that_stays_is_an_error() -> None:
    kernel, transport, family = serving()
    kernel.stuck = {13}
    with pytest.raises(ControlError, match="could not release all"):
        netlink.unlock_filesystem(family, Path("/srv/a b"), transport=transport)


def test_a_kernel_that_stops_in_the_middle_of_an_answer_is_no_success() -> None:
    class Silent:
        def exchange(self, _datagram: bytes) -> Iterator[bytes]:
            return iter(())

    with pytest.raises(OSError, match="did not say whether"):
        netlink.call(netlink.NLCTRL, 3, transport=Silent())


def test_a_kernel_that_does_not_answer_at_all_is_waited_for_with_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message without the flag that makes it a request is taken, and not answered."""
    monkeypatch.setattr(netlink, "NLM_F_REQUEST", 0)
    monkeypatch.setattr(netlink, "NLM_F_ACK", 0)
    monkeypatch.setattr(netlink, "ANSWER", 0.1)
    begin = time.monotonic()
    with pytest.raises(TimeoutError):
        netlink.call(netlink.NLCTRL, 3)
    assert time.monotonic() - begin < 10


# -- wire format ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "raw"),
    [
        (IPv4Address("10.0.0.100"), struct.pack("=H", 2) + bytes(2) + b"\x0a\0\0\x64" + bytes(8)),
        (IPv6Address("::1"), struct.pack("=H", 10) + bytes(6) + bytes(15) + b"\1" + bytes(4)),
        (IPv6Address("fe80::1%7"), struct.pack("=H", 10) + bytes(6) + b"\xfe\x80" + bytes(13) + b"\1\7\0\0\0"),
        (IPv6Address("fe80::1%lo"), struct.pack("=H", 10) + bytes(6) + b"\xfe\x80" + bytes(13) + b"\1\1\0\0\0"),
    ],
)
def test_addresses_look_as_the_kernel_has_them(address: IPv4Address | IPv6Address, raw: bytes) -> None:
    assert netlink.sockaddr(address) == raw


@given(st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=70))))
def test_attributes_come_back_as_they_were_packed(fields: list[tuple[int, bytes]]) -> None:
    packed = b"".join(netlink.attribute(kind, content) for kind, content in fields)
    assert len(packed) % 4 == 0
    assert list(attributes(packed)) == fields


PARSERS: list[Callable[[bytes], Iterator[tuple[int, bytes]]]] = [attributes, messages]


@pytest.mark.parametrize("parse", PARSERS)
@given(st.one_of(st.binary(max_size=200), st.integers(0, 200).map(bytes)))
def test_what_makes_no_sense_ends_the_reading(
    parse: Callable[[bytes], Iterator[tuple[int, bytes]]], data: bytes
) -> None:
    for count, _ in enumerate(parse(data)):
        assert count <= len(data), "it goes on and on"
