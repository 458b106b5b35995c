# SPDX-License-Identifier: GPL-2.0-or-later
"""A client whose connections nobody had the time to note has its locks back while reclaims are granted.

Found by torture: after a long outage its TCP sends only every half a minute, and grace was over by then.
"""

from __future__ import annotations

import time

import pytest

from nlmfo.host.tickle import RESERVED
from tests.lab import cluster
from tests.lab.lab import Lab
from tests.lab.witness import Holder, await_true, held_on, lost_by
from tests.workload.holder import LOCKS

#: Seconds without a server. Its TCP has sent again after 0.2, 0.6, 1.4 ... 12.6 and 25.4 s by then, and will after 51
#: (RFC 6298): more than a grace period later.
OUTAGE = 20.0
#: Seconds from when the address is up. Before there was a search it took more than twice as long.
BACK = 12.0
#: Asks lockd for something all the time.
ASKING = """
import fcntl, sys, time
with open(sys.argv[1], "w") as file:
    while True:
        fcntl.lockf(file, fcntl.LOCK_EX)
        fcntl.lockf(file, fcntl.LOCK_UN)
        time.sleep(0.05)
"""


@pytest.mark.timeout(300)
def test_a_client_of_which_nobody_knows_the_ports_reclaims_soon_after_a_long_outage(lab: Lab) -> None:
    service = cluster.make_service(lab, "home", ["10.10.0.100/24"], 1234)
    a, b = (lab.node(name, disks=cluster.disks(service)) for name in ("a", "b"))
    client = lab.node("client")
    cluster.prepare(lab, [a, b], service)
    cluster.takeover(a, service)
    mountpoint = cluster.mount(client, service)
    ports = client.shell("sysctl -n sunrpc.min_resvport sunrpc.max_resvport").split()
    assert [int(port) for port in ports] == [RESERVED[0], RESERVED[-1]]
    holder = Holder(client, mountpoint)
    holder.wait_until_writing(len(LOCKS))
    client.start("/usr/bin/python3", "-c", ASKING, f"{mountpoint}/asked", stream=False)
    listening = "/srv/nlmfo/home/listening"
    await_true("lockd's port to be noted", lambda: a.run("wc", "-l", listening).out.startswith("2 "), 30)
    # The next owner finds no list, as if the client had come just now.
    a.shell("rm -f /srv/nlmfo/home/connections; sync -f /srv/nlmfo/home")
    a.cut_power()
    time.sleep(OUTAGE)

    takeover = b.start("nlmfo", "takeover", "home", "--fenced", "a", deadline=cluster.COMMAND, stream=False)
    inside = ("ip", "netns", "exec", "nlmfo-home", "ip", "-o", "address")
    await_true("the address to come up", lambda: "10.10.0.100" in b.run(*inside).out, cluster.COMMAND)
    await_true("the locks to be back", lambda: holder.held <= held_on(b, service), BACK)

    result = takeover.wait(cluster.COMMAND)
    assert result.status == 0, str(result)
    assert "connections of before" not in result.out
    assert lost_by(client) == []
    holder.wait_for_more()
    holder.check_on_disk(b, service)
