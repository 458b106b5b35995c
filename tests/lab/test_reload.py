# SPDX-License-Identifier: GPL-2.0-or-later
"""Exports come, go and change while a client holds locks and writes, in both isolations: it notices nothing."""

from __future__ import annotations

from tests.lab import cluster, node_server
from tests.lab.cluster import Service
from tests.lab.lab import Lab
from tests.lab.node import Node
from tests.lab.witness import Holder, held_on
from tests.workload.holder import LOCKS


def export(service: Service, name: str, fsid: int, options: str) -> str:
    path = f"{service.mountpoint}/{name}"
    return f'[[export]]\npath = "{path}"\nfsid = {fsid}\nclients = {{ "*" = "{options},no_root_squash" }}\n'


def configure(server: Node, service: Service, *exports: str) -> None:
    server.put(service.toml() + "".join(exports), f"/etc/nlmfo/services.d/{service.name}.toml")


def reload(server: Node, service: Service) -> list[str]:
    """What was done, without the service's name."""
    said = server.check("nlmfo", "reload", service.name, deadline=cluster.COMMAND)
    return [line.removeprefix(f"{service.name}: ") for line in said.splitlines()]


def mounts(client: Node, service: Service, name: str) -> bool:
    """Whether the client can mount an export; it stays mounted."""
    where, server = f"/mnt/{service.name}-{name}", service.addresses[0].partition("/")[0]
    client.shell(f"mkdir -p {where}")
    options = cluster.MOUNT_OPTIONS.format(proto="tcp")
    result = client.run("mount", "-t", "nfs", "-o", options, f"{server}:{service.mountpoint}/{name}", where)
    return result.status == 0


def writes(client: Node, service: Service, name: str) -> str:
    """What the client is told when it writes there."""
    result = client.run("sh", "-c", f"LC_ALL=C; echo text > /mnt/{service.name}-{name}/file")
    return result.err if result.status else ""


def test_exports_change_under_a_client_that_holds_locks(lab: Lab) -> None:
    alone = cluster.make_service(lab, "alone", ["10.10.0.100/24"], 1)
    shared = cluster.make_service(lab, "shared", ["10.10.0.101/24"], 2, isolation='"host"')
    a, one = lab.node("a", disks=cluster.disks(alone, shared)), lab.node("one")
    cluster.prepare(lab, [a], alone, shared)
    node_server.start(a)
    for service in (alone, shared):
        configure(a, service, export(service, "old", 10 * service.fsid, "rw"))
        a.shell(
            f"mount UUID={service.data.uuid} {service.mountpoint};"
            f"mkdir {service.mountpoint}/old {service.mountpoint}/new; umount {service.mountpoint}"
        )
        cluster.takeover(a, service)
    holders = {}
    for service in (alone, shared):
        holders[service.name] = Holder(one, cluster.mount(one, service))
        holders[service.name].wait_until_writing(len(LOCKS), 90)
        assert mounts(one, service, "old")
    for service in (alone, shared):
        changes(a, one, service, holders[service.name])
    for service in (alone, shared):
        holder = holders[service.name]
        holder.wait_for_more()
        assert holder.failures == []
        assert holder.held <= held_on(a, service)
    a.shell("exportfs -r")  # the node's own reload keeps what is served, and brings back nothing
    assert writes(one, shared, "new") != ""
    assert not mounts(one, shared, "old")


def changes(a: Node, one: Node, service: Service, holder: Holder) -> None:
    new, old = f"*:{service.mountpoint}/new", f"*:{service.mountpoint}/old"
    before = held_on(a, service)
    assert holder.held <= before
    grace = f"/proc/fs/lockd/nlm_end_grace; dmesg | grep -c 'starting.*grace' || true; echo {service.name}"
    restarts = a.shell(f"cat {grace}")

    # Something that a reload does not bring is refused, with everything else that was written at the same time.
    table = a.shell("cat /var/lib/nfs/etab")
    configure(a, service, export(service, "new", 3 * service.fsid * 10, "rw"), export(service, "old", 77, "rw"))
    refused = cluster.nlmfo(a, "reload", service.name)
    assert (refused.status, "refused (fsid-changed)" in refused.err) == (3, True), refused
    configure(a, service, export(service, "new", 30 * service.fsid, "rww"))
    assert "rww" in cluster.nlmfo(a, "reload", service.name).err
    assert a.shell("cat /var/lib/nfs/etab") == table
    assert writes(one, service, "old") == ""

    configure(a, service, export(service, "new", 30 * service.fsid, "rw"))
    assert reload(a, service) == [f"exported: {new}", f"not exported any more: {old}"]
    assert mounts(one, service, "new")
    assert writes(one, service, "new") == ""
    assert "Stale" in writes(one, service, "old")
    one.shell(f"umount -f /mnt/{service.name}-old")
    assert not mounts(one, service, "old")

    configure(a, service, export(service, "new", 30 * service.fsid, "ro"))
    assert reload(a, service) == [f"exported with other options: {new}"]
    assert writes(one, service, "new") != ""
    assert reload(a, service) == ["what is exported is what is configured"]
    assert before <= held_on(a, service)
    assert a.shell(f"cat {grace}") == restarts
