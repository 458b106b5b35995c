# SPDX-License-Identifier: GPL-2.0-or-later
"""nlmfo is killed wherever it makes a difference, and somebody goes on: it always ends well.

Ends well: one node serves, or none where a release was wanted; never two; nobody is off the records; everybody was
told. And every client has its locks and nobody else was granted one: the keepers tell everybody also where nobody goes
on. Only who kills nlmfo in the middle of a restart of the node's nfsd (host isolation), or the keepers with it, and
waits until grace is over, loses a lock; still everybody is told.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import count as count_from
from itertools import product
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nlmfo.config import Isolation
from nlmfo.errors import NlmfoError, Refused
from nlmfo.failover.events import AwaitingRelease, Event
from nlmfo.ownership.record import Standing
from tests.sampling import EVERYTHING
from tests.unit import shapes
from tests.unit.cluster_fake import CLIENTS, Cluster, Killed

OTHER = {"node1": "node2", "node2": "node1"}
SHAPES = list(product((Isolation.NETNS, Isolation.HOST), (1, 2, 3), (1, 2)))
#: This one with every way to go on, if its keepers wait to be woken; with those that work whenever they can as well.
THOROUGH = (2, 1)
PACES = [
    (*shape, quick) for shape in SHAPES for quick in ((True, False) if shape[1:] == THOROUGH else (shape[2] == 1,))
]
every_shape = pytest.mark.parametrize(("isolation", "partitions", "addresses", "quick"), PACES)


def cluster(
    directory: Path,
    patch: pytest.MonkeyPatch,
    isolation: Isolation,
    partitions: int,
    addresses: int,
    *,
    quick: bool = False,
) -> Cluster:
    """``home`` is served on node1, and beside it, in host isolation, ``mail`` on node1 and ``web`` on node2."""
    home = shapes.service(partitions, addresses)._replace(isolation=isolation)
    services = [home]
    if isolation is Isolation.HOST:
        services += [shapes.service(name=name)._replace(isolation=isolation) for name in ("mail", "web")]
    made = Cluster(services, directory, patch, quick=quick)
    for service in services:
        node = "node2" if service.name == "web" else "node1"
        made.takeover(node, service.name)
        made.clients_lock(service.name, node)
    made.grace_ends()
    return made


# What is interrupted: each prepares the cluster and returns the command to be killed.
Command = Callable[[int | None], object]


def a_release(world: Cluster) -> Command:
    return lambda kill_at: world.release("node1", "home", kill_at=kill_at)


def a_planned_takeover(world: Cluster) -> Command:
    world.release("node1", "home")
    return lambda kill_at: world.takeover("node2", "home", kill_at=kill_at)


def a_takeover_after_a_crash(world: Cluster) -> Command:
    world.power_cut("node1")
    return lambda kill_at: world.takeover("node2", "home", fenced="node1", kill_at=kill_at)


def a_takeover_after_a_reboot(world: Cluster) -> Command:
    world.power_cut("node1")
    world.boot("node1")
    return lambda kill_at: world.takeover("node1", "home", kill_at=kill_at)


# Who goes on, and how: each returns the node that has to serve in the end.
def resumed_at_once(world: Cluster) -> str:
    node = world.at_work
    world.resume(node, "home", fenced=off(world, node))
    return served_somewhere(world)


def grace_ends(world: Cluster) -> None:
    """The keepers have told everybody by then, unless their records are frozen for a restart of the node's nfsd."""
    node = world.nodes[world.at_work]
    world.late = node.server.grace and any(spot.frozen for spot in node.spots.values())
    world.grace_ends()


def resumed_when_grace_is_over(world: Cluster) -> str:
    grace_ends(world)
    return resumed_at_once(world)


def resumed_when_the_keepers_have_died_and_grace_is_over(world: Cluster) -> str:
    """Between the address and the notice this costs a lock; still everybody is told, and nobody off the records."""
    world.late = True
    world.keepers_die(world.at_work)
    world.grace_ends()
    return resumed_at_once(world)


def resumed_when_the_keepers_have_died(world: Cluster) -> str:
    world.keepers_die(world.at_work)
    return resumed_at_once(world)


def begun_anew(world: Cluster) -> str:
    node = world.at_work
    world.takeover(node, "home", fenced=off(world, node))
    return node


def aborted_and_taken_over_elsewhere(world: Cluster) -> str:
    node = world.at_work
    if world.unfinished(node, "home"):
        world.abort(node, "home")
    if world.serving("home"):
        return world.serving("home")[0]
    boot_if_off(world, OTHER[node])
    owner = world.registry.read("home")
    if owner is not None and owner.node == node and owner.standing is Standing.SERVING:
        world.release(node, "home")  # killed before it had touched anything, and not the owner in this boot
    world.takeover(OTHER[node], "home", fenced=off(world, OTHER[node]))
    return OTHER[node]


