# SPDX-License-Identifier: GPL-2.0-or-later
"""When grace ends: early after a planned move, once every lock is held again; after a crash only when that is wanted.

All in one lab, each test with a service of its own. What the kernels say decides; nlmfo's word is asked for where the
point is that it says so.
"""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from tests.lab import cluster
from tests.lab.cluster import Service
from tests.lab.lab import Lab
from tests.lab.node import Job, Node, NodeDown
from tests.lab.witness import (
    CONFLICTING,
    WORKLOAD,
    Answer,
    Broken,
    Contender,
    Held,
    Holder,
    await_true,
    held_on,
    lost_by,
)
from tests.workload.holder import LOCKS

#: Seconds of grace: nobody may have to wait for the end of the first; the end of the second is waited for, and there is
#: time to come back before it, and time in which the keeper could end it too early.
LONG, MEDIUM = 120, 30
#: Seconds in which clients are told and come back, or a grace period of MEDIUM runs out, on a machine that is busy.
SOON = 90.0
#: Seconds for which grace has to go on with every lock held again, where nothing may end it early.
A_WHILE = 5.0
SERVICES = ("moved", "crashed", "never", "deaf", "v4")


@dataclass
class Sample:
    """What tests/workload/grace_watch.py saw."""

    in_grace: list[str]
    locks: set[Held]
    at: float


class GraceWatch:
    """Follows a service's grace period on a server, from the start of its nfsd on."""

    def __init__(self, server: Node, service: Service) -> None:
        program = ("/usr/bin/python3", "-B", f"{WORKLOAD}/grace_watch.py", service.name, service.mountpoint)
        self._server, self._service = server, service.name
        self._ready = False
        self.job = server.start(*program)
        self._samples: list[Sample] = []
        await_true("the watcher of grace to run", lambda: self.samples() is not None and self._ready, 60)

    def samples(self) -> list[Sample]:
        while not self.job.lines.empty():
            found = json.loads(self.job.lines.get()[1])
            self._ready = True
            if "in_grace" in found:
                locks = {Held(*lock) for lock in found["locks"]}
                self._samples.append(Sample(found["in_grace"], locks, found["at"]))
        assert not self.job.ended(), self.job.wait(1)
        return self._samples

    def over(self) -> Sample:
        """What there was when grace was first seen to be over for both keepers, after it had been on."""
        assert self.samples()[0].in_grace
        return next(sample for sample in self.samples() if not sample.in_grace)

    def is_over(self) -> bool:
        return any(not sample.in_grace for sample in self.samples())

    def wait_for_end(self, seconds: float) -> None:
        """Until grace is over; Broken, with what there is to see, when that is not in time."""
        try:
            await_true("the end of grace", self.is_over, seconds)
        except Broken as error:
            raise Broken(f"{error}\n{self._facts()}") from None

    def _facts(self) -> str:
        """What was seen, and what the keeper says and has written."""
        home = f"/run/nlmfo/{self._service}"
        script = f"cd {home}; cat run/nlmfo/progress.json; cd /srv/nlmfo/{self._service}; cat ledger; head -n 99 locks"
        written = self._server.run("sh", "-c", f"tail {home}/log/nlmfo-keep*; {script}")
        return "\n".join((*map(str, self.samples()), str(written)))

    def first_with(self, locks: set[Held]) -> Sample:
        """When all of these were first held."""
        return next(sample for sample in self.samples() if locks <= sample.locks)


