# SPDX-License-Identifier: GPL-2.0-or-later
"""What ``nlmfo check`` shows: every interface, what it is used for, and what nothing was found for."""

from __future__ import annotations

import json

import pytest

from nlmfo.cli import check
from nlmfo.kernel import capabilities
from nlmfo.kernel.capabilities import Capability, Use
from nlmfo.kernel.version import Answer
from tests.unit.kernel_fake import FakeKernel
from tests.unit.kernel_netlink_fake import interfaces

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
    document = json.loads(json.dumps(check.document(FOUND)))
    assert document["interfaces"][1] == {
        "name": "threads",
        "present": "yes",
        "where": "/proc/fs/nfsd/threads",
        "note": "",
        "chosen_for": ["start grace", "end grace"],
    }
    assert len(document["interfaces"]) == 3
    assert document["missing"] == ["drop locks of a file system", "see locks", "flush exports"]


@pytest.mark.parametrize("version", [(6, 1, 176), (6, 12, 117), (7, 2, 0)])
def test_a_stock_kernel_lacks_nothing_that_is_needed(version: tuple[int, int, int]) -> None:
    found = capabilities.survey(interfaces(FakeKernel(version)))
    assert check.missing(found) == ()
    assert "nothing found" not in check.table(found)
