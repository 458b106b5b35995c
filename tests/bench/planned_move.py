# SPDX-License-Identifier: GPL-2.0-or-later
"""What clients notice of a planned move: ``python -m tests.bench.planned_move [ROUNDS]``, as root.

One service moves there and back between two servers of the lab. Client 1 holds 20 locks and writes all the time;
client 2 wants those locks in vain, and asks for new ones, twice a second, from just before the address goes down
until after the move; client 1 asks for two while the address is down. A Linux client that was refused because of
grace asks again 5 s later, or as soon as another request of its own was answered: client 2 has such, client 1 has
none. Prints one ``NAME VALUE UNIT`` per line; the time line of each round goes to standard error. Fails when a lock,
or an acknowledged write, did not survive.

    planned_write_pause_s                longest time between two acknowledged writes, median of the rounds
    planned_newlock_pause_s              from asking for a new lock to having it, client 2's slowest, median
    planned_newlock_alone_s              the same of client 1
    planned_newlock_pause_full_grace_s   client 2's in one round whose grace nothing ends early
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

from tests.lab import cluster
from tests.lab.lab import Lab
from tests.lab.node import Job, Node
from tests.lab.root import CACHE
from tests.lab.witness import RECORD, Broken, Held, await_true, held_on, lost_by
from tests.workload import move_holder, new_lock

ADDRESS = "10.10.0.100/24"
#: Seconds: the kernel's default, in every round. Nothing is gained here by making it short.
GRACE = 50
#: Seconds until everything that waits for the end of grace must have come: a client asks again every 5 s.
AFTER_GRACE = GRACE + 40.0
#: Seconds for `takeover --wait` to get ready, and for it to wait.
WAIT = 60
ROUNDS = 5
#: New locks that are asked for: for longer than a move takes, and while the address is down.
MANY, FEW = 24, 2
PYTHON = ("env", "PYTHONPATH=/lab/checkout", "/usr/bin/python3", "-B", "-m")
_STEP = re.compile(r" *([0-9.]+) s  (.*)")


class Said(NamedTuple):
    """A line of the time line: when, by this machine's monotonic clock, who and what."""

    at: float
    who: str
    what: str


class Service(cluster.Service):
    """The lab's, with the kernel's usual grace."""

    def toml(self) -> str:
        return super().toml().replace(f"grace = {cluster.GRACE}\n", f"grace = {GRACE}\n")


class Program:
    """A program on a client that prints JSON; its clock is compared with ours."""

    def __init__(self, client: Node, module: str, *arguments: str) -> None:
        self.client = client
        self.job = client.start(*PYTHON, f"tests.workload.{module}", *arguments, deadline=3600)
        #: Seconds by which our clock is ahead of the client's, as far as the quickest message tells.
        self.ahead = float("inf")

    def messages(self) -> list[dict[str, Any]]:
        found = []
        for at, line in _lines(self.job):
            if line.startswith("{"):
                found.append(json.loads(line))
                self.ahead = min(self.ahead, at - found[-1].get("at", float("-inf")))
        if self.job.ended():
            raise Broken(f"'{self.job.what}' ended: {self.job.wait(1)}")
        return found


class Holder(Program):
    """Client 1: holds 20 locks and keeps writing."""

    def __init__(self, client: Node, directory: str) -> None:
        super().__init__(client, "move_holder", "hold", directory)
        self.held: set[Held] = set()
        self.failures: list[str] = []
        self._acknowledged: list[float] = []
        await_true("20 locks and a write", lambda: self.writes() > 0 and len(self.held) == len(move_holder.LOCKS), 60)

    def writes(self) -> int:
        """How many writes have been acknowledged."""
        for message in self.messages():
            if "held" in message:
                lock = message["held"]
                self.held.add(Held(lock["inode"], lock["first"], lock["last"], lock["exclusive"]))
            elif "acknowledged" in message:
                assert message["acknowledged"] == len(self._acknowledged)
                self._acknowledged.append(message["at"])
            else:
                self.failures.append(message["failed"])
        return len(self._acknowledged)

    def pause(self, since: int) -> tuple[float, float]:
        """The longest time between two acknowledged writes from write ``since`` on: begin and end, by our clock."""
        self.writes()
        begin, end = max(pairwise(self._acknowledged[since - 1 :]), key=lambda pair: pair[1] - pair[0])
        return begin + self.ahead, end + self.ahead

    def check_on_disk(self, server: Node, service: cluster.Service) -> None:
        count = self.writes()
        wanted = b"".join(b"%015d\n" % number for number in range(count))
        data = server.get(f"{service.export}/journal")[: count * RECORD]
        if data != wanted:
            raise Broken(f"{count} writes were acknowledged, and not all of them are on {server.name}")


