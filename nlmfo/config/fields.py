# SPDX-License-Identifier: GPL-2.0-or-later
"""What the value of each key must look like, one function per kind of key.

Like those of ``values``, they know nothing of files and raise Invalid.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_interface

from nlmfo.config.model import Address
from nlmfo.config.values import Invalid, absolute_path, integer, mapping, parse_within, some, text

VERSIONS = ("3", "4", "4.0", "4.1", "4.2")
#: What stands for the node to be fenced in the words of the fence hook.
NODE = "{node}"

_SERVICE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_PARTITION_UUID = re.compile(r"[0-9a-f][0-9a-f-]{2,34}[0-9a-f]")
_NUMBER = re.compile(r"[0-9]{1,10}")
_FSID_UUID = re.compile(r"(?:[0-9a-f][-:]?){31}[0-9a-f]")

#: What an exports file gives a meaning of its own: blanks apart, '#' begins a comment, a backslash an escape.
_EXPORTS_SYNTAX = frozenset("()\"'#\\")


def service_name(name: str) -> str:
    """A name that is safe in paths, in names of namespaces and units, and on a command line."""
    if not _SERVICE_NAME.fullmatch(name):
        hint = "rename the file: 1 to 32 letters, digits, '_' and '-', beginning with a letter or a digit"
        raise Invalid(f"{name!r} cannot be the name of a service", hint)
    return name


def host_name(value: object) -> str:
    """A host name, RFC 1123 section 2.1: labels of letters, digits and inner hyphens; 253 bytes at most."""
    name = text(value)
    if _is_address(name):
        raise Invalid(f"{name!r} is an address, not a host name", "write the name that stands for it")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        hint = "use letters, digits and '-', in parts of 1 to 63 characters with dots between them"
        raise Invalid(f"{name!r} is not a host name", hint)
    return name


def interface_name(value: object) -> str:
    """A network interface, by the kernel's own rule (net/core/dev.c, dev_valid_name)."""
    name = text(value)
    bad = any(character in "/:" or character.isspace() for character in name)
    if bad or name in (".", "..") or len(name.encode()) > 15:
        hint = "write it as 'ip link' shows it: 15 bytes at most, no '/', ':' or blank"
        raise Invalid(f"{name!r} cannot be the name of an interface", hint)
    return name


def address(value: object) -> Address:
    """An address that a client can mount from, with the length of its network's prefix."""
    written = text(value)
    host, slash, length = written.partition("/")
    if not slash and _is_address(host):
        example = f"{host}/64" if ":" in host else f"{host}/24"
        raise Invalid(f"{written!r} has no prefix length", f'write "{example}", or as your network has it')
    try:
        if not length.isdecimal() or "%" in host:
            raise ValueError(written)
        found = ip_interface(written)
    except ValueError:
        hint = 'write an address and a prefix length, like "10.0.0.100/24" or "fd00::100/64"'
        raise Invalid(f"{written!r} is not an address", hint) from None
    if flaw := _flaw(found):
        raise Invalid(f"{written!r} is {flaw}", "write the address that clients mount from")
    return found


def grace(value: object) -> int:
    """Seconds of grace, in steps of nlm_timeout, 10 s by default.

    lockd rounds anything else up (fs/lockd/svc.c, get_lockd_grace_period), and the file would be wrong.
    """
    seconds = integer(10, 240)(value)
    if seconds % 10:
        hint = f"write {seconds - seconds % 10 + 10}: the kernel would round up to it"
        raise Invalid(f"{seconds} is not a multiple of 10", hint)
    return seconds


def version(value: object) -> str:
    word = text(value)
    if word not in VERSIONS:
        raise Invalid(f"{word!r} is not a version of NFS", f"choose from {', '.join(VERSIONS)}")
    return word


def versions(value: object) -> tuple[str, ...]:
    items = some(version)(value)
    for n, item in enumerate(items):
        if item in items[:n]:
            raise Invalid(f"{item!r} is there twice", "remove one of them", within=f"[{n + 1}]")
    return items


