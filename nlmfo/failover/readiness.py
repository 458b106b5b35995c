# SPDX-License-Identifier: GPL-2.0-or-later
"""What would fail in the night, looked for by day: each finding says what is wrong here, and how to mend it.

Nothing is changed, but for a file that is written to the registry and removed again. Nothing here decides anything: a
takeover looks for itself. What is right at one node may be wrong at the next, so run it on each.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path

from nlmfo.child import in_child
from nlmfo.config import Config, Isolation, Notifier, Service
from nlmfo.errors import NlmfoError
from nlmfo.failover import last_run
from nlmfo.failover.forecast import DAY
from nlmfo.failover.host import no_way_into_grace
from nlmfo.failover.last_run import RUNS
from nlmfo.failover.look import look
from nlmfo.failover.owner import registry_of
from nlmfo.failover.room import Room, span
from nlmfo.host import (
    exports,
    interfaces,
    libmount,
    mounts,
    node_addresses,
    node_exports,
    node_server,
    own_mounts,
    partitions,
    space,
    view,
)
from nlmfo.kernel import proposed
from nlmfo.run import ENVIRONMENT

FSTAB, HOSTS = Path("/etc/fstab"), Path("/etc/hosts")
EXPORTS, EXPORTS_D = Path("/etc/exports"), node_exports.DIRECTORY
#: What a service is made of on the node, and what its own NFS server needs.
PROGRAMS = {
    Isolation.NETNS: ("rpcbind", "rpc.statd", "rpc.mountd", "exportfs", "nfsdcld", "nsenter", "unshare", "ip", "mount"),
    Isolation.HOST: ("rpcbind", "rpc.statd", "rpc.mountd", "exportfs", "nfsdcld", "nfsconf"),
}
INSTALL = "install nfs-kernel-server (Debian, Ubuntu, SUSE) or nfs-utils (Red Hat), rpcbind, util-linux and iproute2"
#: What only ``notifier = "sm-notify"`` makes use of, and not every distribution has.
INOTIFY = "inotify_simple"
#: Bytes and inodes without which records cannot be kept; and the share of a file system that should be free.
LEAST_BYTES, LEAST_INODES, SHARE = 4 << 20, 200, 0.05
#: A file system that will be full within so many seconds deserves a look now.
SOON = 7 * DAY
#: Seconds for storage to answer.
ANSWER = 5.0
#: exports(5): neither a network, a netgroup, a wildcard nor everybody.
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")


class Severity(StrEnum):
    """``error``: a takeover here fails, or loses locks. ``warning``: something that deserves a look."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """``subject``: a service, or "node"; ``code`` is stable, for programs; ``mend``: what to do."""

    severity: Severity
    subject: str
    code: str
    text: str
    mend: str


def findings(config: Config) -> tuple[Finding, ...]:
    """Everything, the node's first. Takes root."""
    return (
        *_of_node(config),
        *(found for service in config.services.values() for found in _of_service(config, service)),
    )


def full_soon(rooms: Iterable[Room]) -> Iterator[Finding]:
    """The file systems on which there is still room, and soon will be none."""
    for room in rooms:
        if room.full_in is not None and room.full_in < SOON:
            bytes_left = f"{room.now.free >> 20} of {room.now.size >> 20} MiB"
            left = bytes_left if room.full_in == room.bytes_in else f"{room.now.inodes} inodes"
            text = (
                f"{room.place.path}, where {room.place.what} are kept, will be full in about {span(room.full_in)}: "
                f"{left} are free, and it was more before (seen for {span(room.since)})"
            )
            mend = "look what grows there ('du -x'), and make room or enlarge it before that"
            yield _warning(room.place.subject, "full-soon", text, mend)


def _of_node(config: Config) -> Iterator[Finding]:
    isolations = {service.isolation for service in config.services.values()} or {Isolation.NETNS}
    wanted = sorted({program for isolation in isolations for program in PROGRAMS[isolation]})
    missing = [program for program in wanted if shutil.which(program, path=ENVIRONMENT["PATH"]) is None]
    if missing:
        yield _error("node", "program-missing", f"not installed: {', '.join(missing)}", INSTALL)
    for what in (libmount.library, view.statd_user):
        yield from _complaint("node", "not-installed", what)
    try:
        if not _is_compiled(view.callout_program()):
            text = "the statd callout is the shell script: each new client waits some milliseconds longer for its lock"
            yield _warning("node", "callout-script", text, "'make -C callouts && make -C callouts install'")
    except NlmfoError as error:
        yield _error("node", "callout-missing", error.text, error.hint or "install nlmfo again")
    if not _is_importable(INOTIFY) and Notifier.SM_NOTIFY in {each.notifier for each in config.services.values()}:
        text = f"Python's {INOTIFY} is not installed: which clients sm-notify has told is learned half a second later"
        mend = 'install it (python3-inotify-simple, or inotify-simple of PyPI), or set notifier = "nlmfo"'
        yield _warning("node", "inotify-missing", text, mend)
    files = [each.file for each in config.services.values()]
    for path in (config.directory, config.directory / "nlmfo.toml", config.directory / "services.d", *files):
        yield from _of_rights("node", path, "can have root run commands, mount and export")
    yield from _of_registry(config)
    yield from _of_space("node", RUNS.parent, "the journals of runs")


