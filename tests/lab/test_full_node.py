# SPDX-License-Identifier: GPL-2.0-or-later
"""nlmfo on nodes that run systemd and the distribution's own NFS server, installed from the package."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

import pytest

from nlmfo.cli.journalled import Message
from tests.lab import cluster, installed
from tests.lab.cluster import Service
from tests.lab.lab import Lab
from tests.lab.node import Node
from tests.lab.witness import Broken, Holder, await_true, held_on, lost_by
from tests.workload.holder import LOCKS

#: Seconds for a full node to boot, and for the unit to have found out and mended what is wrong.
BOOT, SOON = 180.0, 240.0
UNIT = "nlmfo@home"
#: The daemons of the service, by how they are called, each of which may die.
DAEMONS = ("rpcbind", "rpc.statd", "rpc.mountd", "nfsdcld")


class Scene:
    """Two full nodes with the unit, and a client that holds locks and writes."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.service: Service = cluster.make_service(lab, "home", ["10.10.0.100/24"], 1234)
        disks = cluster.disks(self.service)
        self.a, self.b = (lab.node(name, disks=disks, full=True) for name in ("a", "b"))
        self.client = lab.node("client")
        (lab.registry / "services").mkdir()
        lab.boot(seconds=BOOT)
        cluster.at_once(*(partial(self.set_up, server) for server in (self.a, self.b)))
        cluster.make_export(self.a, self.service)
        systemctl(self.a, "start", UNIT)
        self.holder = Holder(self.client, cluster.mount(self.client, self.service))
        self.holder.wait_until_writing(len(LOCKS))

    def set_up(self, server: Node) -> None:
        # The distribution's own server runs beside ours, and minds its own business.
        server.check("systemctl", "is-active", "rpcbind", "nfs-server")
        installed.install(server)
        cluster.write_configuration(server, self.service)

    def all_is_held(self, server: Node) -> bool:
        return self.holder.held <= held_on(server, self.service)

    def see_unharmed(self, server: Node) -> None:
        """Every lock is held, the client goes on writing, and has heard of no loss."""
        until(self, "the locks to be held", lambda: self.all_is_held(server))
        self.holder.wait_for_more()
        assert lost_by(self.client) == []
        assert self.holder.failures == []


def systemctl(node: Node, verb: str, unit: str) -> None:
    """Have systemd do something with a unit, which has to succeed; if it does not, say what its journal says."""
    result = node.run("systemctl", verb, unit, deadline=cluster.COMMAND)
    assert result.status == 0, f"{result}{journal(node)}"


def journal(node: Node) -> str:
    return node.shell(f"journalctl --no-pager -o cat -u {UNIT}")


def until(scene: Scene, what: str, check: Callable[[], bool], seconds: float = SOON) -> None:
    """Wait for it; if it does not come, say what the journal of each server has of the unit."""
    try:
        await_true(what, check, seconds)
    except Broken as error:
        logs = [f"{server.name}: {journal(server)}" for server in (scene.a, scene.b) if server.is_on()]
        raise Broken("\n".join([str(error), *logs])) from error


def entries(node: Node, message: Message) -> list[dict[str, str]]:
    """What the journal has of that kind about the service."""
    words = f"NLMFO_SERVICE=home MESSAGE_ID={message.value} _TRANSPORT=journal"
    return [json.loads(line) for line in node.shell(f"journalctl --no-pager -o json {words}").splitlines()]


def property_of(node: Node, name: str) -> str:
    return node.check("systemctl", "show", "--value", "-p", name, UNIT).strip()


def pid_of(node: Node, daemon: str) -> str:
    """The process id of one of the service's daemons; nothing when it does not run."""
    script = (
        "for pid in $(ip netns pids nlmfo-home); do tr '\\0' ' ' < /proc/$pid/cmdline | sed \"s/^/$pid /\"; echo; done"
    )
    found = [line.split() for line in node.shell(script).splitlines()]
    return next((words[0] for words in found if len(words) > 1 and words[1].endswith(daemon)), "")


@pytest.mark.timeout(1500)
def test_a_service_of_systemd_is_looked_after_moves_and_survives_boot_and_shutdown(lab: Lab) -> None:
    """One scene for all of it, because full nodes take long to boot: each part leaves the service to the next."""
    scene = Scene(lab)
    the_unit_is_up_when_the_service_is_served_and_says_how_it_is(scene)
    each_daemon_that_is_killed_runs_again_and_no_lock_is_lost_nor_grace_begun(scene)
    when_what_looks_after_it_is_killed_the_service_does_not_notice(scene)
    an_nfsd_that_was_stopped_takes_a_takeover_in_which_every_lock_is_reclaimed(scene)
    a_move_and_a_restart_by_systemd_keep_every_lock_and_the_nodes_own_server(scene)
    a_node_that_shuts_down_releases_first_and_one_where_the_disk_appears_takes_over(scene)