def fence_command(value: object) -> tuple[str, ...]:
    """A command line, word by word, in which ``{node}`` stands for whom to fence: never for what to run."""
    words = some(text)(value)
    program = parse_within("[1]", absolute_path, words[0])
    if NODE in words[0]:
        hint = f"write {NODE} in one of the words that follow the program"
        raise Invalid(f"{str(program)!r} would be another program for each node", hint, within="[1]")
    if not any(NODE in word for word in words):
        raise Invalid(f"has no {NODE} in it, so it could not tell whom to fence", f'add it, for example: "{NODE}"')
    return words


def partition_uuid(value: object) -> str:
    """What udev calls ID_FS_UUID: from vfat's 1234-ABCD to 36 characters; in lower case."""
    uuid = text(value).lower()
    if not _PARTITION_UUID.fullmatch(uuid):
        hint = "copy it from 'lsblk -o NAME,UUID': 4 to 36 hexadecimal digits and dashes"
        raise Invalid(f"{value!r} is not the UUID of a file system", hint)
    return uuid


def mount_options(value: object) -> str:
    options = text(value)
    if any(character.isspace() for character in options):
        raise Invalid(f"{options!r} has a blank in it", 'write commas only between options: "noatime,nodev"')
    return options


def fsid(value: object) -> str:
    """What goes into file handles: a number of 32 bits, or 128 bits as 32 hexadecimal digits (exports(5))."""
    if not isinstance(value, str):
        return str(integer(0, 2**32 - 1)(value))
    if _NUMBER.fullmatch(value):
        raise Invalid(f"{value!r} is a number in quotes", f"write it without quotes: {value}")
    if not _FSID_UUID.fullmatch(text(value).lower()):
        hint = "write a number without quotes, or a UUID: 32 hexadecimal digits, with or without dashes"
        raise Invalid(f"{value!r} is not an fsid", hint)
    digits = re.sub("[-:]", "", value.lower())
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def clients(value: object) -> tuple[tuple[str, str], ...]:
    """Client patterns and their options, in the order of the file."""
    pairs = mapping(value)
    if not pairs:
        raise Invalid("names no client", 'write, for example, { "10.0.0.0/24" = "rw" }')
    return tuple(parse_within(f".{pair[0]!r}", _client, pair) for pair in pairs.items())


def _client(pair: tuple[str, object]) -> tuple[str, str]:
    return client_pattern(pair[0]), client_options(pair[1])


def client_pattern(value: object) -> str:
    """A host, network, netgroup or wildcard of exports(5)."""
    pattern = text(value)
    # A leading '-' would give default options to the rest of the line.
    if pattern.startswith("-") or _breaks_exports(pattern):
        hint = "write a host, a network, a @netgroup or a wildcard, without blanks, quotes or parentheses"
        raise Invalid(f"{pattern!r} is not a client", hint)
    return pattern


def client_options(value: object) -> str:
    options = text(value)
    if _breaks_exports(options) or not all(options.split(",")):
        hint = 'write commas only between options: "rw,no_root_squash"'
        raise Invalid(f"{options!r} is not a list of options", hint)
    if any(option.partition("=")[0] == "fsid" for option in options.split(",")):
        raise Invalid(f"{options!r} sets the fsid", "remove it: the export has a key of its own, fsid = ...")
    return options


def _breaks_exports(word: str) -> bool:
    return any(character.isspace() or character in _EXPORTS_SYNTAX for character in word)


def _is_address(written: str) -> bool:
    try:
        ip_address(written)
    except ValueError:
        return False
    return True


def _flaw(found: Address) -> str | None:
    """Why no service can float on this address; None when one can."""
    ip, network = found.ip, found.network
    kinds = (
        (ip.is_unspecified, "the unspecified address"),
        (ip.is_loopback, "a loopback address"),
        (ip.is_multicast, "a multicast address"),
        (ip.is_link_local, "a link-local address"),
        (ip == IPv4Address("255.255.255.255"), "the broadcast address"),
        (isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None, "an IPv4 address written as IPv6"),
        # RFC 3021 and RFC 6164: in a network of two addresses both are hosts, and so is one on its own.
        (network.num_addresses > 2 and ip == network.network_address, "the address of the network itself"),
        (_has_broadcast(network) and ip == network.broadcast_address, "the broadcast address of its network"),
    )
    return next((flaw for applies, flaw in kinds if applies), None)


def _has_broadcast(network: IPv4Network | IPv6Network) -> bool:
    return isinstance(network, IPv4Network) and network.num_addresses > 2
