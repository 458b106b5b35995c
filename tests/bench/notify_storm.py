# SPDX-License-Identifier: GPL-2.0-or-later
"""How long it takes to tell N clients: ``python -m tests.bench.notify_storm [N] [--loss 0.05]``.

The clients live on the loopback network, in a process of their own. Prints one ``NAME VALUE UNIT`` per line.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from ipaddress import IPv4Address
from multiprocessing.connection import Connection

from nlmfo.notify import Outcome, Settings, notify
from tests.unit.nsm_client_fake import FakeClients


def serve(pipe: Connection, loss: float) -> None:
    """The other process: says where its rpcbind listens, and answers until the pipe is closed."""
    with FakeClients(loss=loss) as clients:
        pipe.send(clients.rpcbind_port)
        pipe.poll(None)


def storm(count: int, loss: float) -> None:
    clients = [f"127.{1 + n // 62500}.{n // 250 % 250}.{n % 250 + 1}" for n in range(count)]
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    simulator = context.Process(target=serve, args=(theirs, loss))
    simulator.start()
    theirs.close()
    settings = Settings(rpcbind_port=pipe.recv())
    begun = time.monotonic()
    names, source = ("nfs100.example", "nfs100"), IPv4Address("127.0.0.1")
    notices = notify(clients, source=source, names=names, state=7, deadline=120, settings=settings)
    took = time.monotonic() - begun
    pipe.close()
    simulator.join(30)
    told = sum(notice.outcome is Outcome.TOLD for notice in notices)
    print(f"notify_{count}_ours_s {took:.2f} s")
    print(f"notify_{count}_told {told} clients")
    print(f"notify_{count}_datagrams {sum(notice.attempts for notice in notices)} datagrams")
    print(f"notify_{count}_memory_mb {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the notifier.")
    parser.add_argument("clients", type=int, nargs="?", default=10_000)
    parser.add_argument("--loss", type=float, default=0.0, help="of each datagram, both ways (0.05: 5 %%)")
    chosen = parser.parse_args()
    storm(chosen.clients, chosen.loss)


if __name__ == "__main__":
    main()
