# SPDX-License-Identifier: GPL-2.0-or-later
"""What ``nlmfo check`` shows: every interface, what it is used for, and what nothing was found for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nlmfo.cli import check
from nlmfo.cli.commands import common
from nlmfo.cli.main import main
from nlmfo.config.digest import digest
from nlmfo.failover import readiness
from nlmfo.failover.readiness import Finding, Severity
from nlmfo.failover.room import Place, Room
from nlmfo.host import survey
from nlmfo.host.space import Sample
from nlmfo.kernel import capabilities
from nlmfo.kernel.capabilities import Capability, Use
from nlmfo.kernel.version import Answer
from tests.unit import shapes
from tests.unit.kernel_fake import FakeKernel
from tests.unit.kernel_netlink_fake import interfaces
from tests.unit.test_config import HOME, write

CONFIG = shapes.config(Path("/registry"))
BAD = Finding(Severity.ERROR, "home", "in-fstab", "/etc/fstab line 3 mounts /srv/home", "remove the line")
DOUBT = Finding(Severity.WARNING, "node", "no-registry", "there is no registry", "make one")
ROOM = Room(
    Place("partition", "home", Path("/srv/home"), "the files of its clients"),
    Sample(1_800_000_000, 900 << 20, 500 << 20, 70),
    since=86400.0,
    enough=True,
    bytes_in=None,
    inodes_in=50 * 3600.0,
)
FOUND = (
    Capability("unlock_ip", Answer.YES, "/proc/fs/nfsd/unlock_ip", "drops nothing"),
    Capability("threads", Answer.YES, "/proc/fs/nfsd/threads", "", (Use.START_GRACE, Use.END_GRACE)),
    Capability("nlm_unlock", Answer.NO, "/proc/fs/nfsd/nlm_unlock"),
)


def test_each_interface_has_a_line_with_its_note_below_it() -> None:
    assert check.table(FOUND).splitlines() == [
        "INTERFACE   PRESENT  CHOSEN FOR              WHERE",
        "unlock_ip   yes      -                       /proc/fs/nfsd/unlock_ip",
        "    drops nothing",
        "threads     yes      start grace, end grace  /proc/fs/nfsd/threads",
        "nlm_unlock  no       -                       /proc/fs/nfsd/nlm_unlock",
        "nothing found for: drop locks of a file system, see locks, flush exports",
    ]


def test_a_note_that_is_the_same_for_several_in_a_row_is_said_once() -> None:
    away = [Capability(name, Answer.UNKNOWN, f"/proc/{name}", "not mounted") for name in ("a", "b", "c")]
    other = Capability("d", Answer.UNKNOWN, "/proc/d", "not loaded")
    text = check.table([*away, other])
    assert (text.count("not mounted"), text.count("not loaded")) == (1, 1)


def test_a_long_note_is_wrapped_and_keeps_every_word() -> None:
    words = [f"word{number}" for number in range(60)]
    text = check.table([Capability("a", Answer.YES, "/proc/a", " ".join(words))])
    assert all(len(line) <= 120 for line in text.splitlines())
    assert [word for word in text.split() if word.startswith("word")] == words


def test_the_document_is_json_with_the_same_content() -> None:
    document = json.loads(json.dumps(check.document(CONFIG, FOUND, [ROOM], [BAD, DOUBT])))
    assert document["interfaces"][1] == {
        "name": "threads",
        "present": "yes",
        "where": "/proc/fs/nfsd/threads",
        "note": "",
        "chosen_for": ["start grace", "end grace"],
    }
    assert len(document["interfaces"]) == 3
    assert document["missing"] == ["drop locks of a file system", "see locks", "flush exports"]
    assert (document["node"], document["digest"]) == ("node1", digest([]))
    assert document["findings"][0] == {
        "severity": "error",
        "subject": "home",
        "code": "in-fstab",
        "text": "/etc/fstab line 3 mounts /srv/home",
        "mend": "remove the line",
    }


def test_each_file_system_has_a_line_with_how_long_its_room_lasts() -> None:
    rooms = [ROOM, replace(ROOM, inodes_in=None), replace(ROOM, since=3600.0, enough=False, inodes_in=None)]
    assert check.space(rooms).splitlines() == [
        "FILE SYSTEM  FREE            INODES  FULL IN",
        "/srv/home    500 of 900 MiB  70      2 days",
        "/srv/home    500 of 900 MiB  70      -",
        f"/srv/home    500 of 900 MiB  70      (needs 6 hours of samples: {check.NEXT})",
    ]
    document = json.loads(json.dumps(check.document(CONFIG, FOUND, [ROOM], [])))
    assert document["space"] == [
        {
            "subject": "home",
            "path": "/srv/home",
            "size": 900 << 20,
            "free": 500 << 20,
            "free_inodes": 70,
            "seen_for": 86400,
            "bytes_used_up_in": None,
            "inodes_used_up_in": 180000,
        }
    ]


def test_what_was_found_is_told_with_how_to_mend_it_and_counted() -> None:
    assert check.told(CONFIG, [BAD, DOUBT]).splitlines() == [
        "node node1; services: none",
        f"configuration {digest([])}: compare it with that of the other nodes",
        "ERROR home: /etc/fstab line 3 mounts /srv/home (in-fstab)",
        "    remove the line",
        "WARNING node: there is no registry (no-registry)",
        "    make one",
        "1 errors, 1 warnings",
    ]
    assert "nothing was found that stands in the way" in check.told(CONFIG, [])


def test_only_what_services_say_makes_a_difference_between_two_nodes() -> None:
    service = shapes.service()
    same = service._replace(file=Path("/elsewhere/home.toml"))
    assert digest([service]) == digest([same]) != digest([service._replace(threads=9)])
    other = service._replace(name="mail")
    assert digest([service, other]) == digest([other, service]) != digest([service])


@pytest.mark.parametrize(("found", "status"), [((), 0), ((DOUBT,), 0), ((DOUBT, BAD), 1)])
def test_the_command_fails_where_a_takeover_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: tuple[Finding, ...], status: int
) -> None:
    every = (Capability("all", Answer.YES, "/proc", "", tuple(check.NEEDED)),)
    monkeypatch.setattr(survey, "of_kernel", lambda: every)
    monkeypatch.setattr(readiness, "findings", lambda _: found)
    monkeypatch.setattr(common, "need_root", lambda: None)
    write(tmp_path, home=HOME)
    assert main(["--config", str(tmp_path), "check"]) == status
    monkeypatch.setattr(survey, "of_kernel", lambda: ())
    assert main(["--config", str(tmp_path), "check", "--json"]) == 1


@pytest.mark.parametrize("version", [(6, 1, 176), (6, 12, 117), (7, 2, 0)])
def test_a_stock_kernel_lacks_nothing_that_is_needed(version: tuple[int, int, int]) -> None:
    found = capabilities.survey(interfaces(FakeKernel(version)))
    assert check.missing(found) == ()
    assert "nothing found" not in check.table(found)