def _of_registry(config: Config) -> Iterator[Finding]:
    registry = config.registry
    if registry is None:
        if len(config.services) > 0:
            text = "there is no registry: each takeover needs your word that no other node serves"
            yield _warning("node", "no-registry", text, "set [cluster] registry to a directory that all nodes see")
        return
    try:
        same_disk = in_child(f"writing to {registry}", lambda: _try_registry(registry), deadline=ANSWER)
    except (NlmfoError, OSError) as error:
        text = f"the registry cannot be used: {error}"
        yield _error("node", "registry", text, f"mount it, and 'mkdir -p {registry}/services' once")
        return
    if same_disk:
        text = f"the registry {registry} is on this node's own root file system: other nodes cannot see it"
        yield _error("node", "registry-local", text, "put it on a cluster file system, or on NFS from another machine")
    yield from _of_rights("node", registry / "services", "can say who serves")
    yield from _of_space("node", registry, "owner records")


def _try_registry(registry: Path) -> bool:
    """Whether it is on the same file system as the node itself. Raises OSError when it cannot be written to."""
    with tempfile.NamedTemporaryFile(dir=registry / "services", prefix=".check."):
        return registry.stat().st_dev == Path("/").stat().st_dev


def _of_service(config: Config, service: Service) -> Iterator[Finding]:
    yield from _of_interface(service)
    yield from _of_partitions(service)
    yield from _of_exports(service)
    yield from _of_addresses(config, service)
    yield from _of_names(service)
    yield from _of_runs(service)
    partition = service.state_partition
    if partition is None or mounts.is_mounted(partition):
        yield from _of_space(service.name, service.state, "the records of its clients")
    if service.isolation is Isolation.HOST:
        for unfit in node_server.unfit(own_mounts.v3_clients(), service.versions):
            yield _error(service.name, unfit.code, unfit.text, unfit.hint)
        if not config.restart_nfsd and not proposed.can_start_grace():
            refusal = no_way_into_grace(service)
            yield _error(service.name, refusal.code, refusal.text, refusal.hint or "")


def _of_interface(service: Service) -> Iterator[Finding]:
    try:
        if not interfaces.is_up(service.interface):
            text = f"interface '{service.interface}' is down"
            yield _error(service.name, "interface-down", text, f"'ip link set {service.interface} up' sets it up")
    except (NlmfoError, OSError) as error:
        text = f"interface '{service.interface}': {error}"
        yield _error(service.name, "interface", text, "'ip link' lists them; correct 'interface' in the service's file")


def _of_partitions(service: Service) -> Iterator[Finding]:
    fstab = _lines(FSTAB)
    for partition in service.partitions:
        if not (mounts.BY_UUID / partition.uuid).exists():
            text = f"partition {partition.uuid}: no disk that this node sees carries it now"
            yield _warning(service.name, "disk-away", text, "see that it is connected before the service moves here")
        for number, words in fstab:
            mounted_by = words[0].casefold() in (f"uuid={partition.uuid}", f"/dev/disk/by-uuid/{partition.uuid}")
            if mounted_by or (len(words) > 1 and words[1] == str(partition.mountpoint)):
                text = f"{FSTAB} line {number} mounts {partition.mountpoint} whoever serves it"
                yield _error(service.name, "in-fstab", text, "remove the line: the file system belongs to the service")
        if mounts.at(partition.mountpoint) is None and partition.mountpoint.exists():
            yield from _complaint(service.name, "mountpoint", partial(partitions.make_ready, partition.mountpoint))


def _of_exports(service: Service) -> Iterator[Finding]:
    """Another manager of the same export; in host isolation our own file is among them while it is served."""
    own = node_exports.file_of(service).name
    files = [EXPORTS, *(sorted(EXPORTS_D.glob("*.exports")) if EXPORTS_D.is_dir() else [])]
    for file in (each for each in files if each.name != own):
        for number, words in _lines(file):
            path = exports.unescaped(words[0])
            for export in service.exports:
                if path == export.path or export.path.is_relative_to(path) or path.is_relative_to(export.path):
                    text = f"{file} line {number} exports {path}, and the service exports {export.path}"
                    mend = "remove the line: locks taken through the node's own server do not move with the service"
                    yield _error(service.name, "exported-twice", text, mend)


