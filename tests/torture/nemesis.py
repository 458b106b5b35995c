# SPDX-License-Identifier: GPL-2.0-or-later
"""What goes wrong: each function is one round's trouble, with chances of its own that follow from the seed.

Each leaves services with an owner or without one, nodes on or off, cables in or out: the world is put in order after
it. Fencing is the lab's power switch; in ``hang_and_wake`` it is the network's and the storage's.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator

from tests.lab import cluster, node_server
from tests.lab.cluster import Service
from tests.lab.node import Job, Node
from tests.torture.world import GRACE, REFUSED, Stuck, World

Trouble = Callable[[World, random.Random], None]
#: Seconds for a client to be without its cable while a service moves: less than a grace period, or it loses its locks.
UNPLUGGED = (1.0, 6.0)
#: Seconds for which a node hangs that nobody fences.
HANGS = (3.0, 12.0)
#: Seconds for a client that has just mounted to have its first lock.
FIRST_LOCK = 60.0
#: Seconds within which a node that wakes has to stop answering; see tests/lab/test_hung_node.py.
STAND_DOWN = 25.0
#: Seconds for a run to be killed or cut in the middle: takeovers and releases take 1 to 4 in the lab.
MIDDLE = (0.1, 3.0)
#: Ends a program of a service's namespaces, whose processes have their names for themselves.
KILL = """
for pid in $(ip netns pids nlmfo-{service}); do
    tr '\\0' ' ' < /proc/$pid/cmdline | grep -q '{program}' && kill -9 $pid
