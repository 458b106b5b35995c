# SPDX-License-Identifier: GPL-2.0-or-later
"""The resource agent under the real Pacemaker and Corosync, with fencing, and with clients that hold locks.

The commands are those of docs/pacemaker.md. NLMFO_TESTS=all also has a reload refused and a stop
fail, and cuts the power of both nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import pytest

from tests.demo.scene import Scene
from tests.demo.story import Story
from tests.lab import cluster, installed, pacemaker, test_full_node, test_reload
from tests.lab.lab import Lab
from tests.lab.node import Node
from tests.lab.pacemaker import COMMAND, PowerSwitch, runs_on, told
from tests.lab.root import CHECKOUT
from tests.lab.witness import await_true
from tests.sampling import EVERYTHING

#: Seconds for Pacemaker to notice, to decide and to have it done on these slow kernels.
SOON = 300.0
#: For ocf-tester, which has some thirty actions done.
TESTED = 400.0
#: Programs of the service that a client's locks depend on.
DAEMONS = {"rpcbind", "rpc.statd", "rpc.mountd"}
#: The switch works from server-b, so that the service starts on server-a.
FENCING = """configure
primitive power stonith:fence_lab params pcmk_host_check=static-list pcmk_host_list="server-a server-b"
location power-there power 100: server-b
commit
"""


@dataclass(frozen=True)
class Cluster:
    """Two servers under Pacemaker, two clients, and the switch that cuts the servers' power."""

    scene: Scene
    power: PowerSwitch

    def do(self, server: Node, heading: str, number: int = 0) -> None:
        """What the guide says under that heading."""
        server.shell(told(heading, number), deadline=COMMAND)

    def await_on(self, there: Node) -> None:
        """First by the registry: whoever asks Pacemaker all the time takes the node's processor from it."""
        what = f"Pacemaker to have the service on {there.name}"
        await_true(what, lambda: there.name in self.owner() and "serving" in self.owner(), SOON)
        await_true(what, lambda: runs_on(there, "home"), SOON)

    def owner(self) -> str:
        """The newest owner record as it stands; empty before the first."""
        records = sorted((self.scene.lab.registry / "services/home/owner").glob("[0-9]*"))
        return records[-1].read_text() if records else ""

    def come_back(self, *servers: Node) -> None:
        """Boot nodes that are off, and have them join the cluster."""
        self.scene.lab.boot(*servers, seconds=test_full_node.BOOT)
        for server in servers:
            pacemaker.rejoin(server)
        pacemaker.await_members(self.scene.servers)

    def judge(self, act: str, server: Node, since: int) -> None:
        verdict = self.scene.judge(act, server, since)
        assert verdict.good(), f"{verdict}\n{verdict.problems}\n{pacemaker.crm_mon(server)}"
        assert runs_on(server, "home"), pacemaker.crm_mon(server)


@pytest.mark.timeout(1800)
def test_the_agent_passes_ocf_tester_and_the_schema_of_resource_agents(lab: Lab) -> None:
    """Both of Debian 12, which know OCF 1.0: they are shown the agent without the two lines that are new in OCF 1.1.

    ocf-tester has some thirty actions done, and validates against the document type.
    """
    service = cluster.make_service(lab, "home", ["10.10.0.100/24"], 1234)
    server = lab.node("server-a", disks=cluster.disks(service))
    cluster.prepare(lab, [server], service)
    agent = (CHECKOUT / "contrib/ocf/nlmfo").read_text()
    older = agent.replace(' reloadable="1"', "").replace('<action name="reload-agent" timeout="60s"/>\n', "")
    assert len(agent.splitlines()) == len(older.splitlines()) + 1
    server.put(older, pacemaker.AGENT)
    server.shell(f"chmod 755 {pacemaker.AGENT}")
    schema = "/usr/share/resource-agents/metadata.rng"
    server.shell(f"{pacemaker.AGENT} meta-data > /tmp/nlmfo.xml; xmllint --noout --relaxng {schema} /tmp/nlmfo.xml")
    words = ("-n", "home", "-o", "service=home", pacemaker.AGENT)
    assert f"{pacemaker.AGENT} passed all tests" in server.check("ocf-tester", *words, deadline=TESTED)


