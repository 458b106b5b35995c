# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole decision table of "may this node serve?"."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import pytest

from nlmfo.errors import ExitCode, Refused
from nlmfo.ownership.proof import Proof, Word, of_absence
from nlmfo.ownership.record import OwnerRecord, Standing
from tests.unit import shapes
from tests.unit.shapes import EARLIER_BOOT, HERE, THERE

THIS_BOOT = "11111111-1111-4111-8111-111111111111"
WRONG = "node3"

RECORDS: dict[str, OwnerRecord | None] = {
    "never served": None,
    "released there": shapes.record(7, THERE, Standing.RELEASED, boot=EARLIER_BOOT),
    "released here": shapes.record(7, HERE, Standing.RELEASED, boot=THIS_BOOT),
    "serving here": shapes.record(7, HERE, boot=THIS_BOOT),
    "serving here in an earlier boot": shapes.record(7, HERE, boot=EARLIER_BOOT),
    "serving there": shapes.record(7, THERE, boot=EARLIER_BOOT),
}
WORDS = {
    "no word": Word(),
    "owner fenced": Word(fenced=THERE),
    "another fenced": Word(fenced=WRONG),
    "owner released": Word(released_by=THERE),
    "another released": Word(released_by=WRONG),
}

BY_RECORD = {
    "never served": "it was never served before",
    "released there": "node2 released it (epoch 7)",
    "released here": "node1 released it (epoch 7)",
    "serving here": "its owner is this node itself, in this boot",
    "serving here in an earlier boot": "its owner is this node itself, in an earlier boot",
}
BY_WORD_FOR_THE_OWNER = {
    "owner fenced": "node2 is fenced: the operator says so",
    "owner released": "node2 has released it: the operator says so",
}
BY_ANY_WORD = BY_WORD_FOR_THE_OWNER | {
    "another fenced": "node3 is fenced: the operator says so",
    "another released": "node3 has released it: the operator says so",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    code: str


def expected(record: str, word: str, has_registry: bool) -> str | Refusal:
    if not has_registry:
        return BY_ANY_WORD.get(word, Refusal("no-proof"))
    if record in BY_RECORD:
        return BY_RECORD[record]
    return BY_WORD_FOR_THE_OWNER.get(word, Refusal("still-served"))


def decide(record: str, word: str, has_registry: bool) -> Proof:
    return of_absence("home", RECORDS[record], HERE, THIS_BOOT, WORDS[word], has_registry=has_registry)


@pytest.mark.parametrize("has_registry", [True, False], ids=["registry", "no registry"])
@pytest.mark.parametrize(("record", "word"), list(product(RECORDS, WORDS)))
def test_the_decision_table(record: str, word: str, has_registry: bool) -> None:
    wanted = expected(record, word, has_registry)
    if isinstance(wanted, Refusal):
        with pytest.raises(Refused) as caught:
            decide(record, word, has_registry)
        assert caught.value.code == wanted.code
        assert caught.value.exit_code is ExitCode.REFUSED
        assert caught.value.hint
    else:
        assert decide(record, word, has_registry).reason == wanted


@pytest.mark.parametrize("record", RECORDS)
def test_the_epoch_is_one_above_the_highest_known(record: str) -> None:
    epoch = decide(record, "owner fenced", has_registry=True).epoch
    assert epoch == (1 if record == "never served" else 8)


def test_without_a_registry_this_nodes_own_memory_of_a_release_proves_nothing() -> None:
    with pytest.raises(Refused, match="no registry"):
        decide("released there", "no word", has_registry=False)


def test_a_refusal_says_who_serves_and_how_to_get_on() -> None:
    with pytest.raises(Refused) as caught:
        decide("serving there", "no word", has_registry=True)
    assert caught.value.text == "service 'home': node2 serves it (epoch 7)"
    assert "nlmfo release home" in str(caught.value.hint)
    assert "--fenced node2" in str(caught.value.hint)


@pytest.mark.parametrize("word", ["another fenced", "another released"])
def test_who_vouches_for_the_wrong_node_is_told_which_one_is_meant(word: str) -> None:
    with pytest.raises(Refused) as caught:
        decide("serving there", word, has_registry=True)
    assert caught.value.hint == "you named node3, but the owner is node2: look again which node is down"


@pytest.mark.parametrize("word", [Word(fenced=HERE), Word(released_by=HERE)], ids=["fenced", "released by"])
@pytest.mark.parametrize("has_registry", [True, False])
def test_nobody_vouches_for_a_node_on_that_node_itself(word: Word, has_registry: bool) -> None:
    with pytest.raises(Refused, match="node1 is this node itself") as caught:
        of_absence("home", RECORDS["serving there"], HERE, THIS_BOOT, word, has_registry=has_registry)
    assert caught.value.code == "no-proof"


def test_without_a_registry_the_owner_that_still_has_its_partitions_mounted_needs_no_word() -> None:
    found = of_absence("home", RECORDS["serving here"], HERE, THIS_BOOT, Word(), has_registry=False, holds=True)
    assert found == Proof("this node still has its partitions mounted, from a run that did not end", 8)


@pytest.mark.parametrize(
    "record", ["never served", "released here", "serving here in an earlier boot", "serving there"]
)
def test_a_mounted_partition_alone_proves_nothing(record: str) -> None:
    """It may have been mounted by hand, or by a boot of this node that the record knows nothing of."""
    with pytest.raises(Refused, match="no registry"):
        of_absence("home", RECORDS[record], HERE, THIS_BOOT, Word(), has_registry=False, holds=True)
