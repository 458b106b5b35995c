# SPDX-License-Identifier: GPL-2.0-or-later
"""Gives nfsd the sockets that it listens on, as rpc.nfsd does: by the number of a descriptor.

A port that is only named ("tcp 2049") works as well, but the kernel does not tell rpcbind of it (SVC_SOCK_ANONYMOUS
in __write_ports_addxprt, fs/nfsd/nfsctl.c): NFSv3 clients, which ask rpcbind, would find no server.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator

from nlmfo.errors import NlmfoError
from nlmfo.kernel import nfsd, nfsd_settings
from nlmfo.kernel.files import ControlFiles, Meaning, explained
from nlmfo.kernel.nfsd_settings import Listener

KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
#: As many as rpc.nfsd lets wait (utils/nfsd/nfssvc.c).
BACKLOG = 64
TAKEN = Meaning("the port is taken", "'ss -lntup' shows by whom")


def add(listener: Listener, *, files: ControlFiles) -> None:
    """Have nfsd listen, in every address family that the node has, and tell rpcbind. Only stopping nfsd ends it."""
    if listener.transport not in KINDS:  # rdma, of which rpcbind is not told anyway
        nfsd_settings.add_listener(listener, files=files)
        return
    doing = f"making nfsd listen on {listener.transport} port {listener.port}"
    with explained(doing, {errno.EADDRINUSE: TAKEN, errno.ENOENT: nfsd.NOT_THERE}):
        for its_socket in sockets(listener):
            files.write(nfsd.CONTROL / "portlist", b"%d\n" % its_socket.fileno())
    if listener not in nfsd_settings.listeners(files=files):
        raise NlmfoError(f"{doing}: the kernel reported success, but does not list it")


def sockets(listener: Listener) -> Iterator[socket.socket]:
    """One for each address family, bound. It is closed when the next is asked for; the kernel keeps it open."""
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.ExitStack() as open_one:
            try:
                its_socket = open_one.enter_context(socket.socket(family, KINDS[listener.transport]))
                _bind(its_socket, listener.port)
            except OSError as error:
                if family == socket.AF_INET6 and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    continue  # a node without IPv6
                raise
            yield its_socket


def _bind(its_socket: socket.socket, port: int) -> None:
    its_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if its_socket.family == socket.AF_INET6:
        its_socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    its_socket.bind(("", port))
    if its_socket.type == socket.SOCK_STREAM:
        its_socket.listen(BACKLOG)
