# SPDX-License-Identifier: GPL-2.0-or-later
"""The sockets that nfsd is given, in a real network of the test's own; the kernel that takes them is in memory."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

import pytest

from nlmfo.errors import NlmfoError
from nlmfo.host import node_listeners
from nlmfo.kernel import nfsd
from nlmfo.kernel.files import ControlError
from nlmfo.kernel.nfsd_settings import Listener
from tests.unit.namespaced import made

PORT = 2049


class Kernel:
    """Takes descriptors of sockets of the process that writes, and lists what it has; notes each socket."""

    def __init__(self, *, deaf: bool = False) -> None:
        self.deaf = deaf
        self.lines: list[bytes] = []
        self.seen: list[tuple[int, int, str, int, bool, bool]] = []

    def read(self, _: Path) -> bytes:
        return b"" if self.deaf else b"".join(self.lines)

    def pieces(self, file: Path, _: int) -> tuple[bytes, ...]:
        raise AssertionError(f"{file} is read as a whole")

    def write(self, file: Path, data: bytes) -> None:
        assert file == nfsd.CONTROL / "portlist"
        if not data.strip().isdigit():
            self.lines.append(data)
            return
        with socket.socket(fileno=int(data)) as theirs:
            address, port, *_ = theirs.getsockname()
            listens = bool(theirs.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
            alone = theirs.family == socket.AF_INET or bool(theirs.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))
            self.seen.append((theirs.family, theirs.type, address, port, listens, alone))
            self.lines.append(b"%s %d\n" % (b"tcp" if theirs.type == socket.SOCK_STREAM else b"udp", port))
            theirs.detach()

    def ask(self, file: Path, _: bytes) -> bytes:
        raise AssertionError(f"nothing is asked of {file}")

    def exists(self, _: Path) -> bool:
        return True


def given(listener: Listener) -> list[tuple[int, int, str, int, bool, bool]]:
    """What the kernel sees of the sockets, in a network of their own."""

    def add() -> list[tuple[int, int, str, int, bool, bool]]:
        kernel = Kernel()
        node_listeners.add(listener, files=kernel)
        return kernel.seen

    with made() as namespaces:
        return namespaces.call(add)


@pytest.mark.parametrize(("transport", "kind", "listens"), [
    ("tcp", socket.SOCK_STREAM, True), ("udp", socket.SOCK_DGRAM, False)
])  # fmt: skip
def test_nfsd_is_given_a_socket_of_each_family_for_every_address(transport: str, kind: int, listens: bool) -> None:
    assert given(Listener(transport, PORT)) == [
        (socket.AF_INET, kind, "0.0.0.0", PORT, listens, True),
        (socket.AF_INET6, kind, "::", PORT, listens, True),
    ]


def test_a_node_without_ipv6_listens_on_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket

    def without_ipv6(family: int = -1, *more: int, **others: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real(family, *more, **others)

    monkeypatch.setattr(socket, "socket", without_ipv6)
    assert [entry[0] for entry in given(Listener("tcp", PORT))] == [socket.AF_INET]


def test_a_transport_without_sockets_is_named_to_the_kernel() -> None:
    kernel = Kernel()
    node_listeners.add(Listener("rdma", 20049), files=kernel)
    assert kernel.lines == [b"rdma 20049\n"]


def test_a_port_that_is_taken_is_named() -> None:
    def add_beside_another() -> None:
        with socket.socket() as other:
            other.bind(("", PORT))
            other.listen()
            node_listeners.add(Listener("tcp", PORT), files=Kernel())

    with made() as namespaces, pytest.raises(ControlError, match="tcp port 2049: the port is taken") as caught:
        namespaces.call(add_beside_another)
    assert "ss -lntup" in str(caught.value.hint)


def test_a_port_can_be_taken_again_while_old_connections_to_it_fade() -> None:
    def add_after_a_connection() -> int:
        with socket.socket() as first:
            first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            first.bind(("", PORT))
            first.listen()
            with socket.create_connection(("127.0.0.1", PORT)) as client:
                server, _ = first.accept()
                server.close()  # first to close: its end stays in TIME_WAIT
                client.recv(1)
        kernel = Kernel()
        node_listeners.add(Listener("tcp", PORT), files=kernel)
        return len(kernel.seen)

    with made() as namespaces:
        assert namespaces.call(add_after_a_connection) == 2


def test_a_kernel_that_takes_the_socket_and_does_not_list_it_is_not_believed() -> None:
    def add() -> None:
        node_listeners.add(Listener("tcp", PORT), files=Kernel(deaf=True))

    with made() as namespaces, pytest.raises(NlmfoError, match="reported success, but does not list it"):
        namespaces.call(add)