class Wanting(Program):
    """Client 2: asks for the holder's locks in vain."""

    def __init__(self, client: Node, directory: str) -> None:
        super().__init__(client, "move_holder", "want", directory)
        self._answers: list[tuple[int, str]] = []
        self.wait_for_answers(60)

    def granted(self) -> list[int]:
        self._answers += [(message["target"], message["result"]) for message in self.messages()]
        return [target for target, result in self._answers if result != "denied"]

    def wait_for_answers(self, seconds: float) -> None:
        """Until each was refused twice: the request under way may have been answered by the server as it was before."""
        self.granted()
        start = len(self._answers)

        def answered() -> bool:
            self.granted()
            late = [target for target, _ in self._answers[start:]]
            return all(late.count(target) >= 2 for target in range(len(move_holder.LOCKS)))

        await_true("each of the holder's locks to be refused", answered, seconds)


class NewLocks(Program):
    """Asks for locks that nobody holds, from ``go`` on."""

    def __init__(self, client: Node, directory: str, first: int, count: int) -> None:
        super().__init__(client, "new_lock", directory, str(first), str(count))
        self._count = count
        self._answers: list[dict[str, Any]] = []
        await_true("the new locks' processes", lambda: {"ready": True} in self.messages(), 60)

    def go(self) -> None:
        self.job.signal(10)  # SIGUSR1

    def all(self) -> list[dict[str, Any]]:
        """The answers, in the order of the questions; waits for them."""

        def there() -> bool:
            self._answers += self.messages()
            return len(self._answers) == self._count

        await_true("new locks to be granted", there, AFTER_GRACE)
        for answer in self._answers:
            if answer["error"]:
                raise Broken(f"a new lock was not granted: {answer['error']}")
        return sorted(self._answers, key=lambda answer: answer["number"])

    def slowest(self) -> float:
        return max(float(answer["granted"] - answer["asked"]) for answer in self._answers)

    def end(self) -> None:
        self.job.signal(15)
        self.job.wait(30)


@dataclass(frozen=True, slots=True)
class Round:
    """What one move cost, in seconds, and what it broke."""

    write_pause: float
    new_lock_pause: float
    new_lock_alone: float
    problems: tuple[str, ...]


class Stage:
    """Two servers, two clients, one service."""

    def __init__(self, lab: Lab) -> None:
        made = cluster.make_service(lab, "home", [ADDRESS], 1234)
        self.service = Service(made.name, made.data, made.state, made.addresses, made.fsid)
        self.servers = [lab.node(name, disks=cluster.disks(self.service)) for name in ("server-a", "server-b")]
        self.clients = [lab.node(name) for name in ("client-1", "client-2")]
        cluster.prepare(lab, self.servers, self.service)
        cluster.takeover(self.servers[0], self.service)
        self.directories = [cluster.mount(client, self.service) for client in self.clients]
        self.holder = Holder(self.clients[0], self.directories[0])
        self.wanting = Wanting(self.clients[1], self.directories[1])
        self.rounds = 0

    def configure(self, settings: Mapping[str, object]) -> None:
        """Other settings from the next takeover on."""
        self.service = replace(self.service, settings=settings)
        for server in self.servers:
            cluster.write_configuration(server, self.service)

    def round(self, variant: Callable[[Stage], list[Said]]) -> Round:
        """Move the service to the other server, and judge."""
        first = self.rounds * (MANY + FEW)
        many = NewLocks(self.clients[1], self.directories[1], first, MANY)
        few = NewLocks(self.clients[0], self.directories[0], first + MANY, FEW)
        since = self.holder.writes()
        self.new_locks = (many, few)
        said = variant(self)
        self.servers.reverse()
        self.rounds += 1
        answers = many.all(), few.all()
        problems = self._problems()
        many.end()
        few.end()
        begin, end = self.holder.pause(since)
        said += [Said(begin, "client-1", "last write before the pause"), Said(end, "client-1", "FIRST WRITE IS BACK")]
        tell_round(self.rounds, sorted(said), answers, end - begin)
        return Round(end - begin, many.slowest(), few.slowest(), tuple(problems))

    def _problems(self) -> list[str]:
        """The truth, from the clients and from the new server's lock table, after the end of grace."""
        server, problems = self.servers[0], []
        try:
            self.wanting.wait_for_answers(AFTER_GRACE)
            there = self.holder.held & held_on(server, self.service)
            if there != self.holder.held:
                problems.append(f"{server.name} holds {len(there)} of the {len(self.holder.held)} locks")
            self.holder.check_on_disk(server, self.service)
        except Broken as error:
            problems.append(str(error))
        problems += [
            f"client-2 was granted lock {target} of client-1" for target in sorted(set(self.wanting.granted()))
        ]
        problems += [f"client-1: a write failed: {text}" for text in self.holder.failures]
        return problems + [f"{client.name}: {line}" for client in self.clients for line in lost_by(client)]