@dataclass
class Ground:
    """Servers a and b, clients one and two, and services with nothing in them yet."""

    lab: Lab
    servers: list[Node]
    clients: list[Node]
    services: dict[str, Service]
    settings: dict[str, tuple[int, dict[str, str]]] = field(default_factory=dict)
    jobs: list[Job] = field(default_factory=list)

    def service(self, name: str, grace: int, **settings: str) -> Service:
        """A service with these settings, in TOML, on every server, also on those that are switched on later."""
        service = replace(self.services[name], settings=settings)
        if name not in self.settings:
            cluster.make_export(self.servers[0], service)
        self.settings[name] = (grace, settings)
        for server in self.servers:
            if server.is_on():
                self.configure(server, name)
        return service

    def configure(self, server: Node, name: str) -> None:
        grace, settings = self.settings[name]
        toml = replace(self.services[name], settings=settings).toml()
        server.put(re.sub(r"^grace = .*", f"grace = {grace}", toml, flags=re.M), f"/etc/nlmfo/services.d/{name}.toml")

    def holder(self, client: Node, directory: str) -> Holder:
        """It holds all its locks when this returns."""
        holder = Holder(client, directory)
        self.jobs.append(holder.job)
        holder.wait_until_writing(len(LOCKS))
        return holder

    def contender(self, client: Node, directory: str) -> Contender:
        contender = Contender(client, directory)
        self.jobs.append(contender.job)
        return contender

    def watch(self, server: Node, service: Service) -> GraceWatch:
        """It holds the service's namespaces until the test ends."""
        watch = GraceWatch(server, service)
        self.jobs.append(watch.job)
        return watch

    def power_on(self, server: Node) -> None:
        """Boot a server that was cut off, and configure it."""
        self.lab.boot(server)
        cluster.configure(server)
        for name in self.settings:
            self.configure(server, name)

    def end(self, name: str) -> None:
        """Nobody uses the service any more, and nobody serves it: the next test has the machine for itself."""
        left = [job for job in self.jobs if not job.ended()]
        for job in left:
            job.signal(signal.SIGKILL)
        for client in self.clients:
            if client.is_on():
                client.run("umount", "-f", "-l", f"/mnt/{name}")  # what waits for a server can end now
                client.run("dmesg", "-C")
        for job in left:
            with suppress(NodeDown):
                job.wait(30)
        self.jobs.clear()
        for server in self.servers:
            if not server.is_on():
                self.power_on(server)
            elif server.run("test", "-e", f"/run/netns/nlmfo-{name}").status == 0:
                cluster.nlmfo(server, "release", name)


def prepared(lab: Lab, servers: tuple[str, ...], clients: tuple[str, ...], services: tuple[str, ...]) -> Ground:
    made = {
        name: cluster.make_service(lab, name, [f"10.10.0.{number}/24"], number)
        for number, name in enumerate(services, 100)
    }
    disks = cluster.disks(*made.values())
    ground = Ground(lab, [lab.node(name, disks=disks) for name in servers], [lab.node(name) for name in clients], made)
    cluster.prepare(lab, ground.servers)
    return ground


@pytest.fixture(scope="module")
def whole_ground(shared_lab: Lab) -> Ground:
    return prepared(shared_lab, ("a", "b"), ("one", "two"), SERVICES)


@pytest.fixture
def ground(whole_ground: Ground) -> Iterator[Ground]:
    yield whole_ground
    for name in SERVICES:
        if name in whole_ground.settings:
            whole_ground.end(name)
            whole_ground.settings.pop(name)


def progress(server: Node, service: Service) -> dict[str, Any]:
    """What the service's keeper wrote last; nothing before that."""
    text = server.run("cat", f"/run/nlmfo/{service.name}/run/nlmfo/progress.json").out
    found: dict[str, Any] = json.loads(text) if text else {}
    return found


def keepers_in_grace(server: Node, service: Service) -> list[str]:
    """Who of the two keepers of the service's grace period is in it, by the kernel's own files."""
    inside = f"nsenter --net=/run/netns/nlmfo-{service.name} --mount=/run/nlmfo/{service.name}/ns/mnt"
    files = {"lockd": "/proc/fs/lockd/nlm_end_grace", "nfsd": "/proc/fs/nfsd/v4_end_grace"}
    return [name for name, file in files.items() if not server.shell(f"{inside} cat {file}").startswith("Y")]


def named_locks(said: str) -> set[str]:
    """The locks that a text names by path and range."""
    return set(re.findall(r"^\s*(\S+ bytes \d+-(?:\d+|end) (?:exclusive|shared))", said, re.M))


def in_words(holder_in: str) -> set[str]:
    """The holder's locks as they have to be named; ``holder_in`` is its directory on the server."""
    return {
        f"{holder_in}/{file} bytes {first}-{first + length - 1 if length else 'end'} "
        f"{'exclusive' if exclusive else 'shared'}"
        for file, first, length, exclusive in LOCKS
    }


def wait_until_asking(client: Node) -> None:
    """Until the contender's processes have sent something that nobody answers."""
    script = "for p in $(pgrep -f contender.py); do cut -d' ' -f3 /proc/$p/stat; done | grep -c D || true"
    await_true("the contender to ask", lambda: int(client.shell(script)) >= len(CONFLICTING), SOON)


def nothing_lost(holder: Holder, contender: Contender, server: Node, service: Service) -> None:
    """Held again, granted to nobody else after grace, and every acknowledged write on disk."""
    contender.wait_for_answers()
    holder.wait_for_more()
    assert holder.held <= held_on(server, service)
    assert contender.granted() == []
    assert lost_by(holder.client) == []
    assert holder.failures == []
    acknowledged = holder.writes()
    assert holder.check_on_disk(server, service) >= acknowledged > 0


