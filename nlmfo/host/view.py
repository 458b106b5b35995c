# SPDX-License-Identifier: GPL-2.0-or-later
"""What a service's daemons see: the node's files, with a few of them replaced by the service's own.

All of it lies below /run/nlmfo/NAME on the node, so it can be read there, and it is gone after a reboot:

    etc/exports         -> /etc/exports            what is exported; written by nlmfo
    etc/nsswitch.conf   -> /etc/nsswitch.conf      the node's, but host names come from files only
    etc/nfs.conf        -> /etc/nfs.conf           empty: the node's settings are for the node's own NFS server
    etc/empty/          -> /etc/exports.d, /etc/nfs.conf.d
    nfs/                -> /var/lib/nfs            export table and mount list
    run/                -> /run                    sockets, pid files, rpc_pipefs, statd's own directory
    run/nlmfo/          -> /run/nlmfo              the callout's configuration and spool
    log/                                           what the daemons say

rpc.statd compares every new client with every other by name: with a name server that does not answer, 400 clients
took 47 s instead of 2.5 s to register, while lockd waited. Hence "files only".
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from nlmfo.config import Service
from nlmfo.errors import NlmfoError
from nlmfo.host import exports, mounts
from nlmfo.host.namespaces import Namespaces
from nlmfo.host.pins import RUN
from nlmfo.kernel import syscalls

PIPEFS = Path("/run/rpc_pipefs")
STATD_DIRECTORY = Path("/run/statd")
CALLOUT = Path("/run/nlmfo/callout")
CALLOUT_CONFIG = Path("/run/nlmfo/callout.conf")
SPOOL = Path("/run/nlmfo/spool")
RECORDS = Path("/run/nlmfo/records")
#: Where nfsdcld keeps the list of a service that has no NFSv4 clients.
NFSDCLD = Path("/run/nfsdcld")
#: Where `make -C callouts install` puts the compiled one.
INSTALLED = Path("/usr/libexec/nlmfo")
#: Where distributions keep statd's directory: Debian and SUSE, then Red Hat. Its owner is who statd runs as.
STATD_HOMES = (Path("/var/lib/nfs/sm"), Path("/var/lib/nfs/statd/sm"))
_HOSTS_LINE = re.compile(r"^hosts:.*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class StatdUser:
    """Who rpc.statd runs as on this node: it drops to the owner of its directory."""

    uid: int
    gid: int


def statd_user() -> StatdUser:
    """The owner of the distribution's own statd directory."""
    for home in STATD_HOMES:
        if home.is_dir():
            found = home.stat()
            return StatdUser(found.st_uid, found.st_gid)
    raise NlmfoError(
        "cannot tell who rpc.statd runs as: neither /var/lib/nfs/sm nor /var/lib/nfs/statd/sm exists",
        hint="install nfs-common (Debian, Ubuntu), nfs-utils (Red Hat) or nfs-kernel-server (SUSE)",
    )


def callout_program() -> Path:
    """What rpc.statd runs: from the checkout that this is, or installed; compiled, or else the script."""
    package = Path(__file__).resolve().parents[1]
    homes = (package.parent / "callouts/build", package.parent / "callouts", INSTALLED, package / "_callouts")
    for program in (home / "nlmfo-callout" for home in homes):
        if os.access(program, os.X_OK):
            return program
    raise NlmfoError("the statd callout is not installed", hint="install nlmfo again: the package is not whole")


def prepare(namespaces: Namespaces, service: Service, user: StatdUser, callout: Path) -> None:
    """Lay out the service's files on the node and put them in place inside its mount namespace."""
    home = namespaces.directory
    _lay_out(home, service, user)
    namespaces.call(lambda: _put_in_place(home, callout))


def clean(namespaces: Namespaces) -> None:
    """Remove what ``prepare`` laid out, except for the daemons' logs of this last time."""
    import shutil  # noqa: PLC0415 - 10 ms, with all the formats of archives that it knows

    for name in ("etc", "nfs", "run"):
        shutil.rmtree(namespaces.directory / name, ignore_errors=True)


def on_node(namespaces: Namespaces, path: Path) -> Path:
    """Where the node sees a path that the service sees below /run."""
    return namespaces.directory / "run" / path.relative_to("/run")


def _lay_out(home: Path, service: Service, user: StatdUser) -> None:
    for name in (
        "etc/empty",
        "nfs",
        "run/nlmfo",
        "run/rpc_pipefs",
        "run/rpcbind",
        "run/lock",
        "run/statd",
        "log",
    ):
        (home / name).mkdir(mode=0o755, parents=True, exist_ok=True)
    for name in ("etab", "rmtab"):
        (home / "nfs" / name).touch(0o644)
    for name in ("run/statd/sm", "run/statd/sm.bak", "run/nlmfo/spool"):
        (home / name).mkdir(mode=0o700, exist_ok=True)
        os.chown(home / name, user.uid, user.gid)
    (home / "run/nlmfo/callout").touch(0o755)
    (home / "run/systemd/journal").mkdir(parents=True, exist_ok=True)
    (home / "etc/exports").write_text(exports.render(service), encoding="utf-8")
    (home / "etc/nfs.conf").write_text(f"# nlmfo service '{service.name}': daemons get all they need as arguments\n")
    (home / "etc/nsswitch.conf").write_text(files_only(_read("/etc/nsswitch.conf")), encoding="utf-8")


def files_only(nsswitch: str) -> str:
    """The node's nsswitch.conf with host names looked up in /etc/hosts and nowhere else."""
    if _HOSTS_LINE.search(nsswitch):
        return _HOSTS_LINE.sub("hosts: files", nsswitch)
    return nsswitch + ("\n" if nsswitch and not nsswitch.endswith("\n") else "") + "hosts: files\n"


def _put_in_place(home: Path, callout: Path) -> None:
    for name in ("exports", "nsswitch.conf", "nfs.conf"):
        _cover(home / "etc" / name, Path("/etc") / name)
    for name in ("exports.d", "nfs.conf.d"):
        _cover(home / "etc/empty", Path("/etc") / name)
    _cover(home / "nfs", Path("/var/lib/nfs"))
    # The callout is reached by this path alone: statd may not be able to walk to where it is installed, and /run
    # is mounted noexec on Debian, which a bind mount of a file from elsewhere does not inherit.
    syscalls.mount(os.fspath(callout), home / "run/nlmfo/callout", "none", syscalls.MS_BIND)
    journal = Path("/run/systemd/journal")
    if journal.is_dir():
        syscalls.mount(os.fspath(journal), home / "run/systemd/journal", "none", syscalls.MS_BIND)
    syscalls.mount("rpc_pipefs", home / "run/rpc_pipefs", "rpc_pipefs")
    syscalls.mount(os.fspath(home / "run"), Path("/run"), "none", syscalls.MS_BIND | syscalls.MS_REC)
    syscalls.mount("nfsd", Path("/proc/fs/nfsd"), "nfsd")


def _cover(source: Path, target: Path) -> None:
    """Put the service's own file over the node's; what the node has not got needs no cover."""
    if target.exists():
        syscalls.mount(os.fspath(source), target, "none", syscalls.MS_BIND)
    elif target == Path("/etc/exports"):
        raise NlmfoError("/etc/exports does not exist", hint="create it, empty: 'touch /etc/exports'")


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def put_in_place_already() -> bool:
    """Whether the calling process sees the service's files, not the node's."""
    run = mounts.at(Path("/run"))
    return run is not None and Path(run.root).parent.parent.name == RUN.name