def plain(stage: Stage) -> list[Said]:
    """Release, and then takeover."""
    a, b = stage.servers
    said = _released(stage, a)
    return said + _end(_start(b, "takeover", "home"))


def waiting(stage: Stage) -> list[Said]:
    """The takeover is begun first, and waits for the release."""
    a, b = stage.servers
    takeover = _start(b, "takeover", "home", "--wait", str(WAIT))
    said: list[Said] = []

    def ready() -> bool:
        said.extend(_said(takeover))
        if takeover.ended():
            raise Broken(f"{takeover.what}: {takeover.wait(1)}")
        return any("ready; waiting" in line.what for line in said)

    await_true("the takeover to be ready", ready, WAIT)
    said += _released(stage, a)
    return said + _end(takeover)


def _released(stage: Stage, server: Node) -> list[Said]:
    """A release; new locks are asked for from when the keeper has ended on: the address goes down next."""
    release = _start(server, "release", "home")
    said: list[Said] = []

    def about_to() -> bool:
        said.extend(_said(release))
        return release.ended() or any("stop the keeper" in line.what for line in said)

    await_true("the release to begin", about_to, WAIT)
    for asking in stage.new_locks:
        asking.go()
    return said + _end(release)


VARIANTS: dict[str, Callable[[Stage], list[Said]]] = {"plain": plain, "waiting": waiting}


def _start(server: Node, *arguments: str) -> Job:
    job = server.start("nlmfo", *arguments, deadline=cluster.COMMAND)
    job.lines.put((time.monotonic(), "is started"))
    return job


def _end(job: Job) -> list[Said]:
    """What it said, once it has ended well."""
    result = job.wait(cluster.COMMAND + 15)
    ended = Said(time.monotonic(), _who(job), "has ended")
    if result.status != 0:
        raise Broken(f"{job.node.name}: '{job.what}' ended with {result}")
    return [*_said(job), ended]


def _said(job: Job) -> list[Said]:
    return [Said(at, _who(job), line) for at, line in _lines(job)]


def _who(job: Job) -> str:
    return f"{job.node.name} {job.what.split()[1]}"


def _lines(job: Job) -> list[tuple[float, str]]:
    found = []
    while not job.lines.empty():
        found.append(job.lines.get())
    return found


def tell_round(number: int, said: list[Said], answers: Iterable[list[dict[str, Any]]], write_pause: float) -> None:
    """The time line, from the beginning of the release on: seconds, who, what it says (a step: its seconds first)."""
    zero = next(line.at for line in said if line.who.endswith(" release"))
    tell(f"round {number}: writes paused {write_pause:.2f} s")
    for line in said:
        tell(f"  {line.at - zero:+7.2f} s  {line.who:<17}  {line.what}")
    tell(f"  from the end of release to the first step of takeover: {between(said):.2f} s")
    for client, theirs in zip(("client-2", "client-1"), answers, strict=True):
        took = " ".join(f"{answer['granted'] - answer['asked']:.2f}" for answer in theirs)
        tell(f"  new locks of {client}, asked for {new_lock.APART} s apart, took s: {took}")


def between(said: list[Said]) -> float:
    """Seconds from the end of the release's last step to the beginning of the takeover's first one after it."""
    steps = [(line, match) for line in said if (match := _STEP.fullmatch(line.what))]
    end = max(line.at for line, _ in steps if line.who.endswith(" release"))
    return (
        min(
            (
                begun
                for line, step in steps
                if line.who.endswith(" takeover") and (begun := line.at - float(step[1])) > end
            ),
            default=end,
        )
        - end
    )


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure planned moves.")
    parser.add_argument("rounds", type=int, nargs="?", default=ROUNDS)
    parser.add_argument("--variant", choices=VARIANTS, default="waiting")
    parser.add_argument("--full-grace", type=int, default=1, metavar="ROUNDS", help="rounds with all of grace (1)")
    chosen = parser.parse_args()
    variant = VARIANTS[chosen.variant]
    with Lab(CACHE / "logs/planned_move") as lab:
        stage = Stage(lab)
        rounds = [stage.round(variant) for _ in range(chosen.rounds)]
        stage.configure({"end_grace": '"never"'})
        full = [stage.round(variant) for _ in range(chosen.full_grace)]
    if rounds:
        print(f"planned_write_pause_s {statistics.median(each.write_pause for each in rounds):.2f} s")
        print(f"planned_newlock_pause_s {statistics.median(each.new_lock_pause for each in rounds):.2f} s")
        print(f"planned_newlock_alone_s {statistics.median(each.new_lock_alone for each in rounds):.2f} s")
    if full:
        print(f"planned_newlock_pause_full_grace_s {statistics.median(each.new_lock_pause for each in full):.2f} s")
    problems = [f"round {number}: {text}" for number, each in enumerate(rounds + full, 1) for text in each.problems]
    for problem in problems:
        tell(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
