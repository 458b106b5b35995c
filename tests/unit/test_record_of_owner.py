# SPDX-License-Identifier: GPL-2.0-or-later
"""The owner record as text: what was written comes back, and what is anything else is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlmfo.errors import Refused
from nlmfo.ownership.record import OwnerRecord, Standing, boot_id, from_json
from tests.unit import shapes

WORDS = st.text(st.characters(codec="utf-8"), min_size=1)
GOOD = json.loads(shapes.record(5).to_json())


def refusal(text: str) -> Refused:
    with pytest.raises(Refused) as caught:
        from_json(text, "/cluster/home/owner/000005")
    return caught.value


@given(
    st.builds(
        OwnerRecord,
        service=WORDS,
        node=WORDS,
        boot_id=WORDS,
        epoch=st.integers(1, 10**9),
        since=st.floats(0, 1e11),
        standing=st.sampled_from(Standing),
    )
)
def test_a_record_comes_back_as_it_was_written(record: OwnerRecord) -> None:
    assert from_json(record.to_json(), "here") == record


def test_a_record_is_one_line_so_that_people_can_read_it_with_cat() -> None:
    assert shapes.record().to_json().count("\n") == 1
    assert shapes.record().to_json().endswith("}\n")


@pytest.mark.parametrize("field", sorted(GOOD))
def test_a_record_without_one_of_its_fields_is_refused(field: str) -> None:
    text = json.dumps({name: value for name, value in GOOD.items() if name != field})
    assert refusal(text).code == "owner-unreadable"
    assert field in refusal(text).text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("node", None),
        ("node", 7),
        ("node", ""),
        ("service", ["home"]),
        ("boot_id", False),
        ("epoch", "5"),
        ("epoch", 5.5),
        ("epoch", True),
        ("epoch", float("inf")),
        ("epoch", 0),
        ("epoch", -1),
        ("since", "now"),
        ("since", None),
        ("standing", "fallen"),
        ("standing", None),
    ],
)
def test_a_field_of_another_kind_is_not_bent_into_shape(field: str, value: Any) -> None:
    assert refusal(json.dumps(GOOD | {field: value})).code == "owner-unreadable"


@pytest.mark.parametrize("text", ["", "\n", "{", "null", "[]", "7", '"serving"', "\0" * 100, "[" * 100_000])
def test_what_is_no_record_at_all_is_refused_and_says_where_it_is(text: str) -> None:
    assert refusal(text).code == "owner-unreadable"
    assert refusal(text).text.startswith("/cluster/home/owner/000005: not an owner record")
    assert refusal(text).hint


@given(st.text())
def test_no_text_whatever_does_anything_but_read_or_refuse(text: str) -> None:
    assert refusal(text).code == "owner-unreadable"


@given(st.integers(0, len(shapes.record().to_json()) - 3))
def test_a_record_that_was_cut_off_is_refused(length: int) -> None:
    assert refusal(shapes.record().to_json()[:length]).code == "owner-unreadable"


def test_a_field_that_a_later_version_may_add_does_no_harm() -> None:
    assert from_json(json.dumps(GOOD | {"colour": "blue"}), "here") == shapes.record(5)


def test_a_boot_has_one_name() -> None:
    assert boot_id() == boot_id()
    assert len(boot_id()) == 36
