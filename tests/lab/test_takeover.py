# SPDX-License-Identifier: GPL-2.0-or-later
"""Locks survive a change of server, between real kernels, as the clients and the kernels see it."""

from __future__ import annotations

import json
import re
import signal
from dataclasses import dataclass

import pytest

from tests.lab import cluster
from tests.lab.cluster import Service
from tests.lab.lab import Lab
from tests.lab.node import Node
from tests.lab.witness import WORKLOAD, Contender, Holder, await_true, held_on, lost_by
from tests.workload.holder import LOCKS

#: Seconds within which a reclaimed lock is in the new server's lock table.
RECLAIM = 30.0


@dataclass
class Stage:
    """Two servers and one service, served on the first, with a client that holds locks and one that wants them."""

    lab: Lab
    service: Service
    servers: list[Node]
    holder: Holder
    contender: Contender


def staged(lab: Lab, address: str) -> Stage:
    service = cluster.make_service(lab, "home", [address], 1234)
    servers = [lab.node(name, disks=cluster.disks(service)) for name in ("a", "b")]
    clients = [lab.node(name) for name in ("one", "two")]
    cluster.prepare(lab, servers, service)
    cluster.takeover(servers[0], service)
    mounts = [cluster.mount(client, service) for client in clients]
    holder = Holder(clients[0], mounts[0])
    holder.wait_until_writing(len(LOCKS))
    contender = Contender(clients[1], mounts[1])
    contender.wait_for_answers()
    return Stage(lab, service, servers, holder, contender)


@pytest.fixture(params=["10.10.0.100/24", "fd00::100/64"], ids=["ipv4", "ipv6"])
def stage(lab: Lab, request: pytest.FixtureRequest) -> Stage:
    """The stage, once with an IPv4 and once with an IPv6 floating address."""
    return staged(lab, request.param)


def assert_nothing_lost(stage: Stage, server: Node) -> None:
    """The same locks by inode, range and type, none granted twice, every acknowledged write on disk."""
    holder, contender = stage.holder, stage.contender
    assert len(holder.held) == len(LOCKS)
    await_true("the locks to come back", lambda: holder.held <= held_on(server, stage.service), RECLAIM)
    contender.wait_for_answers()
    holder.wait_for_more()
    # After grace, too; what else the table shows can only be the contender's free one.
    extra = held_on(server, stage.service) - holder.held
    assert all(lock.first == 10000 for lock in extra)
    assert holder.held <= held_on(server, stage.service)
    assert contender.granted() == []
    assert lost_by(holder.client) == []
    assert holder.failures == []
    acknowledged = holder.writes()
    assert holder.check_on_disk(server, stage.service) >= acknowledged > 0


def test_locks_survive_a_planned_move_and_then_a_power_cut(stage: Stage) -> None:
    a, b = stage.servers
    before = held_on(a, stage.service)
    assert stage.holder.held <= before
    cluster.release(a, stage.service)
    assert held_nowhere(a)
    cluster.takeover(b, stage.service)
    assert_nothing_lost(stage, b)

    b.cut_power()
    refused = cluster.nlmfo(a, "takeover", "home")
    assert refused.status == 3
    assert "b serves it" in refused.err
    cluster.takeover(a, stage.service, "--fenced", "b")
    assert_nothing_lost(stage, a)


def held_nowhere(server: Node) -> bool:
    """No process of lockd's holds a lock on any file system of the server, and nothing of the service is left."""
    table = server.shell("cat /proc/locks; ip netns list; grep -c /srv /proc/mounts || true")
    return table == "0\n"


def test_a_takeover_is_refused_while_the_other_node_serves_before_anything_is_touched(lab: Lab) -> None:
    service = cluster.make_service(lab, "home", ["10.10.0.100/24"], 1234)
    a, b = (lab.node(name, disks=cluster.disks(service)) for name in ("a", "b"))
    cluster.prepare(lab, [a, b], service)
    cluster.takeover(a, service)
    state = b.shell("cat /proc/mounts; ip -o address; ip netns; ls /run/nlmfo 2> /dev/null || true")
    for words in ([], ["--fenced", "c"], ["--released-by", "c"]):
        result = cluster.nlmfo(b, "takeover", "home", *words)
        assert result.status == 3, result
        assert "a serves it (epoch 1)" in result.err
        assert "hint:" in result.err
    after = b.shell("cat /proc/mounts; ip -o address; ip netns; rm /run/nlmfo/home.lock; ls /run/nlmfo")
    assert after == state
    # Whoever waits gets ready meanwhile, and nothing of that stays: not even the network, of which there may be one.
    b.shell("echo 1 > /proc/sys/user/max_net_namespaces")
    before = b.shell("cat /proc/mounts; ip -o address; ip netns")
    for _ in range(2):
        result = cluster.nlmfo(b, "takeover", "home", "--wait", "0.1")
        assert (result.status, "a serves it (epoch 1)" in result.err) == (3, True), result
        assert b.shell("cat /proc/mounts; ip -o address; ip netns") == before
    status = json.loads(cluster.nlmfo(a, "status", "--json").out)
    assert status["services"][0]["here"] == "serving"
    assert cluster.nlmfo(b, "status", "home").status == 5


