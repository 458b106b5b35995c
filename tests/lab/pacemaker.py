# SPDX-License-Identifier: GPL-2.0-or-later
"""A Pacemaker cluster on full nodes of the lab: made with the guide's own commands, fenced by the test."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests import documentation
from tests.lab.node import Node
from tests.lab.root import CHECKOUT
from tests.lab.witness import Broken, await_true

GUIDE = documentation.DOCS / "pacemaker.md"
AGENT = "/usr/lib/ocf/resource.d/nlmfo/nlmfo"
#: Seconds for one of Pacemaker's or crmsh's commands, and for the nodes to find each other.
COMMAND = 120.0
QUORUM = 120.0


class PowerSwitch:
    """Cuts the power of the nodes that fence_lab.py asks for, and of no other, for as long as the lab is there."""

    def __init__(self, directory: Path, nodes: Mapping[str, Node]) -> None:
        self.directory = directory
        self.fenced: list[str] = []
        self._nodes = nodes
        directory.mkdir()
        threading.Thread(target=self._serve, name="power switch", daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(FileNotFoundError):  # the lab has been closed
            while True:
                for request in self.directory.iterdir():
                    self._obey(request)
                time.sleep(0.1)

    def _obey(self, request: Path) -> None:
        """What is no request for one of the lab's servers stays where it is, and the node that asked finds out."""
        action, _, rest = request.name.partition(".")
        name = rest.rpartition(".")[0]
        if action in ("off", "reboot") and name in self._nodes:
            self._nodes[name].cut_power()
            self.fenced.append(name)
            request.unlink()


def told(heading: str, number: int = 0) -> str:
    """The commands of a block of the guide, by the heading above it."""
    found = [block.text for block in documentation.blocks(GUIDE) if (block.heading, block.language) == (heading, "sh")]
    return found[number]


def corosync_conf() -> str:
    """Corosync's configuration, as the guide shows it."""
    (found,) = (block.text for block in documentation.blocks(GUIDE) if block.text.startswith("totem {"))
    return found


def install(node: Node) -> None:
    """The lab's fence agent, and what every node of the cluster has to know."""
    node.put((CHECKOUT / "tests/lab/fence_lab.py").read_bytes(), "/usr/sbin/fence_lab")
    node.put(corosync_conf(), "/etc/corosync/corosync.conf")
    node.shell("chmod 755 /usr/sbin/fence_lab; sync")


def start(servers: Sequence[Node]) -> None:
    """Corosync and Pacemaker on all nodes, with one key; returns while they look for each other."""
    first = servers[0]
    first.shell(told("Corosync and Pacemaker"), deadline=COMMAND)
    key = first.get("/etc/corosync/authkey")
    for server in servers:
        server.put(key, "/etc/corosync/authkey")
        rejoin(server)


def rejoin(server: Node) -> None:
    server.shell(told("Corosync and Pacemaker", 1), deadline=COMMAND)


def await_members(servers: Sequence[Node]) -> None:
    """Until all of them are members, in standby or not, and have quorum."""
    try:
        await_true("the nodes to find each other", lambda: _are_members(servers, crm_mon(servers[0])), QUORUM)
    except Broken as broken:
        raise Broken("\n".join([str(broken), *map(crm_mon, servers)])) from None


def _are_members(servers: Sequence[Node], said: str) -> bool:
    return all(
        re.search(rf"Online: \[.* {server.name} .*\]|Node {server.name}: standby$", said, re.M) for server in servers
    )


def crm_mon(server: Node) -> str:
    """The state of the cluster as one node sees it; empty while it does not answer."""
    return server.run("crm_mon", "--one-shot", deadline=COMMAND).out


def runs_on(server: Node, resource: str) -> bool:
    """Whether Pacemaker on that node says that the resource is up there; it may be at work on it ("(Monitoring)")."""
    line = rf"{resource}\t\(ocf:nlmfo:nlmfo\):\t Started {server.name}( \(.*\))?\n"
    return re.search(line, crm_mon(server)) is not None
