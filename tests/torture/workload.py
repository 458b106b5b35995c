# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs on a client: processes that lock, read, count, write and die, and log each operation.

Usage: workload.py CLIENT NUMBER-OF-CLIENTS SEED LOG DIRECTORY...

CLIENT counts from 0; each DIRECTORY is a mounted service, named by the last part of its path. SIGTERM ends it, with all
that it did in the log.

Every shared file consists of slots of SLOT bytes, each a register: "VALUE WRITER", empty for 0. Whoever has a slot
locked exclusively may read it, add one, write and fsync it: so two holders at once cannot hide, whatever clocks say.

LOG gets a JSON object per line (one process, so lines are whole; closed at each write, which is what hostfs needs to
be rid of it: what a client did in the last moment before its power was cut is not there). Times are the
client's monotonic clock. "p" is the process, "n" counts its holds:
    {"begun": true}                         all that follows is of a new life of this client
    {"clock": seconds, "within": seconds}   what to add for the host's clock, and the error of that
    {"p", "n", "held": file, "first", "last", "x": exclusive, "asked", "at"}   the lock was granted
    {"p", "n", "refused": errno text, "file", "asked", "at"}                   it was not
    {"p", "n", "slot", "read": value, "by": writer, "asked", "at"}
    {"p", "n", "slot", "write": value, "at"}                                   about to be written
    {"p", "n", "synced": [slots], "at"}                                        fsync(2) has returned
    {"p", "n", "freeing": true, "at"}       about to be unlocked, or to end, which frees it as well
    {"p", "n", "freed": true, "at"}
    {"p", "probe": file, "first", "last", "locked": by anybody else, "asked", "at"}      F_GETLK
    {"p", "wrong": text, "at"}              what no working file system does
    {"kernel": text, "at"}                  the client's kernel says that it lost a lock
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import select
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

SLOT = 64
#: Slots of the file whose ranges overlap.
RANGES = 12
#: Seconds between two operations of one process, at random: a node is a process of a machine that runs several.
PAUSE = (0.5, 2.5)
#: Seconds for which a long lock is held.
LONG = (15.0, 60.0)
#: Seconds between two looks at the pipe and the kernel's log.
FLUSH = 0.2
#: Seconds between two comparisons of clocks, and between two looks at the host's while it is about to turn a second.
COMPARE, LOOK = 60.0, 0.002
#: How often the clocks are compared at once: the best counts.
TRIES = 3
LOST = ("failed to reclaim lock", "spurious grace period")
#: struct flock of a 64-bit kernel: type, whence, start, length, pid.
FLOCK = struct.Struct("hhqqi4x")


class Process:
    """One process of the workload: what it logs, and how it locks."""

    def __init__(self, name: str, seed: str, directory: Path, pipe: int) -> None:
        self.name = name
        self.random = random.Random(f"{seed} {name}")
        self.directory = directory
        self._pipe = pipe
        self._number = 0
        self._open: dict[tuple[str, int], int] = {}

    def say(self, **event: Any) -> None:
        line = json.dumps({"p": self.name} | event | {"at": time.monotonic()})
        os.write(self._pipe, line.encode() + b"\n")  # short enough to be written whole (pipe(7))

    def pause(self) -> None:
        time.sleep(self.random.uniform(*PAUSE))

    def file(self, name: str, flags: int = 0) -> int:
        """Stays open: closing any descriptor of a file frees all locks that the process has on it (fcntl(2))."""
        if (name, flags) not in self._open:
            self._open[name, flags] = os.open(self.directory / name, os.O_RDWR | os.O_CREAT | flags, 0o666)
        return self._open[name, flags]

    def take(self, name: str, slots: range, *, exclusive: bool, wait: bool) -> bool:
        """Lock some slots; false when it was refused."""
        self._number += 1
        first, length = slots.start * SLOT, len(slots) * SLOT
        kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        file, asked = self.file(name), time.monotonic()
        try:
            fcntl.lockf(file, kind if wait else kind | fcntl.LOCK_NB, length, first)
        except OSError as error:
            why = "held" if error.errno in (errno.EAGAIN, errno.EACCES) else os.strerror(error.errno or 0)
            self.say(n=self._number, refused=why, file=name, asked=asked)
            return False
        self.say(n=self._number, held=name, first=slots.start, last=slots.stop - 1, x=exclusive, asked=asked)
        return True

    def free(self, name: str, slots: range) -> None:
        self.say(n=self._number, freeing=True)
        fcntl.lockf(self.file(name), fcntl.LOCK_UN, len(slots) * SLOT, slots.start * SLOT)
        self.say(n=self._number, freed=True)

    @contextmanager
    def locked(self, name: str, slots: range, *, exclusive: bool = True, wait: bool = True) -> Iterator[bool]:
        held = self.take(name, slots, exclusive=exclusive, wait=wait)
        yield held
        if held:
            self.free(name, slots)

    def read(self, name: str, slot: int, *, again: bool = False) -> int:
        """The value of a slot; ``again``: from the server, whatever this client remembers."""
        asked = time.monotonic()
        if again:
            data = os.pread(self.file(name, os.O_DIRECT), SLOT, slot * SLOT)
        else:
            data = os.pread(self.file(name), SLOT, slot * SLOT)
        value, writer = parse(data)
        self.say(n=self._number, slot=slot, read=value, by=writer, asked=asked)
        return value

    def count(self, name: str, slots: range) -> None:
        """Add one to each slot, which the caller has locked."""
        for slot in slots:
            value = self.read(name, slot) + 1
            self.say(n=self._number, slot=slot, write=value)
            os.pwrite(self.file(name), f"{value} {self.name}".encode().ljust(SLOT), slot * SLOT)
        os.fsync(self.file(name))
        self.say(n=self._number, synced=list(slots))

    def probe(self, name: str, slot: int) -> None:
        """Does anybody else hold this slot? Asks without taking anything (F_GETLK)."""
        asked = time.monotonic()
        question = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, slot * SLOT, SLOT, 0)
        kind = FLOCK.unpack(fcntl.fcntl(self.file(name), fcntl.F_GETLK, question))[0]
        self.say(probe=name, first=slot, last=slot, locked=kind != fcntl.F_UNLCK, asked=asked)


