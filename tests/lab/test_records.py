# SPDX-License-Identifier: GPL-2.0-or-later
"""A client that was granted a lock is on record: wherever the server's power is cut, and when its storage hangs.

Two cuts, or fifty with NLMFO_TESTS=all: ``make test`` proves that the harness works, fifty prove more.
Each cut comes at a random moment while clients, each with an address of its own, take their first locks as fast as
the server grants them. Another server then mounts the state's disk, as it would at a takeover, and reads the records.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import pytest

from tests.lab import cluster
from tests.lab.cluster import Service
from tests.lab.lab import Lab
from tests.lab.node import Job, Node
from tests.lab.witness import WORKLOAD, Holder, await_true, held_on, lost_by
from tests.sampling import EVERYTHING, chance
from tests.workload.holder import LOCKS

POWER_CUTS = 50 if EVERYTHING else 2
#: Seconds for them.
LONG = 1800 if EVERYTHING else 600
RECORDS = "/srv/nlmfo/home/sm_10.10.0.100/sm"
#: Clients in one round; the longest time, after the first lock, before the power is cut.
CLIENTS = 60
LONGEST = 4.0
#: Seconds within which ``async`` promises a record to be durable; see docs/records.md. Its cuts come later than that,
#: so that a mode that brings nothing to the store would be caught.
ASYNC_WINDOW = 5.0
ASYNC_CUTS = (ASYNC_WINDOW + 1, ASYNC_WINDOW + 4)


@dataclass
class Cut:
    """What the clients were granted before a cut, and when; and who was on record afterwards."""

    granted: dict[str, float] = field(default_factory=dict)
    at: float = 0.0
    on_record: set[str] = field(default_factory=set)

    def unrecorded(self) -> dict[str, float]:
        """The clients with a lock and without a record, and how long before the cut their lock was granted."""
        return {client: self.at - when for client, when in self.granted.items() if client not in self.on_record}


class Rounds:
    """A server that is cut again and again, one that reads what it left, and a node with many client addresses."""

    def __init__(self, lab: Lab, consistency: str) -> None:
        self.lab = lab
        self.service: Service = cluster.make_service(
            lab, "home", ["10.10.0.100/16"], 1234, consistency=f'"{consistency}"'
        )
        self.server = lab.node("server", disks=cluster.disks(self.service))
        self.reader = lab.node("reader", disks=cluster.disks(self.service))
        self.clients = lab.node("clients")
        cluster.prepare(lab, [self.server, self.reader], self.service)
        self.clients.shell(
            "ip address flush dev eth0 scope global;"
            f"for n in $(seq 0 {CLIENTS - 1}); do ip address add 10.10.100.$n/16 dev eth0; done"
        )

    def take_locks(self, first: int, count: int) -> Job:
        """Let clients take their first locks, one after the other."""
        program = f"{WORKLOAD}/many_clients.py"
        argv = ("/usr/bin/python3", "-B", program, "10.10.0.100", self.service.export, "file", str(first), str(count))
        return self.clients.start(*argv)

    def cut(self, after: float) -> Cut:
        """Serve, let clients take locks, cut the power ``after`` seconds, and read the records."""
        self.serve()
        job = self.take_locks(0, CLIENTS)
        cut = Cut()
        await_true("the first lock", lambda: bool(_granted(job, cut)), 60)
        time.sleep(after)  # the random moment itself
        self.server.cut_power()
        cut.at = time.monotonic()
        time.sleep(0.5)  # replies that were on their way
        _granted(job, cut)
        job.signal(9)
        cut.on_record = self.read_on(self.reader)
        return cut

    def records(self) -> set[str]:
        """The clients on record on the storage that the server has mounted."""
        return set(self.server.shell(f"ls {RECORDS}").split())

    def serve(self) -> None:
        """Take over on the server, booting it if it is off; nobody is on record, and grace is over."""
        if not self.server.is_on():
            self.lab.boot(self.server)
            cluster.configure(self.server, self.service)
        cluster.takeover(self.server, self.service)
        self.server.shell(
            # Nobody has anything to reclaim here. Records of the last round are not this round's.
            f"touch {self.service.export}/file;"
            "ip netns exec nlmfo-home sh -c 'echo Y > /proc/fs/lockd/nlm_end_grace';"
            f"rm -f {RECORDS}/* {RECORDS}.bak/*; sync"
        )

    def read_on(self, reader: Node) -> set[str]:
        """The clients on record by what the disk says, on a node that does not serve."""
        uuid = self.service.state.uuid
        out = reader.shell(f"mount UUID={uuid} /mnt; ls /mnt/sm_10.10.0.100/sm; umount /mnt")
        return set(out.split())


def _granted(job: Job, cut: Cut) -> dict[str, float]:
    while not job.lines.empty():
        when, line = job.lines.get()
        if line.startswith("granted "):
            cut.granted[line.split()[1]] = when
    assert cut.granted or not job.ended(), f"no client came that far: {job.wait(1)}"
    return cut.granted


@pytest.mark.timeout(LONG)
def test_no_lock_is_granted_without_a_durable_record_wherever_the_power_is_cut(lab: Lab) -> None:
    moments = chance("power cuts, sync")
    rounds = Rounds(lab, "sync")
    locks = 0
    for number in range(1, POWER_CUTS + 1):
        cut = rounds.cut(moments.uniform(0, LONGEST))
        locks += len(cut.granted)
        print(f"cut {number}: {len(cut.granted)} locks granted, {len(cut.on_record)} clients on record")
        assert cut.unrecorded() == {}
    print(f"{POWER_CUTS} power cuts, {locks} locks granted, none without a record")
    assert locks >= POWER_CUTS


@pytest.mark.timeout(LONG)
def test_the_asynchronous_mode_loses_only_records_younger_than_its_window(lab: Lab) -> None:
    moments = chance("power cuts, async")
    rounds = Rounds(lab, "async")
    lost: list[float] = []
    for number in range(1, POWER_CUTS + 1):
        cut = rounds.cut(moments.uniform(*ASYNC_CUTS))
        assert cut.granted
        lost += cut.unrecorded().values()
        print(f"cut {number}: {len(cut.granted)} locks granted, {len(cut.on_record)} clients on record")
    print(f"{POWER_CUTS} power cuts, {len(lost)} records lost, the oldest {max(lost, default=0):.2f} s old")
    assert max(lost, default=0) <= ASYNC_WINDOW


def test_locks_are_granted_while_the_storage_hangs_and_their_records_reach_it_afterwards(lab: Lab) -> None:
    rounds = Rounds(lab, "sync")
    rounds.serve()
    server = rounds.server
    server.shell("fsfreeze --freeze /srv/nlmfo/home")
    try:
        granted = rounds.take_locks(0, 5).wait(90)
        waiting = server.shell("grep -h . /run/nlmfo/home/run/nlmfo/spool/sm_10.10.0.100/add.*")
    finally:
        server.shell("fsfreeze --unfreeze /srv/nlmfo/home")
    assert granted.status == 0, granted
    clients = {f"10.10.100.{number}" for number in range(5)}
    assert {line.split()[1] for line in granted.out.splitlines()} == clients
    assert {line.split()[5] for line in waiting.splitlines()} == clients
    await_true("the records to be on shared storage", lambda: rounds.records() == clients, 30)


def test_who_comes_while_the_storage_is_full_is_on_record_after_a_power_cut(lab: Lab) -> None:
    rounds = Rounds(lab, "sync")
    rounds.serve()
    server = rounds.server
    # Nothing gets there by itself as long as this takes.
    server.shell("mount -o remount,commit=300 /srv/nlmfo/home; sync")
    full = server.run("sh", "-c", "cat /dev/zero > /srv/nlmfo/home/fill; sync -f /srv/nlmfo/home/fill")
    assert "No space left" in full.err
    assert rounds.take_locks(0, 5).wait(90).status == 0
    clients = {f"10.10.100.{number}" for number in range(5)}
    waiting = "/run/nlmfo/home/run/nlmfo/spool/sm_10.10.0.100"
    assert server.shell(f"grep -h . {waiting}/add.* | wc -l").strip() == "5"
    await_true("the names to be on shared storage", lambda: rounds.records() == clients, 30)
    await_true(
        "nobody to be on his way there",
        lambda: server.run("flock", "-n", f"{waiting}/draining", "true").status == 0,
        30,
    )
    server.cut_power()
    assert rounds.read_on(rounds.reader) == clients


def test_a_record_that_is_missing_is_made_again_while_the_service_is_served(lab: Lab) -> None:
    rounds = Rounds(lab, "sync")
    rounds.serve()
    assert rounds.take_locks(0, 3).wait(60).status == 0
    clients = rounds.records()
    assert len(clients) == 3
    rounds.server.shell(f"rm {RECORDS}/*")
    await_true("the records to be back", lambda: rounds.records() == clients, 30)


def test_a_release_forgets_nobody(lab: Lab) -> None:
    rounds = Rounds(lab, "async")
    rounds.serve()
    assert rounds.take_locks(0, 5).wait(60).status == 0
    cluster.release(rounds.server, rounds.service)
    said = cluster.takeover(rounds.reader, rounds.service)
    assert "5 clients on record" in said
    # Nobody answers for these clients, so nobody was told: all of them are still owed a notice, and named.
    owed = rounds.reader.shell("nlmfo clients home | grep -c owed")
    assert owed.strip() == "5"
    assert said.count("was not told") == 5


def test_locks_survive_a_power_cut_when_the_records_are_in_a_snapshot(lab: Lab) -> None:
    service = cluster.make_service(lab, "home", ["10.10.0.100/24"], 1234, consistency='"snapshot"')
    a, b = (lab.node(name, disks=cluster.disks(service)) for name in ("a", "b"))
    client = lab.node("client")
    cluster.prepare(lab, [a, b], service)
    cluster.takeover(a, service)
    holder = Holder(client, cluster.mount(client, service))
    holder.wait_until_writing(len(LOCKS))
    await_true(
        "a snapshot with the client in it",
        lambda: a.run("grep", "-q", "^client 10.10.0.100 10.10.0.3 ", "/srv/nlmfo/home/snapshot").status == 0,
        30,
    )
    a.cut_power()
    assert "1 clients on record, from a snapshot" in cluster.takeover(b, service, "--fenced", "a")
    await_true("the locks to come back", lambda: holder.held <= held_on(b, service), 30)
    assert lost_by(client) == []
