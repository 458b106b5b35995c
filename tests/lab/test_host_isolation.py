# SPDX-License-Identifier: GPL-2.0-or-later
"""Services that share the node's own NFS server: what its restart takes from others is given back to them."""

from __future__ import annotations

import json
import re
from functools import partial

import pytest

from tests.lab import cluster, node_server
from tests.lab.cluster import Service
from tests.lab.lab import Lab
from tests.lab.node import Node
from tests.lab.witness import Contender, Holder, await_true, held_on, lost_by
from tests.workload.holder import LOCKS

RECLAIM = 30.0
FSIDS = {"home": 1, "mail": 2, "web": 3, "docs": 4}


def serve(server: Node, *services: Service) -> None:
    node_server.start(server)
    for service in services:
        cluster.takeover(server, service)


@pytest.mark.timeout(900)
def test_one_of_two_services_moves_to_a_node_with_two_others_and_every_client_has_its_locks_back(lab: Lab) -> None:
    services = {
        name: cluster.make_service(lab, name, [f"10.10.0.{100 + fsid}/24"], fsid, isolation='"host"')
        for name, fsid in FSIDS.items()
    }
    a, b = (lab.node(name, disks=cluster.disks(*services.values())) for name in ("a", "b"))
    one, two = lab.node("one"), lab.node("two")
    cluster.prepare(lab, [a, b], *services.values())
    cluster.at_once(
        partial(serve, a, services["home"], services["mail"]), partial(serve, b, services["web"], services["docs"])
    )
    clients = {"home": one, "mail": two, "web": one, "docs": two}
    holders = {name: Holder(client, cluster.mount(client, services[name])) for name, client in clients.items()}
    for holder in holders.values():
        holder.wait_until_writing(len(LOCKS), 90)
    contender = Contender(two, cluster.mount(two, services["home"]))
    contender.wait_for_answers()

    mail = held_on(a, services["mail"])
    cluster.release(a, services["home"])
    # A release takes nothing from the other service of the node, not even its way out of grace.
    assert holders["mail"].held <= mail & held_on(a, services["mail"])
    assert a.shell("cat /proc/fs/lockd/nlm_end_grace").startswith("Y")

    plan = cluster.nlmfo(b, "plan", "takeover", "home")
    assert "the clients of docs, web lose their locks too, are told, and reclaim" in plan.out
    said = cluster.takeover(b, services["home"])
    told = re.search(r"notify clients: home, docs, web  \(home: (\d) clients told, docs: (\d) .*, web: (\d) .*\)", said)
    assert told, said
    assert min(map(int, told.groups())) > 0
    assert "was not told" not in said
    for name in ("home", "web", "docs"):
        await_true(
            f"the locks of {name} to come back",
            lambda name=name: holders[name].held <= held_on(b, services[name]),
            RECLAIM,
        )
    contender.wait_for_answers()
    for holder in holders.values():
        holder.wait_for_more()
        assert holder.failures == []
    assert contender.granted() == []
    assert lost_by(one) + lost_by(two) == []
    assert holders["mail"].held <= held_on(a, services["mail"])
    status = json.loads(cluster.nlmfo(b, "status", "--json").out)["services"]
    assert {s["service"]: s["here"] for s in status} == {
        "docs": "serving",
        "home": "serving",
        "mail": "no",
        "web": "serving",
    }
    assert not any(s["untold"] for s in status)
    for name in ("home", "web"):
        holders[name].check_on_disk(b, services[name])


def test_a_restart_that_nobody_allowed_and_a_server_that_would_lose_locks_are_refused_before_anything_is_touched(
    lab: Lab,
) -> None:
    service = cluster.make_service(lab, "home", ["10.10.0.101/24"], 1, isolation='"host"')
    a = lab.node("a", disks=cluster.disks(service))
    cluster.prepare(lab, [a], service)

    def refused(code: str) -> str:
        before = a.shell("cat /proc/mounts; ip -o address")
        result = cluster.nlmfo(a, "takeover", "home")
        assert (result.status, f"refused ({code})" in result.err) == (3, True), result
        assert a.shell("cat /proc/mounts; ip -o address") == before
        return result.err

    refused("nfsd-down")
    node_server.start(a)
    configuration = a.shell("cat /etc/nlmfo/nlmfo.toml")
    a.shell("sed -i /restart_nfsd/d /etc/nlmfo/nlmfo.toml")
    assert 'hint: allow it with "restart_nfsd = true"' in refused("no-grace")
    a.put(configuration, "/etc/nlmfo/nlmfo.toml")
    a.shell("pkill -x rpc.statd; while pidof rpc.statd; do sleep 0.1; done; rpc.statd --no-notify -H /bin/true")
    assert "ha-callout" in refused("statd-without-callout")
