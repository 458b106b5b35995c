# SPDX-License-Identifier: GPL-2.0-or-later
"""Services, records and configurations of every shape, for the tests that need one but not its file."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_interface
from pathlib import Path

from nlmfo.config import Config, Consistency, EndGrace, Export, Isolation, Notifier, Partition, Service
from nlmfo.failover.observe import Observed
from nlmfo.failover.place import Place
from nlmfo.ownership.record import OwnerRecord, Standing, boot_id

HERE = "node1"
THERE = "node2"
EARLIER_BOOT = "00000000-0000-4000-8000-000000000000"
ADDRESSES = ("10.10.0.100/24", "fd00::100/64")


def partition(number: int, mountpoint: str | Path) -> Partition:
    return Partition(f"{number:08d}-0000-4000-8000-000000000000", Path(mountpoint))


#: The second lies below the first, and the third beside them; in the file the deepest stands first.
PARTITIONS = (partition(2, "/srv/home/data"), partition(1, "/srv/home"), partition(3, "/srv/other"))


def service(
    partitions: int = 1,
    addresses: int = 1,
    *,
    name: str = "home",
    exports: tuple[str, ...] | None = None,
    state: Path = Path("/srv/home/.nlmfo"),
    isolation: Isolation = Isolation.NETNS,
) -> Service:
    """A service that exports the root of each of its partitions, unless ``exports`` says otherwise."""
    chosen = PARTITIONS[-1:] if partitions == 1 else PARTITIONS[:partitions]
    paths = [str(p.mountpoint) for p in chosen] if exports is None else exports
    return Service(
        name=name,
        file=Path(f"/etc/nlmfo/services.d/{name}.toml"),
        addresses=tuple(ip_interface(address) for address in ADDRESSES[:addresses]),
        interface="eth0",
        names=("nfs100.example",),
        isolation=isolation,
        state=state,
        versions=("3",),
        partitions=chosen,
        exports=tuple(Export(Path(p), str(n), (("*", "rw"),)) for n, p in enumerate(paths, start=100)),
        grace=None,
        threads=8,
        consistency=Consistency.SYNC,
        notifier=Notifier.NLMFO,
        end_grace=EndGrace.RECLAIMED,
        settle=1.0,
        retry_for=604_800,
        forget_after=0,
    )


def place(home: Path) -> Place:
    """Everything that stays on the node, below ``home``."""
    return Place(
        spool=home / "spool",
        statd=home / "statd/sm",
        records=home / "records",
        callout=home / "callout.conf",
        progress=home / "progress.json",
        wake=home / "wake",
    )


def config(registry: Path | None, services: Mapping[str, Service] | None = None, node: str = HERE) -> Config:
    return Config(Path("/etc/nlmfo"), node, registry, services or {}, ())


def record(
    epoch: int = 1,
    node: str = HERE,
    standing: Standing = Standing.SERVING,
    *,
    boot: str | None = None,
    service: str = "home",
) -> OwnerRecord:
    """``boot``: this boot unless it is given."""
    return OwnerRecord(service, node, boot or boot_id(), epoch, 1_000_000_000.0 + epoch, standing)


def observed(
    of: Service,
    *,
    owner: OwnerRecord | None = None,
    owned: bool = False,
    listed: bool | None = None,
    mounted: int = 0,
    isolated: bool = False,
    traces: bool | None = None,
    threads: int = 0,
    set_up: bool | None = None,
    in_grace: bool = False,
    exported: bool = False,
    addresses: bool = False,
    told: bool = False,
    frozen: bool = False,
    kept: bool = False,
    attached: bool = False,
    neighbours: tuple[str, ...] = (),
    untold: tuple[str, ...] = (),
    per_address: bool = False,
    stranded: bool = False,
) -> Observed:
    """``mounted``: how many of the partitions, in mount order. Namespaces leave traces; who owns is listed.

    An nfsd in them that runs is set up.
    """
    up: frozenset[IPv4Address | IPv6Address] = frozenset(a.ip for a in of.addresses) if addresses else frozenset()
    paths = frozenset(str(e.path) for e in of.exports) if exported else frozenset[str]()
    return Observed(
        owner=owner,
        owned=owned,
        listed=owned if listed is None else listed,
        mounted=frozenset(p.uuid for p in of.mount_order[:mounted]),
        isolated=isolated,
        traces=isolated if traces is None else traces,
        threads=threads,
        set_up=isolated and threads > 0 if set_up is None else set_up,
        in_grace=in_grace,
        exported=paths,
        to_export=paths,
        addresses=up,
        told=told,
        frozen=frozen,
        kept=kept,
        attached=attached,
        neighbours=neighbours,
        untold=untold,
        per_address=per_address,
        stranded=stranded,
    )


def all_up(of: Service) -> Observed:
    """A service that is served here, whole; its grace is over, and everybody was told."""
    host = of.isolation is Isolation.HOST
    return observed(
        of,
        owner=record(service=of.name),
        owned=True,
        mounted=len(of.partitions),
        isolated=not host,
        traces=True,
        threads=of.threads,
        exported=True,
        addresses=True,
        told=True,
        kept=True,
        attached=True,
    )
