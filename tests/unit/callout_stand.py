# SPDX-License-Identifier: GPL-2.0-or-later
"""A place to run the callout in: a store, a spool and a configuration of its own.

The compiled program, the same under the sanitizers, and the shell script all have to pass the same tests.
"""

from __future__ import annotations

import fcntl
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from nlmfo.deadline import Deadline, poll_until
from nlmfo.records.callout import CalloutEntry, Mode, callout_config, write_callout_config
from nlmfo.records.layout import CURRENT, FSIDS, Address, directory_name
from nlmfo.records.store import Store

CALLOUTS = Path(__file__).parents[2] / "callouts"
HOME = ip_address("10.10.0.100")
HOME6 = ip_address("fd00::100")
NODE = "nodeA"
NAME = "nfs100.example"
#: Nothing here takes this long unless it hangs.
SECONDS = 60.0
PROGRAMS = ("compiled", "sanitized", "script")


def build(program: str, into: Path) -> Path:
    """Compile one of the three, or find it."""
    if program == "script":
        return CALLOUTS / "nlmfo-callout"
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    target = into / ("nlmfo-callout" if program == "compiled" else "nlmfo-callout-sanitized")
    subprocess.run(["make", "-s", "-C", CALLOUTS, f"O={into}", target], check=True, timeout=SECONDS)
    return target


class Stand:
    """``addresses`` of one service, served by ``program``."""

    def __init__(
        self, root: Path, program: Path, addresses: Sequence[Address] = (HOME,), spool: Path | None = None
    ) -> None:
        self.root = root
        self.program = program
        self.addresses = tuple(addresses)
        self.state = root / "state"
        self.spool = spool or root / "spool"
        self.config = root / "callout.conf"
        for directory in (self.state, self.spool):
            directory.mkdir(exist_ok=True, parents=True)
        self.store = Store(self.state, self.addresses)
        self.store.prepare(os.geteuid(), os.getegid())
        self.configure()

    def configure(self, *, mode: Mode = Mode.SYNC, frozen: bool = False, name: str = NAME, patience: int = 30) -> None:
        exports = (("1234", Path("/srv/home/data")), ("root", Path("/srv/with blank")))
        entries = [CalloutEntry(a, self.state / directory_name(a), name, mode, exports) for a in self.addresses]
        text = callout_config(entries, frozen=frozen, node=NODE, spool=self.spool, patience=patience)
        write_callout_config(self.config, text)

    def call(self, *words: str | bytes, inherit: Mapping[int, int] | None = None) -> None:
        """Run the callout as rpc.statd does; it must end, well, and say nothing.

        ``inherit`` maps a descriptor that it inherits to the one here that it is a copy of.
        """
        said = self.root / "said"
        actions: list[tuple[Any, ...]] = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        actions += [(os.POSIX_SPAWN_DUP2, ours, theirs) for theirs, ours in (inherit or {}).items()]
        pid = os.posix_spawn(self.program, (self.program, *words), self.environment(), file_actions=actions)
        assert ended(pid) == 0
        assert said.read_text() == ""
        assert [report.read_text() for report in self.root.glob("sanitizer.*")] == []

    def environment(self) -> dict[str, str]:
        log = f"log_path={self.root}/sanitizer:exitcode=0"
        # A callout ends while it holds memory: nobody would gain from its freeing it first.
        return {
            "NLMFO_CALLOUT_CONF": str(self.config),
            "ASAN_OPTIONS": f"{log}:detect_leaks=0",
            "UBSAN_OPTIONS": log,
        }

    def home(self, address: Address = HOME) -> Path:
        return self.state / directory_name(address)

    def record(self, client: str, address: Address = HOME) -> Path:
        return self.home(address) / CURRENT / client

    def on_record(self, address: Address = HOME) -> set[str]:
        return {file.name for file in (self.home(address) / CURRENT).iterdir()}

    def fsids(self, client: str, address: Address = HOME) -> list[str]:
        file = self.home(address) / FSIDS / client
        return file.read_text().split() if file.exists() else []

    def spooled(self, address: Address = HOME) -> list[str]:
        found = []
        for entry in self._spool_of(address).glob("add.*"):
            with suppress(FileNotFoundError):
                found.append(entry.read_text())
        return sorted(found)

    def stalled(self, address: Address = HOME) -> str | None:
        file = self._spool_of(address) / "stalled"
        return file.read_text() if file.exists() else None

    def refused(self) -> str:
        file = self.spool / "refused"
        return file.read_text() if file.exists() else ""

    def until(self, check: Callable[[], bool]) -> None:
        poll_until("what the test waits for", check, Deadline(SECONDS))

    def until_drained(self, address: Address = HOME) -> None:
        """Wait for the process that stays behind."""
        self.until(lambda: not self.spooled(address) and not self.stalled(address))

    @contextmanager
    def nobody_drains(self, address: Address = HOME) -> Iterator[None]:
        """Keep the processes that stay behind waiting."""
        self._spool_of(address).mkdir(exist_ok=True)
        with (self._spool_of(address) / "draining").open("a") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            yield

    def _spool_of(self, address: Address) -> Path:
        return self.spool / directory_name(address)


def whole(client: str, my_name: str = NAME) -> str:
    """A record as sm-notify(8) parses it: four words of eight hex digits, 32 hex digits, two names."""
    return f"0100007f 000186b5 00000003 00000010 {'0' * 32} {client} {my_name}\n"


def ended(pid: int) -> int:
    """The exit status of a child, which must not hang."""
    fd = os.pidfd_open(pid)
    try:
        waiting = select.poll()
        waiting.register(fd, select.POLLIN)
        assert waiting.poll(SECONDS * 1000), "the callout hangs"
    finally:
        os.close(fd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


needs_root = pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="mounts file systems")


@contextmanager
def mounted(what: str, where: Path, *options: str) -> Iterator[Path]:
    """A small file system for one test; those whom a callout left behind in it are waited for."""
    where.mkdir(exist_ok=True)
    subprocess.run(["mount", *options, what, where], check=True, timeout=SECONDS)
    try:
        yield where
    finally:
        umount = partial(subprocess.run, ["umount", where], check=False, capture_output=True, timeout=SECONDS)
        poll_until(f"{where} is unmounted", lambda: umount().returncode == 0, Deadline(SECONDS))
