# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a service's programs run and its addresses live: namespaces of its own, or the node itself.

What works in either takes a ``Surroundings`` (see nlmfo.host.namespaces and nlmfo.host.node).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

T = TypeVar("T")

#: Seconds for anything that only asks the kernel.
QUICK = 30.0


class Surroundings(Protocol):
    """A network, a set of mounts and a host name, in which a service is served."""

    @property
    def service(self) -> str:
        """The service's name."""

    @property
    def directory(self) -> Path:
        """Everything that the service keeps on this node while it is served here."""

    def command(self, *argv: str | os.PathLike[str]) -> list[str]:
        """The command line that runs ``argv`` there."""

    def call(self, function: Callable[[], T], *, deadline: float = QUICK) -> T:
        """Call ``function`` there, in a child process, within ``deadline`` seconds, and return what it returns."""

    def open_socket(self, family: int, kind: int) -> socket.socket:
        """A socket of that network, for use by this process."""
