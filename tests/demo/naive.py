# SPDX-License-Identifier: GPL-2.0-or-later
"""``make demo-naive``: the steps that people script by hand today, and what becomes of the locks.

Both servers run the distribution's one NFS server each, as they would in production: server-b serves something else
already, so it is long out of grace when the service arrives. The address is moved, the file system mounted and
exported, and sm-notify sent from the right address with the right list of clients. No step fails.
"""

from __future__ import annotations

import sys

from tests.demo.scene import ADDRESS, Scene, Verdict
from tests.demo.story import Story
from tests.lab.lab import Lab
from tests.lab.node import Node
from tests.lab.root import CACHE

IP = ADDRESS.partition("/")[0]
#: statd's own list travels on the shared disk, as the scripts do it.
SAVED = "/srv/home/statd"


def run(scene: Scene, server: Node, script: str) -> None:
    """Show each command, and run it."""
    scene.story.tell(server.name, script)
    server.shell(script)


def start_servers(scene: Scene) -> None:
    for server in scene.servers:
        server.shell(
            f"echo '{IP} nfs100.example' >> /etc/hosts; mkdir -p /srv/other /srv/home;"
            "modprobe nfsd; echo 10 > /proc/sys/fs/nfs/nlm_grace_period; mount -t nfsd nfsd /proc/fs/nfsd;"
            "mount -t tmpfs tmpfs /srv/other; rpcbind; rpc.statd --no-notify; exportfs -o rw,fsid=9 '*:/srv/other';"
            "rpc.mountd; rpc.nfsd --grace-time 10 --lease-time 10 8"
        )
        scene.story.tell(server.name, "runs the distribution's NFS server and serves something else")
    for server in scene.servers:
        # Out of grace: both of its keepers, NFSv4's too.
        server.shell("until grep -qs Y /proc/fs/lockd/nlm_end_grace; do sleep 0.2; done; sleep 1")
    scene.story.tell("servers", "are out of grace, as every server is that has run for two minutes")


def arrive(scene: Scene, server: Node) -> None:
    uuid = scene.service.data.uuid
    run(scene, server, f"mount UUID={uuid} /srv/home")
    run(
        scene,
        server,
        f"exportfs -o rw,no_root_squash,sync,fsid={scene.service.fsid} '*:{scene.service.export}'",
    )
    run(scene, server, f"ip address add {ADDRESS} dev eth0")
    server.shell(f"arping -U -c 2 -I eth0 {IP} || ping -c 1 -I {IP} 10.10.0.3")


def move(scene: Scene) -> None:
    a, b = scene.servers
    scene.story.title("The move, as it is scripted by hand today")
    run(scene, a, f"ip address del {ADDRESS} dev eth0")
    run(scene, a, f"exportfs -u '*:{scene.service.export}'")
    run(scene, a, f"mkdir -p {SAVED}; cp -a /var/lib/nfs/sm /var/lib/nfs/sm.bak /var/lib/nfs/state {SAVED}/")
    run(scene, a, "echo /srv/home > /proc/fs/nfsd/unlock_filesystem")
    run(scene, a, "umount /srv/home")
    arrive(scene, b)
    run(scene, b, f"sm-notify -d -f -v {IP} -P {SAVED}")


def judge(scene: Scene, since: int) -> Verdict:
    return scene.judge("move by hand", scene.servers[1], since)


def main() -> int:
    story = Story()
    story.title("The same without nlmfo: the steps that people script by hand today")
    with Lab(CACHE / "logs/demo-naive") as lab:
        scene = Scene(lab, story)
        scene.boot()
        start_servers(scene)
        arrive(scene, scene.servers[0])
        scene.start_clients()
        since = scene.holder.writes()
        move(scene)
        verdict = judge(scene, since)
        still = scene.clients[0].shell("cat /proc/locks").count("POSIX")
        story.tell(scene.clients[0].name, f"still believes that it holds {still} locks, and goes on writing")
    print()
    for problem in verdict.problems:
        story.bad(problem)
    story.bad(str(verdict))
    print("Every command above succeeded. The double locks are the reason why nlmfo exists.")
    return 1 if verdict.good() else 0


if __name__ == "__main__":
    sys.exit(main())
