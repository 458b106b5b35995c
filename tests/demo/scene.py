# SPDX-License-Identifier: GPL-2.0-or-later
"""The stage that both demos share, and the judgement at the end of each act."""

from __future__ import annotations

from dataclasses import dataclass

from tests.demo.story import Story
from tests.lab import cluster
from tests.lab.lab import Lab
from tests.lab.node import Node
from tests.lab.witness import Broken, Contender, Holder, await_true, held_on, lost_by
from tests.workload.holder import LOCKS

ADDRESS = "10.10.0.100/24"
#: Seconds within which reclaimed locks must be seen in the new server's lock table.
RECLAIM = 30.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """One act, judged from the clients and from the new server's lock table."""

    act: str
    held: int
    reclaimed: int
    granted: int
    pause: float
    problems: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{self.act}: locks reclaimed: {self.reclaimed}/{self.held}, "
            f"conflicting locks granted: {self.granted}, longest client pause: {self.pause:.1f} s"
        )

    def good(self) -> bool:
        return self.reclaimed == self.held and self.granted == 0 and not self.problems


class Scene:
    """Two servers, two clients, one service; client 1 holds locks and writes, client 2 wants the same locks."""

    def __init__(self, lab: Lab, story: Story, *, full: bool = False) -> None:
        """Switched off. ``full``: the servers are full nodes, and whoever asks for that sets them up."""
        self.lab = lab
        self.story = story
        self.service = cluster.make_service(lab, "home", [ADDRESS], 1234)
        disks = cluster.disks(self.service)
        self.servers = [lab.node(name, disks=disks, full=full) for name in ("server-a", "server-b")]
        self.clients = [lab.node(name) for name in ("client-1", "client-2")]

    def boot(self) -> None:
        cluster.prepare(self.lab, self.servers, self.service)
        release = self.servers[0].shell("uname -r").strip()
        self.story.tell("lab", f"two servers and two clients are up, each a real Linux kernel ({release})")

    def start_clients(self) -> None:
        one, two = self.clients
        directories = [cluster.mount(client, self.service) for client in self.clients]
        self.holder = Holder(one, directories[0])
        self.holder.wait_until_writing(len(LOCKS))
        self.story.tell(
            one.name,
            f"holds {len(LOCKS)} locks (a whole file, two byte ranges, one shared) and writes about 15 times a second",
        )
        self.contender = Contender(two, directories[1])
        self.contender.wait_for_answers()
        self.story.tell(two.name, "asks for the same locks again and again: refused; a free one: granted")

    def judge(self, act: str, server: Node, since: int) -> Verdict:
        """Wait for what should happen, and count what did. ``since``: writes acknowledged before the act."""
        problems = []
        try:
            await_true("the locks to come back", lambda: self.holder.held <= held_on(server, self.service), RECLAIM)
        except Broken as error:
            problems.append(str(error))
        there = self.holder.held & held_on(server, self.service)
        self.story.tell(server.name, f"/proc/locks shows {len(there)} of the {len(self.holder.held)} locks")
        self.contender.wait_for_answers()
        self.holder.wait_for_more()
        there &= held_on(server, self.service)  # still, after grace
        granted = self.contender.granted()
        self.story.tell(
            self.clients[1].name,
            f"asked again after the server's grace: {_outcome(len({a.target for a in granted}))}",
        )
        problems += [f"{self.clients[0].name}: {line}" for line in lost_by(self.clients[0])]
        problems += [f"{self.clients[0].name}: a write failed: {text}" for text in self.holder.failures]
        try:
            count = self.holder.check_on_disk(server, self.service)
            self.story.tell(server.name, f"has every one of the {count} acknowledged writes on disk")
        except Broken as error:
            problems.append(str(error))
        pause = self.holder.longest_pause(since)
        return Verdict(act, len(self.holder.held), len(there), len(granted), pause, tuple(problems))


def _outcome(granted: int) -> str:
    return f"GRANTED {granted} locks that client-1 holds" if granted else "refused"
