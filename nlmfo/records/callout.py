# SPDX-License-Identifier: GPL-2.0-or-later
"""What the callout needs to know, digested beforehand: it reads this one small file and never TOML.

::

    nlmfo-callout 1                  the format's version
    spool /run/nlmfo/spool           where to put what does not reach the store
    patience 5                       how long, in seconds, statd may wait for a store
    node nodeA                       what lockd calls this node: stands for every address below
    address 10.10.0.100              begins what is said about one floating address
    directory /srv/nlmfo/home/sm_10.10.0.100
    name nfs100.example              who the notice will come from (my_name)
    mode sync                        sync, async or snapshot
    frozen no                        yes while a release is under way: nothing is deleted
    fsid 1234 /srv/home/data         which export means which fsid
    end                              the file is whole

One word, one blank, and the rest of the line as it stands: nothing is quoted, so no value holds a newline.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path

from nlmfo.errors import NlmfoError
from nlmfo.records.layout import Address, client_is_safe, fsid_is_safe
from nlmfo.replace import replace_file

#: The callout looks nowhere else, except where the environment variable NLMFO_CALLOUT_CONF says so.
CALLOUT_CONFIG = Path("/run/nlmfo/callout.conf")
SPOOL = Path("/run/nlmfo/spool")
#: Seconds; far below the minutes after which the kernel gives up on statd (facts, section 4).
PATIENCE = 5
#: MAX_TARGETS in callouts/callout.h leaves room for one more.
MAX_ADDRESSES = 255


class Mode(StrEnum):
    """When a record is durable on shared storage: see docs/records.md for what each may lose."""

    SYNC = "sync"
    ASYNC = "async"
    SNAPSHOT = "snapshot"


@dataclass(frozen=True, slots=True)
class CalloutEntry:
    """What the callout is told about one floating address.

    ``directory`` is the address's ``sm_<address>``; ``exports`` are pairs of fsid and path.
    """

    address: Address
    directory: Path
    name: str
    mode: Mode = Mode.SYNC
    exports: tuple[tuple[str, Path], ...] = ()
    frozen: bool = False


def callout_config(
    entries: Iterable[CalloutEntry],
    *,
    frozen: bool,
    node: str | None = None,
    spool: Path = SPOOL,
    patience: int = PATIENCE,
) -> str:
    """The file's text. ``frozen`` freezes every entry, an entry's own ``frozen`` only itself.

    Raises NlmfoError for a value that does not fit on its line.
    """
    lines = ["nlmfo-callout 1", f"spool {spool}", f"patience {patience}"]
    lines += [f"node {node}"] if node else []
    for number, entry in enumerate(entries):
        if number == MAX_ADDRESSES:
            raise NlmfoError(f"more than {MAX_ADDRESSES} addresses on one node", hint="use isolation = 'netns'")
        lines += _entry_lines(entry, frozen=frozen or entry.frozen)
    for line in lines:
        if not line.isprintable():
            raise NlmfoError(f"{line!r}: control characters cannot be told to the callout", hint="rename it")
    return "\n".join([*lines, "end", ""])


def write_callout_config(path: Path, text: str) -> None:
    """Put the file in place in one step, readable for statd's user. OSError if the directory is missing."""
    replace_file(path, text)


def callout_addresses(path: Path) -> dict[Address, bool]:
    """The addresses that the callout puts clients on record for, by the file at ``path``, and whether they are frozen.

    Of those that are, it deletes no record any more. Empty when there is no file.
    """
    return {entry.address: entry.frozen for entry in callout_entries_at(path)}


def callout_entries_at(path: Path) -> tuple[CalloutEntry, ...]:
    """What the callout is told by the file at ``path``; nothing when there is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return ()
    found: list[CalloutEntry] = []
    for word, _, value in (line.partition(" ") for line in lines):
        if word == "address":
            found.append(CalloutEntry(ip_address(value), Path(), value))
        elif found:
            found[-1] = _with(found[-1], word, value)
    return tuple(found)


def _with(entry: CalloutEntry, word: str, value: str) -> CalloutEntry:
    match word:
        case "directory":
            return replace(entry, directory=Path(value))
        case "name":
            return replace(entry, name=value)
        case "mode":
            return replace(entry, mode=Mode(value))
        case "frozen":
            return replace(entry, frozen=value == "yes")
        case "fsid":
            fsid, _, exported = value.partition(" ")
            return replace(entry, exports=(*entry.exports, (fsid, Path(exported))))
    return entry


def _entry_lines(entry: CalloutEntry, *, frozen: bool) -> Iterator[str]:
    if not client_is_safe(entry.name):
        raise NlmfoError(f"{entry.name!r} cannot be the name of a server", hint="use a host name or an address")
    yield f"address {entry.address}"
    yield f"directory {entry.directory}"
    yield f"name {entry.name}"
    yield f"mode {entry.mode}"
    yield f"frozen {'yes' if frozen else 'no'}"
    for fsid, path in entry.exports:
        if not fsid_is_safe(fsid):
            raise NlmfoError(f"{fsid!r} cannot be an fsid", hint="use a number, a UUID or root: exports(5)")
        yield f"fsid {fsid} {path}"
