# SPDX-License-Identifier: GPL-2.0-or-later
"""The names that a client may know us by: one notice carries one name, and the client compares it with its own list."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_address

from nlmfo.notify.sockets import Address, peer_of


def names_for(names: Sequence[str], address: Address) -> tuple[str, ...]:
    """Each of ``names``, its short form, and last ``address`` as text; none of them twice, in this order.

    A client monitors the server under what it was mounted by (nfs-utils, utils/statd/monitor.c): a full name, a
    short one or the address. sm-notify sends the full name and then the same up to its first dot (sm-notify(8)); it
    has nothing for a client that mounted by address and cannot look the name up, hence the address.
    """
    found = [form for name in names for form in _forms(name)]
    # Without %scope: that is the name of an interface of ours, and means nothing to a client.
    found.append(str(peer_of(address, 0)[0]))
    return tuple(dict.fromkeys(found))


def _forms(name: str) -> Iterator[str]:
    yield name
    short = name.partition(".")[0]
    if short and not _is_address(name):
        yield short


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
