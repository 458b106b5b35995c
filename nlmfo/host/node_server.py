# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the node's own NFS server is fit for services with ``isolation = "host"``.

It is the administrator's: nlmfo neither starts its daemons nor changes their settings. But a statd that notifies by
itself, or calls nobody when a client comes, loses locks in silence; so each of these is refused before anything is
touched, with what to change.
"""

from __future__ import annotations

import getopt
import stat
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from nlmfo.errors import Refused
from nlmfo.host import nfs_conf, node_restart
from nlmfo.kernel import nfsd, nfsd_settings
from nlmfo.kernel.files import PROC, ControlFiles

#: Codes of what an operator may know better: that it is otherwise taken care of, or does no harm here.
FORCIBLE = frozenset(
    {"nfsd-bound", "statd-without-callout", "statd-notifies", "sm-notify-lifts-grace", "no-client-tracking"}
)
PROCESSES = Path("/proc")
CALLOUT = "nlmfo-callout"
#: What rpc.statd takes (nfs-utils, utils/statd/statd.c).
STATD_OPTIONS = "h?vVFNH:dn:p:o:P:LT:U:"
STATD_LONG_OPTIONS = [
    "foreground",
    "no-syslog",
    "help",
    "version",
    "outgoing-port=",
    "port=",
    "name=",
    "state-directory-path=",
    "no-notify",
    "notify-mode",
    "ha-callout=",
    "nlm-port=",
    "nlm-udp-port=",
]
#: In /proc/net/tcp: a socket that listens, and the addresses that stand for all.
LISTENS = "0A"
ANY = ("00000000", "0" * 32)


@dataclass(frozen=True, slots=True)
class Unfit:
    """One thing that would lose locks; ``code`` is its stable name."""

    code: str
    text: str
    hint: str


@dataclass(frozen=True, slots=True)
class Daemon:
    """A process of the node's own network namespace."""

    pid: int
    argv: tuple[str, ...]
    environment: Mapping[str, str]


def unfit(v3_clients: Iterable[Path], versions: Iterable[str], *, files: ControlFiles = PROC) -> tuple[Unfit, ...]:
    """Everything that has to change on this node first; empty when it is fit.

    ``v3_clients`` are this node's own NFSv2/3 mounts with locking, ``versions`` those that the service is to serve.
    """
    return (*_nfsd(versions, files), *_statd(), *_sm_notify(), *_tracking(), *_clients(v3_clients))


def refuse_if_unfit(found: Iterable[Unfit], forced: Container[str] = ()) -> None:
    """Raise Refused, which names all that was found, under the code of the first that is not ``forced``."""
    left = [one for one in found if one.code not in forced]
    if left:
        text = "this node's NFS server is not fit for host isolation: " + "; ".join(one.text for one in left)
        code, hint = left[0].code, "; ".join(one.hint for one in left)
        raise Refused(code, text, hint=hint, forcible=code in FORCIBLE)


def _nfsd(versions: Iterable[str], files: ControlFiles) -> Iterator[Unfit]:
    if not nfsd.threads(files=files):
        if not node_restart.interrupted(files=files):  # else we are the ones to start it
            yield Unfit("nfsd-down", "nfsd does not run", "start it: 'systemctl start nfs-server'")
        return
    on = nfsd_settings.versions(files=files).on
    off = [version for version in versions if version not in on]
    if off:
        yield Unfit(
            "version-off",
            f"nfsd does not serve NFS version {', '.join(off)}",
            f"set vers{off[0]}=y in [nfsd] of /etc/nfs.conf, and restart nfs-server",
        )
    ports = {listener.port for listener in nfsd_settings.listeners(files=files) if listener.transport == "tcp"}
    bound = sorted(port for port in ports if _is_bound(port))
    if bound:
        yield Unfit(
            "nfsd-bound",
            f"nfsd listens on port {bound[0]} of some addresses only, and never of one that comes later",
            "take 'host' out of [nfsd] in /etc/nfs.conf, and restart nfs-server",
        )


def _is_bound(port: int) -> bool:
    """Whether a socket listens on the port for one address only (proc_pid_net(5))."""
    addresses = [address for address, its_port in _listening() if its_port == port]
    return any(address not in ANY for address in addresses)


def _listening() -> Iterator[tuple[str, int]]:
    for name in ("tcp", "tcp6"):
        try:
            lines = (PROCESSES / "self/net" / name).read_text(encoding="ascii").splitlines()[1:]
        except FileNotFoundError:  # a kernel without IPv6
            continue
        for line in lines:
            _, local, _, state, *_ = line.split()
            if state == LISTENS:
                address, _, port = local.partition(":")
                yield address, int(port, 16)


