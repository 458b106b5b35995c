# SPDX-License-Identifier: GPL-2.0-or-later
"""The way into grace that every kernel has: the node's nfsd, and lockd with it, goes down and comes up again.

lockd starts a grace period only when its first user appears in a network namespace, and nfsd is that. All services
that share this nfsd lose their locks with it, so the clients of all of them have to be told afterwards.

While nfsd is down, this file says what to start; a run that was killed then is made good by the next one:

    /run/nlmfo/nfsd.json    {"threads": 8, "on": ["3", "4"], "off": ["4.0"], "listeners": [["tcp", 2049]]}
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from nlmfo.deadline import Deadline, poll_until
from nlmfo.errors import NlmfoError, Refused
from nlmfo.host import daemons, mounts, nfs_conf, nfsd_setup, own_mounts
from nlmfo.host.nfsd_setup import Setup
from nlmfo.host.pins import RUN
from nlmfo.host.surroundings import Surroundings
from nlmfo.kernel import dropping, lockd, locks, nfsd, nfsd_settings
from nlmfo.kernel.dropping import Kernel
from nlmfo.kernel.files import PROC, ControlFiles
from nlmfo.kernel.nfsd_settings import Listener, Versions
from nlmfo.replace import replace_file
from nlmfo.run import run

NOTE = RUN / "nfsd.json"
START_BY_HAND = "'systemctl restart nfs-server' starts it; then take over again, so that every client is told"


@dataclass(frozen=True, slots=True)
class Settings:
    """What nfsd forgets when it stops, or could forget."""

    threads: int
    versions: Versions
    listeners: tuple[Listener, ...]

    @classmethod
    def read(cls, files: ControlFiles) -> Self:
        """Those of the nfsd that runs."""
        running = nfsd.threads(files=files)
        return cls(running, nfsd_settings.versions(files=files), nfsd_settings.listeners(files=files))

    def to_json(self) -> str:
        on, off = sorted(self.versions.on), sorted(self.versions.off)
        pairs = [[listener.transport, listener.port] for listener in self.listeners]
        return json.dumps({"threads": self.threads, "on": on, "off": off, "listeners": pairs})

    @classmethod
    def from_json(cls, text: str) -> Self:
        found = json.loads(text)
        listeners = tuple(Listener(transport, port) for transport, port in found["listeners"])
        return cls(found["threads"], Versions(frozenset(found["on"]), frozenset(found["off"])), listeners)


def restart(
    place: Surroundings,
    *,
    grace: int | None,
    between: Callable[[], None],
    clients: int = 0,
    mountpoints: Iterable[Path] = (),
    kernel: Kernel | None = None,
) -> None:
    """Restart nfsd as it was, and return when lockd is in grace and holds no lock on the partitions.

    ``grace`` is in seconds, None for what is set already. ``between`` is called while nfsd is down; whatever it
    raises, nfsd is started again first, because others are served here, too. ``clients`` is how many are on record:
    lockd takes each off statd's list, one after the other. ``mountpoints`` are the partitions of all services here.
    """
    kernel = kernel or Kernel()
    files = kernel.files
    settings = place.call(lambda: _what_to_start(files))
    _write_note(settings)
    try:
        _stop(place, clients, files)
        between()
    except BaseException as error:
        _start_again(place, settings, grace, files, error)
        raise
    _start(place, settings, grace, files)
    NOTE.unlink()
    _see_in_grace(place, files)
    for mountpoint in mountpoints:
        place.call(lambda path=mountpoint: _drop_what_was_left(path, kernel))  # type: ignore[misc]


def interrupted(*, files: ControlFiles = PROC) -> bool:
    """Whether nfsd is down because a restart was cut short: the next one starts it as it was."""
    return NOTE.exists() and nfsd.threads(files=files) == 0


def _what_to_start(files: ControlFiles) -> Settings:
    if nfsd.threads(files=files):
        return Settings.read(files)
    try:
        return Settings.from_json(NOTE.read_text(encoding="ascii"))
    except FileNotFoundError:
        raise Refused("nfsd-down", "nfsd does not run on this node", hint=START_BY_HAND) from None
    except (ValueError, KeyError, TypeError) as error:
        raise NlmfoError(f"{NOTE}: cannot be read: {error}", hint=f"remove it; {START_BY_HAND}") from error


def _write_note(settings: Settings) -> None:
    NOTE.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    replace_file(NOTE, f"{settings.to_json()}\n")


def _stop(place: Surroundings, clients: int, files: ControlFiles) -> None:
    deadline = daemons.STOP + daemons.STOP_EACH * clients
    if place.call(lambda: nfsd.threads(files=files)):
        place.call(lambda: nfsd.stop(files=files), deadline=deadline)
    poll_until("nfsd to stop", lambda: place.call(lambda: nfsd.threads(files=files)) == 0, Deadline(deadline))
    if place.call(lambda: lockd.in_grace(files=files)):
        # Of an earlier start: it may end at any moment, and would pass for the one that is to begin.
        raise _lockd_goes_on("nfsd was stopped, but lockd goes on, in the grace period of its last start")


def _start_again(
    place: Surroundings, settings: Settings, grace: int | None, files: ControlFiles, error: BaseException
) -> None:
    try:
        if not place.call(lambda: nfsd.threads(files=files)):
            _start(place, settings, grace, files)
        NOTE.unlink()
    except (NlmfoError, OSError) as worse:
        raise NlmfoError(f"{error}; and nfsd could not be started again: {worse}", hint=START_BY_HAND) from error


def _start(place: Surroundings, settings: Settings, grace: int | None, files: ControlFiles) -> None:
    setup = Setup(settings.versions, settings.listeners, grace)
    try:
        place.call(lambda: nfsd_setup.prepare(setup, files=files), deadline=daemons.START)
        nfsd_setup.set_grace_of_lockd(grace, files=files)
        place.call(lambda: _run_threads(place, settings.threads, files), deadline=daemons.START)
    except NlmfoError as error:
        error.hint = error.hint or START_BY_HAND
        raise


def _run_threads(place: Surroundings, threads: int, files: ControlFiles) -> None:
    """By rpc.nfsd where a server scope is configured: it is the host name of whoever starts nfsd, which it borrows."""
    if nfs_conf.get("nfsd", "scope") is None:
        nfsd.set_threads(threads, files=files)
        return
    run(place.command("rpc.nfsd", "--", str(threads)), deadline=daemons.START)
    running = nfsd.threads(files=files)
    if running != threads:
        raise NlmfoError(f"rpc.nfsd was told to run {threads} threads and reported success, but {running} run")


def _see_in_grace(place: Surroundings, files: ControlFiles) -> None:
    if not place.call(lambda: lockd.in_grace(files=files)):
        raise _lockd_goes_on("nfsd was restarted, but lockd is not in grace")


def _lockd_goes_on(what: str) -> NlmfoError:
    mounted = ", ".join(map(str, own_mounts.v3_clients()))
    return NlmfoError(
        f"{what}: reclaims would be refused, so no client is told",
        hint=f"lockd has another user: unmount what this node mounts by NFSv3 ({mounted or 'none is seen here'}), "
        "and take over again",
    )


def _drop_what_was_left(mountpoint: Path, kernel: Kernel) -> None:
    """Kernels before 6.4 leave locks behind when nfsd stops, if lockd serves another network namespace as well.

    They would stand against the reclaims of those who held them. In grace nobody can take one meanwhile, and while
    nfsd runs the kernel does not crash on being told to drop them.
    """
    mount = mounts.at(mountpoint)
    if mount is not None and locks.held_by_clients({mount.device}, files=kernel.files):
        dropping.drop_of_filesystem(mountpoint, mount.device, kernel)
