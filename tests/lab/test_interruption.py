# SPDX-License-Identifier: GPL-2.0-or-later
"""nlmfo is killed, or its node loses power, between two steps of a release or takeover: no lock is lost, none is
granted twice, and somebody can always go on.

By default a sample of moments: some that matter most, and any others. NLMFO_TESTS=all goes through every step boundary
of both (tests/sampling.py).
"""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import pytest

from nlmfo.failover.plan import Action
from tests.lab import cluster
from tests.lab.lab import Lab
from tests.lab.node import Job, Node
from tests.lab.test_takeover import RECLAIM, Stage, assert_nothing_lost, held_nowhere
from tests.lab.witness import WORKLOAD, Contender, Holder, await_true, held_on
from tests.sampling import EVERYTHING, chance
from tests.workload.holder import LOCKS

pytestmark = pytest.mark.always

#: What matters most: before which step of a release, and of the takeover that follows; of several before the last.
KILLS = (
    (Action.VERIFY_UNLOCKED, Action.NOTIFY),
    (Action.UMOUNT, Action.MOUNT),
    (Action.DISOWN, Action.ADDRESS_UP),
)
POWER_CUTS = {"release": Action.COLLECT, "takeover": Action.NOTIFY}
#: Seconds for one test when it goes through everything.
LONG = 3600


@dataclass(frozen=True, slots=True)
class Boundaries:
    """The moments of a run, as it is planned: before each step, numbered from 1, and before its end."""

    actions: Sequence[str]

    def every(self) -> range:
        return range(1, len(self.actions) + 2)

    def last(self, action: Action) -> int:
        return max(number for number, each in enumerate(self.actions, 1) if each == action)


@pytest.fixture
def stage(lab: Lab) -> Stage:
    """A service that is served on the first of two servers, a client that holds locks, and one that wants them."""
    service = cluster.make_service(lab, "home", ["10.10.0.100/24"], 1234)
    a, b = (lab.node(name, disks=cluster.disks(service)) for name in ("a", "b"))
    one, two = (lab.node(name) for name in ("one", "two"))
    cluster.prepare(lab, [a, b], service)
    cluster.takeover(a, service)
    end_grace(a)
    holder = Holder(one, cluster.mount(one, service))
    holder.wait_until_writing(len(LOCKS))
    contender = Contender(two, cluster.mount(two, service))
    contender.wait_for_answers()
    return Stage(lab, service, [a, b], holder, contender)


def end_grace(server: Node) -> None:
    """Nobody has anything to reclaim any more, so nobody has to wait."""
    server.shell("ip netns exec nlmfo-home sh -c 'echo Y > /proc/fs/lockd/nlm_end_grace'")


def boundaries(server: Node, verb: str) -> Boundaries:
    """Of a run that would be made on ``server``, allowed or not."""
    plan = json.loads(cluster.nlmfo(server, "plan", verb, "home", "--json").out)
    assert plan["first"] == []
    return Boundaries([step["action"] for step in plan["steps"]])


def status(server: Node) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cluster.nlmfo(server, "status", "home", "--json").out)["services"][0]
    return found


def cut_off(server: Node, verb: str, before: int, how: str) -> Job:
    program = ("/opt/nlmfo/bin/python", "-B", f"{WORKLOAD}/cut_off.py", str(before), how)
    return server.start(*program, verb, "home", deadline=cluster.COMMAND)


def kill(server: Node, verb: str, before: int) -> str:
    """Start a run that is killed; before which step that was."""
    result = cut_off(server, verb, before, "kill").wait(cluster.COMMAND)
    assert result.status == -signal.SIGKILL, result
    return result.out.splitlines()[-1]


def cut_power(server: Node, verb: str, before: int) -> str:
    """Start a run whose node loses power; before which step that was."""
    job = cut_off(server, verb, before, "power")
    said: list[str] = []

    def stopped() -> bool:
        while not job.lines.empty():
            said.append(job.lines.get()[1])
        assert not job.ended(), job.wait(1)
        return bool(said) and said[-1].startswith("cut off before")

    await_true(f"the {verb} to be cut off", stopped, cluster.COMMAND)
    server.cut_power()
    return said[-1]


