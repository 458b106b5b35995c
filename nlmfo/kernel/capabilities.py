# SPDX-License-Identifier: GPL-2.0-or-later
"""What this kernel offers for moving locks, what of it can be trusted, and what nlmfo would use for which work.

Nothing is changed by asking. What belongs to a module that is not loaded, or to a file system that is not mounted,
is unknown: it may come with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from nlmfo.kernel import caches, dropping, lockd, lockd_settings, locks, nfsd, proposed, version
from nlmfo.kernel.dropping import Kernel, Way
from nlmfo.kernel.netlink import Command
from nlmfo.kernel.version import Answer, Bug

NFSD_AWAY = "the nfsd file system is not mounted here: 'mount -t nfsd nfsd /proc/fs/nfsd'"
LOCKD_AWAY = "lockd is not loaded: 'modprobe lockd'"
IDLE = "reports success and drops nothing (CVE-2026-93231)"
CRASH = "crashes where nfsd does not run: nlmfo asks for its threads first"
RACE = "can crash while clients send requests: the address goes down first (CVE-2026-89485)"
WRONG = "may not release every lock: what is left shows in /proc/locks"
RESTART = "by stopping and starting nfsd: every lock of this network namespace is dropped, and its clients are told"


class Use(StrEnum):
    """The work that a kernel's interface is chosen for."""

    DROP_FILESYSTEM = "drop locks of a file system"
    DROP_ADDRESS = "drop locks of an address"
    SEE_LOCKS = "see locks"
    START_GRACE = "start grace"
    GRACE_LENGTH = "length of grace"
    END_GRACE = "end grace"
    FLUSH = "flush exports"
    TRACKING = "client tracking"


@dataclass(frozen=True, slots=True)
class Capability:
    """One interface: whether this kernel has it, where, what to know of it, and what nlmfo uses it for here."""

    name: str
    present: Answer
    where: str
    note: str = ""
    chosen_for: tuple[Use, ...] = ()


def survey(kernel: Kernel | None = None) -> tuple[Capability, ...]:
    """Every interface that nlmfo knows, in the namespaces of the calling process. Takes root to see all."""
    kernel = kernel or Kernel()
    return (*_proposed(kernel), *_netlink(kernel), *_nfsd(kernel), *_lockd(kernel), *_rest(kernel))


def _proposed(kernel: Kernel) -> Iterator[Capability]:
    note = "proposed in 2006, in no kernel.org kernel"
    way = _filesystem_way(kernel, Way.PROPOSED)
    yield _control(kernel, proposed.UNLOCK, note, way)
    can = proposed.can_start_grace(files=kernel.files)
    yield _control(kernel, proposed.SET_IP_GRACE, note, (Use.START_GRACE,) if can else ())


def _netlink(kernel: Kernel) -> Iterator[Capability]:
    commands = dropping.family(kernel).commands
    uses = {
        Command.UNLOCK_FILESYSTEM: _filesystem_way(kernel, Way.NETLINK),
        Command.UNLOCK_IP: _address_way(kernel, Way.NETLINK),
    }
    for command, chosen in uses.items():
        absent = Answer.NO if commands or _mounted(kernel) else Answer.UNKNOWN
        present = Answer.YES if command in commands else absent
        name = command.name.lower().replace("_", "-")
        note = "" if present is Answer.YES else "kernels from 7.2 on have it"
        yield Capability(f"{name} (netlink)", present, "generic netlink, family nfsd", note, chosen)


def _nfsd(kernel: Kernel) -> Iterator[Capability]:
    bugs = ((version.UNLOCK_FS_CRASH, CRASH), (version.UNLOCK_RACE, RACE), (version.UNLOCK_WRONG, WRONG))
    yield _control(kernel, "unlock_filesystem", _bugs(kernel, *bugs), _filesystem_way(kernel, Way.PROCFS))
    note = "; ".join(filter(None, (_bugs(kernel, (version.UNLOCK_IP_IDLE, IDLE)), "IPv4 only")))
    yield _control(kernel, "unlock_ip", note, _address_way(kernel, Way.PROCFS))
    per_address = proposed.can_start_grace(files=kernel.files)
    yield _control(kernel, "threads", RESTART, () if per_address or not _mounted(kernel) else (Use.START_GRACE,))
    yield _control(kernel, "v4_end_grace", "NLM waits for NFSv4's grace too", _if_there(kernel, Use.END_GRACE))
    legacy = kernel.files.exists(nfsd.CONTROL / "nfsv4recoverydir")
    needs = "nfsdcld has to run before nfsd starts, for NFSv3 services too: without it grace cannot be ended early"
    if legacy:
        needs += (
            "; this kernel also has the old way (nfsv4recoverydir), which works in no network namespace but the first"
        )
    yield _control(kernel, "v4_end_grace", needs, _if_there(kernel, Use.TRACKING), name="nfsdcld upcall")


