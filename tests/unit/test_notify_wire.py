# SPDX-License-Identifier: GPL-2.0-or-later
"""RPC messages, byte by byte as the RFCs draw them, and whatever a stranger may send instead."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlmfo.notify import wire
from nlmfo.notify.wire import RecordReader, Reply, Status, WireError

XID = bytes.fromhex("12345678")
AUTH_NULL = bytes(8)


def words(*numbers: int) -> bytes:
    return struct.pack(f">{len(numbers)}I", *numbers)


# --- calls -------------------------------------------------------------------------------------------------


def test_a_null_call_has_the_header_of_rfc_5531_and_nothing_else() -> None:
    message = wire.with_xid(0x12345678, wire.null(100003, 3))
    assert message == bytes.fromhex(
        "12345678"  # xid
        "00000000"  # CALL
        "00000002"  # RPC version 2
        "000186a3"  # NFS
        "00000003"  # version 3
        "00000000"  # procedure 0
        "00000000 00000000"  # credentials AUTH_NULL, no bytes
        "00000000 00000000"  # verifier AUTH_NULL, no bytes
    )


def test_sm_notify_carries_the_name_padded_to_four_bytes_and_the_state() -> None:
    assert wire.with_xid(1, wire.sm_notify("nfs100", 7)) == bytes.fromhex(
        "00000001 00000000 00000002"
        "000186b8"  # 100024, the status monitor
        "00000001"  # version 1
        "00000006"  # SM_NOTIFY
        "00000000 00000000 00000000 00000000"
        "00000006 6e6673313030 0000"  # "nfs100" and two bytes of padding
        "00000007"
    )


def test_getport_asks_version_2_for_program_version_and_protocol() -> None:
    assert wire.with_xid(1, wire.ask_port(100024, 1, "udp", ipv6=False)) == bytes.fromhex(
        "00000001 00000000 00000002"
        "000186a0 00000002 00000003"  # rpcbind, version 2, GETPORT
        "00000000 00000000 00000000 00000000"
        "000186b8 00000001 00000011 00000000"  # status monitor, version 1, UDP, port 0
    )


def test_getport_names_tcp_by_its_protocol_number() -> None:
    assert wire.ask_port(100024, 1, "tcp", ipv6=False).endswith(words(100024, 1, 6, 0))


def test_getaddr_asks_version_4_for_the_ipv6_transport() -> None:
    assert wire.with_xid(1, wire.ask_port(100024, 1, "udp", ipv6=True)) == bytes.fromhex(
        "00000001 00000000 00000002"
        "000186a0 00000004 00000003"  # rpcbind, version 4, GETADDR
        "00000000 00000000 00000000 00000000"
        "000186b8 00000001"
        "00000004 75647036"  # "udp6"
        "00000000"  # address: none
        "00000000"  # owner: none
    )


def test_a_name_of_1024_bytes_fits_and_one_more_does_not() -> None:
    assert len(wire.sm_notify("n" * 1024, 1)) == 36 + 4 + 1024 + 4
    with pytest.raises(WireError, match="1025 bytes"):
        wire.sm_notify("n" * 1025, 1)


@pytest.mark.parametrize("name", ["", "bücher.example"])
def test_a_name_that_no_statd_could_know_is_refused(name: str) -> None:
    with pytest.raises(WireError, match="name"):
        wire.sm_notify(name, 1)


@pytest.mark.parametrize("state", [2**31, -(2**31) - 1])
def test_a_state_beyond_32_bits_is_refused(state: int) -> None:
    with pytest.raises(WireError, match="32 bits"):
        wire.sm_notify("nfs100", state)


@given(
    st.text(st.characters(min_codepoint=1, max_codepoint=127), min_size=1, max_size=1024),
    st.integers(0, 2**31 - 1),
)
def test_a_server_reads_the_name_and_the_state_that_were_sent(name: str, state: int) -> None:
    arguments = wire.sm_notify(name, state)[36:]
    (length,) = struct.unpack(">I", arguments[:4])
    assert len(arguments) % 4 == 0
    assert arguments[4 : 4 + length].decode() == name
    assert struct.unpack(">i", arguments[-4:]) == (state,)
    assert set(arguments[4 + length : -4]) <= {0}


# --- replies -----------------------------------------------------------------------------------------------


def test_a_void_success_is_read() -> None:
    reply = wire.parse_reply(XID + words(1, 0) + AUTH_NULL + words(0))
    assert reply == Reply(0x12345678, Status.SUCCESS)
    wire.parse_void(reply.success())


def test_a_verifier_is_skipped() -> None:
    reply = wire.parse_reply(XID + words(1, 0) + words(1, 5) + b"hello\0\0\0" + words(0, 111))
    assert reply == Reply(0x12345678, Status.SUCCESS, words(111))


@pytest.mark.parametrize(
    ("tail", "status"),
    [
        (words(0, 0, 0, 1), Status.PROG_UNAVAIL),
        (words(0, 0, 0, 2, 1, 1), Status.PROG_MISMATCH),
        (words(0, 0, 0, 3), Status.PROC_UNAVAIL),
        (words(0, 0, 0, 4), Status.GARBAGE_ARGS),
        (words(0, 0, 0, 5), Status.SYSTEM_ERR),
        (words(1, 0, 2, 2), Status.RPC_MISMATCH),
        (words(1, 1, 7), Status.AUTH_ERROR),
    ],
)
def test_each_way_to_fail_is_told_apart_and_is_no_success(tail: bytes, status: Status) -> None:
    reply = wire.parse_reply(XID + words(1) + tail)
    assert reply == Reply(0x12345678, status)
    with pytest.raises(WireError, match=str(status)):
        reply.success()


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (b"", "ends after 0 bytes"),
        (XID, "ends after 4 bytes"),
        (XID + words(1, 0) + AUTH_NULL, "ends after 20 bytes"),
        (XID + words(0, 0) + AUTH_NULL + words(0), "not a reply"),
        (XID + words(1, 2) + AUTH_NULL + words(0), "reply_stat 2"),
        (XID + words(1, 0) + AUTH_NULL + words(6), "status 6"),
        (XID + words(1, 1, 2), "status 2"),
        (XID + words(1, 0, 0, 401) + bytes(404) + words(0), "claims 401 bytes"),
        (XID + words(1, 0, 0, 0xFFFFFFFF), "claims 4294967295 bytes"),
        (XID + words(1, 0, 0, 8) + bytes(4), "ends after 24 bytes"),
        (XID + words(1, 0, 0, 1) + b"a\0\0x" + words(0), "padding"),
        (XID + words(1, 0) + AUTH_NULL + words(1, 0), "4 bytes too many"),
        (XID + words(1, 0) + AUTH_NULL + words(2, 1), "ends after 28 bytes"),
    ],
)
def test_a_reply_that_the_rfc_does_not_allow_is_refused_with_the_reason(message: bytes, why: str) -> None:
    with pytest.raises(WireError, match=why):
        wire.parse_reply(message)


def test_results_where_there_should_be_none_are_refused() -> None:
    with pytest.raises(WireError, match="1 bytes too many"):
        wire.parse_void(b"\0")


@given(st.integers(0, 2**32 - 1), st.binary(max_size=400), st.binary(max_size=64))
def test_any_verifier_and_any_results_come_through(xid: int, verifier: bytes, results: bytes) -> None:
    padded = verifier + bytes(-len(verifier) % 4)
    message = words(xid, 1, 0, 0, len(verifier)) + padded + words(0) + results
    assert wire.parse_reply(message) == Reply(xid, Status.SUCCESS, results)


# --- rpcbind's answers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("port", [0, 1, 111, 65535])
def test_getport_answers_a_number_and_zero_means_not_registered(port: int) -> None:
    assert wire.parse_port(words(port), ipv6=False) == port


@pytest.mark.parametrize("results", [b"", b"\0\0\0", words(65536), words(111, 0), words(0xFFFFFFFF)])
def test_a_getport_answer_that_is_no_port_is_refused(results: bytes) -> None:
    with pytest.raises(WireError):
        wire.parse_port(results, ipv6=False)


def test_an_empty_universal_address_means_not_registered() -> None:
    assert wire.parse_port(words(0), ipv6=True) == 0


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("192.0.2.1.0.111", 111),
        ("::.3.234", 1002),
        ("fd00::100.255.255", 65535),
        ("fe80::1%eth0.12.0.111", 111),
        ("::ffff:192.0.2.1.8.1", 2049),
    ],
)
def test_the_port_is_the_last_two_numbers_of_a_universal_address(text: str, port: int) -> None:
    assert wire.parse_universal_address(text.encode()) == port


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", "0.111", "192.0.2.1", "::.0", "::.0.0", "::.256.1", "::.1.256", "::.-1.1", "::.+1.1",
     "::. 1.1", "::.1.", "::..1", "::.0001.1", "::.1.1.", "::.1.\u00b2", "x.1.1", "/run/rpc", "::\0.1.1"],
)  # fmt: skip
def test_what_is_no_universal_address_is_refused(text: str) -> None:
    with pytest.raises(WireError):
        wire.parse_universal_address(text.encode())


@given(st.ip_addresses(), st.integers(1, 65535))
def test_every_address_and_port_survives_the_universal_form(address: object, port: int) -> None:
    raw = f"{address}.{port >> 8}.{port & 255}".encode()
    assert wire.parse_port(words(len(raw)) + raw + bytes(-len(raw) % 4), ipv6=True) == port


# --- records -----------------------------------------------------------------------------------------------


def test_a_record_is_one_fragment_marked_as_the_last() -> None:
    assert wire.record(b"hello") == bytes.fromhex("80000005") + b"hello"


@given(st.lists(st.binary(min_size=1, max_size=200), max_size=5), st.data())
def test_messages_come_out_whole_however_the_stream_is_cut(messages: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(map(wire.record, messages))
    reader = RecordReader()
    read: list[bytes] = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        read += reader.feed(stream[:size])
        stream = stream[size:]
    assert read == messages


def test_fragments_are_joined_to_one_message() -> None:
    stream = words(3) + b"abc" + words(0x80000002) + b"de"
    assert RecordReader().feed(stream) == [b"abcde"]


@pytest.mark.parametrize(
    "stream",
    [
        words(0xFFFFFFFF),
        words(0x80000000 | wire.MAX_REPLY + 1),
        words(wire.MAX_REPLY) + bytes(wire.MAX_REPLY) + words(1) + b"x",
        words(0),
    ],
)
def test_a_stream_that_would_fill_our_memory_or_never_end_is_refused(stream: bytes) -> None:
    with pytest.raises(WireError, match="fragment"):
        RecordReader().feed(stream)


# --- strangers ---------------------------------------------------------------------------------------------

almost_a_reply = st.builds(
    lambda good, at, junk, cut: (good[: at % len(good)] + junk + good[at % len(good) + len(junk) :])[:cut],
    st.sampled_from([
        XID + words(1, 0) + AUTH_NULL + words(0),
        XID + words(1, 0, 1, 8) + bytes(8) + words(0, 40000),
        XID + words(1, 0, 0, 0, 0, 8) + b"::.0.111",
        XID + words(1, 1, 0, 2, 2),
    ]),
    st.integers(0, 60),
    st.binary(max_size=8),
    st.integers(0, 60),
)  # fmt: skip


@given(st.one_of(st.binary(max_size=200), almost_a_reply))
def test_no_bytes_make_a_decoder_raise_anything_but_wire_error(junk: bytes) -> None:
    with contextlib.suppress(WireError):
        reply = wire.parse_reply(junk)
        assert (reply.status is Status.SUCCESS) or not reply.results
    with contextlib.suppress(WireError):
        assert 0 <= wire.parse_port(junk, ipv6=False) <= 65535
    with contextlib.suppress(WireError):
        assert 0 <= wire.parse_port(junk, ipv6=True) <= 65535
    with contextlib.suppress(WireError):
        assert 0 < wire.parse_universal_address(junk) <= 65535
    with contextlib.suppress(WireError):
        assert all(len(message) <= wire.MAX_REPLY for message in RecordReader().feed(junk))
