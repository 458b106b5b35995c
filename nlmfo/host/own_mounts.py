# SPDX-License-Identifier: GPL-2.0-or-later
"""NFS mounts of this node as a client: of a service that it is to serve itself, or such that keep its lockd going."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from nlmfo.host import mounts
from nlmfo.host.mounts import Mount

Address = IPv4Address | IPv6Address

KINDS = ("nfs", "nfs4")


def of(addresses: Iterable[Address], names: Iterable[str]) -> tuple[Path, ...]:
    """Where this mount namespace has something mounted over NFS from one of the addresses or names.

    Names are compared as the mounts were made, without asking a name server: the address that the kernel found by the
    name is among the mount's options.
    """
    wanted = {*addresses, *(_host(name) for name in names)}
    return tuple(mount.mountpoint for mount in _nfs() if not wanted.isdisjoint(_servers(mount)))


def v3_clients() -> tuple[Path, ...]:
    """The NFSv2 and NFSv3 mounts of this mount namespace that hold a reference to lockd, which so never ends.

    Only a mount whose flock and POSIX locks are both local does without (fs/nfs/client.c, nfs_start_lockd): nolock
    or local_lock=all, which show alike. With local_lock=posix it is still lockd that does the flocks.
    """
    return tuple(mount.mountpoint for mount in _nfs() if _uses_lockd(mount))


def _nfs() -> Iterable[Mount]:
    return (mount for mount in mounts.table() if mount.kind in KINDS)


def _uses_lockd(mount: Mount) -> bool:
    options = mount.options.split(",")
    version = _value(options, "vers")
    if mount.kind == "nfs4" or (version is not None and version[:1] not in ("2", "3")):
        return False
    return "nolock" not in options and _value(options, "local_lock") != "all"


def _servers(mount: Mount) -> set[Address | str]:
    """Whom the mount is from: ``addr=`` is whom the kernel talks to, the source whom the user named."""
    source = mount.source
    # [fd00::1]:/path; an IPv6 address without its brackets cannot be told from its path.
    named = source[1:].partition("]")[0] if source.startswith("[") else source.partition(":")[0]
    found = (named, _value(mount.options.split(","), "addr"))
    return {_host(word) for word in found if word}


def _host(word: str) -> Address | str:
    """An address by its value, because IPv6 has many spellings; a name in lower case, without the root's dot."""
    try:
        address = ip_address(word)
    except ValueError:
        return word.lower().removesuffix(".")
    return getattr(address, "ipv4_mapped", None) or address


def _value(options: Iterable[str], key: str) -> str | None:
    return next((value for name, _, value in (option.partition("=") for option in options) if name == key), None)
