# SPDX-License-Identifier: GPL-2.0-or-later
"""Names and lines: whatever the network or a crash puts there, the parsers stay calm and nothing gets out."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlmfo.records.layout import (
    MAX_CLIENT_BYTES,
    client_is_safe,
    directory_name,
    format_record,
    names_of_clients,
    parse_fsids,
    parse_record,
)

safe_names = st.from_regex(r"[A-Za-z0-9_:][A-Za-z0-9._:%-]{0,60}", fullmatch=True)


@given(safe_names, safe_names)
def test_a_record_is_read_as_it_was_written(client: str, my_name: str) -> None:
    assert parse_record(format_record(client, my_name)) == (client, my_name)


@given(safe_names, safe_names)
def test_a_record_has_its_fields_where_sm_notify_looks_for_them(client: str, my_name: str) -> None:
    line = format_record(client, my_name).decode()
    assert line[:36] == "0100007f 000186b5 00000003 00000010 "
    assert line[36:69] == "0" * 32 + " ", "nfs-utils finds the cookie at offset 36"
    assert line[69:] == f"{client} {my_name}\n"


@given(safe_names, safe_names, st.data())
def test_a_record_that_was_cut_off_is_no_record(client: str, my_name: str, data: st.DataObject) -> None:
    line = format_record(client, my_name)
    assert parse_record(line[: data.draw(st.integers(0, len(line) - 1))]) is None


@given(st.binary(max_size=300))
def test_anything_at_all_can_be_parsed(content: bytes) -> None:
    parse_record(content)
    assert all(fsid.isascii() and fsid for fsid in parse_fsids(content))


@given(st.text(max_size=300))
def test_a_safe_name_is_one_file_in_its_directory_and_one_word(name: str) -> None:
    if client_is_safe(name):
        assert PurePosixPath("sm", name).parts == ("sm", name)
        assert name.split() == [name]
        assert not name.startswith((".", "-"))
        assert len(name.encode()) <= MAX_CLIENT_BYTES


@given(st.text(max_size=300))
def test_an_unsafe_name_never_gets_into_a_record(name: str) -> None:
    if client_is_safe(name):
        assert name.encode() in format_record(name, "server")
    else:
        with pytest.raises(ValueError, match="cannot stand in a record"):
            format_record(name, "server")


@given(st.ip_addresses())
def test_every_address_a_client_can_have_is_a_safe_name(address: object) -> None:
    assert client_is_safe(str(address))


@pytest.mark.parametrize(("address", "name"), [("10.0.0.1", "sm_10.0.0.1"), ("fd00:0::0100", "sm_fd00::100")])
def test_the_directory_of_an_address_is_named_by_its_canonical_form(address: str, name: str) -> None:
    assert directory_name(ip_address(address)) == name


def test_files_in_the_making_are_no_clients() -> None:
    assert names_of_clients([".new.17", ".10.0.0.1.new", "10.0.0.1", "10.0.0.1.new", "b.new"]) == ("10.0.0.1", "b.new")


@given(st.sets(st.text(st.characters(blacklist_characters="/\0"), min_size=1, max_size=12)))
def test_only_dotfiles_and_leftovers_are_not_counted(names: set[str]) -> None:
    for name in names - set(names_of_clients(names)):
        assert name.startswith(".") or name.removesuffix(".new") in names - {name}


def test_an_fsid_whose_line_was_cut_off_is_not_believed() -> None:
    assert parse_fsids(b"1234\nroot\n56") == {"1234", "root"}