def _statd() -> Iterator[Unfit]:
    running = _running("rpc.statd")
    if not running:
        yield Unfit("statd-down", "rpc.statd does not run", "start it: 'systemctl start rpc-statd'")
    for daemon in running:
        options = _statd_options(daemon.argv)
        callout = _callout(options)
        if callout is None or not _everybody_may_run(callout):
            runs = "runs no callout" if callout is None else f"cannot run {callout}"
            yield Unfit(
                "statd-without-callout",
                f"rpc.statd (process {daemon.pid}) {runs}, so no client is put on record",
                f"set ha-callout=/usr/libexec/nlmfo/{CALLOUT} in [statd] of /etc/nfs.conf, and restart rpc-statd",
            )
        if not _is_quiet(daemon, options):
            yield Unfit(
                "statd-notifies",
                f"rpc.statd (process {daemon.pid}) notifies clients when it starts, before they can reclaim",
                "set no-notify=1 in [statd] of /etc/nfs.conf, restart rpc-statd, and disable rpc-statd-notify",
            )


def _statd_options(argv: tuple[str, ...]) -> dict[str, str]:
    """Its options by name; empty where they make no sense to us, which counts as if it had none."""
    try:
        found, _ = getopt.gnu_getopt(list(argv[1:]), STATD_OPTIONS, STATD_LONG_OPTIONS)
    except getopt.GetoptError:
        return {}
    return dict(found)


def _callout(options: Mapping[str, str]) -> Path | None:
    """Our callout, if that is what statd runs: the command line counts before nfs.conf."""
    named = options.get("-H") or options.get("--ha-callout") or nfs_conf.get("statd", "ha-callout")
    return Path(named) if named is not None and Path(named).name == CALLOUT else None


def _everybody_may_run(program: Path) -> bool:
    """statd has dropped its privileges when it runs the callout, and does not mind when it cannot."""
    try:
        modes = [place.stat().st_mode for place in (program, *program.parents)]
    except OSError:
        return False
    return all(mode & stat.S_IXOTH for mode in modes)


def _is_quiet(daemon: Daemon, options: Mapping[str, str]) -> bool:
    asked = {"-L", "--no-notify"} & options.keys() or "RPC_STATD_NO_NOTIFY" in daemon.environment
    return bool(asked) or nfs_conf.says("statd", "no-notify", nfs_conf.TRUE)


def _sm_notify() -> Iterator[Unfit]:
    if not nfs_conf.says("sm-notify", "lift-grace", nfs_conf.FALSE):
        yield Unfit(
            "sm-notify-lifts-grace",
            "sm-notify may end lockd's grace whenever it finds nobody to notify",
            "set lift-grace=n in [sm-notify] of /etc/nfs.conf",
        )


def _tracking() -> Iterator[Unfit]:
    if not _running("nfsdcld"):
        yield Unfit(
            "no-client-tracking",
            "nfsdcld does not run: NFSv4's grace of 90 s keeps every client from its locks, and nothing can end it",
            "start it before nfsd: 'systemctl enable --now nfsdcld', then restart nfs-server",
        )


def _clients(mountpoints: Iterable[Path]) -> Iterator[Unfit]:
    named = ", ".join(map(str, mountpoints))
    if named:
        yield Unfit(
            "v3-client-mount",
            f"this node itself mounts by NFSv3 with locking, which keeps lockd alive and out of grace: {named}",
            "unmount it, or mount it with 'nolock' or as NFSv4",
        )


def _running(name: str) -> list[Daemon]:
    """The processes of that name in the node's own network: those of services in namespaces have another."""
    ours = _network("self")
    pids = (entry.name for entry in PROCESSES.iterdir() if entry.name.isdigit())
    found = (_daemon(pid, name) for pid in pids if _network(pid) == ours)
    return [daemon for daemon in found if daemon is not None]


def _network(pid: str) -> tuple[int, int] | None:
    try:
        found = (PROCESSES / pid / "ns/net").stat()
    except OSError:  # it ended
        return None
    return found.st_dev, found.st_ino


def _daemon(pid: str, name: str) -> Daemon | None:
    try:
        if (PROCESSES / pid / "comm").read_text(encoding="utf-8", errors="replace").rstrip("\n") != name:
            return None
        argv, environment = (_words(PROCESSES / pid / file) for file in ("cmdline", "environ"))
    except OSError:
        return None
    pairs = (word.partition("=") for word in environment)
    return Daemon(int(pid), tuple(argv), {key: value for key, _, value in pairs})


def _words(file: Path) -> list[str]:
    """NUL-terminated words; empty ones are words, too."""
    return file.read_bytes().decode("utf-8", errors="surrogateescape").removesuffix("\0").split("\0")