def release_killed(server: Node, other: Node, before: int) -> None:
    """Kill a release, see that nobody else takes over what it has not let go of, and go on with it."""
    print(f"release on {server.name} {kill(server, 'release', before)}")
    left = status(server)
    assert left["unfinished"].startswith("release")
    if left["owner"]["standing"] == "serving":
        refused = cluster.nlmfo(other, "takeover", "home")
        assert refused.status == 3
        assert "refused (still-served)" in refused.err
    after = resume(server)
    assert (after["here"], after["owner"]["standing"]) == ("no", "released")
    assert held_nowhere(server)


def takeover_killed(stage: Stage, server: Node, before: int) -> None:
    """Kill a takeover and go on with it at once: what it has begun of grace runs out."""
    print(f"takeover on {server.name} {kill(server, 'takeover', before)}")
    after = resume(server)
    assert (after["here"], after["owner"]["node"], after["untold"]) == ("serving", server.name, False)
    assert_kept(stage, server)


def resume(server: Node) -> dict[str, Any]:
    """Go on with what was cut off, which has to succeed; the status afterwards."""
    assert "home: done" in server.check("nlmfo", "resume", "home", deadline=cluster.COMMAND)
    after = status(server)
    assert after["unfinished"] is None
    return after


def assert_kept(stage: Stage, server: Node) -> None:
    """All locks are back, in grace; after it, what a contender is told and what is on disk."""
    await_true("the locks to come back", lambda: stage.holder.held <= held_on(server, stage.service), RECLAIM)
    end_grace(server)
    assert_nothing_lost(stage, server)


def lose_power(stage: Stage, servers: tuple[Node, Node], verb: str, before: int) -> tuple[Node, Node]:
    """Cut a run off with its node's power, and take over on the other node; who serves then, and who is off."""
    serving, other = servers
    if not other.is_on():
        stage.lab.boot(other)
        cluster.configure(other, stage.service)
    if verb == "takeover":
        cluster.release(serving, stage.service)
        serving, other = other, serving
    print(f"{verb} on {serving.name} {cut_power(serving, verb, before)}")
    cluster.takeover(other, stage.service, "--fenced", serving.name)
    assert_kept(stage, other)
    return other, serving


@pytest.mark.timeout(LONG if EVERYTHING else 900)
def test_locks_survive_a_kill_at_step_boundaries_of_release_and_takeover(stage: Stage, record_property: Any) -> None:
    serving, other = stage.servers
    release, takeover = boundaries(serving, "release"), boundaries(other, "takeover")
    moments: list[tuple[int | None, int | None]]
    if EVERYTHING:
        moments = list(zip_longest(release.every(), takeover.every()))
    else:
        draw = chance("kills")
        first, second = draw.choice(KILLS)
        moments = [(release.last(first), takeover.last(second))]
        moments += [(draw.choice(release.every()), draw.choice(takeover.every()))]
    for of_release, of_takeover in moments:
        # Where one of the two has no more steps, it is cut off before its end once more.
        release_killed(serving, other, of_release or len(release.actions) + 1)
        takeover_killed(stage, other, of_takeover or len(takeover.actions) + 1)
        serving, other = other, serving
    kills = 2 * len(moments)
    record_property("kills of nlmfo at step boundaries", kills)
    print(f"{kills} kills, {len(stage.holder.held)} locks, none lost")


@pytest.mark.timeout(LONG if EVERYTHING else 900)
def test_locks_survive_a_power_cut_at_step_boundaries_of_release_and_takeover(
    stage: Stage, record_property: Any
) -> None:
    servers = (stage.servers[0], stage.servers[1])
    planned = {verb: boundaries(server, verb) for verb, server in zip(("release", "takeover"), servers, strict=True)}
    if EVERYTHING:
        moments = [(verb, before) for verb, found in planned.items() for before in found.every()]
    else:
        draw = chance("power cuts")
        known = draw.choice(list(planned))  # of this verb the moment that matters most, of the other any
        moments = [
            (verb, found.last(POWER_CUTS[verb]) if verb == known else draw.choice(found.every()))
            for verb, found in planned.items()
        ]
    for verb, before in moments:
        servers = lose_power(stage, servers, verb, before)
    record_property("power cuts at step boundaries", len(moments))
    print(f"{len(moments)} power cuts, {len(stage.holder.held)} locks, none lost")