def parse(data: bytes) -> tuple[int, str]:
    """Value and writer of a slot; -1 and what is there, when nobody can have written that."""
    text = data.rstrip(b" \0").decode(errors="replace")
    if not text:
        return 0, ""
    value, _, writer = text.partition(" ")
    return (int(value), writer) if value.isdecimal() and writer else (-1, text)


# -- what processes do -------------------------------------------------------------------------------------


def counter(me: Process) -> None:
    """Wait for a whole file, add one, let go."""
    with me.locked("counter", range(1)) as held:
        if held:
            me.count("counter", range(1))


def ranger(me: Process) -> None:
    """Some slots of a file, overlapping with others' or not; to count, or to read what must not change meanwhile."""
    first = me.random.randrange(RANGES)
    slots = range(first, min(RANGES, first + me.random.randint(1, 4)))
    exclusive = me.random.random() < 0.6
    with me.locked("ranges", slots, exclusive=exclusive, wait=me.random.random() < 0.5) as held:
        if held and exclusive:
            me.count("ranges", slots)
        elif held:
            seen = [me.read("ranges", slot) for slot in slots]
            me.pause()
            for slot, value in zip(slots, seen, strict=True):
                now = me.read("ranges", slot, again=True)
                if now != value:
                    me.say(wrong=f"slot {slot} of ranges changed from {value} to {now} under a shared lock")


def holder(me: Process, mine: int) -> None:
    """A slot for a long time, which nobody else ever writes."""
    slots = range(mine, mine + 1)
    with me.locked("long", slots) as held:
        if not held:
            return
        me.count("long", slots)
        value, end = me.read("long", mine), time.monotonic() + me.random.uniform(*LONG)
        while time.monotonic() < end:
            time.sleep(1.0)
            now = me.read("long", mine, again=True)
            if now != value:
                me.say(wrong=f"slot {mine} of long changed from {value} to {now} under an exclusive lock")


def prober(me: Process, holders: int) -> None:
    """Are the long locks there? Ask, and try to take one."""
    slot = me.random.randrange(holders)
    me.probe("long", slot)
    slots = range(slot, slot + 1)
    with me.locked("long", slots, wait=False):
        pass


def mortal(me: Process) -> None:
    """A child that dies while it holds a lock, while it writes, or while it waits."""
    child = os.fork()
    if child == 0:
        if me.random.random() < 0.3:
            signal.setitimer(signal.ITIMER_REAL, me.random.uniform(0.01, 1.0))  # SIGALRM ends it wherever it is
        if me.take("mortal", range(1), exclusive=True, wait=True):
            if me.random.random() < 0.7:
                me.count("mortal", range(1))
            me.say(n=me._number, freeing=True)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    me._number += 1
    me.say(alive=True)
    me.random.random()


def namer(me: Process) -> None:
    """Under a lock, one file goes from name to name; the register says how far. Mounted with lookupcache=none.

    A rename that is repeated after its answer was lost fails, though it was done (RFC 1813, 3.3.14): what counts is
    what is there afterwards. One that was cut off by the client's end may be a name ahead of the register.
    """
    names = me.directory / "names"
    with me.locked("names.lock", range(1)) as held:
        if not held:
            return
        value = me.read("names.lock", 0)
        there = [name for name in (value, value + 1) if (names / str(name)).exists()]
        if value == 0 and not there:
            (names / "0").touch()
            there = [0]
        if len(there) != 1:
            me.say(wrong=f"the register of names says {value}, and of {value} and {value + 1} there are {there}")
            there.append(value)
        scratch = names / f"scratch {me.name.replace('/', ' ')}"
        for change in (
            lambda: (names / str(there[0])).rename(names / str(value + 1)),
            scratch.touch,
            scratch.unlink,
        ):
            attempt(me, change)
        me.count("names.lock", range(1))