@pytest.mark.timeout(1800)
def test_under_pacemaker_no_lock_is_lost_and_only_fencing_passes_for_proof(lab: Lab) -> None:
    """The chapters of one story: a cluster takes too long to make for each."""
    scene = Scene(lab, Story(), full=True)
    a, b = scene.servers
    made = Cluster(scene, PowerSwitch(lab.registry / "power", {server.name: server for server in scene.servers}))
    (lab.registry / "services").mkdir()
    lab.boot(seconds=test_full_node.BOOT)
    cluster.at_once(*(partial(set_up, server, scene.service) for server in scene.servers))
    cluster.make_export(a, scene.service)
    pacemaker.start(scene.servers)
    pacemaker.await_members(scene.servers)

    it_starts_and_moves(made, a, b)
    standby_empties_a_node_and_nothing_moves_back(made, a, b)
    a_new_export_comes_by_a_reload_and_nothing_is_restarted(made, a, b)
    if EVERYTHING:
        a_reload_that_is_refused_is_shown_and_takes_nothing_down(made, a, b)
    what_cannot_be_told_takes_nothing_down(made, a)
    daemons_that_are_killed_are_started_again_and_named(made, a)
    after_a_power_cut_fencing_is_the_proof(made, a, b)
    if EVERYTHING:
        nothing_moves_back_when_the_fenced_node_returns(made, a, b)
        a_stop_that_fails_is_fenced_and_that_is_the_proof(made, b, a)
        after_a_power_cut_of_both_it_starts_where_it_was(made, a, b)


def set_up(server: Node, service: cluster.Service) -> None:
    installed.install(server)
    cluster.write_configuration(server, service)
    pacemaker.install(server)


def it_starts_and_moves(made: Cluster, a: Node, b: Node) -> None:
    a.check("crm", "--file", "-", stdin=FENCING, deadline=COMMAND)
    made.do(a, "The resource")
    made.await_on(a)
    made.scene.start_clients()
    since = made.scene.holder.writes()
    made.do(a, "Every day", 0)
    made.await_on(b)
    made.do(b, "Every day", 1)
    made.judge("move", b, since)


def standby_empties_a_node_and_nothing_moves_back(made: Cluster, a: Node, b: Node) -> None:
    since = made.scene.holder.writes()
    made.do(b, "Every day", 2)
    made.await_on(a)
    made.do(b, "Every day", 3)
    made.judge("standby", a, since)


def a_new_export_comes_by_a_reload_and_nothing_is_restarted(made: Cluster, server: Node, other: Node) -> None:
    service, (client, _) = made.scene.service, made.scene.clients
    since, before = made.scene.holder.writes(), made.owner()
    server.shell(f"mkdir {service.mountpoint}/new")
    for each in (server, other):
        test_reload.configure(each, service, test_reload.export(service, "new", 77, "rw"))
    # Until somebody has it reloaded, the file says more than is served, which the monitor meets.
    server.check("crm_resource", "--resource", "home", "--force-check", deadline=COMMAND)
    assert not test_reload.mounts(client, service, "new")
    made.do(other, "Every day", 4)
    said = "journalctl --no-pager -o cat NLMFO_VERB=reload"
    await_true("the reload", lambda: f"exported: *:{service.mountpoint}/new" in server.shell(said), SOON)
    assert test_reload.mounts(client, service, "new")
    made.judge("reload", server, since)
    assert made.owner() == before
    client.shell(f"umount /mnt/{service.name}-new")


