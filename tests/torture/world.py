# SPDX-License-Identifier: GPL-2.0-or-later
"""The stage: servers with two services, clients with their workload, and who serves what, as the nemesis knows it."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from tests.lab import cluster, node_server
from tests.lab.cluster import Service
from tests.lab.lab import Lab
from tests.lab.node import Job, Node, NodeDown, Result
from tests.torture import mutant
from tests.torture.checker import Outage
from tests.torture.history import History, Reader

WORKLOAD = "/lab/checkout/tests/torture/workload.py"
CLIENT_OPTIONS = ",lookupcache=none,acdirmin=0,acdirmax=0"
#: Seconds: what is enough for every client to come back on a machine that is busy with several labs.
GRACE = 20
#: Seconds for a takeover to succeed, tried again and again: several commands' own deadlines.
INSIST = 240.0
#: Seconds between two tries.
AGAIN = 1.0
#: Seconds for a service to be whole after whatever was done to it.
WHOLE = 60.0
REFUSED, NOT_HERE = 3, 5
LOOK_AROUND = """
uptime; ps axo pid,stat,wchan:30,etimes,args; cat /proc/locks /proc/mounts; ss -tan; ip neigh; ip -o address
dmesg | tail -n 60
for pid in $(ps axo pid,stat | awk '$2 ~ /D/ { print $1 }'); do echo "$pid"; cat "/proc/$pid/stack"; done
"""


class Stuck(Exception):
    """Something that has to end does not: a takeover, a release, a mending."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What a run consists of."""

    servers: int = 2
    clients: int = 2
    isolation: str = "netns"
    #: What is run as ``nlmfo`` on servers; see mutant.py.
    mutation: str = ""


