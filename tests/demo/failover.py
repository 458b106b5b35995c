# SPDX-License-Identifier: GPL-2.0-or-later
"""``make demo``: NFSv3 locks survive a planned move and a power cut between two real kernels."""

from __future__ import annotations

import sys

from tests.demo.scene import Scene, Verdict
from tests.demo.story import Story
from tests.lab import cluster
from tests.lab.lab import Lab
from tests.lab.root import CACHE


def planned_move(scene: Scene) -> Verdict:
    a, b = scene.servers
    scene.story.title("A planned move: release on server-a, takeover on server-b")
    since = scene.holder.writes()
    scene.story.tell(a.name, "nlmfo release home")
    scene.story.quote(cluster.release(a, scene.service))
    scene.story.tell(b.name, "nlmfo takeover home")
    scene.story.quote(cluster.takeover(b, scene.service))
    return scene.judge("planned move", b, since)


def power_cut(scene: Scene) -> Verdict:
    a, b = scene.servers
    scene.story.title("A power cut: server-b dies in the middle of everything, takeover on server-a")
    since = scene.holder.writes()
    b.cut_power()
    scene.story.tell(b.name, "its power is cut")
    refusal = cluster.nlmfo(a, "takeover", "home")
    scene.story.tell(a.name, f"nlmfo takeover home: refused (exit status {refusal.status}), nothing proves it is dead")
    scene.story.tell(a.name, "nlmfo takeover home --fenced server-b")
    scene.story.quote(cluster.takeover(a, scene.service, "--fenced", b.name))
    return scene.judge("power cut", a, since)


def main() -> int:
    story = Story()
    story.title("nlmfo demo: NFSv3 locks move with the service")
    logs = CACHE / "logs/demo"
    with Lab(logs) as lab:
        scene = Scene(lab, story)
        scene.boot()
        story.tell(scene.servers[0].name, "nlmfo takeover home")
        story.quote(cluster.takeover(scene.servers[0], scene.service))
        scene.start_clients()
        verdicts = [planned_move(scene), power_cut(scene)]
    print()
    for verdict in verdicts:
        for problem in verdict.problems:
            story.bad(problem)
    for verdict in verdicts:
        (story.good if verdict.good() else story.bad)(str(verdict))
    return 0 if all(verdict.good() for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
