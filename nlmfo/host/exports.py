# SPDX-License-Identifier: GPL-2.0-or-later
"""The service's export table: exports(5) in the service's own /etc/exports, made into a table by exportfs(8)."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

from nlmfo.config import Export, Service
from nlmfo.errors import CommandFailed, NlmfoError
from nlmfo.host.namespaces import Namespaces
from nlmfo.host.surroundings import Surroundings
from nlmfo.kernel import caches, exportable, syscalls
from nlmfo.plain import plain
from nlmfo.run import run

T = TypeVar("T")

QUICK = 30.0
#: What exportfs says of a path that is not there (validate_export in utils/exportfs).
NOT_THERE = "Failed to stat"
ETAB = Path("/var/lib/nfs/etab")
FILE, MORE = Path("/etc/exports"), Path("/etc/exports.d")
MUST = "the path must exist on the partition, and its file system must be one that can be exported"
#: Characters in an option's value that would end it, or spoil the line of etab that it is copied to as it is.
_SPOILS_OPTION = re.compile(r"[\s,()\"#\\]")
_ESCAPE = re.compile(rb"\\([0-3][0-7]{2})")
#: A path in the table, and one of its clients in the table's words.
Entry = tuple[Path, str]


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
        said = complaints(error)
    _refuse_if_left_out(service, namespaces.call(_set_aside), said)


def made(place: Surroundings, service: Service, text: str) -> str:
    """The table that exportfs(8) makes of an exports file with this ``text``, made aside: what is exported stays so.

    Raises NlmfoError, with what exportfs said, where it leaves out an export of the service or one of its clients.
    """
    found, said = place.call(partial(_made_aside, text), deadline=QUICK + 5)
    _refuse_if_left_out(service, found, said)
    return found


def _refuse_if_left_out(service: Service, table: str, said: str) -> None:
    listed = [path for path, _ in entries(table)]
    for export in service.exports:
        if listed.count(export.path) < len(export.clients):
            raise NlmfoError(
                f"service '{service.name}': exportfs does not export {export.path} to each of its clients"
                + (f": {said}" if said else ""),
                hint="correct the export's 'clients' in the service's file: see exports(5)",
            )


def _made_aside(text: str) -> tuple[str, str]:
    """The table, and what exportfs complained of. Runs in a child, which gets mounts of its own."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("none", Path("/"), "none", syscalls.MS_REC | syscalls.MS_PRIVATE)
    for place in (ETAB.parent, MORE):
        if place.is_dir():
            syscalls.mount("tmpfs", place, "tmpfs")
    file = ETAB.with_name("exports")
    file.write_text(text, encoding="utf-8", errors="surrogateescape")
    syscalls.mount(os.fspath(file), FILE, "none", syscalls.MS_BIND)
    ETAB.touch()
    said = ""
    try:
        run(["exportfs", "-r"], deadline=QUICK)
    except CommandFailed as error:
        said = complaints(error)
    return read(), said


def complaints(error: CommandFailed) -> str:
    """What exportfs said, but for paths that are not there: that is judged where it is asked whether they are."""
    return "; ".join(plain(line) for line in error.stderr.splitlines() if NOT_THERE not in line)


def prove(place: Surroundings, service: Service) -> None:
    """Raise NlmfoError where the kernel cannot export one of the service's directories."""
    _explained(service, lambda: place.call(partial(_prove, _paths(service))))


def replace(namespaces: Namespaces, service: Service, table: str) -> None:
    """Put a table that was ``made`` in the place of the one that is served, in one step."""
    namespaces.call(partial(_keep, render(service), table))
    load(namespaces, service)


def load(namespaces: Namespaces, service: Service) -> None:
    """Export everything, by the table that was prepared, and see all of it in the table."""
    paths = _paths(service)
    there = _explained(service, lambda: namespaces.call(partial(_load, paths)))
    missing = set(paths) - parse(there)
    if missing:
        raise NlmfoError(f"service '{service.name}': not exported: {', '.join(map(str, sorted(missing)))}", hint=MUST)


def _paths(service: Service) -> tuple[Path, ...]:
    return tuple(sorted({export.path for export in service.exports}))


def _explained(service: Service, look: Callable[[], T]) -> T:
    try:
        return look()
    except NlmfoError as error:
        raise NlmfoError(f"service '{service.name}': {error}", hint=error.hint or MUST) from error


def _prove(paths: tuple[Path, ...]) -> None:
    for path in paths:
        exportable.prove(path)


def _keep(text: str, table: str) -> None:
    """Runs in the service's namespaces, where the file is mounted over another: only what is in it can be replaced."""
    FILE.write_text(text, encoding="utf-8", errors="surrogateescape")
    _ready().write_text(table, encoding="utf-8", errors="surrogateescape")


def _set_aside() -> str:
    """The table that exportfs made, in place of which there is an empty one. Runs in the service's namespaces."""
    ETAB.replace(_ready())
    ETAB.touch()
    return _read(_ready())


def _load(paths: tuple[Path, ...]) -> str:
    """Runs in the service's namespaces. rpc.mountd reads the table again when it is another file."""
    _prove(paths)
    new = ETAB.with_name("etab.new")
    new.write_bytes(_ready().read_bytes())
    new.replace(ETAB)
    caches.flush()
    return read()


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
    return read()


def read() -> str:
    """The export table as whoever calls sees it."""
    return _read(ETAB)


def _read(table: Path) -> str:
    return table.read_text(encoding="utf-8", errors="surrogateescape")


def parse(etab: str) -> set[Path]:
    """The paths in an etab: first field, up to a tab, with octal escapes."""
    return {path for path, _ in entries(etab)}


def listed(text: str) -> set[Path]:
    """The paths in an exports file that was rendered here."""
    return {unescaped(line.partition(" ")[0]) for line in lines(text) if line[0] != "#"}


def entries(etab: str) -> tuple[Entry, ...]:
    """Each path in an etab with one of its clients, in the words of the table."""
    return tuple(entry for entry, _ in _fields(etab))


def table(etab: str) -> Mapping[Entry, str]:
    """The options of each entry of an etab: all of them, in exportfs's words and order."""
    return dict(_fields(etab))


def now(place: Surroundings) -> str:
    """The export table as it is there."""
    return place.call(read)


def here() -> tuple[set[Path], set[Path]]:
    """The paths that are exported, and those that the file lists. Runs in the service's namespaces."""
    return parse(_read(ETAB)), listed(_read(FILE))


def lines(etab: str) -> list[str]:
    # Not splitlines(): to it U+2028 and others, which are good in a name, end a line as well.
    return [line for line in etab.split("\n") if line]


def path_of(line: str) -> Path:
    """The path in a line of an etab."""
    return unescaped(line.partition("\t")[0])


def _fields(etab: str) -> Iterator[tuple[Entry, str]]:
    for line in lines(etab):
        client, _, given = line.partition("\t")[2].partition("(")
        yield (path_of(line), client), given.removesuffix(")")


def unescaped(path: str) -> Path:
    return Path(os.fsdecode(_ESCAPE.sub(lambda found: bytes((int(found[1], 8),)), os.fsencode(path))))
