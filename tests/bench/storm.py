# SPDX-License-Identifier: GPL-2.0-or-later
"""How fast a real rpc.statd takes clients on record: ``python -m tests.bench.storm [N] [PROGRAM]``, as root.

After a takeover all clients reclaim at once, and lockd registers them with statd one after the other (SM_MON). We do
the same, over loopback, in network, mount and process namespaces of our own, with a files-only name service (with DNS
failing, 400 clients took statd 47 s instead of 2.5 s). Prints one ``NAME VALUE UNIT`` per line; fails if a client is
not on record afterwards.
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

from nlmfo.deadline import Deadline, poll_until
from nlmfo.records.callout import CALLOUT_CONFIG, SPOOL, CalloutEntry, callout_config, write_callout_config
from nlmfo.records.layout import directory_name
from nlmfo.records.store import Store
from tests.unit.callout_stand import build

ADDRESS = ip_address("198.18.255.254")
STATD = ("127.0.0.1", 4045)
STATD_HOME = Path("/var/lib/nfs")
CALLOUT = Path("/run/nlmfo/callout")
SECONDS = 120.0
ROUNDS = 3

SM_PROG, SM_VERS, SM_MON = 100024, 1, 2
NLM_PROG, NLM_VERS, NLM_SM_NOTIFY = 100021, 3, 16


def xdr_string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack(">I", len(raw)) + raw + b"\0" * (-len(raw) % 4)


def sm_mon(xid: int, client: str) -> bytes:
    """A call of SM_MON as lockd makes it (X/Open XNFS chapter 11; fs/lockd/mon.c), with AUTH_NULL."""
    header = struct.pack(">10I", xid, 0, 2, SM_PROG, SM_VERS, SM_MON, 0, 0, 0, 0)
    callback = struct.pack(">3I", NLM_PROG, NLM_VERS, NLM_SM_NOTIFY)
    return header + xdr_string(client) + xdr_string("node") + callback + struct.pack(">16x")


def register(clients: list[str]) -> float:
    """Register them one after the other, as the single lockd thread does; returns seconds."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as statd:
        statd.connect(STATD)
        statd.settimeout(SECONDS)
        begun = time.monotonic()
        for xid, client in enumerate(clients):
            statd.send(sm_mon(xid, client))
            reply = struct.unpack(">8I", statd.recv(4096))
            assert reply[:2] == (xid, 1)
            assert reply[5:7] == (0, 0), f"statd refused {client}"
        return time.monotonic() - begun


@contextmanager
def daemon(*argv: str | Path) -> Iterator[None]:
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()


def listens(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def storm(disk: Path, clients: list[str], *callout: str) -> float:
    """One storm on a statd that has just started; ``disk`` is its empty state directory."""
    owner = (STATD_HOME / "sm").stat()
    for name in ("sm", "sm.bak"):
        (disk / name).mkdir(parents=True)
        os.chown(disk / name, owner.st_uid, owner.st_gid)
    with daemon("rpc.statd", "-F", "-L", "-p", str(STATD[1]), "-P", disk, *callout):
        poll_until("rpc.statd listens", lambda: listens(STATD[1]), Deadline(SECONDS))
        return register(clients)


def inside(count: int, program: Path, disk: Path) -> None:
    """In our own namespaces."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True, timeout=SECONDS)
    subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True, timeout=SECONDS)
    Path("/run/nsswitch.conf").write_text("hosts: files\npasswd: files\ngroup: files\nservices: files\n")
    subprocess.run(["mount", "--bind", "/run/nsswitch.conf", "/etc/nsswitch.conf"], check=True, timeout=SECONDS)
    owner = (STATD_HOME / "sm").stat()
    SPOOL.mkdir(parents=True)
    os.chown(SPOOL, owner.st_uid, owner.st_gid)
    shutil.copy(program, CALLOUT)
    clients = [f"198.18.{number // 250}.{number % 250 + 1}" for number in range(count)]
    took: dict[bool, list[float]] = {False: [], True: []}
    with daemon("rpcbind", "-f", "-w"):
        poll_until("rpcbind listens", lambda: listens(111), Deadline(SECONDS))
        for number in range(2 * ROUNDS):
            with_callout = number % 2 == 1
            here = disk / str(number)
            store = fresh_store(here / "state", owner)
            options = ("-H", str(CALLOUT)) if with_callout else ()
            took[with_callout].append(storm(here / "statd", clients, *options))
            missing = set(clients) - {record.client for record in store.current(ADDRESS) if record.intact}
            if with_callout and missing:
                sys.exit(f"{len(missing)} of {count} clients are not on record")
    without, using = min(took[False]), min(took[True])
    print(f"storm_{count}_without_s {without:.2f} s")
    print(f"storm_{count}_with_callout_s {using:.2f} s")
    print(f"storm_{count}_rate_vs_without {without / using:.2f} x")


def fresh_store(state: Path, owner: os.stat_result) -> Store:
    state.mkdir(parents=True)
    store = Store(state, (ADDRESS,))
    store.prepare(owner.st_uid, owner.st_gid)
    entry = CalloutEntry(ADDRESS, state / directory_name(ADDRESS), "nfs.example")
    write_callout_config(CALLOUT_CONFIG, callout_config([entry], frozen=False, node="node"))
    return store


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    if len(sys.argv) > 3:
        inside(count, Path(sys.argv[2]), Path(sys.argv[3]))
        return
    with tempfile.TemporaryDirectory(prefix="nlmfo-storm-") as disk:
        Path(disk).chmod(0o755)
        program = Path(sys.argv[2]) if len(sys.argv) > 2 else build("compiled", Path(disk) / "build")
        namespaces = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        again = [sys.executable, "-m", "tests.bench.storm", str(count), str(program), disk]
        sys.exit(subprocess.run([*namespaces, *again], check=False).returncode)


if __name__ == "__main__":
    main()
