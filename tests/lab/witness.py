# SPDX-License-Identifier: GPL-2.0-or-later
"""What clients and kernels say about the locks. nlmfo's own word is never asked."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tests.lab.cluster import Service
from tests.lab.node import CommandError, Job, Node

WORKLOAD = "/lab/checkout/tests/workload"
#: Targets of contender.py that conflict with what holder.py holds.
CONFLICTING = ("whole", "range", "byte", "shared")
RECORD = 16
_LOCK = re.compile(r"\d+: POSIX +ADVISORY +(READ|WRITE) +(-?\d+) +([0-9a-f]+:[0-9a-f]+):(\d+) (\d+) (\d+|EOF)")


class Broken(AssertionError):
    """A promise to the clients was not kept."""


@dataclass(frozen=True, slots=True, order=True)
class Held:
    """A lock by inode, first and last byte (-1: to the end) and type."""

    inode: int
    first: int
    last: int
    exclusive: bool


def held_on(server: Node, service: Service) -> set[Held]:
    """The locks that the server's kernel holds for NFS clients on the service's data, from its /proc/locks."""
    device = _device_at(server, service.mountpoint)
    there = [words for words in _LOCK.findall(server.get("/proc/locks").decode()) if words[2] == device]
    lockds = {pid for pid in {words[1] for words in there} if _is_lockd(server, pid)}
    return {
        Held(int(inode), int(first), -1 if last == "EOF" else int(last), kind == "WRITE")
        for kind, pid, _, inode, first, last in there
        if pid in lockds
    }


def _device_at(server: Node, mountpoint: str) -> str:
    """What is mounted there, as /proc/locks names devices."""
    mounts = [line.split() for line in server.get("/proc/self/mountinfo").decode().splitlines()]
    found = [words[2] for words in mounts if words[4] == mountpoint]
    if not found:
        raise Broken(f"{server.name}: nothing is mounted at {mountpoint}")
    major, minor = (int(number) for number in found[-1].split(":"))
    return f"{major:02x}:{minor:02x}"


def _is_lockd(server: Node, pid: str) -> bool:
    try:
        return server.get(f"/proc/{pid}/comm") == b"lockd\n"
    except CommandError:  # it is gone
        return False


def lost_by(client: Node) -> list[str]:
    """The locks that the client's kernel says it could not reclaim."""
    log = client.shell("dmesg")
    return [line for line in log.splitlines() if "failed to reclaim lock" in line or "spurious grace period" in line]


class Holder:
    """A client that holds locks and keeps writing (tests/workload/holder.py)."""

    def __init__(self, client: Node, directory: str) -> None:
        self.client = client
        self.job = client.start("/usr/bin/python3", "-B", f"{WORKLOAD}/holder.py", directory, deadline=1800)
        self.held: set[Held] = set()
        self.failures: list[str] = []
        self._acknowledged: list[float] = []

    def read(self) -> None:
        """Take in what it has said since the last time."""
        for message in _messages(self.job):
            if "held" in message:
                lock = message["held"]
                self.held.add(Held(lock["inode"], lock["first"], lock["last"], lock["exclusive"]))
            elif "acknowledged" in message:
                assert message["acknowledged"] == len(self._acknowledged)
                self._acknowledged.append(message["at"])
            else:
                self.failures.append(message["failed"])

    def writes(self) -> int:
        """How many writes have been acknowledged."""
        self.read()
        return len(self._acknowledged)

    def wait_until_writing(self, locks: int, seconds: float = 60.0) -> None:
        """Until it holds ``locks`` locks and a write has been acknowledged."""
        await_true("the holder to write", lambda: self.writes() > 0 and len(self.held) == locks, seconds)

    def wait_for_more(self, seconds: float = 90.0) -> None:
        """Until a write that begins from now on has been acknowledged."""
        before = self.writes()
        await_true("the holder to go on writing", lambda: self.writes() > before + 1, seconds)

    def longest_pause(self, since: int) -> float:
        """Seconds, by the client's clock: the longest time between two acknowledged writes, from write ``since`` on."""
        self.read()
        times = self._acknowledged[max(0, since - 1) :]
        return max((later - earlier for earlier, later in pairwise(times)), default=0.0)

    def check_on_disk(self, server: Node, service: Service) -> int:
        """Every acknowledged write is in the file as the server sees it; returns how many."""
        count = self.writes()
        data = server.get(f"{service.export}/journal")
        for number in range(count):
            record = data[number * RECORD : (number + 1) * RECORD]
            if record != b"%015d\n" % number:
                raise Broken(f"write {number} of {count} was acknowledged, but {server.name} has {record!r} there")
        return count


@dataclass(frozen=True, slots=True)
class Answer:
    """What a contender was told."""

    target: str
    result: str


class Contender:
    """A client that keeps asking for conflicting locks (tests/workload/contender.py)."""

    def __init__(self, client: Node, directory: str) -> None:
        self.client = client
        self.job = client.start("/usr/bin/python3", "-B", f"{WORKLOAD}/contender.py", directory, deadline=1800)
        self.answers: list[Answer] = []

    def read(self) -> None:
        self.answers += [Answer(message["target"], message["result"]) for message in _messages(self.job)]

    def granted(self) -> list[Answer]:
        """Conflicting locks that it was given: each is a broken promise."""
        self.read()
        return [answer for answer in self.answers if answer.result == "granted" and answer.target in CONFLICTING]

    def wait_for_answers(self, seconds: float = 90.0) -> None:
        """Until each conflicting request made from now on has been refused or granted, and the free one granted."""
        self.read()
        # The request under way may have been answered by the server as it was before; so two answers each.
        start = len(self.answers)

        def answered() -> bool:
            self.read()
            late = self.answers[start:]
            conflicting = all(
                sum(a.target == target and a.result in ("denied", "granted") for a in late) >= 2
                for target in CONFLICTING
            )
            return conflicting and Answer("free", "granted") in late

        await_true("the contender to be answered", answered, seconds)


def await_true(what: str, check: Any, seconds: float) -> None:
    """Poll until it is true; Broken, naming what, when it does not come true in time.

    It rests as long as it asked: a question may take a node's only processor from what is waited for.
    """
    end = time.monotonic() + seconds
    asked = time.monotonic()
    while not check():
        now = time.monotonic()
        if now > end:
            raise Broken(f"waited {seconds:g} s in vain for {what}")
        time.sleep(max(0.1, now - asked))
        asked = time.monotonic()


def _messages(job: Job) -> list[dict[str, Any]]:
    found = []
    while not job.lines.empty():
        _, line = job.lines.get()
        if line.startswith("{"):
            found.append(json.loads(line))
    if job.ended():
        raise Broken(f"'{job.what}' ended: {job.wait(1)}")
    return found
