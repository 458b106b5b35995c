# SPDX-License-Identifier: GPL-2.0-or-later
"""ONC RPC as bytes: the few calls that notices need, and a strict reading of what comes back.

Pure: no sockets, no clocks. RPC messages and record marking follow RFC 5531, data types RFC 4506, rpcbind
RFC 1833, and SM_NOTIFY the Open Group's "Protocols for Interworking: XNFS" (Network Status Monitor Protocol).

A call is kept without its transaction id, because one body is sent to thousands of clients::

    xid | CALL rpcvers=2 prog vers proc | cred: AUTH_NULL 0 | verf: AUTH_NULL 0 | arguments
    xid | REPLY MSG_ACCEPTED | verf: flavor length bytes | accept_stat | results
    xid | REPLY MSG_DENIED   | reject_stat | details

Everything that is read here was written by a stranger: whatever the bytes, the only exception is WireError.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address

from nlmfo.errors import NlmfoError

RPCBIND_PROGRAM = 100000
RPCBIND_PORT = 111
STATD_PROGRAM = 100024
STATD_VERSION = 1
PROC_NULL = 0
PROC_GETPORT = 3
PROC_GETADDR = 3  # the same number as GETPORT, in versions 3 and 4 of rpcbind
PROC_SET, PROC_DUMP = 1, 4
PROC_SM_NOTIFY = 6

#: SM_MAXSTRLEN of the NSM protocol, in bytes.
MAX_NAME = 1024
#: The longest reply that is of any use here, in bytes: a verifier of 400 and a universal address.
MAX_REPLY = 1024

_CALL, _REPLY = 0, 1
_RPC_VERSION = 2
_MAX_VERIFIER = 400  # RFC 5531, section 8.2: opaque body<400>
_MAX_ADDRESS = 128  # the longest IPv6 text, a %scope of 16 and two numbers take fewer than 80
_PROTOCOL_NUMBERS = {"tcp": 6, "udp": 17}
_LAST_FRAGMENT = 0x8000_0000


@dataclass(frozen=True, slots=True)
class Registration:
    """What rpcbind knows of one program at one transport: ``netid`` and universal address of RFC 5665."""

    program: int
    version: int
    netid: str
    address: str
    owner: str


class WireError(NlmfoError):
    """Bytes that are not what the protocol allows at this place."""


class Status(StrEnum):
    """How an RPC call ended, as the server said it (accept_stat, reject_stat)."""

    SUCCESS = "success"
    PROG_UNAVAIL = "program unavailable"
    PROG_MISMATCH = "program version not supported"
    PROC_UNAVAIL = "procedure unavailable"
    GARBAGE_ARGS = "arguments not understood"
    SYSTEM_ERR = "system error"
    RPC_MISMATCH = "RPC version not supported"
    AUTH_ERROR = "authentication refused"


_ACCEPTED = (
    Status.SUCCESS,
    Status.PROG_UNAVAIL,
    Status.PROG_MISMATCH,
    Status.PROC_UNAVAIL,
    Status.GARBAGE_ARGS,
    Status.SYSTEM_ERR,
)
_DENIED = (Status.RPC_MISMATCH, Status.AUTH_ERROR)
#: What stands between the transaction id and the results of almost every reply: accepted, no verifier, success.
_USUAL = struct.pack(">5I", _REPLY, 0, 0, 0, 0)
_VERSION_RANGE = frozenset({Status.PROG_MISMATCH, Status.RPC_MISMATCH})


@dataclass(frozen=True, slots=True)
class Reply:
    """An RPC reply; ``results`` is empty unless ``status`` is SUCCESS."""

    xid: int
    status: Status
    results: bytes = b""

    def success(self) -> bytes:
        """The results; WireError if the call did not succeed."""
        if self.status is not Status.SUCCESS:
            raise WireError(f"answered: {self.status}")
        return self.results


# --- calls -------------------------------------------------------------------------------------------------


def call(program: int, version: int, procedure: int, arguments: bytes = b"") -> bytes:
    """The body of a call with AUTH_NULL credentials: all but the transaction id."""
    header = struct.pack(">9I", _CALL, _RPC_VERSION, program, version, procedure, 0, 0, 0, 0)
    return header + arguments


def with_xid(xid: int, body: bytes) -> bytes:
    """The whole message: what one UDP datagram carries."""
    return struct.pack(">I", xid) + body


def null(program: int, version: int) -> bytes:
    """Procedure 0, which every program has: the ping of ONC RPC."""
    return call(program, version, PROC_NULL)


def sm_notify(name: str, state: int) -> bytes:
    """SM_NOTIFY: the host ``name`` has restarted and its NSM state number is now ``state``.

    Raises WireError if the name is empty, longer than 1024 bytes or not ASCII, or the state is no 32-bit int.
    """
    try:
        return call(STATD_PROGRAM, STATD_VERSION, PROC_SM_NOTIFY, _string(name) + struct.pack(">i", state))
    except struct.error:
        raise WireError(f"NSM state {state} does not fit into 32 bits") from None


def ask_port(program: int, version: int, protocol: str, *, ipv6: bool) -> bytes:
    """Ask rpcbind where a program listens: GETPORT (version 2) for IPv4, GETADDR (version 4) for IPv6.

    Version 2 knows no address families, so an IPv6 port can only be had by GETADDR. Its address argument is
    left empty: rpcbind then goes by the address that the call came from.
    """
    if not ipv6:
        mapping = struct.pack(">4I", program, version, _PROTOCOL_NUMBERS[protocol], 0)
        return call(RPCBIND_PROGRAM, 2, PROC_GETPORT, mapping)
    address, owner = _opaque(b""), _opaque(b"")
    wanted = struct.pack(">2I", program, version) + _string(f"{protocol}6") + address + owner
    return call(RPCBIND_PROGRAM, 4, PROC_GETADDR, wanted)


def dump() -> bytes:
    """Ask rpcbind for all that is registered."""
    return call(RPCBIND_PROGRAM, 4, PROC_DUMP)


def register(wanted: Registration) -> bytes:
    """Have rpcbind know of a program. It takes that only from the machine itself."""
    words = b"".join(_opaque(word.encode()) for word in (wanted.netid, wanted.address, wanted.owner))
    return call(RPCBIND_PROGRAM, 4, PROC_SET, struct.pack(">2I", wanted.program, wanted.version) + words)


def _string(text: str) -> bytes:
    try:
        raw = text.encode("ascii")
    except UnicodeEncodeError:
        raise WireError(f"name {text!r} is not ASCII") from None
    if not 0 < len(raw) <= MAX_NAME:
        raise WireError(f"name has {len(raw)} bytes; 1 to {MAX_NAME} are allowed")
    return _opaque(raw)


def _opaque(raw: bytes) -> bytes:
    return struct.pack(">I", len(raw)) + raw + bytes(-len(raw) % 4)


# --- replies -----------------------------------------------------------------------------------------------


class _Reader:
    """Takes XDR items from the front of a message."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def uint(self) -> int:
        try:
            (value,) = struct.unpack_from(">I", self._data, self._at)
        except struct.error:
            raise WireError(f"message ends after {len(self._data)} bytes, in a number") from None
        self._at += 4
        return int(value)

    def opaque(self, limit: int) -> bytes:
        length = self.uint()
        if length > limit:
            raise WireError(f"item claims {length} bytes; {limit} are allowed")
        padded = self._data[self._at : self._at + length + -length % 4]
        if len(padded) < length + -length % 4:
            raise WireError(f"message ends after {len(self._data)} bytes, in an item of {length}")
        if any(padded[length:]):
            raise WireError("padding is not zero")
        self._at += len(padded)
        return padded[:length]

    def rest(self) -> bytes:
        return self._data[self._at :]

    def end(self) -> None:
        if self.rest():
            raise WireError(f"{len(self.rest())} bytes too many")