def attempt(me: Process, change: Callable[[], object]) -> None:
    try:
        change()
    except (FileNotFoundError, FileExistsError):
        pass  # done already, and the answer was lost
    except OSError as error:
        me.say(wrong=f"a change of names failed: {error}")


def workers(client: int, clients: int) -> dict[str, Callable[[Process], None]]:
    """What each client runs on each service."""
    return {
        "counter-0": counter,
        "counter-1": counter,
        "ranger-0": ranger,
        "ranger-1": ranger,
        "holder": lambda me: holder(me, client),
        "prober": lambda me: prober(me, clients),
        "mortal": mortal,
        "namer": namer,
    }


def work(me: Process, once: Callable[[Process], None]) -> None:
    """For ever; whatever error comes up is for the checker to judge."""
    while True:
        try:
            once(me)
        except OSError as error:
            me.say(wrong=f"{type(error).__name__}: {error}")
        me.pause()


def main(client: int, clients: int, seed: str, log: Path, directories: list[Path]) -> None:
    kernel = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    log.with_name("clock").unlink(missing_ok=True)  # of a life that was cut off
    # Before anybody does anything: who is cut off after that is known to have lived.
    append(log, '{"begun": true}\n' + clock(log.with_name("clock")))
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    out, into = os.pipe()
    children: list[int] = []

    def start(what: Callable[[], None]) -> None:
        child = os.fork()
        if child == 0:
            os.setpgid(0, children[0] if children else 0)  # one group for all, and for who they fork
            os.close(out)  # without whoever writes the log they end as well
            what()
        os.setpgid(child, children[0] if children else child)
        children.append(child)

    for directory in directories:
        attempt_mkdir(directory / "names")
        for name, once in workers(client, clients).items():
            start(partial(work, Process(f"{client}/{directory.name}/{name}", seed, directory, into), once))
    start(partial(compare, log.with_name("clock"), into))
    os.set_blocking(out, False)
    while not told:
        select.select([out], [], [], 1.0)
        time.sleep(FLUSH)
        append(log, drain(out) + "".join(said_by_kernel(kernel)))
    os.killpg(children[0], signal.SIGKILL)
    for child in children:
        os.waitpid(child, 0)
    append(log, drain(out))


def compare(file: Path, pipe: int) -> None:
    """Now and then, for ever; apart from whoever writes the log, which must not wait for seconds."""
    while True:
        time.sleep(COMPARE)
        os.write(pipe, clock(file).encode())


def clock(file: Path) -> str:
    """The host's clock by ours: it stamps new files, to the second, so the moment is awaited at which that turns.

    A guest loses up to a second of the host's while it boots; from then on both go alike. Who is kept from running at
    that moment tries again: a few times, since the error is known.
    """
    found = min(turn(file) for _ in range(TRIES))
    return json.dumps({"clock": found[1], "within": found[0]}) + "\n"


def turn(file: Path) -> tuple[float, float]:
    """The error of a comparison, and what it found: the host's clock turned between two looks at it."""
    first, before, _ = stamped(file)
    while True:
        stamp, began, ended = stamped(file)
        if stamp != first:
            return (ended - before) / 2, stamp - (before + ended) / 2
        before = began
        time.sleep(LOOK)


def stamped(file: Path) -> tuple[float, float, float]:
    """The host's time of a new file, and ours before and after that."""
    before = time.monotonic()
    file.touch(exist_ok=False)
    after = time.monotonic()
    stamp = file.stat().st_mtime
    file.unlink()
    return stamp, before, after


def attempt_mkdir(directory: Path) -> None:
    """Once, by whoever comes first; a repeated request may say that it exists, though it was ours."""
    directory.mkdir(exist_ok=True)


def drain(pipe: int) -> str:
    data = b""
    while True:
        try:
            data += os.read(pipe, 1 << 20)
        except BlockingIOError:
            if not data or data.endswith(b"\n"):
                return data.decode()


def said_by_kernel(kernel: int) -> Iterator[str]:
    while True:
        try:
            text = os.read(kernel, 8192).decode(errors="replace")
        except BlockingIOError:
            return
        except OSError:  # overtaken by newer messages: the next read goes on with the oldest there is
            continue
        if any(word in text for word in LOST):
            yield json.dumps({"kernel": text.partition(";")[2].strip(), "at": time.monotonic()}) + "\n"


def append(log: Path, lines: str) -> None:
    with log.open("a") as file:
        file.write(lines)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]), [Path(name) for name in sys.argv[5:]])