@dataclass
class World:
    """A lab in which everything can be broken, and is put in order again after each round."""

    lab: Lab
    stage: Stage
    seed: str
    say: Callable[[str], None]
    history: History = field(default_factory=History)
    outages: list[Outage] = field(default_factory=list)
    #: Successful takeovers by what the nemesis was about, and seconds that they took.
    takeovers: Counter[str] = field(default_factory=Counter)
    durations: list[float] = field(default_factory=list)
    #: Who serves a service, as far as the nemesis knows; missing when nobody does.
    owners: dict[str, Node] = field(default_factory=dict)
    about: str = "start"

    def __post_init__(self) -> None:
        settings = {"isolation": f'"{self.stage.isolation}"'}
        self.services = [
            cluster.make_service(self.lab, name, [f"10.10.0.{100 + number}/24"], 1000 + number, grace=GRACE, **settings)
            for number, name in enumerate(("home", "mail"))
        ]
        disks = cluster.disks(*self.services)
        self.servers = [self.lab.node(f"server-{n}", disks=disks) for n in range(self.stage.servers)]
        self._nsm = [self.lab.disk(f"client-{n}-nsm", "16M") for n in range(self.stage.clients)]
        self.clients = [self.lab.node(f"client-{n}", disks=[disk]) for n, disk in enumerate(self._nsm)]
        self._readers = [Reader(str(number), self.history) for number in range(self.stage.clients)]
        self._read_to = [0] * self.stage.clients
        #: What was taken over in this round, and is known to be whole by that.
        self._fresh: set[str] = set()
        self._work: dict[int, Job] = {}
        self._renamed = 0
        #: The address of each client that has another one than it booted with.
        self._address: dict[int, str] = {}

    # -- setting up ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Boot, serve everything, mount everywhere, and let the clients work."""
        cluster.prepare(self.lab, self.servers, *self.services)
        for server in self.servers:
            self._set_up(server)
        for number, service in enumerate(self.services):
            self.take(service, self.servers[number % len(self.servers)])
        for number in range(len(self.clients)):
            self.set_up_client(number)

    def boot(self, server: Node) -> None:
        """A server that was off, as it comes up by itself: it serves nothing."""
        begun = time.monotonic()
        self.lab.boot(server)
        cluster.configure(server, *self.services)
        self._set_up(server)
        self.say(f"    {server.name} is up ({time.monotonic() - begun:.1f} s)")

    def _set_up(self, server: Node) -> None:
        mutation = self.stage.mutation
        if self.stage.isolation == "host" or mutation == "naive":
            node_server.start(server, GRACE)
        if mutation == "naive":
            server.shell("cp /lab/checkout/tests/torture/naive.sh /usr/local/bin/nlmfo")
        elif mutation and mutation not in mutant.ELSEWHERE:
            # Whatever Python starts there begins with this line, so the keeper is changed as well. After the
            # one that says where the checkout is.
            line = f"import tests.torture.mutant; tests.torture.mutant.apply('{mutation}')"
            server.shell(f'echo "{line}" > $(echo /opt/nlmfo/lib/python3*/site-packages)/mutation.pth')
            if mutation not in server.check("nlmfo", "--version"):
                raise Stuck(f"{server.name}: nlmfo is not changed")

    def set_up_client(self, number: int) -> None:
        """Its NSM state outlives it, on a disk; so the servers are told when it has booted."""
        client = self.clients[number]
        client.shell(
            f"mountpoint -q /var/lib/nfs || mount UUID={self._nsm[number].uuid} /var/lib/nfs;"
            "mkdir -p /var/lib/nfs/sm /var/lib/nfs/sm.bak; chown -R statd /var/lib/nfs/sm /var/lib/nfs/sm.bak;"
            "pidof rpcbind || rpcbind; pidof rpc.statd || rpc.statd"
        )
        mounts = [cluster.mount(client, service, options=CLIENT_OPTIONS) for service in self.services]
        words = (str(number), str(len(self.clients)), self.seed, "/lab/share/history.jsonl", *mounts)
        self._work[number] = client.start("/usr/bin/python3", "-B", WORKLOAD, *words, deadline=86400, stream=False)

    def boot_client(self, number: int) -> None:
        """After a power cut: it has the address that it boots with, and answers at another one that it had."""
        client = self.clients[number]
        self.lab.boot(client)
        if number in self._address:
            client.shell(f"ip address add {self._address.pop(number)}/24 dev eth0")
        self.set_up_client(number)

    def rename_client(self, number: int) -> str:
        """End its work, give it an address that no server has seen, and let it begin anew; its address of before."""
        client, work = self.clients[number], self._work[number]
        work.signal(signal.SIGTERM)
        work.wait(WHOLE)
        self._renamed += 1
        before = self._address.get(number) or f"10.10.0.{len(self.servers) + number + 1}"
        after = self._address[number] = f"10.10.0.{200 + self._renamed % 50}"
        mountpoints = " ".join(f"/mnt/{service.name}" for service in self.services)
        client.shell(
            f"umount {mountpoints}; echo 1 > /proc/sys/net/ipv4/conf/eth0/promote_secondaries;"
            f"ip address add {after}/24 dev eth0; ip address del {before}/24 dev eth0"
        )
        self.set_up_client(number)
        return before

    # -- what clients say ----------------------------------------------------------------------------------

    def read(self) -> History:
        """Everything that the clients have said until now."""
        for number, client in enumerate(self.clients):
            log = client.share / "history.jsonl"
            if log.exists():
                with log.open("rb") as file:
                    file.seek(self._read_to[number])
                    whole = file.read().rpartition(b"\n")[0]
                self._read_to[number] += len(whole) + (1 if whole else 0)
                self._readers[number].read(whole.decode().splitlines())
        return self.history

    def keep_histories(self) -> None:
        """With the nodes' own logs, for whoever looks into what was found."""
        for client in self.clients:
            log = client.share / "history.jsonl"
            if log.exists():
                (self.lab.logs / f"{client.name}.history.jsonl").write_bytes(log.read_bytes())

    def look_around(self) -> None:
        """Note how every node is, for whoever looks into what got stuck; one that does not answer hangs."""
        for node in (*self.servers, *self.clients):
            try:
                found = node.run("sh", "-c", LOOK_AROUND, deadline=20)
            except NodeDown as down:
                self.say(f"    {down}")
            else:
                (self.lab.logs / f"{node.name}.around.log").write_text(str(found))

    # -- taking over and letting go ------------------------------------------------------------------------

    def up(self) -> list[Node]:
        return [server for server in self.servers if server.is_on()]

    def others(self, server: Node) -> list[Node]:
        return [other for other in self.up() if other is not server]

    def owned_by(self, server: Node) -> list[Service]:
        return [service for service in self.services if self.owners.get(service.name) is server]

    def keep(self, server: Node, what: str, result: Result) -> None:
        """What nlmfo said, for whoever looks into a violation."""
        with (self.lab.logs / "nlmfo.log").open("a") as log:
            log.write(f"{time.time():.3f} {server.name}: {what}: {result}\n")

    def start_takeover(self, service: Service, server: Node, *words: str) -> Job:
        return server.start("nlmfo", "takeover", service.name, *words, deadline=cluster.COMMAND, stream=False)

    def taken(self, service: Service, server: Node, seconds: float) -> None:
        """Note a takeover that succeeded."""
        self.owners[service.name] = server
        self.takeovers[self.about] += 1
        self.durations.append(seconds)
        self.say(f"    {server.name} serves {service.name} (takeover {seconds:.1f} s)")
        self._fresh.add(service.name)

    def look_after(self, service: Service) -> None:
        """As a service manager does, from now on until it is released."""
        self.owners[service.name].start("nlmfo", "serve", service.name, deadline=86400, stream=False)
        self._fresh.discard(service.name)

    def take(self, service: Service, server: Node, *, fenced: Node | None = None) -> None:
        """Take over, which has to succeed in the end; the word that the owner is down is given when it is asked for."""
        begun, result = time.monotonic(), None
        words: tuple[str, ...] = ()
        while time.monotonic() < begun + INSIST:
            tried = time.monotonic()
            result = self.start_takeover(service, server, *words).wait(cluster.COMMAND + 30)
            self.keep(server, f"takeover {service.name} {' '.join(words)}", result)
            if result.status == 0:
                self.taken(service, server, time.monotonic() - tried)
                return
            if result.status == REFUSED and fenced is not None and "still-served" in result.err:
                words = ("--fenced", fenced.name)
            time.sleep(AGAIN)
        raise Stuck(f"{server.name} cannot take over {service.name}: {result}")

    def release(self, service: Service, server: Node) -> None:
        """Let go, which has to succeed in the end."""
        begun = time.monotonic()
        end, words, result = time.monotonic() + INSIST, ("release", service.name), None
        while time.monotonic() < end:
            result = cluster.nlmfo(server, *words)
            self.keep(server, " ".join(words), result)
            if result.status in (0, NOT_HERE):
                self.owners.pop(service.name, None)
                self.say(f"    {server.name} has let go of {service.name} ({time.monotonic() - begun:.1f} s)")
                return
            words = ("resume", service.name)
            time.sleep(AGAIN)
        raise Stuck(f"{server.name} cannot let go of {service.name}: {result}")

    def move(self, service: Service, target: Node) -> None:
        self.release(service, self.owners[service.name])
        self.take(service, target)

    def fail_over(self, dead: Node, chance: random.Random, *targets: Node) -> None:
        """Power is cut, which fences it, and others take over what it had."""
        lost = self.owned_by(dead)
        dead.cut_power()
        self.take_all([(service, chance.choice(targets or self.others(dead))) for service in lost], fenced=dead)

    def take_all(self, wanted: Sequence[tuple[Service, Node]], fenced: Node) -> None:
        """Several at once."""
        for service, _ in wanted:
            self.owners.pop(service.name, None)
        with ThreadPoolExecutor(len(self.services)) as pool:
            list(pool.map(lambda each: self.take(*each, fenced=fenced), wanted))

    def until_grace_is_over(self, services: Sequence[Service]) -> None:
        """Until no lock of before can be reclaimed any more."""
        for service in services:
            server, end = self.owners[service.name], time.monotonic() + GRACE + WHOLE
            while '"in_grace": true' in cluster.nlmfo(server, "status", "--json", service.name).out:
                if time.monotonic() > end:
                    raise Stuck(f"{service.name} is in grace for ever on {server.name}")
                time.sleep(AGAIN)

    # -- in order again ------------------------------------------------------------------------------------

    def restore(self, begun: float) -> None:
        """Cables in, fine weather, nodes up, everything served: from ``begun`` to now is an outage."""
        self.lab.weather()
        for node in (*self.servers, *self.clients):
            self.lab.plug(node)
        for server in self.servers:
            if not server.is_on():
                self.boot(server)
        for service in self.services:
            if service.name not in self.owners:
                self.take(service, self.servers[0])
        for service in self.services:
            if service.name not in self._fresh:
                self._until_whole(service)
            self.outages.append(Outage(service.name, begun, time.time()))
        self._fresh.clear()

    def _until_whole(self, service: Service) -> None:
        server, end = self.owners[service.name], time.monotonic() + WHOLE
        while (result := cluster.nlmfo(server, "status", service.name)).status != 0:
            if time.monotonic() > end:
                raise Stuck(f"{service.name} is not whole on {server.name}: {result}")
            time.sleep(AGAIN)
