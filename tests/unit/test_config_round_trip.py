# SPDX-License-Identifier: GPL-2.0-or-later
"""Any valid service, written as TOML and loaded, is the same service again."""

from __future__ import annotations

import json
import tempfile
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from nlmfo.config import Address, Consistency, EndGrace, Export, Isolation, Notifier, Partition, Service, load

from .test_config import write

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
HEX = "0123456789abcdef"

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}", fullmatch=True)
labels = st.from_regex(r"[a-z]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
host_names = st.lists(labels, min_size=1, max_size=3).map(".".join)
interfaces = st.text(LETTERS + ".-@", min_size=1, max_size=15).filter(lambda name: name not in (".", ".."))
options = st.lists(st.sampled_from(["rw", "ro", "sec=krb5:sys", "no_root_squash"]), min_size=1).map(",".join)
patterns = st.text(LETTERS + "*?@./:[]-", min_size=1).filter(lambda pattern: not pattern.startswith("-"))
# Whatever may stand in a file name, quotes, backslashes and blanks included.
parts = st.text(st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="/"), min_size=1, max_size=8)
directories = parts.filter(lambda part: part not in (".", ".."))
uuids = st.text(HEX, min_size=32, max_size=32).map(
    lambda digits: "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
)
# Hosts 1 to 254 of a /24, or of a /64: never the network's own address, nor its broadcast.
addresses: st.SearchStrategy[Address] = st.one_of(
    st.builds(lambda a, b: IPv4Interface(f"10.{a}.0.{b}/24"), st.integers(0, 255), st.integers(1, 254)),
    st.builds(lambda n: IPv6Interface(f"fd00::{n:x}/64"), st.integers(1, 0xFFFF)),
)


@st.composite
def partitions(draw: st.DrawFn) -> tuple[Partition, ...]:
    found = draw(st.lists(st.tuples(uuids, directories), min_size=1, max_size=3, unique_by=(_first, _second)))
    return tuple(Partition(uuid, Path("/srv/shares", name), draw(options)) for uuid, name in found)


@st.composite
def exports(draw: st.DrawFn, below: tuple[Partition, ...]) -> tuple[Export, ...]:
    fsids = st.one_of(st.integers(1, 2**32 - 1).map(str), uuids)
    found = draw(st.lists(st.tuples(directories, fsids), min_size=1, max_size=3, unique_by=(_first, _second)))
    clients = st.dictionaries(patterns, options, min_size=1, max_size=3)
    return tuple(
        Export(draw(st.sampled_from(below)).mountpoint / name, fsid, tuple(draw(clients).items()))
        for name, fsid in found
    )


@st.composite
def services(draw: st.DrawFn, directory: Path) -> Service:
    name = draw(names)
    mounted = draw(partitions())
    known_by = tuple(draw(st.lists(host_names, max_size=2)))
    return Service(
        name=name,
        file=directory / "services.d" / f"{name}.toml",
        addresses=tuple(draw(st.lists(addresses, min_size=1, max_size=3, unique_by=lambda address: address.ip))),
        interface=draw(interfaces),
        names=known_by,
        isolation=Isolation.NETNS,
        state=Path("/srv/state") / draw(directories),
        versions=tuple(draw(st.lists(st.sampled_from(["3", "4", "4.0", "4.1", "4.2"]), min_size=1, unique=True))),
        partitions=mounted,
        exports=draw(exports(mounted)),
        grace=draw(st.none() | st.integers(1, 24).map(lambda tens: tens * 10)),
        threads=draw(st.integers(1, 1024)),
        consistency=draw(st.sampled_from(Consistency)),
        notifier=draw(st.sampled_from(Notifier if known_by else [Notifier.NLMFO])),
        end_grace=draw(st.sampled_from(EndGrace)),
        settle=draw(st.floats(0, 60)),
        retry_for=draw(st.integers(0, 366 * 86_400)),
        forget_after=draw(st.integers(0, 366 * 86_400)),
    )


@given(data=st.data())
def test_any_valid_service_survives_being_written_and_read(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        service = data.draw(services(Path(scratch)))
        config = load(write(Path(scratch), **{service.name: as_toml(service)}))
        assert config.service(service.name) == service


def as_toml(service: Service) -> str:
    """The service as its file would say it; here a basic string of TOML is a string of JSON."""
    lines = [
        f"addresses = {_json([str(address) for address in service.addresses])}",
        f"interface = {_json(service.interface)}",
        f"names = {_json(service.names)}",
        f"isolation = {_json(service.isolation)}",
        f"state = {_json(str(service.state))}",
        f"versions = {_json(service.versions)}",
        f"threads = {service.threads}",
        f"consistency = {_json(service.consistency)}",
        f"notifier = {_json(service.notifier)}",
        f"end_grace = {_json(service.end_grace)}",
        f"settle = {service.settle!r}",
        f"retry_for = {service.retry_for}",
        f"forget_after = {service.forget_after}",
        *([f"grace = {service.grace}"] if service.grace else []),
    ]
    for partition in service.partitions:
        lines += ["[[partition]]", f"uuid = {_json(partition.uuid)}"]
        lines += [f"mountpoint = {_json(str(partition.mountpoint))}", f"options = {_json(partition.options)}"]
    for export in service.exports:
        fsid = export.fsid if export.fsid.isdecimal() and len(export.fsid) <= 10 else _json(export.fsid)
        lines += ["[[export]]", f"path = {_json(str(export.path))}", f"fsid = {fsid}", "[export.clients]"]
        lines += [f"{_json(pattern)} = {_json(given)}" for pattern, given in export.clients]
    return "\n".join(lines)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _first(pair: tuple[str, str]) -> str:
    return pair[0]


def _second(pair: tuple[str, str]) -> str:
    return pair[1]
