# SPDX-License-Identifier: GPL-2.0-or-later
"""nlmfo on nodes that run systemd and the distribution's own NFS server, installed as the README says."""

from __future__ import annotations

from tests.lab import cluster, installed
from tests.lab.lab import Lab
from tests.lab.node import Node
from tests.lab.witness import Holder, await_true, held_on, lost_by
from tests.workload.holder import LOCKS

#: Seconds for a full node to boot.
BOOT = 180.0


def systemctl(node: Node, verb: str, unit: str) -> None:
    """Start or stop a unit, which has to succeed; if it does not, say what its journal says."""
    result = node.run("systemctl", verb, unit, deadline=cluster.COMMAND)
    assert result.status == 0, f"{result}{node.shell(f'journalctl --no-pager -u {unit}')}"


def test_a_service_moves_between_installed_nodes_under_systemd(lab: Lab) -> None:
    service = cluster.make_service(lab, "home", ["10.10.0.100/24"], 1234)
    a, b = (lab.node(name, disks=cluster.disks(service), full=True) for name in ("a", "b"))
    client = lab.node("client")
    (lab.registry / "services").mkdir()
    lab.boot(seconds=BOOT)
    for server in (a, b):
        # The distribution's own server runs beside ours, and minds its own business.
        server.check("systemctl", "is-active", "rpcbind", "nfs-server")
        installed.install(server)
        cluster.write_configuration(server, service)
    cluster.make_export(a, service)

    systemctl(a, "start", "nlmfo@home")
    assert a.check("nlmfo", "status", "home").startswith("home  serving on a")
    holder = Holder(client, cluster.mount(client, service))
    holder.wait_until_writing(len(LOCKS))
    systemctl(a, "stop", "nlmfo@home")
    refused = b.run("systemctl", "start", "nlmfo@nosuch", deadline=cluster.COMMAND)
    assert refused.status != 0
    systemctl(b, "start", "nlmfo@home")

    await_true("the locks to come back", lambda: holder.held <= held_on(b, service), 30)
    holder.wait_for_more()
    assert lost_by(client) == []
    acknowledged = holder.writes()
    assert holder.check_on_disk(b, service) >= acknowledged > 0
    for server in (a, b):
        assert server.shell("cat /proc/fs/nfsd/threads").strip() != "0"  # the node's own server was left alone
