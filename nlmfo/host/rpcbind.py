# SPDX-License-Identifier: GPL-2.0-or-later
"""What a service's rpcbind knows, asked of it and told to it over its local socket.

An rpcbind that died has forgotten everybody. Daemons register when they start; nfsd and lockd, which are in the
kernel, did so when their sockets were made, and will not again. So what was registered is noted while all is well, and
told to the rpcbind that is started anew. (rpcbind's own warm start, -w, knows what it wrote when it ended in peace.)
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from nlmfo.deadline import Deadline
from nlmfo.errors import DeadlineExceeded, NlmfoError
from nlmfo.host import view
from nlmfo.host.namespaces import Namespaces
from nlmfo.notify import wire
from nlmfo.notify.wire import RPCBIND_PROGRAM, Registration
from nlmfo.replace import replace_file

T = TypeVar("T")

SOCKET = Path("/run/rpcbind.sock")
#: In the directory that a service has on the node.
NOTED = "registrations.json"
#: Seconds for an answer; bytes of the longest list.
ANSWER, LONGEST = 5.0, 1 << 20


def registered(namespaces: Namespaces) -> tuple[Registration, ...]:
    """Everybody that rpcbind knows but itself."""
    found = _ask(namespaces, wire.dump(), wire.parse_registrations)
    return tuple(each for each in found if each.program != RPCBIND_PROGRAM)


def note(namespaces: Namespaces) -> None:
    """Keep what is registered now, on the node."""
    text = json.dumps([asdict(each) for each in registered(namespaces)])
    file = namespaces.directory / NOTED
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        replace_file(file, text)


def noted(namespaces: Namespaces) -> tuple[Registration, ...]:
    """What ``note`` kept; empty when there is nothing."""
    try:
        listed = json.loads((namespaces.directory / NOTED).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ()
    return tuple(Registration(**each) for each in listed)


def register(namespaces: Namespaces, wanted: Iterable[Registration]) -> None:
    """Tell rpcbind of everybody that it does not know, and see that it knows them then."""
    known = {_place(each) for each in registered(namespaces)}
    missing = [each for each in wanted if _place(each) not in known]
    for each in missing:
        _ask(namespaces, wire.register(each), wire.parse_bool)
    left = {_place(each) for each in missing} - {_place(each) for each in registered(namespaces)}
    if left:
        numbers = ", ".join(sorted({str(program) for program, *_ in left}))
        raise NlmfoError(f"service '{namespaces.service}': rpcbind does not take the RPC programs {numbers}")


def _place(of: Registration) -> tuple[int, int, str]:
    return of.program, of.version, of.netid


def _ask(namespaces: Namespaces, body: bytes, parse: Callable[[bytes], T]) -> T:
    """One call, as root on the service's own local socket: that is who may set what anybody registered."""
    limit, reader = Deadline(ANSWER), wire.RecordReader(LONGEST)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(ANSWER)
            sock.connect(os.fspath(view.on_node(namespaces, SOCKET)))
            sock.sendall(wire.record(wire.with_xid(1, body)))
            answers: list[bytes] = []
            while not answers:
                sock.settimeout(max(0.001, limit.remaining()))
                data = sock.recv(1 << 16)
                if not data:
                    raise wire.WireError("the connection was closed without an answer")
                answers = reader.feed(data)
            return parse(wire.parse_reply(answers[0]).success())
    except TimeoutError:
        raise DeadlineExceeded(f"service '{namespaces.service}': an answer of rpcbind", ANSWER) from None
    except (OSError, wire.WireError) as error:
        raise NlmfoError(f"service '{namespaces.service}': rpcbind does not answer: {error}") from error