def _lockd(kernel: Kernel) -> Iterator[Capability]:
    loaded = kernel.files.exists(lockd_settings.DIRECTORY / lockd_settings.Setting.TIMEOUT)
    ends = kernel.files.exists(lockd.END_GRACE)
    absent = Answer.NO if loaded else Answer.UNKNOWN
    away = "" if loaded else LOCKD_AWAY
    uses = (Use.END_GRACE,) if ends else ()
    yield Capability("nlm_end_grace", Answer.YES if ends else absent, str(lockd.END_GRACE), "" if ends else away, uses)
    settings = str(lockd_settings.DIRECTORY / lockd_settings.Setting.GRACE_PERIOD)
    lengths = (Use.GRACE_LENGTH,) if loaded else ()
    present = Answer.YES if loaded else Answer.UNKNOWN
    note = away or f"the next one lasts {lockd_settings.next_grace(files=kernel.files)} s; the same in every namespace"
    yield Capability("nlm_grace_period", present, settings, note, lengths)


def _rest(kernel: Kernel) -> Iterator[Capability]:
    shown = locks.shows_all(files=kernel.files)
    note = "" if shown else "this process is in a container of processes: NFS clients' locks are not shown to it"
    uses = (Use.SEE_LOCKS,) if shown else ()
    yield Capability("lock table", Answer.YES if shown else Answer.NO, str(locks.TABLE), note, uses)
    files = [caches.DIRECTORY / name / "flush" for name in caches.ORDER]
    missing = [file.parent.name for file in files if not kernel.files.exists(file)]
    there = len(missing) < len(files)
    note = f"not there: {', '.join(missing)}" if missing else ""
    present = Answer.YES if there else Answer.UNKNOWN
    yield Capability("export caches", present, f"{caches.DIRECTORY}/*/flush", note, (Use.FLUSH,) if there else ())


def _control(kernel: Kernel, file: str, note: str, chosen: tuple[Use, ...], *, name: str | None = None) -> Capability:
    """One file of nfsd's."""
    path: Path = nfsd.CONTROL / file
    if not _mounted(kernel):
        return Capability(name or file, Answer.UNKNOWN, str(path), NFSD_AWAY)
    present = Answer.YES if kernel.files.exists(path) else Answer.NO
    return Capability(name or file, present, str(path), note, chosen)


def _mounted(kernel: Kernel) -> bool:
    return kernel.files.exists(nfsd.CONTROL / "threads")


def _if_there(kernel: Kernel, use: Use) -> tuple[Use, ...]:
    return (use,) if kernel.files.exists(nfsd.CONTROL / "v4_end_grace") else ()


def _filesystem_way(kernel: Kernel, way: Way) -> tuple[Use, ...]:
    return (Use.DROP_FILESYSTEM,) if dropping.way_for_filesystem(kernel) is way else ()


def _address_way(kernel: Kernel, way: Way) -> tuple[Use, ...]:
    return (Use.DROP_ADDRESS,) if dropping.way_for_address(kernel) is way else ()


def _bugs(kernel: Kernel, *known: tuple[Bug, str]) -> str:
    """What is wrong with an interface in this kernel; "perhaps" where its number does not tell."""
    answers = {text: bug.in_kernel(kernel.version) for bug, text in known}
    surely = [text for text, answer in answers.items() if answer is Answer.YES]
    perhaps = [f"perhaps it {text}" for text, answer in answers.items() if answer is Answer.UNKNOWN]
    return "; ".join([f"kernel {kernel.version} {text}" for text in surely] + perhaps)