def parse_reply(message: bytes) -> Reply:
    """Read a whole reply; WireError for anything that RFC 5531 does not allow."""
    if message[4:24] == _USUAL:  # nearly every reply, and 10,000 clients send 40,000 of them
        return Reply(int.from_bytes(message[:4], "big"), Status.SUCCESS, message[24:])
    reader = _Reader(message)
    xid, kind, denied = reader.uint(), reader.uint(), reader.uint()
    if kind != _REPLY:
        raise WireError("message is not a reply")
    if denied > 1:
        raise WireError(f"reply_stat {denied} does not exist")
    if not denied:
        reader.uint()  # flavor of the verifier; nothing to verify with AUTH_NULL
        reader.opaque(_MAX_VERIFIER)
    status = _status(reader.uint(), _DENIED if denied else _ACCEPTED)
    if status is Status.SUCCESS:
        return Reply(xid, status, reader.rest())
    if status in _VERSION_RANGE:
        reader.uint(), reader.uint()  # the lowest and the highest version
    elif status is Status.AUTH_ERROR:
        reader.uint()
    reader.end()
    return Reply(xid, status)


def _status(number: int, known: tuple[Status, ...]) -> Status:
    if number >= len(known):
        raise WireError(f"status {number} does not exist")
    return known[number]


