# SPDX-License-Identifier: GPL-2.0-or-later
"""What the records look like on disk.

A service's state directory lies on storage that moves with the service::

    STATE/
      sm_10.10.0.100/            one per floating address; root's, 0755
        state                    NSM state number: 4 bytes, native int, odd, strictly rising
        told                     the state number whose notices have all been sent, in the same form
        sm/                      statd's, 0700: clients on record since the last takeover
          192.0.2.17             one line, see below; the file's name is the client
        sm.bak/                  statd's, 0700: clients of earlier generations, not yet settled
        fsids/                   statd's, 0700: for whom we learned it, the fsids a client mounted
          192.0.2.17             one fsid per line; a line without its newline is not believed
      sm_fd00::100/
        ...
      ledger                     what became of each client that was owed a notice (nlmfo.records.ledger)
      locks                      the locks that were held, for the next owner (nlmfo.records.locks)
      connections                the connections that clients had (nlmfo.records.connections)
      listening                  where nfsd and lockd listened (nlmfo.records.listening)
      incomplete                 the state number of a generation in whose records somebody is known to be missing
      owner                      a copy of the owner record, for a cluster without a registry
      runs/                      journals of releases and takeovers (drawn in nlmfo.records.journal)

``sm_<address>`` is what ``sm-notify -P`` takes (sm-notify(8)), and a record is the line it parses
(nfs-utils, support/nsm/file.c)::

    0100007f 000186b5 00000003 00000010 <32 hex digits> <mon_name> <my_name>
    |        |        |        |        `- the kernel's cookie: zero, because it names a kernel pointer
    |        |        |        `- procedure 16, SM_NOTIFY to lockd
    |        |        `- version 3
    |        `- program 100021, NLM
    `- 127.0.0.1 as a native unsigned int

**The name of a record is the record.** The callout creates it under its final name, writes the line and
makes both durable before statd answers. A crash half-way leaves a file that is empty or short; the lock
behind it was not granted yet, but the reader cannot know that, so it counts: whoever has a name here is told.
Names that begin with a dot are nobody's record (temporary files, lost property), and neither is ``X.new``
beside ``X``: statd before nfs-utils 2.8.2 names its temporary files so.

What the callout cannot bring to the store waits on the node itself::

    /run/nlmfo/spool/            statd's, 0700
      refused                    one line for each client whose name cannot be a file's; at most 64 KiB
      sm_10.10.0.100/            statd's, 0700
        add.<pid>.<n>            the line of one record that is not in the store yet
        stalled                  there while the store hangs or fails; says since when (mtime) and why
        draining, waiting        locks (flock): who moves the spool to the store, and who will do it next
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

Address = IPv4Address | IPv6Address

CURRENT = "sm"
EARLIER = "sm.bak"
FSIDS = "fsids"
STATE = "state"
TOLD = "told"
INCOMPLETE = "incomplete"

#: A record is shorter than this; what is longer was not written by us and is not read.
MAX_RECORD_BYTES = 4096
#: NAME_MAX; also more than a host name can have (RFC 1035: 253).
MAX_CLIENT_BYTES = 255

_LOCKD = "0100007f 000186b5 00000003 00000010"
_NO_COOKIE = "0" * 32
# The callout applies the same rule (is_safe in callouts/records.c and callouts/nlmfo-callout): change all.
_CLIENT = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9._:%-]*", re.ASCII)
_FSID = re.compile(r"[0-9A-Za-z-]{1,64}", re.ASCII)
_RECORD = re.compile(r"[0-9a-f]{8} [0-9a-f]{8} [0-9a-f]{8} [0-9a-f]{8} [0-9a-f]{32} (\S+) (\S+)\n", re.ASCII)


@dataclass(frozen=True, slots=True)
class ClientRecord:
    """One client that may hold locks.

    ``client`` is the file's name and what a notice is sent to; ``fsids`` is advisory, empty means any;
    ``since`` is in seconds since the epoch. ``intact`` is false when the file could not be read or says
    something else than its name: such a client counts all the same, known by its name only.
    """

    client: str
    mon_name: str
    my_name: str
    fsids: frozenset[str]
    since: float
    intact: bool


def directory_name(address: Address) -> str:
    """The name of an address's directory, in the state directory and in the spool."""
    return f"sm_{address}"


def client_is_safe(client: str) -> bool:
    """Whether a client's name can be a file name and a word of a record: host names and addresses can."""
    return len(client) <= MAX_CLIENT_BYTES and _CLIENT.fullmatch(client) is not None


def fsid_is_safe(fsid: str) -> bool:
    """Whether this is a number, a UUID or ``root`` (exports(5)), as far as a file needs to know."""
    return _FSID.fullmatch(fsid) is not None


def format_record(client: str, my_name: str) -> bytes:
    """The line of one record; ValueError if a name cannot stand in it."""
    for word in (client, my_name):
        if not client_is_safe(word):
            raise ValueError(f"{word!r} cannot stand in a record")
    return f"{_LOCKD} {_NO_COOKIE} {client} {my_name}\n".encode("ascii")


def parse_record(text: bytes) -> tuple[str, str] | None:
    """mon_name and my_name of a record's first line, or None if this is no record.

    statd appends a line for each server program that monitors the client; one is enough to know whom to tell.
    """
    match = _RECORD.match(text.decode("ascii", errors="replace"))
    if match is None or not (client_is_safe(match[1]) and client_is_safe(match[2])):
        return None
    return match[1], match[2]


def parse_fsids(text: bytes) -> frozenset[str]:
    """The fsids in a client's file; what a crash cut off, or anything else, is left out."""
    *lines, _torn = text.decode("ascii", errors="replace").split("\n")
    return frozenset(line for line in lines if fsid_is_safe(line))


def names_of_clients(names: Iterable[str]) -> tuple[str, ...]:
    """Which of the names in a directory of records stand for a client, sorted (see the module's text)."""
    known = set(names)
    return tuple(sorted(n for n in known if not n.startswith(".") and not _is_leftover(n, known)))


def _is_leftover(name: str, known: set[str]) -> bool:
    return name.endswith(".new") and name.removesuffix(".new") in known
