# SPDX-License-Identifier: GPL-2.0-or-later
"""What the callout does with hostile names, hostile files, and a store that fails or hangs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from nlmfo.records.callout import Mode
from nlmfo.records.directory import StoreError
from nlmfo.records.spool import drain_spool, refused, spool_status
from tests.unit.callout_stand import (
    CALLOUTS,
    HOME,
    HOME6,
    NAME,
    NODE,
    PROGRAMS,
    SECONDS,
    Stand,
    build,
    mounted,
    needs_root,
    whole,
)

CLIENT = "192.0.2.17"
OTHER = "192.0.2.18"


@pytest.fixture(scope="module", params=PROGRAMS)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(request.param, tmp_path_factory.mktemp("build"))


@pytest.fixture
def stand(tmp_path: Path, program: Path) -> Stand:
    return Stand(tmp_path, program)


def everything(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


@pytest.mark.parametrize(
    "name",
    [
        b"",
        b".",
        b"..",
        b".hidden",
        b"../../../escaped",
        b"/etc/escaped",
        b"a/b",
        b"-rf",
        b"two words",
        b"line\nfeed",
        b"tab\there",
        b"$(touch escaped)",
        b"`touch escaped`",
        b";touch escaped",
        b"*",
        b"[a]",
        b"'quoted\"",
        b"back\\slash",
        b"bell\a",
        b"\xff\xfe not UTF-8",
        "höst".encode(),
        b"%s%n/%d",
        b"x" * 256,
        b"x" * 1024,
    ],
)
def test_a_name_that_cannot_be_a_files_is_written_nowhere_and_reported(stand: Stand, name: bytes) -> None:
    before = everything(stand.root)
    stand.call("add-client", name, NODE)
    stand.call("add-client", str(HOME), name, "1234")
    assert everything(stand.root) - before <= {"spool/refused", "said"}
    assert name == b"" or stand.refused().count("add-client ") == 2
    assert stand.refused().isascii()
    assert set(stand.refused()) & set("/$`;*\"'\\\t\a") == set()


@pytest.mark.parametrize("event", ["add-client", "del-client", "mount"])
def test_every_refused_client_takes_one_line_which_says_what_it_was_about(stand: Stand, event: str) -> None:
    stand.call(event, "a b\nadd-client c", NODE)
    assert refused(stand.spool) == (f"{event} a?b?add-client?c",)


def test_the_list_of_refused_clients_does_not_grow_for_ever(stand: Stand) -> None:
    line = "add-client " + "x" * 255 + "\n"
    (stand.spool / "refused").write_text(line * 500)
    stand.call("add-client", "a b", NODE)
    assert stand.refused() == line * 500


@pytest.mark.parametrize("kind", ["link", "dangling", "fifo", "huge", "truncated", "empty"])
def test_what_lies_in_a_records_place_gives_way_to_the_record(stand: Stand, kind: str) -> None:
    outside = stand.root / "outside"
    place = stand.record(CLIENT)
    if kind == "link":
        outside.write_text("precious")
        place.symlink_to(outside)
    elif kind == "dangling":
        place.symlink_to(outside)
    elif kind == "fifo":
        os.mkfifo(place)
    elif kind == "huge":
        with place.open("wb") as file:
            file.truncate(1 << 40)
    else:
        place.write_text("" if kind == "empty" else whole(CLIENT)[:-5])
    stand.call("add-client", CLIENT, NODE)
    assert not place.is_symlink()
    assert place.read_text() == whole(CLIENT)
    assert outside.exists() == (kind == "link")
    assert not outside.exists() or outside.read_text() == "precious"
    assert stand.on_record() == {CLIENT}


def test_a_directory_in_a_records_place_keeps_only_that_client_in_the_spool(stand: Stand) -> None:
    (stand.record(CLIENT) / "full").mkdir(parents=True)
    stand.call("add-client", CLIENT, NODE)
    stand.until(lambda: not stand.stalled())
    stand.call("add-client", OTHER, NODE)
    assert stand.record(OTHER).read_text() == whole(OTHER)
    assert stand.spooled() == [whole(CLIENT)]


def test_links_in_the_spool_are_not_followed(stand: Stand) -> None:
    if stand.program.parent == CALLOUTS:
        pytest.skip("the script runs as the spool's owner, and follows what its owner put there")
    outside = stand.root / "outside"
    outside.write_text("precious")
    (stand.spool / "refused").symlink_to(outside)
    (stand.spool / f"sm_{HOME}").symlink_to(stand.root)
    before = everything(stand.root)
    stand.call("add-client", "a b", NODE)
    assert outside.read_text() == "precious"
    assert everything(stand.root) - before == {"said"}


def test_when_the_spool_takes_nothing_statd_waits_for_the_store_instead(stand: Stand) -> None:
    (stand.spool / f"sm_{HOME}").write_text("in the way")
    stand.configure(mode=Mode.ASYNC)
    stand.call("add-client", CLIENT, NODE)
    assert stand.record(CLIENT).read_text() == whole(CLIENT)


def test_a_configuration_that_ends_early_counts_as_far_as_it_goes(stand: Stand) -> None:
    stand.config.write_text(stand.config.read_text().replace("end\n", ""))
    stand.call("add-client", CLIENT, NODE)
    assert stand.on_record() == {CLIENT}


def test_a_store_that_is_not_there_leaves_the_record_in_the_spool_and_says_so(stand: Stand) -> None:
    stand.state.rename(stand.root / "away")
    stand.call("add-client", CLIENT, NODE)
    assert stand.spooled() == [whole(CLIENT)]
    status = spool_status(stand.spool, HOME)
    assert status.waiting == 1
    assert status.stalled is not None
    assert str(stand.home()) in status.stalled


def test_a_store_that_is_not_there_is_told_from_one_that_hangs_also_where_sighup_is_ignored(stand: Stand) -> None:
    stand.state.rename(stand.root / "away")
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup; programs inherit it
    try:
        stand.call("add-client", CLIENT, NODE)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert "does not answer" not in str(spool_status(stand.spool, HOME).stalled)


def test_when_the_store_is_back_the_next_client_brings_the_spool_along(stand: Stand) -> None:
    away = stand.root / "away"
    stand.state.rename(away)
    for number in range(3):
        stand.call("add-client", f"192.0.2.{number}", NODE)
    assert len(stand.spooled()) == 3
    away.rename(stand.state)
    stand.call("add-client", CLIENT, NODE)
    stand.until_drained()
    assert stand.on_record() == {CLIENT, "192.0.2.0", "192.0.2.1", "192.0.2.2"}
    stand.call("add-client", OTHER, NODE)
    assert stand.record(OTHER).exists(), "no longer by way of the spool"


def test_nlmfo_brings_the_spool_to_the_store_as_well(stand: Stand) -> None:
    away = stand.root / "away"
    stand.state.rename(away)
    stand.call("add-client", CLIENT, NODE)
    away.rename(stand.state)
    drain_spool(stand.store, stand.spool, deadline=SECONDS)
    assert stand.record(CLIENT).read_text() == whole(CLIENT)
    assert stand.spooled() == []


def test_while_the_store_is_stalled_nothing_is_deleted(stand: Stand) -> None:
    stand.call("add-client", CLIENT, NODE)
    away = stand.root / "away"
    stand.state.rename(away)
    with stand.nobody_drains():
        stand.call("add-client", OTHER, NODE)
        away.rename(stand.state)
        stand.call("del-client", CLIENT, NODE)
    assert CLIENT in stand.on_record()
    stand.until_drained()


@needs_root
def test_a_full_store_takes_the_names_and_the_records_stay_in_the_spool_until_there_is_room(
    tmp_path: Path, program: Path
) -> None:
    clients = {CLIENT, OTHER, "192.0.2.19"}
    with stand_on(tmp_path, program, "-t", "tmpfs", "-o", "size=64k,nr_inodes=200") as stand:
        filler = stand.state / "filler"
        with suppress(OSError):
            filler.write_bytes(b"x" * (1 << 20))
        for client in sorted(clients):
            stand.call("add-client", client, NODE)
        stand.until(lambda: stand.on_record() == clients)
        assert sorted(stand.spooled()) == sorted(map(whole, clients))
        assert stand.stalled() is not None
        filler.unlink()
        stand.call("add-client", CLIENT, NODE)
        stand.until_drained()
        assert {client: stand.record(client).read_text() for client in clients} == {c: whole(c) for c in clients}


@needs_root
def test_a_name_that_a_killed_callout_left_without_its_line_is_durable_though_there_is_no_room_for_one(
    tmp_path: Path, program: Path
) -> None:
    with full_disk_stand(tmp_path, program) as stand:
        stand.record(CLIENT).touch()
        stand.call("add-client", CLIENT, NODE)
        assert stand.spooled() == [whole(CLIENT)]
        assert after_a_power_cut(stand) == [CLIENT]


@needs_root
def test_the_library_makes_such_a_name_durable_as_well(tmp_path: Path) -> None:
    with full_disk_stand(tmp_path, build("script", tmp_path)) as stand:
        stand.record(CLIENT).touch()
        with pytest.raises(StoreError, match="No space left"):
            stand.store.add(HOME, CLIENT, NAME)
        assert after_a_power_cut(stand) == [CLIENT]


@needs_root
def test_a_read_only_store_keeps_what_it_has_and_the_spool_takes_the_rest(tmp_path: Path, program: Path) -> None:
    with stand_on(tmp_path, program, "-t", "tmpfs") as stand:
        stand.call("add-client", OTHER, NODE)
        subprocess.run(["mount", "-o", "remount,ro", stand.state], check=True, timeout=SECONDS)
        stand.call("add-client", CLIENT, NODE)
        stand.call("del-client", OTHER, NODE)
        assert stand.on_record() == {OTHER}
        assert stand.spooled() == [whole(CLIENT)]
        assert spool_status(stand.spool, HOME).stalled is not None


@needs_root
def test_a_store_that_hangs_does_not_hang_statd_and_loses_nothing(tmp_path: Path, program: Path) -> None:
    with frozen_stand(tmp_path, program) as stand:
        stand.call("add-client", CLIENT, NODE)
        stand.call("add-client", OTHER, NODE)
        assert stand.stalled() is not None
        assert stand.spooled() == [whole(CLIENT), whole(OTHER)]
        thaw(stand)
        stand.until_drained()
        assert stand.on_record() >= {CLIENT, OTHER}


@needs_root
def test_a_deletion_that_a_hang_interrupted_never_happens_later(tmp_path: Path, program: Path) -> None:
    with frozen_stand(tmp_path, program, CLIENT) as stand:
        stand.call("del-client", CLIENT, NODE)
        thaw(stand)
    with mounted(str(tmp_path / "image"), tmp_path / "state", "-o", "loop"):
        assert stand.record(CLIENT).read_text() == whole(CLIENT), "everybody who was in the store is gone now"


@needs_root
def test_who_comes_back_after_such_a_deletion_is_on_record(tmp_path: Path, program: Path) -> None:
    with frozen_stand(tmp_path, program, CLIENT) as stand:
        stand.call("del-client", CLIENT, NODE)
        stand.call("add-client", CLIENT, NODE)
        thaw(stand)
        stand.until_drained()
        assert stand.record(CLIENT).read_text() == whole(CLIENT)


@needs_root
def test_one_address_whose_store_hangs_keeps_no_other_from_its_record(tmp_path: Path, program: Path) -> None:
    with frozen_stand(tmp_path, program) as stand:
        elsewhere = stand.root / "elsewhere"
        (elsewhere / "sm").mkdir(parents=True)
        lines = stand.config.read_text().removesuffix("end\n")
        lines += f"address {HOME6}\ndirectory {elsewhere}\nname {NAME}\nmode sync\nfrozen no\nend\n"
        stand.config.write_text(lines)
        stand.call("add-client", CLIENT, NODE)
        assert (elsewhere / "sm" / CLIENT).read_text() == whole(CLIENT)
        assert stand.spooled() == [whole(CLIENT)]
        thaw(stand)
        stand.until_drained()


@contextmanager
def stand_on(root: Path, program: Path, *options: str) -> Iterator[Stand]:
    """A stand whose state directory is a file system of its own."""
    with mounted("none", root / "state", *options):
        yield Stand(root, program)


@contextmanager
def disk_stand(root: Path, program: Path, *options: str) -> Iterator[Stand]:
    """A stand whose state directory is an ext4 of its own, in the file ``image``."""
    image = root / "image"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True, timeout=SECONDS)
    with mounted(str(image), root / "state", "-o", ",".join(["loop", *options])):
        yield Stand(root, program)


@contextmanager
def full_disk_stand(root: Path, program: Path) -> Iterator[Stand]:
    """A stand without room for a line, whose file system brings nothing to the disk of its own accord for minutes."""
    with disk_stand(root, program, "commit=300") as stand:
        with (stand.state / "filler").open("wb", buffering=0) as filler, suppress(OSError):
            while True:
                filler.write(bytes(1024))
        yield stand


def after_a_power_cut(stand: Stand) -> list[str]:
    """Whose names would be on record if this moment's disk were all that is left."""
    copy = shutil.copy(stand.root / "image", stand.root / "copy of the image")
    with mounted(str(copy), stand.root / "what is left", "-o", "loop") as place:
        return sorted(found.name for found in (place / stand.record(CLIENT).parent.relative_to(stand.state)).iterdir())


@contextmanager
def frozen_stand(root: Path, program: Path, *clients: str) -> Iterator[Stand]:
    """A stand whose store hangs whoever writes to it, beyond the reach of SIGKILL, as dead shared storage does."""
    with disk_stand(root, program) as stand:
        for client in clients:
            stand.call("add-client", client, NODE)
        stand.configure(patience=1)
        subprocess.run(["fsfreeze", "--freeze", stand.state], check=True, timeout=SECONDS)
        try:
            yield stand
        finally:
            thaw(stand)


def thaw(stand: Stand) -> None:
    subprocess.run(["fsfreeze", "--unfreeze", stand.state], check=False, capture_output=True, timeout=SECONDS)