def parse_port(results: bytes, *, ipv6: bool) -> int:
    """The answer to ``ask_port``: a port, or 0 when the program is not registered.

    Only the port of a universal address is used: a notice goes to the client's recorded address only.
    """
    reader = _Reader(results)
    if ipv6:
        text = reader.opaque(_MAX_ADDRESS)
        port = parse_universal_address(text) if text else 0
    else:
        port = reader.uint()
    reader.end()
    if port > 0xFFFF:
        raise WireError(f"port {port} does not exist")
    return port


def parse_universal_address(raw: bytes) -> int:
    """The port in a universal address, ``ADDRESS.HIGH.LOW`` (RFC 5665, section 5.2.3)."""
    host, *numbers = raw.decode("latin-1").rsplit(".", 2)
    try:
        ip_address(host)
        high, low = (_byte(number) for number in numbers)
    except ValueError:
        raise WireError(f"{raw!r} is not a universal address") from None
    if not high and not low:
        raise WireError(f"{raw!r} has no port")
    return high << 8 | low


def _byte(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text[:4]) < 256 and len(text) <= 3):
        raise ValueError(text)
    return int(text)


def parse_registrations(results: bytes) -> tuple[Registration, ...]:
    """The answer to ``dump``."""
    reader, found = _Reader(results), []
    while reader.uint():
        program, version = reader.uint(), reader.uint()
        netid, address, owner = (reader.opaque(_MAX_ADDRESS).decode("latin-1") for _ in range(3))
        found.append(Registration(program, version, netid, address, owner))
    reader.end()
    return tuple(found)


def parse_bool(results: bytes) -> bool:
    """The answer to ``register``."""
    reader = _Reader(results)
    answer = reader.uint()
    reader.end()
    return answer != 0


def parse_void(results: bytes) -> None:
    """The answer to NULL and to SM_NOTIFY: nothing, and exactly that."""
    _Reader(results).end()


# --- records: RPC over TCP (RFC 5531, section 11) ----------------------------------------------------------


def record(message: bytes) -> bytes:
    """One message as one fragment, marked as the last."""
    return struct.pack(">I", _LAST_FRAGMENT | len(message)) + message


class RecordReader:
    """Cuts a byte stream into messages.

    It never holds more than one message of ``limit`` bytes and what one ``feed`` brought; a peer that claims
    more, or that sends empty fragments without end, gets a WireError.
    """

    __slots__ = ("_limit", "_message", "_unread")

    def __init__(self, limit: int = MAX_REPLY) -> None:
        self._limit = limit
        self._unread = b""
        self._message = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Add what the socket gave; return the messages that are complete now."""
        self._unread += data
        complete: list[bytes] = []
        while len(self._unread) >= 4:
            (mark,) = struct.unpack_from(">I", self._unread)
            length = mark & ~_LAST_FRAGMENT
            if length + len(self._message) > self._limit or not mark:
                raise WireError(f"fragment of {length} bytes; a reply has at most {self._limit}")
            if len(self._unread) < 4 + length:
                break
            self._message += self._unread[4 : 4 + length]
            self._unread = self._unread[4 + length :]
            if mark & _LAST_FRAGMENT:
                complete.append(self._message)
                self._message = b""
        return complete
