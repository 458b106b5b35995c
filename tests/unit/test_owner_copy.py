# SPDX-License-Identifier: GPL-2.0-or-later
"""The copy of the owner record that travels with the state: evidence, and never more than that."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nlmfo.errors import Refused
from nlmfo.ownership import copy
from nlmfo.ownership.proof import Word
from nlmfo.ownership.record import OwnerRecord, Standing
from nlmfo.records.directory import StoreError
from tests.unit import shapes
from tests.unit.shapes import EARLIER_BOOT, HERE, THERE

ELSEWHERE = "node3"
NOBODY = Word()


def refused(state: Path) -> Refused:
    with pytest.raises(Refused) as caught:
        copy.read(state)
    assert caught.value.code == "owner-unreadable"
    assert str(state / "owner") in caught.value.text
    assert caught.value.text.isprintable()
    assert caught.value.hint
    return caught.value


# The file


def test_what_was_written_is_read_back_and_nothing_else_is_left(tmp_path: Path) -> None:
    for epoch in (1, 2):
        record = shapes.record(epoch, THERE)
        copy.write(tmp_path, record)
        assert copy.read(tmp_path) == record
    assert [entry.name for entry in tmp_path.iterdir()] == ["owner"]


def test_it_is_one_line_that_people_can_read(tmp_path: Path) -> None:
    copy.write(tmp_path, shapes.record(3))
    assert (tmp_path / "owner").read_text(encoding="utf-8") == shapes.record(3).to_json()


def test_where_there_is_none_there_is_none(tmp_path: Path) -> None:
    assert copy.read(tmp_path) is None
    assert copy.read(tmp_path / "missing") is None


def test_a_state_directory_that_is_missing_cannot_be_written_to(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="missing"):
        copy.write(tmp_path / "missing", shapes.record())


def test_a_crash_in_the_middle_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy.write(tmp_path, shapes.record(1))

    def cut(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", cut)
        with pytest.raises(KeyboardInterrupt):
            copy.write(tmp_path, shapes.record(2))
    assert copy.read(tmp_path) == shapes.record(1)
    copy.write(tmp_path, shapes.record(3))
    assert copy.read(tmp_path) == shapes.record(3)
    assert [entry.name for entry in tmp_path.iterdir()] == ["owner"]


def test_the_content_is_durable_before_its_name_and_then_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    rename = os.rename

    def note_fsync(descriptor: int) -> None:
        done.append("directory" if Path(f"/proc/self/fd/{descriptor}").resolve() == tmp_path else "content")

    def note_rename(*arguments: Any, **more: Any) -> None:
        done.append("name")
        rename(*arguments, **more)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "rename", note_rename)
    copy.write(tmp_path, shapes.record(1))
    assert done == ["content", "name", "directory"]


def test_a_link_is_neither_followed_nor_written_through(tmp_path: Path) -> None:
    state, elsewhere = tmp_path / "state", tmp_path / "elsewhere"
    state.mkdir()
    elsewhere.write_text(shapes.record(1).to_json(), encoding="utf-8")
    (state / "owner").symlink_to(elsewhere)
    refused(state)
    copy.write(state, shapes.record(2))
    assert elsewhere.read_text(encoding="utf-8") == shapes.record(1).to_json()
    assert copy.read(state) == shapes.record(2)


def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "owner").mkdir()
    refused(tmp_path)
    (tmp_path / "owner").rmdir()
    os.mkfifo(tmp_path / "owner")
    assert "not a regular file" in refused(tmp_path).text


def test_a_file_of_any_size_is_not_read_to_its_end(tmp_path: Path) -> None:
    line = shapes.record(1).to_json()
    (tmp_path / "owner").write_text(line.ljust(copy.LIMIT), encoding="utf-8")
    assert copy.read(tmp_path) == shapes.record(1)
    (tmp_path / "owner").write_text(line.ljust(copy.LIMIT + 1), encoding="utf-8")
    assert f"{copy.LIMIT + 1} bytes" in refused(tmp_path).text


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\0", b"{}", b"null", b"[[[[", b"serving\n"])
def test_what_cannot_be_understood_is_not_taken_for_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "owner").write_bytes(content)
    refused(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("node", "\x1b[2J"),
        ("node", "a b"),
        ("node", "../x"),
        ("node", "\ud800"),
        ("node", "n" * 300),
        ("service", "../home"),
        ("service", "\u202ehome"),
        ("epoch", 2**53 + 1),
        ("epoch", 10**4000),
        ("epoch", 0),
    ],
    ids=ascii,
)
def test_a_forged_record_does_not_get_to_the_terminal(tmp_path: Path, field: str, value: object) -> None:
    """Clients may reach the file system that it is on."""
    forged = json.loads(shapes.record(1).to_json()) | {field: value}
    (tmp_path / "owner").write_text(json.dumps(forged), encoding="utf-8")
    refused(tmp_path)


@given(st.binary(max_size=300))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_noise_is_refused_and_never_a_crash(tmp_path: Path, noise: bytes) -> None:
    (tmp_path / "owner").write_bytes(noise)
    refused(tmp_path)


@pytest.mark.parametrize("call", ["open", "fstat", "read"])
def test_a_disk_that_answers_with_an_error_is_not_taken_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    copy.write(tmp_path, shapes.record(1))

    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(Refused, match="Input/output error") as caught:
            copy.read(tmp_path)
    assert caught.value.code == "owner-unreadable"


# What it says


def verdict(found: OwnerRecord | None, claimed: OwnerRecord, word: Word = NOBODY, *, has_registry: bool) -> str | None:
    """The code of the refusal, or None."""
    try:
        copy.evidence(found, claimed, word, has_registry)
    except Refused as refusal:
        return refusal.code
    return None


@pytest.mark.parametrize("has_registry", [True, False])
def test_no_copy_says_nothing(has_registry: bool) -> None:
    assert verdict(None, shapes.record(1), has_registry=has_registry) is None


@pytest.mark.parametrize("standing", Standing)
@pytest.mark.parametrize("node", [HERE, THERE])
def test_a_copy_of_an_earlier_epoch_is_what_a_registry_is_expected_to_know_of(node: str, standing: Standing) -> None:
    assert verdict(shapes.record(4, node, standing), shapes.record(5), has_registry=True) is None


@pytest.mark.parametrize("standing", Standing)
@pytest.mark.parametrize("epoch", [5, 6, 100])
def test_a_copy_of_an_epoch_that_the_registry_never_gave_to_its_node_is_refused(epoch: int, standing: Standing) -> None:
    claimed = shapes.record(5)
    for found in (shapes.record(epoch, THERE, standing), shapes.record(epoch, HERE, standing, boot=EARLIER_BOOT)):
        assert verdict(found, claimed, Word(fenced=THERE), has_registry=True) == "newer-copy"


def test_the_refusal_says_who_had_it_and_which_of_the_two_is_behind() -> None:
    with pytest.raises(Refused) as caught:
        copy.evidence(shapes.record(7, THERE), shapes.record(5), NOBODY, True)
    assert "node2 had it in epoch 7" in caught.value.text
    assert "the registry has come to epoch 5 only" in caught.value.text
    assert "same registry mounted" in str(caught.value.hint)
    assert not caught.value.forcible


@pytest.mark.parametrize("epoch", [4, 5, 6])
def test_the_copy_of_this_very_boot_of_this_node_is_its_own(epoch: int) -> None:
    """A takeover that goes on after an interruption finds what it wrote itself."""
    assert verdict(shapes.record(epoch), shapes.record(5), has_registry=True) is None


@pytest.mark.parametrize("word", [Word(fenced=ELSEWHERE), Word(released_by=ELSEWHERE), NOBODY])
def test_without_a_registry_the_word_has_to_be_about_who_had_it_last(word: Word) -> None:
    found = shapes.record(3, THERE)
    assert verdict(found, shapes.record(1), word, has_registry=False) == "wrong-node"
    assert verdict(found, shapes.record(9), word, has_registry=False) == "wrong-node", "epochs are not comparable"


def test_the_refusal_says_who_was_named_and_who_had_it() -> None:
    with pytest.raises(Refused, match="you named node3, but node2 had it last") as caught:
        copy.evidence(shapes.record(3, THERE), shapes.record(1), Word(fenced=ELSEWHERE), False)
    assert "--fenced node2" in str(caught.value.hint)
    assert not caught.value.forcible


@pytest.mark.parametrize(
    ("found", "word"),
    [
        (shapes.record(3, THERE), Word(fenced=THERE)),
        (shapes.record(3, THERE), Word(released_by=THERE)),
        (shapes.record(3, THERE), Word(fenced=ELSEWHERE, released_by=THERE)),
        (shapes.record(3, THERE, Standing.RELEASED), Word(fenced=ELSEWHERE)),
        (shapes.record(3, THERE, Standing.RELEASED), NOBODY),
        (shapes.record(3, HERE, boot=EARLIER_BOOT), Word(fenced=ELSEWHERE)),
        (shapes.record(3, HERE), NOBODY),
    ],
)
def test_without_a_registry_a_word_about_the_last_owner_or_none_to_be_wrong_about_passes(
    found: OwnerRecord, word: Word
) -> None:
    assert verdict(found, shapes.record(1), word, has_registry=False) is None


def test_with_a_registry_the_word_is_the_registrys_business() -> None:
    assert verdict(shapes.record(3, THERE), shapes.record(5), Word(fenced=ELSEWHERE), has_registry=True) is None


@pytest.mark.parametrize("has_registry", [True, False])
def test_the_state_of_another_service_is_refused(has_registry: bool) -> None:
    found = shapes.record(1, THERE)._replace(service="mail")
    assert verdict(found, shapes.record(5), Word(fenced=THERE), has_registry=has_registry) == "wrong-state"