def a_reload_that_is_refused_is_shown_and_takes_nothing_down(made: Cluster, server: Node, other: Node) -> None:
    service, said = made.scene.service, "journalctl --no-pager -o cat NLMFO_VERB=reload"
    since, before = made.scene.holder.writes(), made.owner()
    test_reload.configure(server, service, test_reload.export(service, "new", 78, "rw"))
    made.do(other, "Every day", 4)
    await_true("the refusal", lambda: "fsid-changed" in pacemaker.crm_mon(server), SOON)
    made.judge("refused reload", server, since)
    assert made.owner() == before
    test_reload.configure(server, service, test_reload.export(service, "new", 77, "rw"))
    made.do(other, "Every day", 4)
    await_true("the reload", lambda: "what is exported is what is configured" in server.shell(said), SOON)
    server.check("crm_resource", "--resource", "home", "--cleanup", deadline=COMMAND)


def what_cannot_be_told_takes_nothing_down(made: Cluster, server: Node) -> None:
    """A monitor that meets a mistake in the configuration, as while somebody edits it."""
    file = "/etc/nlmfo/services.d/home.toml"
    before = made.owner()
    server.shell(f"mv {file} {file}.away")
    # Pacemaker 2.1.5 calls it OCF_DEGRADED, newer ones degraded.
    await_true("a monitor", lambda: "degraded" in pacemaker.crm_mon(server).lower(), SOON)
    assert "there is no service 'home'" in pacemaker.crm_mon(server)
    assert runs_on(server, "home")
    server.shell(f"mv {file}.away {file}")
    assert made.owner() == before


def daemons_that_are_killed_are_started_again_and_named(made: Cluster, server: Node) -> None:
    since = made.scene.holder.writes()
    named = server.shell("ps -o comm=,pid= -p $(ip netns pids nlmfo-home | paste -s -d ,)")
    found = dict(line.split() for line in named.splitlines())
    assert found.keys() >= DAEMONS
    before = made.owner()
    server.shell(f"kill -9 {' '.join(found[name] for name in DAEMONS)}")
    await_true("Pacemaker to stop the service", lambda: made.owner() != before, SOON)
    made.await_on(server)
    assert "rpc.statd does not answer" in pacemaker.crm_mon(server)
    made.judge("killed daemons", server, since)
    server.check("crm_resource", "--resource", "home", "--cleanup", deadline=COMMAND)


def after_a_power_cut_fencing_is_the_proof(made: Cluster, owner: Node, other: Node) -> None:
    since = made.scene.holder.writes()
    owner.cut_power()
    made.await_on(other)
    assert made.power.fenced == [owner.name]
    assert f"{owner.name} is fenced" in other.shell("nlmfo history last")
    made.judge("power cut", other, since)


def nothing_moves_back_when_the_fenced_node_returns(made: Cluster, back: Node, owner: Node) -> None:
    made.come_back(back)
    assert runs_on(owner, "home")


def a_stop_that_fails_is_fenced_and_that_is_the_proof(made: Cluster, owner: Node, other: Node) -> None:
    """A shell of an operator's keeps the partition busy, and the node is to be emptied."""
    made.power.fenced.clear()
    since = made.scene.holder.writes()
    owner.start("sh", "-c", f"cd {made.scene.service.mountpoint} && sleep 9999", stream=False)
    made.do(other, "Every day", 2)
    made.await_on(other)
    assert made.power.fenced == [owner.name]
    assert f"{owner.name} is fenced" in other.shell("nlmfo history last")
    made.judge("a stop that fails", other, since)
    made.come_back(owner)
    made.do(other, "Every day", 3)
    assert runs_on(other, "home")


def after_a_power_cut_of_both_it_starts_where_it_was(made: Cluster, owner: Node, other: Node) -> None:
    """The other one is tried first, because it is preferred; nobody was fenced, so it is refused there."""
    made.power.fenced.clear()
    owner.check("crm", "configure", "location", "preferred", "home", "50:", other.name, deadline=COMMAND)
    since = made.scene.holder.writes()
    for server in (owner, other):
        server.cut_power()
    made.come_back(owner, other)
    made.await_on(owner)
    assert "still-served" in pacemaker.crm_mon(owner)
    assert made.power.fenced == []
    assert "its owner is this node itself, in an earlier boot" in owner.shell("nlmfo history last")
    made.judge("power cut of both", owner, since)
