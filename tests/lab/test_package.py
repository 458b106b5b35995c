# SPDX-License-Identifier: GPL-2.0-or-later
"""The package on nodes that serve: with the distribution's Python and its libraries, and dpkg's way of doing things."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.lab import cluster, installed
from tests.lab.lab import Lab
from tests.lab.node import Node
from tests.lab.witness import Holder, await_true, held_on, lost_by
from tests.workload.holder import LOCKS

#: Seconds for a full node to boot.
BOOT = 180.0
UNIT = "nlmfo@home.service"


#: What runs in the service's network for as long as it is served: its daemons, and the keeper.
STAYING = ("rpcbind", "rpc.statd", "rpc.mountd", "nfsdcld", " keep ")


def running(node: Node) -> list[str]:
    """Which start of the unit this is, and each process of the service's that stays."""
    node.check("systemctl", "is-active", UNIT)
    processes = node.shell("ps -o pid=,args= -p $(ip netns pids nlmfo-home | paste -sd,)").splitlines()
    staying = [process for process in processes if any(name in process for name in STAYING)]
    assert len(staying) >= len(STAYING)
    return [node.check("systemctl", "show", "-P", "InvocationID", UNIT), *staying]


@pytest.mark.timeout(600)
def test_a_package_is_replaced_under_a_service_and_goes_only_after_its_release(lab: Lab, tmp_path: Path) -> None:
    service = cluster.make_service(lab, "home", ["10.10.0.100/24"], 1234)
    a = lab.node("a", disks=cluster.disks(service), full=True)
    b = lab.node("b", disks=cluster.disks(service))
    client = lab.node("client")
    (lab.registry / "services").mkdir()
    lab.boot(seconds=BOOT)
    installed.install(a)
    cluster.write_configuration(a, service)
    cluster.configure(b, service)
    cluster.make_export(a, service)
    found = {finding["code"] for finding in json.loads(a.run("nlmfo", "check", "--json").out)["findings"]}
    assert "NFS service @NLMFO_SERVICE@ is being taken over" in a.check("journalctl", "--list-catalog")
    assert not found & {"program-missing", "not-installed", "callout-missing", "callout-script"}
    assert a.check("python3", "-c", "import nlmfo, pyroute2; print(nlmfo.__file__)").startswith("/usr/lib/python3/")
    a.check("systemctl", "start", UNIT, deadline=cluster.COMMAND)
    holder = Holder(client, cluster.mount(client, service))
    holder.wait_until_writing(len(LOCKS))

    before = running(a)
    installed.install(a, installed.newer(installed.package(), tmp_path))
    assert a.check("dpkg-query", "-W", "-f=${Version}", "nlmfo").startswith("1:")
    refused = installed.remove(a)
    assert refused.status != 0
    assert "service 'home' is up on this node: 'nlmfo release home' first" in refused.err
    assert running(a) == before
    holder.wait_for_more()
    assert holder.held <= held_on(a, service)
    assert a.check("nlmfo", "status", "home").startswith("home  serving on a")

    a.check("systemctl", "stop", UNIT, deadline=cluster.COMMAND)
    cluster.takeover(b, service)
    await_true("the locks to come back", lambda: holder.held <= held_on(b, service), 30)
    holder.wait_for_more()
    assert lost_by(client) == []

    a.check("dpkg", "--purge", "nlmfo", deadline=installed.INSTALLING)
    assert a.run("nlmfo", "status").status == 127
    a.shell("test -e /etc/nlmfo/services.d/home.toml && ls /var/lib/nlmfo/runs/*")
