# SPDX-License-Identifier: GPL-2.0-or-later
"""``nlmfo check`` finds by day what would fail in the night, and says how to mend it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nlmfo.config import Config, Export, Isolation, Notifier, Service
from nlmfo.errors import NlmfoError
from nlmfo.failover import last_run, readiness
from nlmfo.failover.last_run import Past
from nlmfo.failover.readiness import Severity, findings
from nlmfo.failover.verbs import Outcome, Verb
from nlmfo.host import (
    interfaces,
    libmount,
    mounts,
    node_addresses,
    node_server,
    own_mounts,
    view,
)
from nlmfo.host.node_server import Unfit
from nlmfo.kernel import proposed
from tests.unit import shapes

PLENTY = SimpleNamespace(f_bavail=1 << 20, f_blocks=1 << 21, f_frsize=4096, f_files=1000, f_favail=900)


def raising(text: str) -> Callable[..., Any]:
    def refuse(*_: object, **__: object) -> None:
        raise NlmfoError(text, hint="mend it")

    return refuse


class Scene:
    """A node on which everything is in order; each test spoils one thing."""

    def __init__(self, directory: Path, patch: pytest.MonkeyPatch) -> None:
        self.directory, self.patch = directory, patch
        self.registry = directory / "registry"
        (self.registry / "services").mkdir(parents=True)
        self.callout = directory / "nlmfo-callout"
        self.callout.write_bytes(b"\x7fELF and more")
        self.service = shapes.service()._replace(state=directory / "state")
        self.config: Config = shapes.config(self.registry)._replace(services={"home": self.service})
        self.missing: set[str] = set()
        self.up: set[object] = set()
        self.space: dict[str, Any] = {}
        for name in ("FSTAB", "HOSTS", "EXPORTS", "EXPORTS_D"):
            patch.setattr(readiness, name, directory / "etc" / name.lower())
        (directory / "etc").mkdir()
        (directory / "by-uuid").mkdir()
        for partition in self.service.partitions:
            (directory / "by-uuid" / partition.uuid).touch()
        patch.setattr(mounts, "BY_UUID", directory / "by-uuid")
        patch.setattr(shutil, "which", lambda name, **_: None if name in self.missing else f"/usr/sbin/{name}")
        patch.setattr(libmount, "library", lambda: None)
        patch.setattr(view, "statd_user", lambda: None)
        patch.setattr(view, "callout_program", lambda: self.callout)
        patch.setattr(interfaces, "is_up", lambda _: True)
        patch.setattr(own_mounts, "of", lambda *_: ())
        patch.setattr(own_mounts, "v3_clients", lambda: ())
        patch.setattr(mounts, "at", lambda _: None)
        patch.setattr(node_addresses, "is_up", lambda address: address in self.up)
        patch.setattr(last_run, "newest", lambda *_: None)
        patch.setattr(readiness, "_try_registry", lambda _: False)
        patch.setattr(os, "statvfs", lambda path: self.space.get(str(path), PLENTY))

    def write(self, name: str, text: str) -> None:
        path = self.directory / "etc" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def serve(self, service: Service) -> None:
        self.service = service
        self.config = self.config._replace(services={service.name: service})

    def codes(self) -> list[str]:
        return [found.code for found in findings(self.config)]

    def only(self) -> readiness.Finding:
        (found,) = findings(self.config)
        assert found.mend
        return found


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(tmp_path, monkeypatch)


def test_where_everything_is_in_order_nothing_is_found(scene: Scene) -> None:
    assert scene.codes() == []


@pytest.mark.parametrize(
    ("mode", "uid", "found"), [(0o755, 0, False), (0o775, 0, True), (0o757, 0, True), (0o755, 7, True)]
)
@pytest.mark.parametrize("path", ["conf", "conf/services.d", "conf/services.d/home.toml", "registry/services"])
def test_what_others_than_root_can_write_to_is_found(scene: Scene, path: str, mode: int, uid: int, found: bool) -> None:
    there = scene.directory / path
    there.mkdir(parents=True, exist_ok=True)
    there.chmod(mode)
    os.chown(there, uid, 0)
    scene.serve(scene.service._replace(file=scene.directory / "conf/services.d/home.toml"))
    scene.config = scene.config._replace(directory=scene.directory / "conf")
    assert scene.codes() == (["writable-by-others"] if found else [])


def test_programs_that_are_missing_are_named_with_the_packages_that_bring_them(scene: Scene) -> None:
    scene.missing = {"rpc.statd", "nfsdcld"}
    found = scene.only()
    assert (found.severity, found.subject, found.text) == (Severity.ERROR, "node", "not installed: nfsdcld, rpc.statd")
    assert "nfs-kernel-server" in found.mend


def test_the_programs_of_an_isolation_that_no_service_has_are_not_missed(scene: Scene) -> None:
    scene.missing = {"nfsconf"}
    assert scene.codes() == []


@pytest.mark.parametrize(
    ("where", "name", "code"),
    [
        (libmount, "library", "not-installed"),
        (view, "statd_user", "not-installed"),
        (view, "callout_program", "callout-missing"),
    ],
)
def test_what_a_takeover_would_miss_is_told_in_its_words(scene: Scene, where: object, name: str, code: str) -> None:
    scene.patch.setattr(where, name, raising("it is not there"))
    found = scene.only()
    assert (found.code, found.text, found.mend) == (code, "it is not there", "mend it")


def test_a_callout_that_is_a_script_deserves_a_look(scene: Scene) -> None:
    scene.callout.write_text("#!/bin/sh\n")
    found = scene.only()
    assert (found.code, found.severity) == ("callout-script", Severity.WARNING)


def test_a_library_that_only_sm_notify_makes_use_of_is_missed_where_a_service_uses_that(scene: Scene) -> None:
    scene.patch.setattr(readiness, "INOTIFY", "no_such_module")
    assert scene.codes() == []
    scene.serve(scene.service._replace(notifier=Notifier.SM_NOTIFY))
    found = scene.only()
    assert (found.code, found.severity) == ("inotify-missing", Severity.WARNING)
    assert "python3-inotify-simple" in found.mend


def test_without_a_registry_each_takeover_needs_a_word(scene: Scene) -> None:
    scene.config = scene.config._replace(registry=None)
    assert (scene.only().code, scene.only().severity) == ("no-registry", Severity.WARNING)
    scene.config = scene.config._replace(services={})
    assert scene.codes() == []


def test_a_registry_that_cannot_be_written_to_or_that_nobody_else_sees_is_none(scene: Scene) -> None:
    scene.patch.setattr(readiness, "_try_registry", lambda _: True)
    assert scene.codes() == ["registry-local"]
    scene.patch.setattr(readiness, "_try_registry", raising("read-only"))
    assert "read-only" in scene.only().text


def test_a_registry_is_tried_with_a_file_that_goes_again(tmp_path: Path) -> None:
    (tmp_path / "services").mkdir()
    assert readiness._try_registry(tmp_path) is (tmp_path.stat().st_dev == Path("/").stat().st_dev)
    assert list((tmp_path / "services").iterdir()) == []
    with pytest.raises(OSError, match="No such file"):
        readiness._try_registry(tmp_path / "away")


def test_an_interface_that_is_down_or_missing_is_named(scene: Scene) -> None:
    scene.patch.setattr(interfaces, "is_up", lambda _: False)
    assert scene.only().text == "interface 'eth0' is down"
    scene.patch.setattr(interfaces, "is_up", raising("no such device"))
    assert scene.only().text == "interface 'eth0': no such device"


def test_a_disk_that_this_node_does_not_see_now_deserves_a_look(scene: Scene) -> None:
    (scene.directory / "by-uuid" / scene.service.partitions[0].uuid).unlink()
    assert (scene.only().code, scene.only().severity) == ("disk-away", Severity.WARNING)


@pytest.mark.parametrize("line", ["UUID={0} /mnt ext4 defaults 0 0", "/dev/disk/by-uuid/{0} /mnt", "/dev/sdb {1} ext4"])
def test_a_partition_that_is_mounted_at_boot_is_found_with_its_line(scene: Scene, line: str) -> None:
    partition = scene.service.partitions[0]
    scene.write("fstab", "# a comment\n\n" + line.format(partition.uuid, partition.mountpoint) + "\nproc /proc\n")
    found = scene.only()
    assert found.code == "in-fstab"
    assert "line 3" in found.text


def test_a_mount_point_with_something_in_it_is_found(scene: Scene) -> None:
    mountpoint = scene.directory / "srv"
    mountpoint.mkdir()
    partition = scene.service.partitions[0]._replace(mountpoint=mountpoint)
    scene.serve(scene.service._replace(partitions=(partition,)))
    assert scene.codes() == []
    (mountpoint / "forgotten").touch()
    assert "forgotten" in scene.only().text
    scene.patch.setattr(mounts, "at", lambda _: object())  # what is there now is the partition's
    assert scene.codes() == []


@pytest.mark.parametrize("path", ["/srv/home", "/srv", "/srv/home/deep", "/srv/homework", "/srv/home\\040work"])
def test_a_directory_that_the_node_exports_itself_is_found(scene: Scene, path: str) -> None:
    scene.serve(scene.service._replace(exports=(Export(Path("/srv/home"), "1", (("*", "rw"),)),)))
    scene.write("exports", f"# /srv/home *(rw)\n{path} *(rw)\n/elsewhere *(rw)\n")
    assert scene.codes() == ([] if "work" in path else ["exported-twice"])


def test_exports_of_other_files_count_and_our_own_does_not(scene: Scene) -> None:
    path = scene.service.exports[0].path
    scene.write("exports_d/nlmfo-home.exports", f"{path} *(rw)\n")
    assert scene.codes() == []
    scene.write("exports_d/other.exports", f"{path} *(rw)\n")
    assert "other.exports line 1" in scene.only().text


def test_a_node_that_is_a_client_of_the_service_or_has_its_address_is_told(scene: Scene) -> None:
    scene.patch.setattr(own_mounts, "of", lambda *_: (Path("/mnt/home"),))
    assert "/mnt/home" in scene.only().text
    scene.patch.setattr(own_mounts, "of", lambda *_: ())
    scene.up = {scene.service.addresses[0].ip}
    assert scene.only().code == "address-here"


@pytest.mark.parametrize("serves", [True, False])
def test_in_host_isolation_the_address_may_be_here_while_the_service_is(scene: Scene, serves: bool) -> None:
    scene.serve(scene.service._replace(isolation=Isolation.HOST))
    scene.config = scene.config._replace(restart_nfsd=True)
    scene.up = {scene.service.addresses[0].ip}
    scene.patch.setattr(node_server, "unfit", lambda *_: ())
    scene.patch.setattr(readiness, "look", lambda *_: SimpleNamespace(serves=lambda _: serves))
    assert scene.codes() == ([] if serves else ["address-here"])
    scene.patch.setattr(readiness, "look", raising("the registry is away"))
    assert scene.codes() == ["address-here"]


def test_in_host_isolation_the_nodes_own_server_has_to_be_fit(scene: Scene) -> None:
    scene.serve(scene.service._replace(isolation=Isolation.HOST))
    scene.patch.setattr(node_server, "unfit", lambda *_: (Unfit("statd-notifies", "it notifies", "add -L"),))
    assert scene.codes() == ["statd-notifies", "no-grace"]
    scene.patch.setattr(proposed, "can_start_grace", lambda: True)
    assert scene.codes() == ["statd-notifies"]


def test_clients_whose_names_no_file_has_are_named(scene: Scene) -> None:
    clients = tuple(
        (name, "rw") for name in ("*", "*.example", "@group", "10.0.0.0/24", "fd00::1", "known", "Unknown.example")
    )
    scene.serve(scene.service._replace(exports=(Export(Path("/srv/home"), "1", clients),)))
    scene.write("hosts", "127.0.0.1 localhost\n10.0.0.7 other known # unknown.example\n")
    found = scene.only()
    assert found.code == "client-unknown"
    assert "/srv/home: Unknown.example cannot" in found.text
    scene.write("hosts", "10.0.0.7 known unknown.example\n")
    assert scene.codes() == []
    scene.serve(scene.service._replace(isolation=Isolation.HOST))
    assert "client-unknown" not in scene.codes()


def test_a_run_that_was_cut_off_here_is_told(scene: Scene) -> None:
    scene.patch.setattr(last_run, "newest", lambda *_: Past("name", Verb.TAKEOVER, "b", "boot", None, "mount"))
    assert scene.only().text == "a run was cut off here (takeover, mount)"
    scene.patch.setattr(
        last_run, "newest", lambda *_: Past("name", Verb.TAKEOVER, "b", "boot", Outcome.SERVED, "mount")
    )
    assert scene.codes() == []


@pytest.mark.parametrize(
    ("found", "codes"),
    [
        ({"f_bavail": 10}, ["full"]),
        ({"f_favail": 10}, ["full"]),
        ({"f_favail": 0, "f_files": 0}, []),  # btrfs has no such number
        ({"f_bavail": 20_000}, ["nearly-full"]),
    ],
)
def test_storage_that_is_full_or_soon_will_be_is_found(scene: Scene, found: dict[str, int], codes: list[str]) -> None:
    scene.space[str(scene.registry)] = SimpleNamespace(**vars(PLENTY) | found)
    assert scene.codes() == codes


def test_storage_that_does_not_answer_is_an_error_and_no_end(scene: Scene) -> None:
    def statvfs(path: Path) -> object:
        if path == scene.registry:
            raise OSError(5, os.strerror(5))
        return PLENTY

    scene.patch.setattr(os, "statvfs", statvfs)
    assert "does not answer" in scene.only().text


def test_the_records_are_looked_at_where_they_are_mounted(scene: Scene) -> None:
    (scene.directory / "state").mkdir()
    scene.space[str(scene.directory / "state")] = SimpleNamespace(**vars(PLENTY) | {"f_bavail": 0})
    assert scene.codes() == ["full"]
    scene.serve(scene.service._replace(state=scene.service.partitions[0].mountpoint / ".nlmfo"))
    scene.patch.setattr(mounts, "is_mounted", lambda _: False)
    assert scene.codes() == []
