# SPDX-License-Identifier: GPL-2.0-or-later
"""The service's export table: exports(5) in the service's own /etc/exports, made into a table by exportfs(8)."""

from __future__ import annotations

import os
import re
from functools import partial
from pathlib import Path

from nlmfo.config import Export, Service
from nlmfo.errors import CommandFailed, NlmfoError
from nlmfo.host.namespaces import Namespaces
from nlmfo.kernel import caches, exportable
from nlmfo.plain import plain

QUICK = 30.0
#: What exportfs says of a path that is not there (validate_export in utils/exportfs).
NOT_THERE = "Failed to stat"
ETAB = Path("/var/lib/nfs/etab")
MUST = "the path must exist on the partition, and its file system must be one that can be exported"
#: Characters in an option's value that would end it, or spoil the line of etab that it is copied to as it is.
_SPOILS_OPTION = re.compile(r"[\s,()\"#\\]")
_ESCAPE = re.compile(rb"\\([0-3][0-7]{2})")


def render(service: Service, *, guarded: bool = False) -> str:
    """The exports file of a service. The fsid is the same on every node: it is part of each file handle.

    ``guarded``: each export only while its partition is mounted, for a file that is still there after a reboot.
    """
    lines = [f"# nlmfo service '{service.name}', from {service.file}: changes here are lost"]
    lines += [_line(export, *([guard(service, export)] if guarded else [])) for export in service.exports]
    return "\n".join(lines) + "\n"


def guard(service: Service, export: Export) -> str:
    """The option by which rpc.mountd grants an export only while its partition is mounted (exports(5), mountpoint)."""
    partition = service.partition_of(export.path)
    if partition is None:
        raise NlmfoError(f"export {export.path}: is on no partition of service '{service.name}'")
    spoils = _SPOILS_OPTION.search(str(partition.mountpoint))
    if spoils:
        raise NlmfoError(
            f"mountpoint {partition.mountpoint}: {spoils[0]!r} cannot stand in an option of exports(5)",
            hint="exportfs copies it to its table as it is, and cannot read that again: mount the partition elsewhere",
        )
    return f"mountpoint={partition.mountpoint}"


def options(given: str, fsid: str, *more: str) -> str:
    """The options of one client of an export, as exports(5) and exportfs(8) take them."""
    return ",".join([*(option for option in given.split(",") if option), f"fsid={fsid}", *more])


def _line(export: Export, *more: str) -> str:
    clients = " ".join(f"{client}({options(given, export.fsid, *more)})" for client, given in export.clients)
    return f"{_escape(export.path)} {clients}"


def _escape(path: Path) -> str:
    """Blanks, quotes, hashes and backslashes as octal, as exports(5) reads them."""
    return "".join(c if c.isalnum() or c in "/._-+:@%~," else _octal(c) for c in str(path))


def _octal(character: str) -> str:
    return "".join(f"\\{byte:03o}" for byte in character.encode())


def prepare(namespaces: Namespaces, service: Service) -> None:
    """Have exportfs(8) make the table of everything that the service's file lists, and keep it aside.

    Its paths need not be there yet: whether they can be exported, ``load`` sees. So a mistake in an option is found
    before anybody waits, and nobody waits for exportfs.
    """
    said = ""
    try:
        namespaces.run("exportfs", "-r")
    except CommandFailed as error:  # if only because its paths are not there
        said = "; ".join(plain(line) for line in error.stderr.splitlines() if NOT_THERE not in line)
    found = namespaces.call(_set_aside)
    listed = [path for path, _ in entries(found)]
    for export in service.exports:
        if listed.count(export.path) < len(export.clients):
            raise NlmfoError(
                f"service '{service.name}': exportfs does not export {export.path} to each of its clients"
                + (f": {said}" if said else ""),
                hint="correct the export's 'clients' in the service's file: see exports(5)",
            )


def load(namespaces: Namespaces, service: Service) -> None:
    """Export everything, by the table that was prepared, and see all of it in the table."""
    paths = {export.path for export in service.exports}
    try:
        there = namespaces.call(partial(_load, tuple(sorted(paths))))
    except NlmfoError as error:
        raise NlmfoError(f"service '{service.name}': {error}", hint=error.hint or MUST) from error
    missing = paths - parse(there)
    if missing:
        raise NlmfoError(f"service '{service.name}': not exported: {', '.join(map(str, sorted(missing)))}", hint=MUST)


def _set_aside() -> str:
    """The table that exportfs made, in place of which there is an empty one. Runs in the service's namespaces."""
    ETAB.replace(_ready())
    ETAB.touch()
    return _read(_ready())


def _load(paths: tuple[Path, ...]) -> str:
    """Runs in the service's namespaces. rpc.mountd reads the table again when it is another file."""
    for path in paths:
        exportable.prove(path)
    new = ETAB.with_name("etab.new")
    new.write_bytes(_ready().read_bytes())
    new.replace(ETAB)
    caches.flush()
    return _read(ETAB)


def _ready() -> Path:
    """The table that exportfs made, until it is put in place."""
    return ETAB.with_name("etab.ready")


def unload(namespaces: Namespaces) -> None:
    """Unexport everything and flush the kernel's export caches; done when the table is empty.

    What ``exportfs -ua`` does (utils/exportfs), without the time that two programs take to start: clients wait.
    """
    left = parse(namespaces.call(_unexport))
    if left:
        raise NlmfoError(f"service '{namespaces.service}': still exported: {', '.join(map(str, sorted(left)))}")


def _unexport() -> str:
    """Runs in the service's namespaces, where nobody else writes to the table; returns what is in it then."""
    ETAB.write_bytes(b"")
    caches.flush()
    return _read(ETAB)


def _read(table: Path) -> str:
    return table.read_text(encoding="utf-8", errors="surrogateescape")


def parse(etab: str) -> set[Path]:
    """The paths in an etab: first field, up to a tab, with octal escapes."""
    return {path for path, _ in entries(etab)}


def entries(etab: str) -> tuple[tuple[Path, str], ...]:
    """Each path in an etab with one of its clients, in the words of the table."""
    # Not splitlines(): to it U+2028 and others, which are good in a name, end a line as well.
    fields = (line.partition("\t") for line in etab.split("\n") if line)
    return tuple((unescaped(path), rest.partition("(")[0]) for path, _, rest in fields)


def unescaped(path: str) -> Path:
    return Path(os.fsdecode(_ESCAPE.sub(lambda found: bytes((int(found[1], 8),)), os.fsencode(path))))
