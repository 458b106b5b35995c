# SPDX-License-Identifier: GPL-2.0-or-later
"""How fast clients are told, by nlmfo and by sm-notify: ``python -m tests.bench.notify_both``, as root.

The clients are simulated on the loopback network, in a process of their own: each address of 127.0.0.0/8 has an
rpcbind on port 111 and a statd. They, and not the notifier, say who was told, when, and how often; for both notifiers
the same. All of it runs in network, mount and process namespaces of our own, with a files-only name service in which
the server's name and address resolve both ways, because sm-notify sends nothing without.

nlmfo sends three notices to a client (full name, short name, address), sm-notify two (it has no address to send).
Prints one ``NAME VALUE UNIT`` per line; fails if nlmfo leaves a client out, or tells one twice for no reason.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from multiprocessing.connection import Connection
from pathlib import Path

from nlmfo.notify import names_for, notify
from nlmfo.records.layout import format_record
from tests.unit.nsm_client_fake import FakeClients, Heard

SERVER, NAME, STATE = IPv4Address("127.9.9.9"), "nfs100.example", 7
NAMES = names_for((NAME,), SERVER)
SHORTER = NAMES[:-1]  # what sm-notify has to send
LIMIT = 120  # seconds for anybody to tell everybody
PROCESSES = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class Account:
    """What the clients have to say: how many heard every name, how many one of them twice though no reply was lost,
    and when the last of them heard what was new to it (time.monotonic, which all processes share)."""

    told: int
    twice: int
    last: float


def account(heard: dict[str, Heard], names: tuple[str, ...]) -> Account:
    expected = {(name, STATE) for name in names}
    every = [host for host in heard.values() if set(host.notices) == expected and host.callers == {str(SERVER)}]
    twice = [host for host in heard.values() if len(host.notices) - len(set(host.notices)) > host.replies_lost]
    return Account(len(every), len(twice), max((host.news for host in heard.values()), default=0.0))


def serve(pipe: Connection, loss: float, names: tuple[str, ...]) -> None:
    """The clients' process: answers until it is asked for its account."""
    with FakeClients(loss=loss, rpcbind_port=111) as clients:
        pipe.send("ready")
        pipe.recv()
    pipe.send(account(clients.heard, names))


@contextmanager
def simulated(loss: float, names: tuple[str, ...]) -> Iterator[Callable[[], Account]]:
    """The clients, as long as the context lasts; gives what asks for their account and ends them."""
    ours, theirs = PROCESSES.Pipe()
    process = PROCESSES.Process(target=serve, args=(theirs, loss, names), daemon=True)
    process.start()
    theirs.close()

    def ask() -> Account:
        ours.send("account")
        found = ours.recv()
        assert isinstance(found, Account)
        return found

    try:
        assert ours.recv() == "ready"
        yield ask
    finally:
        process.join(LIMIT)


def addresses(count: int) -> list[str]:
    return [f"127.{1 + number // 62500}.{number // 250 % 250}.{number % 250 + 1}" for number in range(count)]


def tell(pipe: Connection, count: int) -> None:
    """The notifier's process: says when it began, and how many kilobytes it took at most."""
    clients = addresses(count)
    begun = time.monotonic()
    notify(clients, source=SERVER, names=NAMES, state=STATE, deadline=LIMIT)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    pipe.send((begun, next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))))


def ours(count: int, loss: float = 0.0) -> tuple[float, float, Account]:
    """Tell ``count`` clients: seconds until the last was told, megabytes that it took, and the clients' account."""
    with simulated(loss, NAMES) as ask:
        reading, writing = PROCESSES.Pipe(duplex=False)
        process = PROCESSES.Process(target=tell, args=(writing, count), daemon=True)
        process.start()
        writing.close()
        begun, kilobytes = reading.recv()
        process.join(LIMIT)
        found = ask()
    if found.told != count or found.twice:
        sys.exit(f"of {count} clients {found.told} were told, {found.twice} of them twice though no reply was lost")
    return found.last - begun, kilobytes / 1024, found


def sm_notify(count: int) -> tuple[float, Account]:
    """The same clients, told by sm-notify: seconds until the last of those whom it reached, and their account."""
    with tempfile.TemporaryDirectory(dir="/run") as name, simulated(0.0, SHORTER) as ask:
        home, owner = Path(name), Path("/var/lib/nfs/sm").stat()
        home.chmod(0o755)
        for each in ("sm", "sm.bak"):
            (home / each).mkdir(mode=0o700)
        for client in addresses(count):
            (home / "sm.bak" / client).write_bytes(format_record(client, NAME))
        for path in (home / "sm", home / "sm.bak", *(home / "sm.bak").iterdir()):
            os.chown(path, owner.st_uid, owner.st_gid)
        (home / "state").write_bytes((STATE - 2).to_bytes(4, sys.byteorder))  # it adds two
        begun = time.monotonic()
        argv = ("sm-notify", "-d", "-f", "-m", str(LIMIT // 60), "-P", home, "-v", NAME)
        quiet = subprocess.DEVNULL
        subprocess.run(argv, stdin=quiet, stderr=quiet, check=False, timeout=2 * LIMIT)
        ended = time.monotonic()
        found = ask()
    return (found.last if found.told == count else ended) - begun, found


def inside() -> None:
    """In our own namespaces."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True, timeout=LIMIT)
    subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True, timeout=LIMIT)
    for file, content in (("hosts", f"{SERVER} {NAME}\n"), ("nsswitch.conf", "hosts: files\nservices: files\n")):
        (Path("/run") / file).write_text(content, encoding="ascii")
        subprocess.run(["mount", "--bind", f"/run/{file}", f"/etc/{file}"], check=True, timeout=LIMIT)
    seconds, _, found = ours(1000)
    print(f"notify_1000_ours_s {seconds:.2f} s")
    print(f"notify_1000_ours_told {found.told} clients")
    other, found = sm_notify(1000)
    print(f"notify_1000_smnotify_s {other:.2f} s")
    print(f"notify_1000_smnotify_told {found.told} clients")
    print(f"notify_1000_smnotify_twice {found.twice} clients")
    print(f"notify_1000_times_as_fast {other / seconds:.0f} x")
    seconds, megabytes, found = ours(10_000)
    print(f"notify_10000_ours_s {seconds:.2f} s")
    print(f"notify_10000_ours_told {found.told} clients")
    print(f"notify_10000_memory_mb {megabytes:.0f} MB")
    seconds, _, lossy = ours(10_000, loss=0.05)
    print(f"notify_10000_loss5_s {seconds:.2f} s")
    print(f"notify_10000_loss5_told {lossy.told} clients")
    print(f"notify_10000_twice {found.twice + lossy.twice} clients")


def main() -> None:
    if sys.argv[1:] == ["inside"]:
        inside()
        return
    namespaces = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    again = [sys.executable, "-m", "tests.bench.notify_both", "inside"]
    sys.exit(subprocess.run([*namespaces, *again], check=False).returncode)


if __name__ == "__main__":
    main()
