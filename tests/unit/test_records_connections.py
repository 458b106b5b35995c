# SPDX-License-Identifier: GPL-2.0-or-later
"""The list of clients' connections: what is written is read, and what an enemy writes is sent to nobody."""

from __future__ import annotations

import os
import stat
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlmfo.kernel.sockdiag import Connection
from nlmfo.records import connections as module
from nlmfo.records.connections import Remembered, _parse, read_connections, write_connections
from nlmfo.records.directory import StoreError
from nlmfo.records.layout import Address

V4, V6 = ip_address("10.10.0.100"), ip_address("fd00::100")
ADDRESSES = (V4, V6)
ONE = Remembered(V4, 2049, ip_address("192.0.2.17"), 871)
OTHER = Remembered(V6, 2049, ip_address("2001:db8::17"), 1003)


def put(state: Path, content: str | bytes) -> None:
    (state / "connections").write_bytes(content.encode() if isinstance(content, str) else content)


def test_what_the_kernel_tells_is_read_back_from_lines_that_a_person_can_read(tmp_path: Path) -> None:
    seen = [Connection(one.local, one.port, one.remote, one.remote_port) for one in (OTHER, ONE, ONE)]
    assert write_connections(tmp_path, seen)
    assert (tmp_path / "connections").read_text() == (
        "10.10.0.100 2049 192.0.2.17 871\nfd00::100 2049 2001:db8::17 1003\n"
    )
    assert read_connections(tmp_path, ADDRESSES) == (ONE, OTHER)


def test_the_file_is_for_root_alone_and_nothing_else_is_left_beside_it(tmp_path: Path) -> None:
    write_connections(tmp_path, [ONE])
    write_connections(tmp_path, [OTHER])
    assert [entry.name for entry in tmp_path.iterdir()] == ["connections"]
    found = (tmp_path / "connections").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o600, os.geteuid())
    assert read_connections(tmp_path, ADDRESSES) == (OTHER,)


def test_the_same_connections_in_another_order_are_not_written_again(tmp_path: Path) -> None:
    write_connections(tmp_path, [ONE, OTHER])
    before = (tmp_path / "connections").stat()
    assert not write_connections(tmp_path, [OTHER, ONE])
    assert (tmp_path / "connections").stat() == before
    assert write_connections(tmp_path, [])
    assert read_connections(tmp_path, ADDRESSES) == ()


def test_no_list_and_no_directory_are_no_connections(tmp_path: Path) -> None:
    assert read_connections(tmp_path, ADDRESSES) == ()
    assert read_connections(tmp_path / "missing", ADDRESSES) == ()


def test_a_directory_that_is_missing_is_an_error_for_who_writes(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="missing"):
        write_connections(tmp_path / "missing", [ONE])


@pytest.mark.parametrize(
    "line",
    [
        "",
        "nonsense",
        "10.10.0.100 2049 192.0.2.18",
        "10.10.0.100 2049 192.0.2.18 871 872",
        "10.10.0.100  2049 192.0.2.18 871",
        "10.10.0.100 2049 192.0.2.18 0",
        "10.10.0.100 0 192.0.2.18 871",
        "10.10.0.100 2049 192.0.2.18 65536",
        "10.10.0.100 65536 192.0.2.18 871",
        "10.10.0.100 2049 192.0.2.18 -1",
        "10.10.0.100 2049 192.0.2.18 +871",
        "10.10.0.100 2049 192.0.2.18 8_71",
        "10.10.0.100 2049 192.0.2.18 871\r",
        "10.10.0.100 2049 192.0.2.18 \N{ARABIC-INDIC DIGIT EIGHT}",
        "10.10.0.100 2049 192.0.2 871",
        "10.10.0.100 2049 client.example 871",
        "10.10.0.101 2049 192.0.2.18 871",  # not the service's
        "192.0.2.18 871 10.10.0.100 2049",
        "10.10.0.100 2049 10.10.0.100 871",  # ourselves
        "fd00::100 2049 fd00::100 871",
        "10.10.0.100 2049 127.0.0.1 871",
        "10.10.0.100 2049 0.0.0.0 871",
        "10.10.0.100 2049 0.1.2.3 871",
        "10.10.0.100 2049 224.0.0.1 871",
        "10.10.0.100 2049 255.255.255.255 871",
        "10.10.0.100 2049 240.0.0.1 871",
        "10.10.0.100 2049 2001:db8::17 871",  # of another family
        "fd00::100 2049 192.0.2.18 871",
        "fd00::100 2049 ::1 871",
        "fd00::100 2049 :: 871",
        "fd00::100 2049 ff02::1 871",
        "fd00::100 2049 fe80::1 871",
        "fd00::100 2049 fe80::1%eth0 871",
        "fd00::100 2049 2001:db8::1%eth0 871",
        "fd00::100 2049 ::ffff:192.0.2.18 871",
        "fd00::100 2049 ::ffff:127.0.0.1 871",
    ],
)
def test_a_line_that_no_client_of_the_service_can_be_behind_is_left_out_alone(tmp_path: Path, line: str) -> None:
    put(tmp_path, f"10.10.0.100 2049 192.0.2.17 871\n{line}\nfd00::100 2049 2001:db8::17 1003\n")
    assert read_connections(tmp_path, ADDRESSES) == (ONE, OTHER)