@pytest.mark.timeout(600)
def test_grace_ends_at_once_for_nobody_and_after_a_planned_move_when_every_lock_is_held_again(ground: Ground) -> None:
    a, b = ground.servers
    one, two = ground.clients
    service = ground.service("moved", LONG)
    begun = time.monotonic()
    cluster.takeover(a, service)
    # The default is versions = ["3"]; NFSv4's part of nfsd has a grace period of its own all the same.
    await_true("grace to end", lambda: not keepers_in_grace(a, service), LONG / 2)
    assert time.monotonic() - begun < LONG
    assert progress(a, service)["ended"] == "nobody was on record"

    holder = ground.holder(one, cluster.mount(one, service))
    directory = cluster.mount(two, service)
    cluster.release(a, service)
    # Whatever it asks for, it asks for during the move: what it held for a moment before could be missing afterwards.
    contender = ground.contender(two, directory)
    wait_until_asking(two)
    watch = ground.watch(b, service)
    begun = time.monotonic()
    said = cluster.takeover(b, service)
    watch.wait_for_end(LONG / 2)
    await_true("a new lock to be granted", lambda: granted_a_free_one(contender), LONG / 2)
    # Full grace begins after this moment, so it could not have ended by now, and no new lock have been granted.
    assert time.monotonic() - begun < LONG

    assert holder.held <= watch.over().locks
    assert progress(b, service)["ended"] == "every lock is held again"
    assert named_locks(said) == set()
    nothing_lost(holder, contender, b, service)
    assert keepers_in_grace(b, service) == []


def granted_a_free_one(contender: Contender) -> bool:
    contender.read()
    return Answer("free", "granted") in contender.answers


@pytest.mark.timeout(600)
def test_grace_of_a_service_with_nfsv4_ends_for_both_keepers(ground: Ground) -> None:
    a, b = ground.servers
    one = ground.clients[0]
    service = ground.service("v4", LONG, versions='["3", "4.2"]')
    cluster.takeover(a, service)
    await_true("grace to end", lambda: not keepers_in_grace(a, service), LONG / 2)
    holder = ground.holder(one, cluster.mount(one, service))
    cluster.release(a, service)
    watch = ground.watch(b, service)
    begun = time.monotonic()
    cluster.takeover(b, service)
    watch.wait_for_end(LONG / 2)
    assert time.monotonic() - begun < LONG
    assert holder.held <= watch.over().locks
    assert keepers_in_grace(b, service) == []
    assert lost_by(one) == []


@pytest.mark.timeout(600)
def test_grace_is_not_ended_under_an_nfsv4_client_that_has_locks_to_reclaim(ground: Ground) -> None:
    a, b = ground.servers
    one, two = ground.clients
    # The root of what NFSv4 shows: the node's own is an overlay, which cannot be exported, so that no path is found.
    ground.services["v4"] = replace(ground.services["v4"], fsid=0)
    service = ground.service("v4", LONG, versions='["3", "4.2"]')
    cluster.takeover(a, service)
    directory = cluster.mount(one, service)
    source = f"{service.addresses[0].partition('/')[0]}:/"
    two.shell(
        f"mkdir -p /mnt/v4; mount -t nfs -o vers=4.2,hard,timeo=50,retrans=2 {source} /mnt/v4; mkdir /mnt/v4/four"
    )
    holder = ground.holder(two, "/mnt/v4/four")
    cluster.release(a, service)  # nobody is on record: NFSv4 needs no statd
    ground.lab.unplug(two)
    try:
        cluster.takeover(b, service)
        assert keepers_in_grace(b, service)
    finally:
        ground.lab.plug(two)
    contender = ground.contender(one, f"{directory}/four")
    contender.wait_for_answers(LONG + SOON)
    holder.wait_for_more()
    assert contender.granted() == []
    assert holder.failures == []


def estimated(server: Node, service: Service) -> set[Held]:
    """The locks that the keeper has noted for the case of a crash."""
    text = server.run("cat", f"/srv/nlmfo/{service.name}/locks").out
    assert "\nexact yes\n" not in text
    found = re.findall(r"^(exclusive|shared) (\d+) (\d+) (\d+|end)$", text, re.M)
    return {
        Held(int(inode), int(first), -1 if last == "end" else int(last), kind == "exclusive")
        for kind, inode, first, last in found
    }