def the_unit_is_up_when_the_service_is_served_and_says_how_it_is(scene: Scene) -> None:
    assert scene.a.check("nlmfo", "status", "home").startswith("home  serving on a")
    assert property_of(scene.a, "ActiveState") == "active"
    # The journal has each fact once, with fields; and what is typed at a prompt is about the unit as well.
    assert [entry["NLMFO_OUTCOME"] for entry in entries(scene.a, Message.SERVED)] == ["served"]
    assert journal(scene.a).count("claim: home") == 1
    assert cluster.nlmfo(scene.b, "takeover", "home").status == 3
    assert "still-served" in journal(scene.b)
    assert "Nothing was changed" in scene.b.shell(f"journalctl --no-pager -x MESSAGE_ID={Message.REFUSED.value}")
    systemctl(scene.a, "reload", UNIT)
    said = scene.a.shell("journalctl --no-pager -o cat NLMFO_VERB=reload")
    assert said == "home: what is exported is what is configured\n"
    until(scene, "a round", lambda: property_of(scene.a, "StatusText") == "served here; all is well")


def each_daemon_that_is_killed_runs_again_and_no_lock_is_lost_nor_grace_begun(scene: Scene) -> None:
    registered = scene.a.check("ip", "netns", "exec", "nlmfo-home", "rpcinfo", "-p", "127.0.0.1").split()
    for daemon in DAEMONS:
        before = pid_of(scene.a, daemon)
        assert before
        scene.a.check("kill", "-9", before)
        until(scene, f"{daemon} to be started again", lambda: f"home: {daemon}: started again" in journal(scene.a))  # noqa: B023
        assert pid_of(scene.a, daemon) not in ("", before)
    until(scene, "all to be well", lambda: "all is in order again" in journal(scene.a))
    again = scene.a.check("ip", "netns", "exec", "nlmfo-home", "rpcinfo", "-p", "127.0.0.1").split()
    programs = {"100003", "100005", "100021", "100024"}
    assert programs <= set(registered)
    assert programs <= set(again)
    # nfsd and lockd are in the kernel, and did not register again by themselves.
    assert again.count("100021") == registered.count("100021")
    scene.see_unharmed(scene.a)
    assert "grace" not in scene.a.check("nlmfo", "status", "home")
    assert property_of(scene.a, "NRestarts") == "0"


def when_what_looks_after_it_is_killed_the_service_does_not_notice(scene: Scene) -> None:
    before, main = pid_of(scene.a, "rpc.statd"), property_of(scene.a, "MainPID")
    scene.a.check("kill", "-9", main)
    until(scene, "systemd to start it again", lambda: property_of(scene.a, "MainPID") not in ("0", main))
    until(scene, "it to be ready", lambda: property_of(scene.a, "ActiveState") == "active")
    assert "home: served here already" in journal(scene.a)
    assert pid_of(scene.a, "rpc.statd") == before
    scene.see_unharmed(scene.a)


def an_nfsd_that_was_stopped_takes_a_takeover_in_which_every_lock_is_reclaimed(scene: Scene) -> None:
    epoch = scene.a.check("nlmfo", "status", "home").partition("epoch ")[2]
    scene.a.check("ip", "netns", "exec", "nlmfo-home", "sh", "-c", "mount -t nfsd nfsd /mnt && echo 0 > /mnt/threads")
    until(scene, "the unit to be started again", lambda: property_of(scene.a, "NRestarts") == "2")
    until(scene, "it to be served", lambda: property_of(scene.a, "ActiveState") == "active")
    assert scene.a.check("nlmfo", "status", "home").partition("epoch ")[2][:1] >= epoch[:1]
    scene.see_unharmed(scene.a)


def a_move_and_a_restart_by_systemd_keep_every_lock_and_the_nodes_own_server(scene: Scene) -> None:
    systemctl(scene.a, "stop", UNIT)
    assert pid_of(scene.a, "") == ""
    refused = scene.b.run("systemctl", "start", "nlmfo@nosuch", deadline=cluster.COMMAND)
    assert refused.status != 0
    systemctl(scene.b, "start", UNIT)
    scene.see_unharmed(scene.b)
    systemctl(scene.b, "restart", UNIT)
    scene.see_unharmed(scene.b)
    acknowledged = scene.holder.writes()
    assert scene.holder.check_on_disk(scene.b, scene.service) >= acknowledged > 0
    for server in (scene.a, scene.b):
        assert server.shell("cat /proc/fs/nfsd/threads").strip() != "0"  # the node's own server was left alone


def a_node_that_shuts_down_releases_first_and_one_where_the_disk_appears_takes_over(scene: Scene) -> None:
    # In the lab the registry is mounted by the agent, which systemd knows nothing of.
    wait = "[Service]\nExecStartPre=sh -c 'until mountpoint -q /lab/registry; do sleep 0.2; done'\n"
    scene.a.shell(f"mkdir -p /etc/systemd/system/{UNIT}.service.d")
    scene.a.put(wait, f"/etc/systemd/system/{UNIT}.service.d/lab.conf")
    # Not enabled: it is the disk that has it started.
    scene.a.shell("nlmfo udev home > /etc/udev/rules.d/90-nlmfo-home.rules; sync")
    scene.a.cut_power()
    scene.b.start("systemctl", "poweroff")
    until(scene, "the node to be off", lambda: not scene.b.is_on())
    newest = max((scene.lab.registry / "services/home/owner").iterdir())
    assert '"released"' in newest.read_text()
    scene.a.power_on()
    scene.a.wait_ready(BOOT)
    until(scene, "the unit to be up after boot", lambda: property_of(scene.a, "ActiveState") == "active")
    scene.see_unharmed(scene.a)
