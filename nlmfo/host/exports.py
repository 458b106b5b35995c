# SPDX-License-Identifier: GPL-2.0-or-later
"""The service's export table: exports(5) in the service's own /etc/exports, loaded with exportfs(8)."""

from __future__ import annotations

import os
import re
from pathlib import Path

from nlmfo.config import Export, Service
from nlmfo.errors import NlmfoError
from nlmfo.host.namespaces import Namespaces
from nlmfo.run import run

QUICK = 30.0
ETAB = Path("/var/lib/nfs/etab")
_ESCAPE = re.compile(rb"\\([0-3][0-7]{2})")


def render(service: Service) -> str:
    """The exports file of a service. The fsid is the same on every node: it is part of each file handle."""
    lines = [f"# nlmfo service '{service.name}', from {service.file}: changes here are lost"]
    lines += [_line(export) for export in service.exports]
    return "\n".join(lines) + "\n"


def _line(export: Export) -> str:
    clients = " ".join(f"{client}({_options(options, export.fsid)})" for client, options in export.clients)
    return f"{_escape(export.path)} {clients}"


def _options(options: str, fsid: str) -> str:
    return ",".join([*(option for option in options.split(",") if option), f"fsid={fsid}"])


def _escape(path: Path) -> str:
    """Blanks, quotes, hashes and backslashes as octal, as exports(5) reads them."""
    return "".join(c if c.isalnum() or c in "/._-+:@%~," else _octal(c) for c in str(path))


def _octal(character: str) -> str:
    return "".join(f"\\{byte:03o}" for byte in character.encode())


def load(namespaces: Namespaces, service: Service) -> None:
    """Export everything that the service's file lists, and see all of it in the table."""
    run(namespaces.command("exportfs", "-r"), deadline=QUICK)
    missing = {export.path for export in service.exports} - table(namespaces)
    if missing:
        names = ", ".join(str(path) for path in sorted(missing))
        raise NlmfoError(
            f"service '{service.name}': exportfs did not export {names}",
            hint="the path must exist on the partition, and its file system must be one that can be exported",
        )


def unload(namespaces: Namespaces) -> None:
    """Unexport everything and flush the kernel's export caches; done when the table is empty."""
    run(namespaces.command("exportfs", "-ua"), deadline=QUICK)
    run(namespaces.command("exportfs", "-f"), deadline=QUICK)
    left = table(namespaces)
    if left:
        raise NlmfoError(f"service '{namespaces.service}': still exported: {', '.join(map(str, sorted(left)))}")


def table(namespaces: Namespaces) -> set[Path]:
    """The paths that are exported now."""
    return parse(namespaces.call(lambda: ETAB.read_text(encoding="utf-8", errors="surrogateescape")))


def parse(etab: str) -> set[Path]:
    """The paths in an etab: first field, up to a tab, with octal escapes."""
    # Not splitlines(): to it U+2028 and others, which are good in a name, end a line as well.
    raw = (os.fsencode(line.split("\t", 1)[0]) for line in etab.split("\n") if line)
    return {Path(os.fsdecode(_ESCAPE.sub(lambda found: bytes((int(found[1], 8),)), path))) for path in raw}