done
true
"""
#: Shares of frames that are lost, doubled and late.
BAD_WEATHER = (0.02, 0.03, 0.05)


def _owned(world: World, chance: random.Random) -> tuple[Service, Node, Node]:
    """A service, its owner, and a node to go to."""
    service = chance.choice([s for s in world.services if world.others(world.owners[s.name])])
    owner = world.owners[service.name]
    return service, owner, chance.choice(world.others(owner))


def move(world: World, chance: random.Random) -> None:
    """A planned move; the next node stands by, or not."""
    service, owner, target = _owned(world, chance)
    if chance.random() < 0.5:
        world.move(service, target)
        return
    job = world.start_takeover(service, target, "--wait", "60")
    begun = time.monotonic()
    world.release(service, owner)
    if job.wait(cluster.COMMAND).status == 0:
        world.taken(service, target, time.monotonic() - begun)


def power_cut(world: World, chance: random.Random) -> None:
    """The owner dies at once."""
    _, owner, _ = _owned(world, chance)
    world.fail_over(owner, chance)


def newcomer(world: World, chance: random.Random) -> None:
    """A client that nobody knows takes its first locks, and the server dies at once: it has to be on record.

    Its address of before, that is on record as well, is away until grace is over: told there, it would come back too.
    """
    _, owner, _ = _owned(world, chance)
    owned = {service.name for service in world.owned_by(owner)}
    number = chance.randrange(len(world.clients))
    before = world.rename_client(number)
    since, end = len(world.read().holds), time.monotonic() + FIRST_LOCK

    def locked() -> bool:
        new = world.read().holds[since:]
        return any(hold.client == str(number) and hold.file.partition("/")[0] in owned for hold in new)

    while not locked():
        if time.monotonic() > end:
            raise Stuck(f"client {number} has a new address, and no lock after {FIRST_LOCK:g} s")
        time.sleep(0.02)
    world.fail_over(owner, chance)
    world.until_grace_is_over([service for service in world.services if service.name in owned])
    world.clients[number].shell(f"ip address add {before}/24 dev eth0")


def crossing(world: World, chance: random.Random) -> None:
    """Two services pass each other, at the same time."""
    moves = [(s, world.owners[s.name], chance.choice(world.others(world.owners[s.name]))) for s in world.services]
    releases = [
        (s, a, a.start("nlmfo", "release", s.name, deadline=cluster.COMMAND, stream=False)) for s, a, _ in moves
    ]
    for service, owner, job in releases:
        if job.wait(cluster.COMMAND + 30).status != 0:
            world.release(service, owner)
        world.owners.pop(service.name, None)
    begun = time.monotonic()
    takeovers = [(service, target, world.start_takeover(service, target)) for service, _, target in moves]
    for service, target, job in takeovers:
        if job.wait(cluster.COMMAND + 30).status == 0:
            world.taken(service, target, time.monotonic() - begun)
        else:
            world.take(service, target)


def race(world: World, chance: random.Random) -> None:
    """Two nodes are told at once; one serves."""
    service, owner, _ = _owned(world, chance)
    world.release(service, owner)
    begun = time.monotonic()
    racers = chance.sample(world.up(), 2)
    jobs = [world.start_takeover(service, server) for server in racers]
    results = [job.wait(cluster.COMMAND + 30) for job in jobs]
    winners = [server for server, result in zip(racers, results, strict=True) if result.status == 0]
    if len(winners) == 2 and not world.stage.mutation:
        raise Stuck(f"{service.name}: two takeovers at once, and both succeeded: {results}")
    for winner in winners[:1]:
        world.taken(service, winner, time.monotonic() - begun)


def killed_run(world: World, chance: random.Random) -> None:
    """nlmfo is killed in the middle of a release or a takeover; somebody goes on with it, here or elsewhere."""
    service, owner, target = _owned(world, chance)
    if chance.random() < 0.5:
        job = owner.start("nlmfo", "release", service.name, deadline=cluster.COMMAND, stream=False)
        _kill_within(job, chance)
        world.release(service, owner)
        world.take(service, target)
        return
    world.release(service, owner)
    job = world.start_takeover(service, target)
    _kill_within(job, chance)
    if chance.random() < 0.5:
        world.take(service, target)
    else:
        _cut_and_take_back(world, service, target, owner)


def _kill_within(job: Job, chance: random.Random) -> None:
    time.sleep(chance.uniform(*MIDDLE))
    if not job.ended():
        job.signal(signal.SIGKILL)
    job.wait(30)


def _cut_and_take_back(world: World, service: Service, target: Node, owner: Node) -> None:
    """The node that was to have the service dies, with what it served before; who let go of it serves all of that."""
    lost = [service, *world.owned_by(target)]
    target.cut_power()
    world.take_all([(each, owner) for each in lost], fenced=target)


def cut_takeover(world: World, chance: random.Random) -> None:
    """The node that takes over dies meanwhile, and the one that let go takes it back."""
    service, owner, target = _owned(world, chance)
    world.release(service, owner)
    world.start_takeover(service, target)
    time.sleep(chance.uniform(*MIDDLE))
    _cut_and_take_back(world, service, target, owner)


def cut_again(world: World, chance: random.Random) -> None:
    """Power is cut, and again, on the node that took over, before its grace has ended."""
    _, owner, target = _owned(world, chance)
    world.fail_over(owner, chance, target)
    world.boot(owner)
    time.sleep(chance.uniform(0, 5))
    world.fail_over(target, chance)


def killed_daemons(world: World, chance: random.Random) -> None:
    """Daemons and the keeper are killed; whoever looks after them starts them again, or their node dies as well."""
    service, owner, _ = _owned(world, chance)
    if world.stage.isolation == "host":
        # Not rpcbind: the kernel registers with a new one only when nfsd starts, which is the node's own affair.
        for name in chance.sample(["rpc.statd", "rpc.mountd"], chance.randint(1, 2)):
            owner.run("pkill", "-9", "-x", name)
        node_server.start_again(owner, GRACE)
    else:
        world.look_after(service)
        for name in chance.sample(["rpcbind", "rpc.statd", "rpc.mountd", "nlmfo.*keep"], chance.randint(1, 3)):
            owner.run("sh", "-c", KILL.format(service=service.name, program=name))
    time.sleep(chance.uniform(0, 3))
    if chance.random() < 0.5:
        world.fail_over(owner, chance)


def full_state(world: World, chance: random.Random) -> None:
    """The state directory is full for a while; its service stays, or its owner dies."""
    service, owner, target = _owned(world, chance)
    fill = f"/srv/nlmfo/{service.name}/fill"
    owner.run("sh", "-c", f"cat /dev/zero > {fill}; sync -f {fill}")
    time.sleep(chance.uniform(1, 6))
    if chance.random() < 0.5:
        lost = world.owned_by(owner)
        owner.cut_power()
        for each in lost:
            del world.owners[each.name]
        begun = time.monotonic()
        if world.start_takeover(service, target, "--fenced", owner.name).wait(cluster.COMMAND + 30).status == 0:
            world.taken(service, target, time.monotonic() - begun)
            target.shell(f"rm {fill}")
        else:  # it says what to do
            target.shell(f"mount UUID={service.state.uuid} /mnt; rm /mnt/fill; umount /mnt")
        for each in lost:
            if each.name not in world.owners:
                world.take(each, target, fenced=owner)
    else:
        owner.shell(f"rm {fill}")


def client_reboot(world: World, chance: random.Random) -> None:
    """A client loses power while a service moves, and comes up before grace has ended, or after."""
    service, owner, target = _owned(world, chance)
    number = chance.randrange(len(world.clients))
    client = world.clients[number]
    if chance.random() < 0.5:
        world.release(service, owner)
        client.cut_power()
        world.take(service, target)
    else:
        client.cut_power()
        world.fail_over(owner, chance)
    world.boot_client(number)


def client_unplugged(world: World, chance: random.Random) -> None:
    """A client hears nothing while a service moves, and is back before grace has ended."""
    service, owner, target = _owned(world, chance)
    client = chance.choice(world.clients)
    world.lab.unplug(client)
    if chance.random() < 0.5:
        world.release(service, owner)
        job = world.start_takeover(service, target)
    else:
        for each in world.owned_by(owner):
            del world.owners[each.name]
        owner.cut_power()
        job = world.start_takeover(service, target, "--fenced", owner.name)
    begun = time.monotonic()
    time.sleep(chance.uniform(*UNPLUGGED))
    world.lab.plug(client)
    if job.wait(cluster.COMMAND + 30).status == 0:
        world.taken(service, target, time.monotonic() - begun)
    for each in world.services:
        if each.name not in world.owners:
            world.take(each, target, fenced=owner)


def owner_unplugged(world: World, chance: random.Random) -> None:
    """The owner's cable is out, and perhaps a client's; it comes back, or is fenced."""
    _, owner, _ = _owned(world, chance)
    world.lab.unplug(owner)
    if chance.random() < 0.5:
        world.lab.unplug(chance.choice(world.clients))
    time.sleep(chance.uniform(*UNPLUGGED))
    for client in world.clients:
        world.lab.plug(client)
    if chance.random() < 0.5:
        world.fail_over(owner, chance)


def impatience(world: World, chance: random.Random) -> None:
    """Somebody takes over what another node serves, without proof, or with a wrong word: refused."""
    service, owner, target = _owned(world, chance)
    words = chance.choice([(), ("--fenced", "server-9"), ("--released-by", "server-9")])
    if unplugged := chance.random() < 0.5:
        world.lab.unplug(owner)
    result = world.start_takeover(service, target, *words).wait(cluster.COMMAND + 30)
    if unplugged:
        world.lab.plug(owner)
    if result.status == 0:
        world.say(f"{target.name} serves {service.name} without any proof")
        world.taken(service, target, 0.0)
        time.sleep(20)  # two servers: the clients will tell
    elif result.status != REFUSED:
        raise Stuck(f"a takeover without proof was not refused: {result}")


def hang(world: World, chance: random.Random) -> None:
    """The owner hangs, nobody believes that it is down, and it goes on."""
    service, owner, target = _owned(world, chance)
    owner.hang()
    result = world.start_takeover(service, target).wait(cluster.COMMAND + 30)
    time.sleep(chance.uniform(*HANGS))
    owner.resume()
    if result.status == 0:
        world.say(f"{target.name} serves {service.name} without any proof")
        world.taken(service, target, 0.0)


def hang_and_wake(world: World, chance: random.Random) -> None:
    """The owner hangs, is fenced from disks and network but keeps its power, and wakes: it must not serve again.

    File systems that were frozen as it stopped stand for a storage fabric that shuts it out. When its cable is back it
    has to have stood down by itself. ``--mutation fence`` leaves the cable in, and then clients meet two servers.
    """
    _, owner, _ = _owned(world, chance)
    lost = world.owned_by(owner)
    for service in lost:
        for partition in (service.mountpoint, f"/srv/nlmfo/{service.name}"):
            owner.shell(f"fsfreeze -f {partition}")
    owner.hang()
    if world.stage.mutation != "fence":
        world.lab.unplug(owner)
    world.take_all([(each, chance.choice(world.others(owner))) for each in lost], fenced=owner)
    time.sleep(chance.uniform(0, 5))
    owner.resume()
    end = time.monotonic() + STAND_DOWN
    while answers := [service.name for service in lost if _answers(world, service, owner)]:
        if time.monotonic() > end:
            raise Stuck(f"{owner.name} has woken and serves {answers} for {STAND_DOWN:g} s")
        time.sleep(0.5)
    world.lab.plug(owner)
    time.sleep(chance.uniform(1, 5))
    owner.cut_power()


def _answers(world: World, service: Service, server: Node) -> bool:
    address = service.addresses[0].partition("/")[0]
    where = "" if world.stage.isolation == "host" else f"ip netns exec nlmfo-{service.name} "
    return address in server.run("sh", "-c", f"{where}ip -o -br address").out


def bad_weather(world: World, chance: random.Random) -> None:
    """Frames are lost, doubled and late while a service moves or its owner dies."""
    service, owner, target = _owned(world, chance)
    world.lab.weather(*BAD_WEATHER, chance.randrange(1 << 30))
    time.sleep(chance.uniform(1, 4))
    if chance.random() < 0.5:
        world.move(service, target)
    else:
        world.fail_over(owner, chance)
    time.sleep(chance.uniform(1, 4))


#: How often each comes up in one deal.
TROUBLES: dict[Trouble, int] = {
    move: 3,
    power_cut: 2,
    newcomer: 1,
    crossing: 2,
    race: 1,
    killed_run: 2,
    cut_takeover: 1,
    cut_again: 1,
    killed_daemons: 1,
    full_state: 1,
    client_reboot: 1,
    client_unplugged: 1,
    owner_unplugged: 1,
    impatience: 1,
    hang: 1,
    hang_and_wake: 1,
    bad_weather: 2,
}


def deal(seed: str) -> Iterator[Trouble]:
    """All of them in an order that follows from the seed, and again."""
    chance = random.Random(f"{seed} deal")
    while True:
        cards = [trouble for trouble, often in TROUBLES.items() for _ in range(often)]
        chance.shuffle(cards)
        yield from cards
