# SPDX-License-Identifier: GPL-2.0-or-later
"""Exports of services with ``isolation = "host"``, in the node's own export table, which others use as well.

    /etc/exports.d/nlmfo-NAME.exports    so that 'exportfs -r' and a reload of nfs-server keep them

exportfs(8) is told of each entry by itself: ``-r`` would drop what other cluster software has exported by hand. After
a reboot the file is still there and nothing is mounted: then 'exportfs -r' lists the exports, but rpc.mountd grants
none of them, because their ``mountpoint`` option is not met.
"""

from __future__ import annotations

import fcntl
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path

from nlmfo.child import in_child
from nlmfo.config import Service
from nlmfo.errors import CommandFailed, DeadlineExceeded, NlmfoError
from nlmfo.host import exports
from nlmfo.host.exports import QUICK, Entry
from nlmfo.kernel import caches
from nlmfo.run import run

DIRECTORY = Path("/etc/exports.d")
#: getent(1): "one or more supplied key could not be found".
GETENT_NOT_FOUND = 2
RPC_CACHES = Path("/proc/net/rpc")
#: ETABLCK of nfs-utils (support/include/nfslib.h): who changes the table holds it, by fcntl(2).
LOCK = ".etab.lock"


def load(service: Service) -> tuple[str, ...]:
    """Export everything that the service lists, see every path in the table, and leave other exports alone.

    Returns, as CLIENT:PATH, who was left out, because exportfs could not find out its address.
    """
    text = exports.render(service, guarded=True)
    _write(file_of(service), text)
    for (path, client), options in _wanted(service):
        _export(path, client, options)
    found = set(_table())
    missing = {export.path for export in service.exports} - {path for path, _ in found}
    if missing:
        raise NlmfoError(
            f"service '{service.name}': exportfs did not export {', '.join(map(str, sorted(missing)))}",
            hint="the names of its clients must be known to the node: in /etc/hosts, or by a name server",
        )
    return tuple(argument(path, client) for (path, client), _ in _wanted(service) if not _listed(path, client, found))


def unload(service: Service) -> None:
    """Take back the service's exports, for whomever they are, and no others; done when the table has none of them."""
    file_of(service).unlink(missing_ok=True)
    for path, client in _left(service):
        run(["exportfs", "-u", argument(path, client)], deadline=QUICK, ok=(0, 1))
    flush_caches()
    left = _left(service)
    if left:
        names = ", ".join(argument(path, client) for path, client in left)
        raise NlmfoError(
            f"service '{service.name}': still exported: {names}",
            hint="'exportfs -u CLIENT:PATH' takes an export back; a line in /etc/exports brings it again",
        )


def replace(service: Service, made: str) -> None:
    """Bring the entries of the service, those of before and those of a table that was ``made`` aside, to what it says.

    By hand, under exportfs's own lock, because exportfs can only add options to an entry that is there: what it has no
    opposite for would stay, and between taking it back and exporting it anew clients would be told that it is gone.
    """
    ours = listed(service) | {path for path, _ in exports.entries(made)}
    _write(file_of(service), exports.render(service, guarded=True))
    in_child(f"changing {exports.ETAB}", partial(_replace, ours, made), deadline=QUICK)


def listed(service: Service) -> set[Path]:
    """What has been exported of the service, by the file that was written then, and what is configured now."""
    return written(service) | {export.path for export in service.exports}


def written(service: Service) -> set[Path]:
    """What the service's file lists, as it was written when it was taken over, or reloaded; empty without one."""
    try:
        text = file_of(service).read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return set()
    return exports.listed(text)


def of(service: Service) -> str:
    """The lines of the table that are the service's."""
    ours = listed(service)
    return "".join(f"{line}\n" for line in exports.lines(_text()) if exports.path_of(line) in ours)


def _replace(ours: Collection[Path], made: str) -> None:
    with exports.ETAB.with_name(LOCK).open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        others = [line for line in exports.lines(_text()) if exports.path_of(line) not in ours]
        new = exports.ETAB.with_name("etab.nlmfo")
        text = "".join(f"{line}\n" for line in (*others, *exports.lines(made)))
        new.write_text(text, encoding="utf-8", errors="surrogateescape")
        new.replace(exports.ETAB)
    caches.flush()


def table() -> set[Path]:
    """Every path that the node exports now, whoever exported it."""
    return {path for path, _ in _table()}


def traces(service: Service) -> bool:
    """Whether anything of the service's exports is on this node."""
    return file_of(service).exists() or bool(_left(service))


def file_of(service: Service) -> Path:
    """Where the service's exports stand while it is served here."""
    return DIRECTORY / f"nlmfo-{service.name}.exports"


def argument(path: Path, client: str) -> str:
    """CLIENT:PATH as exportfs(8) takes it: an IPv6 address has colons of its own, and stands in brackets."""
    return f"[{client}]:{path}" if ":" in client else f"{client}:{path}"


def flush_caches() -> None:
    """Have the kernel forget what it knows of exports; also the files that nfsd keeps open, which hold a partition.

    exportfs has flushed before; but nfs-utils >= 2.9.1 does it by netlink, which leaves those files open.
    """
    in_child("the flush of the kernel's export caches", caches.flush, deadline=QUICK)


def _wanted(service: Service) -> Iterator[tuple[Entry, str]]:
    for export in service.exports:
        for client, given in export.clients:
            options = exports.options(given, export.fsid, exports.guard(service, export))
            yield (export.path, client), options


def _export(path: Path, client: str, options: str) -> None:
    try:
        run(["exportfs", "-i", "-o", options, argument(path, client)], deadline=QUICK)
    except CommandFailed as error:
        error.hint = "the path must exist on the partition, and its file system must be one that can be exported"
        raise


def _listed(path: Path, client: str, found: set[Entry]) -> bool:
    """Whether the table has the entry; a host stands there by its canonical name."""
    return (path, client) in found or (path, _canonical(client)) in found


def _canonical(client: str) -> str:
    """What the name service calls a host; the name itself where it is unknown, or too slow for exportfs as well."""
    try:
        words = run(["getent", "ahosts", "--", client], deadline=QUICK, ok=(0, GETENT_NOT_FOUND)).split()
    except DeadlineExceeded:
        return client
    return words[2] if len(words) > 2 else client


def _left(service: Service) -> list[Entry]:
    paths = {export.path for export in service.exports}
    return [entry for entry in _table() if entry[0] in paths]


def _table() -> tuple[Entry, ...]:
    return exports.entries(_text())


def _text() -> str:
    try:
        return exports.read()
    except FileNotFoundError:  # nothing was ever exported here
        return ""


def _write(file: Path, text: str) -> None:
    """In one step: an 'exportfs -r' at the same time reads all of it or nothing (it skips names that end otherwise)."""
    file.parent.mkdir(mode=0o755, exist_ok=True)
    new = file.with_suffix(".new")
    new.write_text(text, encoding="utf-8", errors="surrogateescape")
    new.chmod(0o644)
    new.rename(file)
