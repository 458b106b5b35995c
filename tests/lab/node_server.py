# SPDX-License-Identifier: GPL-2.0-or-later
"""A lab node's own NFS server, set up as an administrator does for services with ``isolation = "host"``."""

from __future__ import annotations

from tests.lab.cluster import GRACE
from tests.lab.node import Node

CALLOUT = "/usr/libexec/nlmfo/nlmfo-callout"
NFS_CONF = """
[statd]
no-notify = 1
ha-callout = {callout}
[sm-notify]
lift-grace = n
[nfsd]
grace-time = {grace}
lease-time = {grace}
threads = 4
"""
#: In the order in which they need each other. nfsdcld before nfsd: later it is not asked any more. The grace period
#: of lockd is set before nfsd starts it.
START = """
modprobe nfsd
mkdir -p /run/rpc_pipefs /run/nlmfo /etc/exports.d /var/lib/nfs/nfsdcld
touch /etc/exports
mountpoint -q /run/rpc_pipefs || mount -t rpc_pipefs rpc_pipefs /run/rpc_pipefs
mountpoint -q /proc/fs/nfsd || mount -t nfsd nfsd /proc/fs/nfsd
pidof rpcbind || rpcbind -w
pidof rpc.statd || rpc.statd
pidof nfsdcld || nfsdcld
exportfs -r
pidof rpc.mountd || rpc.mountd
echo {grace} > /proc/sys/fs/nfs/nlm_grace_period
for _ in $(seq 100); do
    ls -l /proc/$(pidof nfsdcld)/fd | grep -q inotify && break
    sleep 0.1
done
rpc.nfsd
test "$(cat /proc/fs/nfsd/threads)" = 4
"""


def start(node: Node, grace: int = GRACE) -> None:
    """Start the NFS server of a light node, with ``grace`` seconds of grace, and our callout."""
    node.put(NFS_CONF.format(callout=CALLOUT, grace=grace), "/etc/nfs.conf.d/nlmfo.conf")
    node.shell(
        f"mkdir -p $(dirname {CALLOUT});"
        f"cp /lab/checkout/callouts/build/nlmfo-callout {CALLOUT} 2> /dev/null ||"
        f" cp /lab/checkout/callouts/nlmfo-callout {CALLOUT};"
        f"chmod 755 {CALLOUT}"
    )
    start_again(node, grace)


def start_again(node: Node, grace: int = GRACE) -> None:
    """Whatever of it does not run, as a service manager does."""
    node.shell(START.format(grace=grace))
