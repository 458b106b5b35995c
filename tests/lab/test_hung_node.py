# SPDX-License-Identifier: GPL-2.0-or-later
"""A node that is said to be fenced and is not: it lives, or it hangs and wakes up when another one serves.

ext4's multi-mount protection stops the lie about a node that lives. It does not see one that hangs, because that one
does not write its mark; and a guest whose clock stood still with it does not look for the other's mark when it wakes.
"""

from __future__ import annotations

import json
import subprocess
import time

from tests.lab import cluster
from tests.lab.cluster import Service
from tests.lab.lab import Lab
from tests.lab.node import Node
from tests.lab.witness import Contender, Holder, await_true, held_on, lost_by
from tests.workload.holder import LOCKS

RECLAIM = 30.0
#: Seconds in which a node that wakes up has to find out: a round of ``nlmfo keep``, and time to act on it.
STAND_DOWN = 15.0
#: Seconds in which a client that was led to the wrong node is answered by the right one, from its standing down on: the
#: client's TCP doubles its pauses (RFC 6298), and was at it for as long as that took.
FOUND = 15.0
#: What a node answers clients with, as long as anything of the service is there.
ANSWERS = "ip netns exec nlmfo-home ip -o -br address show nlmfo0 2> /dev/null || true; pgrep -x nfsd || true"
#: Has everybody believe that the address lives on the node that says it.
HERE_I_AM = """
import socket, struct
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind(("nlmfo0", 0x0806))
own = wire.getsockname()[4]
address = socket.inet_aton("10.10.0.100")
wire.send(b"\\xff" * 6 + own + struct.pack("!HHHBBH", 0x0806, 1, 0x0800, 6, 4, 1) + own + address + bytes(6) + address)
"""


def owner(lab: Lab) -> tuple[str, int, str]:
    """Who serves by the newest owner record, with its epoch and standing, read where it is kept."""
    newest = max((lab.registry / "services/home/owner").glob("[0-9]*"))
    record = json.loads(newest.read_text())
    return record["node"], record["epoch"], record["standing"]


def two_servers(lab: Lab, *, protected: bool) -> tuple[Service, Node, Node]:
    """A service that a serves, with or without multi-mount protection on its data."""
    service = cluster.make_service(lab, "home", ["10.10.0.100/24"], 1234)
    if protected:  # with the shortest intervals, so that looking takes 11 s, where it takes 21 s as a rule
        protect = ["tune2fs", "-O", "mmp", "-E", "mmp_update_interval=1", str(service.data.path)]
        subprocess.run(protect, check=True, timeout=20, stdout=subprocess.DEVNULL)
    a, b = (lab.node(name, disks=cluster.disks(service)) for name in ("a", "b"))
    return service, a, b


def test_a_lie_about_a_node_that_lives_is_refused_by_the_disk_before_anything_is_mounted(lab: Lab) -> None:
    service, a, b = two_servers(lab, protected=True)
    cluster.prepare(lab, [a, b], service)
    cluster.takeover(a, service)
    before = b.shell("cut -d' ' -f1-3 /proc/mounts; ip -o -br address; ls /run/netns 2> /dev/null || true")
    began = time.monotonic()
    result = cluster.nlmfo(b, "takeover", "home", "--fenced", "a")
    print(f"refused after {time.monotonic() - began:.0f} s")
    assert result.status == 3, str(result)
    assert (
        f"refused (mmp-in-use): look for another server: 10.10.0.100/24: partition {service.data.uuid}: a has it"
        in result.err
    )
    assert "hint: release the service on a, or fence that node" in result.err
    assert "claim" not in result.out
    assert "mount: " not in result.out
    assert owner(lab) == ("a", 1, "serving")
    assert b.shell("cut -d' ' -f1-3 /proc/mounts; ip -o -br address; ls /run/netns 2> /dev/null || true") == before
    assert cluster.nlmfo(a, "status", "home").status == 0


def test_a_node_that_hung_and_was_not_fenced_stands_down_when_it_wakes(lab: Lab) -> None:
    """Without protection by the disk nothing stops the takeover: an operator's word is taken."""
    service, a, b = two_servers(lab, protected=False)
    clients = [lab.node(name) for name in ("one", "two")]
    cluster.prepare(lab, [a, b], service)
    cluster.takeover(a, service)
    mounts = [cluster.mount(client, service) for client in clients]
    holder = Holder(clients[0], mounts[0])
    holder.wait_until_writing(len(LOCKS))
    contender = Contender(clients[1], mounts[1])
    contender.wait_for_answers()

    a.hang()
    assert "a is fenced: the operator says so" in cluster.takeover(b, service, "--fenced", "a")
    assert owner(lab) == ("b", 2, "serving")
    await_true("the locks to come back", lambda: holder.held <= held_on(b, service), RECLAIM)
    contender.wait_for_answers()
    holder.wait_for_more()

    writes = holder.writes()
    a.resume()
    woke = time.monotonic()
    # Its kernel may say so by itself, when it looks for a client to send an old reply to (RFC 826).
    a.shell(f"ip netns exec nlmfo-home /usr/bin/python3 -c '{HERE_I_AM}'")
    await_true("a to stand down", lambda: a.shell(ANSWERS) == "", STAND_DOWN)
    print(f"a answers nobody any more {time.monotonic() - woke:.1f} s after it woke")
    status = cluster.nlmfo(a, "status", "home")
    assert (status.status, "serving on b" in status.out) == (5, True), str(status)
    assert "b owns it (epoch 2): stood down" in a.shell("cat /run/nlmfo/home/log/nlmfo-keep.log")
    # b goes on, and nobody was given a lock that another client holds.
    holder.wait_for_more()
    contender.wait_for_answers()
    pause = holder.longest_pause(writes)
    print(f"longest pause for a client from then on: {pause:.1f} s")
    assert pause < STAND_DOWN + FOUND
    assert holder.held <= held_on(b, service)
    assert holder.failures == []
    assert contender.granted() == []
    assert lost_by(clients[0]) == []
    assert cluster.nlmfo(b, "status", "home").status == 0
