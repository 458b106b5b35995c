# SPDX-License-Identifier: GPL-2.0-or-later
"""A lab with nlmfo on its servers: configuration, clients' mounts, and nlmfo's commands."""

from __future__ import annotations

import compileall
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from tests.lab.lab import Disk, Lab
from tests.lab.node import Node, Result
from tests.lab.root import CHECKOUT

#: Long enough for a noisy machine to tell every client, short enough to wait for its end.
GRACE = 20
#: Seconds for one nlmfo command on a node of the lab.
COMMAND = 120.0
MOUNT_OPTIONS = "vers=3,proto={proto},hard,timeo=50,retrans=2"


@dataclass(frozen=True, slots=True)
class Service:
    """A service for the lab: one partition for the data, and one for the state that clients never see."""

    name: str
    data: Disk
    state: Disk
    addresses: Sequence[str]
    fsid: int
    settings: Mapping[str, object] = field(default_factory=dict)
    grace: int = GRACE

    @property
    def export(self) -> str:
        return f"/srv/{self.name}/data"

    @property
    def mountpoint(self) -> str:
        return f"/srv/{self.name}"

    def toml(self) -> str:
        addresses = ", ".join(f'"{address}"' for address in self.addresses)
        more = "".join(f"{key} = {value}\n" for key, value in self.settings.items())
        return f"""
addresses = [{addresses}]
interface = "eth0"
state = "/srv/nlmfo/{self.name}"
grace = {self.grace}
{more}
[[partition]]
uuid = "{self.data.uuid}"
mountpoint = "{self.mountpoint}"
[[partition]]
uuid = "{self.state.uuid}"
mountpoint = "/srv/nlmfo/{self.name}"
[[export]]
path = "{self.export}"
fsid = {self.fsid}
clients = {{ "*" = "rw,no_root_squash,sync" }}
"""


def make_service(
    lab: Lab, name: str, addresses: Sequence[str], fsid: int, *, grace: int = GRACE, **settings: object
) -> Service:
    """A service with fresh disks of its own."""
    return Service(name, lab.disk(f"{name}-data"), lab.disk(f"{name}-state"), addresses, fsid, settings, grace)


def disks(*services: Service) -> list[Disk]:
    return [disk for service in services for disk in (service.data, service.state)]


def configure(server: Node, *services: Service) -> None:
    """Put nlmfo's configuration on a server, and the program, run from the checkout."""
    write_configuration(server, *services)
    # As an editable install does it: the environment's Python finds the package in the checkout.
    server.shell("echo /lab/checkout > $(echo /opt/nlmfo/lib/python3*/site-packages)/checkout.pth")
    server.put('#!/bin/sh\nexec /opt/nlmfo/bin/python -m nlmfo "$@"\n', "/usr/local/bin/nlmfo")
    server.shell("chmod 755 /usr/local/bin/nlmfo")


def write_configuration(server: Node, *services: Service) -> None:
    """Put nlmfo's configuration on a server."""
    server.put(
        f'[node]\nname = "{server.name}"\n[cluster]\nregistry = "/lab/registry"\nrestart_nfsd = true\n',
        "/etc/nlmfo/nlmfo.toml",
    )
    for service in services:
        server.put(service.toml(), f"/etc/nlmfo/services.d/{service.name}.toml")


def make_export(server: Node, service: Service) -> None:
    """Make the exported directory on the new file system."""
    server.shell(
        f"mkdir -p {service.mountpoint}; mount UUID={service.data.uuid} {service.mountpoint};"
        f"mkdir -p {service.export}; chmod 777 {service.export}; umount {service.mountpoint}"
    )


def at_once(*works: Callable[[], object]) -> None:
    """Do something on several nodes at the same time."""
    with ThreadPoolExecutor(max(1, len(works))) as pool:
        for work in [pool.submit(work) for work in works]:
            work.result()


def prepare(lab: Lab, servers: Sequence[Node], *services: Service) -> None:
    """Boot everything, configure the servers, and make the exported directories."""
    # The nodes see the checkout read-only: what is compiled here, once, need not be compiled at every start there.
    compileall.compile_dir(CHECKOUT / "nlmfo", quiet=1)
    (lab.registry / "services").mkdir(exist_ok=True)
    lab.boot()
    at_once(*(partial(configure, server, *services) for server in servers))
    for service in services:
        make_export(servers[0], service)


def nlmfo(server: Node, *arguments: str) -> Result:
    return server.run("nlmfo", *arguments, deadline=COMMAND)


def takeover(server: Node, service: Service, *arguments: str) -> str:
    """Take over, which has to succeed; what nlmfo said."""
    return server.check("nlmfo", "takeover", service.name, *arguments, deadline=COMMAND)


def release(server: Node, service: Service) -> str:
    return server.check("nlmfo", "release", service.name, deadline=COMMAND)


def mount(client: Node, service: Service, address: str | None = None, options: str = "") -> str:
    """Mount the service on a client, with more options if need be; the mount point."""
    server = (address or service.addresses[0]).partition("/")[0]
    proto = "tcp6" if ":" in server else "tcp"
    source = f"[{server}]" if ":" in server else server
    mountpoint = f"/mnt/{service.name}"
    client.shell(
        f"mkdir -p {mountpoint}; pidof rpcbind || rpcbind; pidof rpc.statd || rpc.statd --no-notify;"
        f"mount -t nfs -o {MOUNT_OPTIONS.format(proto=proto)}{options} {source}:{service.export} {mountpoint}"
    )
    return mountpoint
