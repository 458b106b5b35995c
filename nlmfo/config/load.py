# SPDX-License-Identifier: GPL-2.0-or-later
"""From a configuration directory to a Config."""

from __future__ import annotations

import os
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from nlmfo.config import fields, rules
from nlmfo.config.model import Config, Consistency, EndGrace, Export, Isolation, Notifier, Partition, Service
from nlmfo.config.reader import Table, read_toml, unreadable
from nlmfo.config.values import Invalid, absolute_path, array, boolean, integer, number, one_of, some
from nlmfo.errors import ConfigError

MAIN_KEYS = ("node", "cluster", "defaults")
CLUSTER_KEYS = ("registry", "fence", "fence_deadline", "restart_nfsd")
TUNING_KEYS = (
    *("grace", "threads", "consistency"),
    *("notifier", "end_grace", "settle", "retry_for", "forget_after"),
)
SERVICE_KEYS = (
    *("addresses", "interface", "names", "isolation", "state", "versions"),
    *TUNING_KEYS,
    *("partition", "export"),
)
#: Seconds.
YEAR = 366 * 86_400
PARTITION_KEYS = ("uuid", "mountpoint", "options")
EXPORT_KEYS = ("path", "fsid", "clients")


class Tuning(NamedTuple):
    """What [defaults] says for all services, and each service may say for itself."""

    grace: int | None = None
    threads: int = 8
    consistency: Consistency = Consistency.SYNC
    notifier: Notifier = Notifier.NLMFO
    end_grace: EndGrace = EndGrace.RECLAIMED
    settle: float = 0.5
    retry_for: int = 604_800
    forget_after: int = 0


def load(directory: Path) -> Config:
    """Read ``nlmfo.toml`` and ``services.d/*.toml`` below ``directory``.

    Raises ConfigError, which names file, key and fix, for the first thing that is wrong.
    """
    file = directory / "nlmfo.toml"
    main = Table(file, "", read_toml(file), MAIN_KEYS)
    config = _without_services(directory, main)
    defaults = _tuning(main.table("defaults", TUNING_KEYS), Tuning())
    services = [_service(each, config.registry, defaults) for each in _service_files(directory / "services.d")]
    rules.check(services, config.registry)
    return config._replace(
        services=MappingProxyType({service.name: service for service in services}),
        warnings=rules.warnings(services, config.registry),
    )


def _without_services(directory: Path, main: Table) -> Config:
    node = _node(main.table("node", ("name",)))
    cluster = main.table("cluster", CLUSTER_KEYS)
    return Config(
        directory=directory,
        node=node,
        registry=cluster.optional("registry", absolute_path, None),
        services={},
        warnings=(),
        fence=cluster.optional("fence", fields.fence_command, ()),
        fence_deadline=cluster.optional("fence_deadline", number(1, 3600), 60.0),
        restart_nfsd=cluster.optional("restart_nfsd", boolean, False),
    )


def _node(table: Table) -> str:
    if "name" in table.content:
        return table.required("name", fields.host_name, example='name = "node1"')
    try:
        return fields.host_name(os.uname().nodename)
    except Invalid as invalid:
        reason = f"is missing, and this machine calls itself something else: {invalid.reason}"
        raise table.error("name", reason, hint='name the node: [node] name = "node1"') from None


def _service_files(directory: Path) -> list[Path]:
    """The files of the services, sorted by name; editors' backups and hidden files are nobody's service."""
    try:
        files = list(directory.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise unreadable(directory, error) from error
    wanted = (file for file in files if file.suffix == ".toml" and not file.name.startswith("."))
    return sorted(wanted, key=lambda file: file.stem)


def _service(file: Path, registry: Path | None, defaults: Tuning) -> Service:
    name = _service_name(file)
    table = Table(file, "", read_toml(file), SERVICE_KEYS)
    tuning = _tuning(table, defaults)
    return Service(
        name=name,
        file=file,
        addresses=table.required("addresses", some(fields.address), example='addresses = ["10.0.0.100/24"]'),
        interface=table.required("interface", fields.interface_name, example='interface = "eth0"'),
        names=table.optional("names", array(fields.host_name), ()),
        isolation=table.optional("isolation", one_of(Isolation), Isolation.NETNS),
        state=_state(table, name, registry),
        versions=table.optional("versions", fields.versions, ("3",)),
        partitions=tuple(_partition(item) for item in table.tables("partition", PARTITION_KEYS)),
        exports=tuple(_export(item) for item in table.tables("export", EXPORT_KEYS)),
        **tuning._asdict(),
    )


def _service_name(file: Path) -> str:
    try:
        return fields.service_name(file.stem)
    except Invalid as invalid:
        raise ConfigError(file, None, invalid.reason, hint=invalid.hint) from None


def _state(table: Table, name: str, registry: Path | None) -> Path:
    if "state" not in table.content and registry:
        return registry / "services" / name / "state"
    return table.required("state", absolute_path, example=f'state = "/srv/nlmfo/{name}", or a [cluster] registry')


def _partition(table: Table) -> Partition:
    return Partition(
        uuid=table.required("uuid", fields.partition_uuid, example='uuid = "..." as lsblk -o NAME,UUID shows it'),
        mountpoint=table.required("mountpoint", absolute_path, example='mountpoint = "/srv/home"'),
        options=table.optional("options", fields.mount_options, "defaults"),
    )


def _export(table: Table) -> Export:
    return Export(
        path=table.required("path", absolute_path, example='path = "/srv/home/data"'),
        fsid=table.required("fsid", fields.fsid, example="fsid = 1234, the same on every node"),
        clients=table.required("clients", fields.clients, example='clients = { "10.0.0.0/24" = "rw" }'),
    )


def _tuning(table: Table, default: Tuning) -> Tuning:
    return Tuning(
        grace=table.optional("grace", fields.grace, default.grace),
        threads=table.optional("threads", integer(1, 1024), default.threads),
        consistency=table.optional("consistency", one_of(Consistency), default.consistency),
        notifier=table.optional("notifier", one_of(Notifier), default.notifier),
        end_grace=table.optional("end_grace", one_of(EndGrace), default.end_grace),
        settle=table.optional("settle", number(0, 60), default.settle),
        retry_for=table.optional("retry_for", integer(0, YEAR), default.retry_for),
        forget_after=table.optional("forget_after", integer(0, YEAR), default.forget_after),
    )