def test_one_of_two_services_on_a_node_moves_and_the_other_ones_clients_notice_nothing(lab: Lab) -> None:
    moving = cluster.make_service(lab, "moving", ["10.10.0.100/24"], 1)
    staying = cluster.make_service(lab, "staying", ["10.10.0.101/24"], 2)
    both = cluster.disks(moving, staying)
    a, b = (lab.node(name, disks=both) for name in ("a", "b"))
    one, two = lab.node("one"), lab.node("two")
    cluster.prepare(lab, [a, b], moving, staying)
    for service in (moving, staying):
        cluster.takeover(a, service)
    mover = Holder(one, cluster.mount(one, moving))
    mover.wait_until_writing(len(LOCKS))
    stayer = Holder(one, cluster.mount(one, staying))
    stayer.wait_until_writing(len(LOCKS))
    contender = Contender(two, cluster.mount(two, staying))
    contender.wait_for_answers()

    before, answers = held_on(a, staying), len(contender.answers)
    cluster.release(a, moving)
    cluster.takeover(b, moving)
    await_true("the locks to come back", lambda: mover.held <= held_on(b, moving), RECLAIM)
    contender.wait_for_answers()

    assert stayer.held <= before
    assert stayer.held <= held_on(a, staying)
    assert a.shell("nsenter --net=/run/netns/nlmfo-staying cat /proc/fs/lockd/nlm_end_grace").startswith("Y")
    assert contender.granted() == []
    # No request of the other service was refused, and none waited for a grace period: a lock was granted each time.
    free = [answer.result for answer in contender.answers[answers:] if answer.target == "free"]
    assert set(free) == {"granted"}
    assert len(free) > 5
    assert stayer.failures == []
    assert lost_by(one) == []
    assert stayer.longest_pause(0) < cluster.GRACE / 2


#: Which step of a takeover that is, of a service with two partitions.
BEFORE_EXPORT = 9


def test_a_takeover_that_is_killed_half_way_is_mended_by_the_next_one(lab: Lab) -> None:
    service = cluster.make_service(lab, "home", ["10.10.0.100/24"], 1234)
    a, b = (lab.node(name, disks=cluster.disks(service)) for name in ("a", "b"))
    cluster.prepare(lab, [a, b], service)
    cut_off = ("/opt/nlmfo/bin/python", "-B", f"{WORKLOAD}/cut_off.py", str(BEFORE_EXPORT), "kill")
    run = a.run(*cut_off, "takeover", "home", deadline=cluster.COMMAND)
    assert run.status == -signal.SIGKILL
    assert run.out.splitlines()[-1].startswith("cut off before export"), run.out
    assert "PARTLY" in cluster.nlmfo(a, "status").out
    assert cluster.nlmfo(b, "takeover", "home").status == 3
    cluster.takeover(a, service)
    assert cluster.nlmfo(a, "status", "home").status == 0
    cluster.release(a, service)
    assert held_nowhere(a)
    cluster.takeover(b, service)


def test_a_takeover_that_fails_leaves_nothing_behind_and_another_node_may_try(lab: Lab) -> None:
    service = cluster.make_service(lab, "home", ["10.10.0.100/24"], 1234)
    a, b = (lab.node(name, disks=cluster.disks(service)) for name in ("a", "b"))
    cluster.prepare(lab, [a, b], service)
    a.shell("mv /usr/sbin/rpc.mountd /usr/sbin/rpc.mountd.away")
    result = cluster.nlmfo(a, "takeover", "home")
    assert result.status == 1
    assert "rpc.mountd ended as soon as it was started" in result.err
    assert held_nowhere(a)
    assert "not served anywhere yet" in cluster.nlmfo(a, "status").out
    cluster.takeover(b, service)


def test_a_release_names_what_keeps_a_partition_busy_and_goes_on_when_it_is_gone(lab: Lab) -> None:
    service = cluster.make_service(lab, "home", ["10.10.0.100/24"], 1234)
    a = lab.node("a", disks=cluster.disks(service))
    cluster.prepare(lab, [a], service)
    cluster.takeover(a, service)
    assert "served here already" in cluster.takeover(a, service)
    shell = a.start("sh", "-c", "cd /srv/home && sleep 9999", stream=False)
    result = cluster.nlmfo(a, "release", "home")
    assert result.status == 4
    assert "/srv/home stays busy" in result.err
    assert re.search(r"held by .*process \d+ \((sh|sleep)\).*/srv/home", result.err), result.err
    assert "then 'nlmfo resume home' goes on from here" in result.err
    assert cluster.nlmfo(a, "status", "home").status == 5  # not served, and not released either
    shell.signal(signal.SIGKILL)
    shell.wait(10)
    cluster.release(a, service)
    assert held_nowhere(a)
    assert cluster.nlmfo(a, "release", "home").status == 5
