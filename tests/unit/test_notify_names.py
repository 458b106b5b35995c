# SPDX-License-Identifier: GPL-2.0-or-later
"""A notice goes out under every name that a client may have mounted by, and under none twice."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlmfo.notify import names_for, wire

IPV4, IPV6 = IPv4Address("10.10.0.100"), IPv6Address("fd00::100")


def test_each_name_is_followed_by_its_short_form_and_the_address_comes_last() -> None:
    found = names_for(("nfs100.example", "files.lab.example"), IPV4)
    assert found == ("nfs100.example", "nfs100", "files.lab.example", "files", "10.10.0.100")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ((), ("10.10.0.100",)),
        (("nfs100",), ("nfs100", "10.10.0.100")),
        (("a.example", "a.test", "a"), ("a.example", "a", "a.test", "10.10.0.100")),
        (("10.10.0.100", "a.example"), ("10.10.0.100", "a.example", "a")),
    ],
)
def test_no_name_is_sent_twice(names: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert names_for(names, IPV4) == expected


@pytest.mark.parametrize("name", ["192.0.2.7", "::ffff:192.0.2.7", "fd00::7"])
def test_a_name_that_is_an_address_has_no_short_form(name: str) -> None:
    assert names_for((name,), IPV4) == (name, "10.10.0.100")


def test_a_name_that_begins_with_a_dot_has_no_empty_short_form_which_could_not_be_sent() -> None:
    assert names_for((".example",), IPV6) == (".example", "fd00::100")


def test_the_interface_of_a_link_local_address_is_ours_and_is_not_sent() -> None:
    assert names_for((), IPv6Address("fe80::100%eth0")) == ("fe80::100",)


def as_address(name: str) -> IPv4Address | IPv6Address | None:
    with suppress(ValueError):
        return ip_address(name)
    return None


@given(st.lists(st.from_regex(r"[a-z0-9-]{1,9}(\.[a-z0-9-]{1,9}){0,3}", fullmatch=True)), st.ip_addresses())
def test_whatever_is_configured_each_name_and_the_address_can_be_sent_once(names: list[str], address: object) -> None:
    found = names_for(names, ip_address(str(address)))
    assert len({*found}) == len(found)
    assert {*names} <= {*found}
    # Not by its text: an IPv4 address in an IPv6 one has two forms, ::ffff:0:1 and ::ffff:0.0.0.1.
    assert address in [as_address(name) for name in found]
    assert all(wire.sm_notify(name, 1) for name in found)