def aborted_when_grace_is_over_and_taken_over_elsewhere(world: Cluster) -> str:
    """What a server that nobody was told of has no locks of is no account of what clients hold."""
    grace_ends(world)
    return aborted_and_taken_over_elsewhere(world)


def cut_off_from_power_and_taken_over_elsewhere(world: Cluster) -> str:
    node = world.at_work
    world.power_cut(node)
    boot_if_off(world, OTHER[node])
    world.takeover(OTHER[node], "home", fenced=off(world, OTHER[node]))
    return OTHER[node]


def off(world: Cluster, node: str) -> str | None:
    """Whom somebody on ``node`` may truly call fenced."""
    owner = world.registry.read("home")
    return owner.node if owner is not None and owner.node != node and not world.nodes[owner.node].up else None


def boot_if_off(world: Cluster, node: str) -> None:
    if not world.nodes[node].up:
        world.boot(node)


def served_somewhere(world: Cluster) -> str:
    """After a release, somebody has to take over before anything can be said of the clients."""
    if not world.serving("home"):
        owner = world.registry.read("home")
        first = owner.node if owner is not None else "node2"
        node = first if world.nodes[first].up else OTHER[first]
        world.takeover(node, "home", fenced=off(world, node))
    return world.serving("home")[0]


COMMANDS = (a_release, a_planned_takeover, a_takeover_after_a_crash, a_takeover_after_a_reboot)
ENDS = (
    resumed_at_once,
    resumed_when_grace_is_over,
    resumed_when_the_keepers_have_died,
    resumed_when_the_keepers_have_died_and_grace_is_over,
    begun_anew,
    aborted_and_taken_over_elsewhere,
    aborted_when_grace_is_over_and_taken_over_elsewhere,
    cut_off_from_power_and_taken_over_elsewhere,
)


def assert_it_ended_well(world: Cluster, node: str) -> None:
    in_time = not world.late
    assert world.serving("home") == [node]
    for name, records in world.records.items():
        if world.serving(name):
            assert records.told, f"{name}: nobody was told"
            assert records.current | records.owed == set(CLIENTS)
            if in_time:
                assert world.nodes[world.serving(name)[0]].spot(name).locks == set(CLIENTS)
    if in_time:
        world.grace_ends()
        world.look_for_broken_promises()
    assert not world.unfinished(node, "home")
    # The other node is not fooled: what is served is not taken over.
    if world.nodes[OTHER[node]].up:
        with pytest.raises(Refused):
            world.takeover(OTHER[node], "home")


@pytest.mark.parametrize("command", COMMANDS)
@every_shape
def test_killed_anywhere_it_ends_well_whoever_goes_on(
    tmp_path: Path,
    command: Callable[[Cluster], Command],
    isolation: Isolation,
    partitions: int,
    addresses: int,
    quick: bool,
    record_property: Callable[[str, object], None],
) -> None:
    ended, interruptions = None, 0
    for kill_at in count_from(1):
        # Every moment of every plan; and for one shape, or when asked for, every way to go on from each.
        # Every way to go on from every moment for every shape takes minutes.
        thorough = EVERYTHING or ((partitions, addresses) == THOROUGH and not quick)
        for end in ENDS if thorough else (ENDS[kill_at % len(ENDS)],):
            with pytest.MonkeyPatch.context() as patch:
                world = cluster(tmp_path, patch, isolation, partitions, addresses, quick=quick)
                try:
                    command(world)(kill_at)
                    ended = kill_at
                    break
                except Killed:
                    interruptions += 1
                assert_it_ended_well(world, end(world))
        if ended:
            break
    assert ended is not None
    record_property("interruptions", interruptions)
    assert ended > 20, "the command ran through without a moment at which it could be killed"


