# SPDX-License-Identifier: GPL-2.0-or-later
"""The node itself, in the shape of a service's namespaces: where services with ``isolation = "host"`` are served."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from nlmfo.child import in_child
from nlmfo.config import Isolation, Service
from nlmfo.host.namespaces import Namespaces
from nlmfo.host.pins import RUN
from nlmfo.host.surroundings import QUICK

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Node:
    """The node's own network, mounts and host name, which it shares with every such service."""

    service: str

    @property
    def directory(self) -> Path:
        """Everything that the service keeps on this node while it is served here."""
        return RUN / self.service

    def command(self, *argv: str | os.PathLike[str]) -> list[str]:
        """The command line as it is."""
        return [os.fspath(word) for word in argv]

    def call(self, function: Callable[[], T], *, deadline: float = QUICK) -> T:
        """Call ``function`` in a child process, which can be left behind at the deadline (seconds)."""
        return in_child(f"work on the node for '{self.service}'", function, deadline=deadline)

    def open_socket(self, family: int, kind: int) -> socket.socket:
        """A socket of the node's."""
        return socket.socket(family, kind | socket.SOCK_CLOEXEC)


def surroundings_of(service: Service) -> Node | Namespaces:
    """Where a service is served on this node."""
    return Node(service.name) if service.isolation is Isolation.HOST else Namespaces(service.name)