@pytest.mark.timeout(900)
def test_after_a_power_cut_grace_runs_in_full_unless_the_estimate_is_to_be_believed(ground: Ground) -> None:
    a, b = ground.servers
    one, two = ground.clients
    service = ground.service("crashed", MEDIUM)
    cluster.takeover(a, service)
    holder = ground.holder(one, cluster.mount(one, service))
    directory = cluster.mount(two, service)
    await_true("the locks to be noted", lambda: estimated(a, service) == holder.held, SOON)
    a.cut_power()
    watch = ground.watch(b, service)
    said = cluster.takeover(b, service, "--fenced", "a")
    await_true("the locks to come back", lambda: holder.held <= held_on(b, service), SOON)
    watch.wait_for_end(SOON)
    assert watch.over().at - watch.first_with(holder.held).at > A_WHILE
    assert holder.held <= watch.over().locks
    found = progress(b, service)
    assert (found["ended"], found["locks"]["back"], found["locks"]["exact"]) == ("", len(holder.held), False), said

    service = ground.service("crashed", LONG, end_grace='"estimate"')
    ground.power_on(a)
    await_true("the locks to be noted", lambda: estimated(b, service) == holder.held, SOON)
    b.cut_power()
    contender = ground.contender(two, directory)
    wait_until_asking(two)
    watch = ground.watch(a, service)
    begun = time.monotonic()
    cluster.takeover(a, service, "--fenced", "b")
    watch.wait_for_end(LONG / 2)
    assert time.monotonic() - begun < LONG
    assert holder.held <= watch.over().locks
    assert progress(a, service)["ended"] == "every lock of the estimate is held again"
    nothing_lost(holder, contender, a, service)


@pytest.mark.timeout(600)
def test_grace_is_never_ended_early_where_that_is_configured(ground: Ground) -> None:
    a, b = ground.servers
    one = ground.clients[0]
    service = ground.service("never", MEDIUM, end_grace='"never"')
    cluster.takeover(a, service)
    holder = ground.holder(one, cluster.mount(one, service))
    cluster.release(a, service)
    watch = ground.watch(b, service)
    cluster.takeover(b, service)
    watch.wait_for_end(SOON)
    assert watch.over().at - watch.first_with(holder.held).at > A_WHILE
    assert holder.held <= watch.over().locks
    found = progress(b, service)
    assert (found["ended"], found["locks"]["back"], found["locks"]["exact"]) == ("", len(holder.held), True)
    assert lost_by(one) == []


@pytest.mark.timeout(600)
def test_a_client_that_ignores_its_notice_keeps_grace_on_and_is_named_with_its_locks(ground: Ground) -> None:
    a, b = ground.servers
    one, two = ground.clients
    service = ground.service("deaf", MEDIUM)
    cluster.takeover(a, service)
    deaf = ground.holder(one, cluster.mount(one, service))
    directory = cluster.mount(two, service)
    two.shell(f"mkdir {directory}/other")
    other = ground.holder(two, f"{directory}/other")
    cluster.release(a, service)
    one.shell("kill -STOP $(pidof rpc.statd)")
    try:
        watch = ground.watch(b, service)
        said = cluster.takeover(b, service)
        # Reported while nobody else can have been granted anything yet.
        on_record = b.check("nlmfo", "clients", service.name)
        assert not watch.is_over(), said
        deaf_address, other_address = client_address(ground, one), client_address(ground, two)
        assert re.search(rf"client {re.escape(deaf_address)} was not told", said), said
        assert f"client {other_address} was not told" not in said
        assert named_locks(said) == in_words(service.export), said
        assert deaf_address in on_record

        contender = ground.contender(two, directory)
        watch.wait_for_end(SOON)
        found = progress(b, service)
        assert (found["ended"], found["locks"]["back"]) == ("", len(other.held))
        assert [waiting["client"] for waiting in found["waiting"]] == [deaf_address]
        assert other.held <= watch.over().locks
        assert not deaf.held & watch.over().locks
        # That is NFS: whoever asks first after grace is granted what nobody has claimed.
        contender.wait_for_answers()
        assert {answer.target for answer in contender.granted()} == set(CONFLICTING)
        assert other.held <= held_on(b, service)
        assert lost_by(two) == []
    finally:
        one.shell("kill -CONT $(pidof rpc.statd)")


def client_address(ground: Ground, client: Node) -> str:
    """The lab's nodes are numbered in the order in which they were made."""
    return f"10.10.0.{list(ground.lab.nodes).index(client.name) + 1}"