def commands(world: Cluster, node: str, kill_at: int | None) -> dict[str, Callable[[], object]]:
    gone = off(world, node)
    return {
        "takeover": lambda: world.takeover(node, "home", fenced=gone, kill_at=kill_at),
        "release": lambda: world.release(node, "home", kill_at=kill_at),
        "resume": lambda: world.resume(node, "home", fenced=gone, kill_at=kill_at),
        "abort": lambda: world.abort(node, "home", kill_at=kill_at),
    }


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), isolation=st.sampled_from(list(Isolation)), partitions=st.integers(1, 3))
def test_whatever_is_commanded_and_killed_in_a_row_it_ends_well(
    tmp_path: Path, data: st.DataObject, isolation: Isolation, partitions: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        world = cluster(tmp_path, patch, isolation, partitions, 1)
        for _ in range(data.draw(st.integers(1, 6), label="commands")):
            node = data.draw(st.sampled_from(["node1", "node2"]), label="node")
            if not world.nodes[node].up:
                world.boot(node)
                continue
            if data.draw(st.integers(0, 5), label="power cut if 0") == 0:
                world.power_cut(node)
                continue
            kill_at = data.draw(st.none() | st.integers(1, 120), label="killed at")
            what = data.draw(st.sampled_from(["takeover", "release", "resume", "abort"]), label="command")
            with suppress(Killed, NlmfoError):  # a no is an answer; what counts is that nothing is broken
                commands(world, node, kill_at)[what]()
        if not any(node.up for node in world.nodes.values()):
            world.boot("node1")
        for node in ("node1", "node2"):
            if world.nodes[node].up and world.unfinished(node, "home"):
                try:
                    world.resume(node, "home", fenced=off(world, node))
                except Refused:
                    world.abort(node, "home")
        world.late = True
        assert_it_ended_well(world, served_somewhere(world))


def test_a_release_that_was_killed_lets_no_other_node_go_ahead(tmp_path: Path) -> None:
    kill_at = 1
    while True:
        with pytest.MonkeyPatch.context() as patch:
            world = cluster(tmp_path, patch, Isolation.NETNS, 2, 1)
            try:
                world.release("node1", "home", kill_at=kill_at)
                break
            except Killed:
                pass
            owner = world.registry.read("home")
            assert owner is not None
            if owner.standing == "serving":
                with pytest.raises(Refused, match="node1 serves it"):
                    world.takeover("node2", "home")
            else:
                assert world.nodes["node1"].spot("home").empty()
        kill_at += 1
    assert kill_at > 20


@pytest.mark.parametrize("isolation", Isolation)
@pytest.mark.parametrize("command", [a_planned_takeover, a_takeover_after_a_crash, a_takeover_after_a_reboot])
def test_once_the_address_is_up_everybody_is_told_and_keeps_its_locks_though_nobody_goes_on(
    tmp_path: Path, command: Callable[[Cluster], Command], isolation: Isolation
) -> None:
    """Above all between the address and the notice: before the keeper told them, such a kill lost every lock."""
    untold = 0
    for kill_at in count_from(1):
        with pytest.MonkeyPatch.context() as patch:
            world = cluster(tmp_path, patch, isolation, 2, 1)
            try:
                command(world)(kill_at)
                break
            except Killed:
                pass
            node = world.at_work
            if node not in world.serving("home"):
                continue
            untold += not world.records["home"].told
            begun = len(world.nodes[node].begun)
            world.time_passes()
            for name in (name for name in world.records if node in world.serving(name)):
                assert world.records[name].told
                assert world.nodes[node].spot(name).locks == set(CLIENTS)
            world.grace_ends()
            world.look_for_broken_promises()
            assert len(world.nodes[node].begun) == begun, "nobody gave a command"
    assert untold > 3, "it was never killed between the address and the notice"


def a_move_that_waits(world: Cluster, kill_at: int | None) -> None:
    """The other node gets ready, and this one releases when it is waited for."""

    def sink(event: Event) -> None:
        if isinstance(event, AwaitingRelease):
            world.meanwhile(lambda: world.release("node1", "home"))

    world.takeover("node2", "home", wait=60.0, kill_at=kill_at, sink=sink)


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("partitions", [1, 2])
def test_a_takeover_that_is_killed_while_it_waits_disturbs_nobody_and_ends_well(
    tmp_path: Path, partitions: int, quick: bool
) -> None:
    waited = 0
    for kill_at in count_from(1):
        for end in (resumed_at_once, begun_anew, aborted_and_taken_over_elsewhere):
            with pytest.MonkeyPatch.context() as patch:
                world = cluster(tmp_path, patch, Isolation.NETNS, partitions, 1, quick=quick)
                records = replace(world.records["home"])
                try:
                    a_move_that_waits(world, kill_at)
                    assert waited > 3, "it was never killed with anything of it there while the other node served"
                    assert_it_ended_well(world, "node2")
                    return
                except Killed:
                    pass
                if world.serving("home") == ["node1"]:
                    assert world.records["home"] == records, "they are still the other node's"
                    waited += not world.nodes["node2"].spot("home").empty()
                    if end is aborted_and_taken_over_elsewhere and world.unfinished("node2", "home"):
                        world.abort("node2", "home")
                        assert world.nodes["node2"].spot("home").empty()
                        assert world.serving("home") == ["node1"]
                    world.release("node1", "home")
                    world.at_work = "node2"
                assert_it_ended_well(world, end(world))
