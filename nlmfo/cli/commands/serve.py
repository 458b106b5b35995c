# SPDX-License-Identifier: GPL-2.0-or-later
"""``nlmfo serve``: what systemd's unit runs. A takeover, and then looking after the service until told to stop."""

from __future__ import annotations

import argparse
import os
import select
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Never

from nlmfo.cli.commands import common
from nlmfo.cli.journalled import Journalled, Message, failures
from nlmfo.cli.telling import hearing, telling
from nlmfo.config import Config, Service, load
from nlmfo.deadline import Deadline, poll_until
from nlmfo.errors import DeadlineExceeded, ExitCode, NlmfoError, NotOwned
from nlmfo.failover import room, runs
from nlmfo.failover.events import Troubled
from nlmfo.failover.owner import owner_of, registry_of
from nlmfo.failover.supervise import BeyondMending, Supervisor
from nlmfo.host import mounts, space, systemd
from nlmfo.kernel import syscalls
from nlmfo.ownership.proof import Word
from nlmfo.ownership.record import Standing
from nlmfo.plain import plain
from nlmfo.run import own_command

#: Seconds between two looks; the manager's watchdog may want to hear of them more often.
EACH = 10.0
#: Seconds for the disks to appear, at boot and when the first of several has.
DISKS = 60.0
#: What ends it, and what has it read its configuration anew.
STOP, RELOAD = frozenset({signal.SIGTERM, signal.SIGINT}), signal.SIGHUP


def serve(config: Config, arguments: argparse.Namespace) -> ExitCode:
    """Until a signal; before that, OK when it was released by hand, and NOT_OWNED when another node has it.

    A signal ends in ``nlmfo release``, a program of its own in the place of this one: the one that is installed then.
    """
    common.need_root()
    service = config.service(arguments.service)
    _await_disks(service)
    with telling(config, arguments, "takeover") as tell:
        taken = runs.takeover(config, service, Word(), tell)
        tell.say(f"{service.name}: served here {'now' if taken else 'already'}")
    journal = Journalled("serve", service.name)
    hear = hearing(journal)
    syscalls.release_memory()  # of which the takeover needed more than what follows
    with _listening() as signals:
        systemd.notify(READY=1, STATUS="served here")
        try:
            with failures(journal, arguments, {BeyondMending: Message.BEYOND_MENDING}):
                _look_after(config, Supervisor(service.name, hear), signals)
        except NotOwned as error:
            hear(Troubled(service.name, error.text))
            return _given_up(config, service.name)
    return _become_release(config, service.name)


def _await_disks(service: Service) -> None:
    """Give disks that come late some time; what is missing then, the takeover will say."""
    disks = [mounts.BY_UUID / partition.uuid for partition in service.partitions]
    systemd.notify(STATUS="waiting for its disks", EXTEND_TIMEOUT_USEC=int(2 * DISKS * 1e6))
    with suppress(DeadlineExceeded):
        poll_until("disks to appear", lambda: all(disk.exists() for disk in disks), Deadline(DISKS), interval=0.2)


def _look_after(config: Config, supervisor: Supervisor, signals: socket.socket) -> None:
    """Round after round, until told to stop."""
    each = min(EACH, (systemd.watchdog() or EACH) / 3)
    sample = 0.0
    while (number := _wait(signals, each)) not in STOP:
        try:
            if number == RELOAD:
                config = load(config.directory)
            troubles = supervisor.round(config)
        except (NotOwned, BeyondMending):
            raise
        except (NlmfoError, OSError) as error:  # the registry, for one, may be away for a while
            troubles = supervisor.cannot_tell(error)
        if time.monotonic() >= sample:
            room.look(config)
            sample = time.monotonic() + space.EVERY
        said = "; ".join(trouble.text for trouble in troubles) or "served here; all is well"
        systemd.notify(WATCHDOG=1, STATUS=plain(said))
        _reap()


def _given_up(config: Config, service: str) -> ExitCode:
    """Whether that is as it should be."""
    owner = owner_of(config.service(service), registry_of(config))
    by_hand = owner is not None and owner.node == config.node and owner.standing is Standing.RELEASED
    return ExitCode.OK if by_hand else ExitCode.NOT_OWNED


def _become_release(config: Config, service: str) -> Never:
    systemd.notify(STOPPING=1, STATUS="to be released")
    release = own_command(config.directory, "release", service)
    os.execv(release[0], release)


@contextmanager
def _listening() -> Iterator[socket.socket]:
    """Where the numbers of signals arrive, a byte each: none breaks into what is being done."""
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    before = {number: signal.signal(number, lambda *_: None) for number in (*STOP, RELOAD)}
    signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    try:
        yield reading
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)
        reading.close()
        writing.close()


def _wait(signals: socket.socket, seconds: float) -> int:
    """The next signal's number; 0 when none came."""
    return signals.recv(1)[0] if select.select([signals], [], [], seconds)[0] else 0


def _reap() -> None:
    """The daemons that this process started, and that have died, are nobody else's to wait for."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