def test_a_line_that_a_crash_cut_off_is_not_believed(tmp_path: Path) -> None:
    put(tmp_path, "10.10.0.100 2049 192.0.2.17 871\n10.10.0.100 2049 192.0.2.18 87")
    assert read_connections(tmp_path, ADDRESSES) == (ONE,)


def test_the_same_connection_ten_times_is_one(tmp_path: Path) -> None:
    put(tmp_path, "10.10.0.100 2049 192.0.2.17 871\n" * 10)
    assert read_connections(tmp_path, ADDRESSES) == (ONE,)


def test_a_list_that_is_too_long_to_be_ours_is_not_read(tmp_path: Path) -> None:
    put(tmp_path, "10.10.0.100 2049 192.0.2.17 871\n" * (1 << 16))
    assert read_connections(tmp_path, ADDRESSES) == ()


def test_a_link_or_a_pipe_in_the_place_of_the_list_is_not_followed_nor_waited_for(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("10.10.0.100 2049 192.0.2.17 871\n")
    (tmp_path / "connections").symlink_to("elsewhere")
    assert read_connections(tmp_path, ADDRESSES) == ()
    (tmp_path / "connections").unlink()
    os.mkfifo(tmp_path / "connections")
    assert read_connections(tmp_path, ADDRESSES) == ()
    write_connections(tmp_path, [OTHER])
    assert (tmp_path / "elsewhere").read_text() == "10.10.0.100 2049 192.0.2.17 871\n"
    assert read_connections(tmp_path, ADDRESSES) == (OTHER,)


def many(count: int) -> list[Remembered]:
    return [Remembered(V4, 2049, IPv4Address(0x0B000000 + number), 871) for number in range(count)]


def test_twenty_thousand_connections_are_kept_and_no_more(tmp_path: Path) -> None:
    write_connections(tmp_path, many(module.MAX_CONNECTIONS + 100))
    assert (tmp_path / "connections").read_text().count("\n") == module.MAX_CONNECTIONS
    assert len(read_connections(tmp_path, ADDRESSES)) == module.MAX_CONNECTIONS
    with (tmp_path / "connections").open("a") as file:
        file.write("10.10.0.100 2049 192.0.2.17 871\n")
    found = read_connections(tmp_path, ADDRESSES)
    assert len(found) == module.MAX_CONNECTIONS
    assert ONE not in found


def test_what_is_written_is_never_too_long_to_be_read(tmp_path: Path) -> None:
    """The longest lines there are: 20000 of them would be 1.8 MB."""
    longest = ip_address("2001:db8:1111:1111:1111:1111:1111:1111")
    clients = (ip_address(int(longest) + number) for number in range(1, module.MAX_CONNECTIONS))
    write_connections(tmp_path, [Remembered(longest, 20490, client, 10000) for client in clients])
    line = len(f"{longest} 20490 {longest} 10000\n")
    assert len(read_connections(tmp_path, [longest])) == module.MAX_CONNECTIONS_BYTES // line


@given(st.text(st.sampled_from("0123456789abcdef.:% \t-+_x"), max_size=60) | st.text(max_size=40))
def test_no_line_whatever_is_an_error(line: str) -> None:
    found = _parse(line)
    if found is not None:
        assert line.split(" ")[1::2] == [str(found.port), str(found.remote_port)]
        assert 0 < min(found.port, found.remote_port) <= max(found.port, found.remote_port) < 65536


@given(st.ip_addresses(), st.ip_addresses(), st.integers(1, 65535), st.integers(1, 65535))
def test_every_connection_survives_its_line(local: Address, remote: Address, port: int, remote_port: int) -> None:
    wanted = Remembered(local, port, remote, remote_port)
    assert _parse(f"{local} {port} {remote} {remote_port}") == wanted