def _of_addresses(config: Config, service: Service) -> Iterator[Finding]:
    mounted = own_mounts.of([address.ip for address in service.addresses], service.names)
    if mounted:
        text = f"this node is a client of it, at {', '.join(map(str, mounted))}"
        yield _error(
            service.name, "own-client", text, "unmount it: a node cannot reach a service that it serves itself"
        )
    serves = service.isolation is Isolation.HOST and _is_served(config, service)
    for address in service.addresses:
        if node_addresses.is_up(address.ip) and not serves:
            text = f"address {address.ip} is on an interface of this node already"
            mend = "take it off, and out of the network's configuration: it comes and goes with the service"
            yield _error(service.name, "address-here", text, mend)


def _is_served(config: Config, service: Service) -> bool:
    with suppress(NlmfoError):
        return look(config, service, registry_of(config)).serves(service)
    return False


def _of_names(service: Service) -> Iterator[Finding]:
    """Names of clients are looked up in files only: see nlmfo.host.view."""
    if service.isolation is Isolation.HOST:
        return
    known = {name.casefold() for _, words in _lines(HOSTS) for name in words[1:]}
    for export in service.exports:
        names = [client for client, _ in export.clients if _HOST_NAME.fullmatch(client) and not _is_address(client)]
        unknown = [name for name in names if name.casefold() not in known]
        if unknown:
            text = f"export {export.path}: {', '.join(unknown)} cannot be looked up: it is not in {HOSTS}"
            yield _error(service.name, "client-unknown", text, f"write it to {HOSTS} on every node, or use addresses")


def _of_runs(service: Service) -> Iterator[Finding]:
    with suppress(NlmfoError):
        past = last_run.newest(RUNS, service.name)
        if past is not None and not past.finished:
            text = f"a run was cut off here ({past.reached})"
            yield _error(
                service.name, "unfinished", text, f"'nlmfo resume {service.name}' or 'nlmfo abort {service.name}'"
            )


def _of_rights(subject: str, path: Path, what: str) -> Iterator[Finding]:
    """Who can write there besides root, and what he can do then."""
    with suppress(OSError):
        found = in_child(f"looking at {path}", path.stat, deadline=ANSWER)
        if found.st_uid != 0 or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            text = f"{path} can be written to by others than root, and who can do that {what}"
            yield _error(subject, "writable-by-others", text, f"'chown root {path}; chmod go-w {path}'")


def _of_space(subject: str, path: Path, what: str) -> Iterator[Finding]:
    try:
        found = in_child(f"looking at {path}", lambda: os.statvfs(space.existing(path)), deadline=ANSWER)
    except (NlmfoError, OSError) as error:
        yield _error(subject, "storage", f"{path} does not answer: {error}", "see to the storage that it lies on")
        return
    free, whole = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    few = found.f_files > 0 and found.f_favail < LEAST_INODES
    if free < LEAST_BYTES or few:
        text = f"{path}, where {what} are kept, is full: {free >> 20} MiB and {found.f_favail} inodes are free"
        yield _error(subject, "full", text, "make room there, or clients cannot get new locks")
    elif free < SHARE * whole:
        text = f"{path}, where {what} are kept, is nearly full: {free >> 20} of {whole >> 20} MiB are free"
        yield _warning(subject, "nearly-full", text, "make room there in time")


def _complaint(subject: str, code: str, what: Callable[[], object]) -> Iterator[Finding]:
    """What it says when it is tried."""
    try:
        what()
    except NlmfoError as error:
        yield _error(subject, code, error.text, error.hint or "see the log of the node")


def _is_importable(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _is_compiled(program: Path) -> bool:
    with program.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _is_address(word: str) -> bool:
    with suppress(ValueError):
        return bool(ipaddress.ip_network(word, strict=False))
    return False


def _lines(file: Path) -> list[tuple[int, list[str]]]:
    """The words of each line that has any, with its number; comments are none. Empty where there is no such file."""
    try:
        text = file.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return []
    numbered = ((number, line.partition("#")[0].split()) for number, line in enumerate(text.split("\n"), start=1))
    return [(number, words) for number, words in numbered if words]


def _error(subject: str, code: str, text: str, mend: str) -> Finding:
    return Finding(Severity.ERROR, subject, code, text, mend)


def _warning(subject: str, code: str, text: str, mend: str) -> Finding:
    return Finding(Severity.WARNING, subject, code, text, mend)
