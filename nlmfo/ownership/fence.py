# SPDX-License-Identifier: GPL-2.0-or-later
"""The fence hook: a command of the configuration that turns a node off for certain, and says whether it has.

Its exit status is the proof: 0 means that the node can write to no disk and answer no client from now on. Whatever
else happens (another status, a signal, no answer in time, no such program) proves nothing, and is refused.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from nlmfo.config import fields
from nlmfo.config.values import Invalid
from nlmfo.errors import NlmfoError, Refused
from nlmfo.run import run

NODE = fields.NODE
#: Characters of what the command said that the log keeps of one run.
KEPT = 16384
_LOG = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def fence(command: tuple[str, ...], node: str, *, deadline: float, log: Path) -> str:
    """Run ``command`` with ``{node}`` replaced; when it returns, ``node`` is off, and the text says by whose word.

    ``deadline`` is in seconds. What the command says goes to ``log``. Raises Refused (``fence-failed``).
    """
    words = argv(command, node)
    with _opened(log, node) as descriptor:
        _note(descriptor, f"fencing {node}: {shlex.join(words)}")
        try:
            said = run(words, deadline=deadline)
        except NlmfoError as error:
            _add(descriptor, f"{node} is not known to be off", str(error))
            raise _failed(node, str(error), f"{log} has what it said") from error
        _add(descriptor, f"{node} is off", said)
    return f"{node} is fenced: {words[0]} says so"


def argv(command: tuple[str, ...], node: str) -> list[str]:
    """The words to run. The node's name may come from a record on shared storage: it has to be a host name."""
    try:
        fields.host_name(node)
    except Invalid as invalid:
        raise _failed(ascii(node), invalid.reason, "name the node as its [node] name has it") from None
    return [word.replace(NODE, node) for word in command]


def _failed(node: str, why: str, then: str) -> Refused:
    return Refused(
        "fence-failed",
        f"{node} could not be fenced, so it may still serve: {why}",
        hint=f"{then}; turn the node off by other means, and name it with --fenced once it is off for certain",
    )


@contextmanager
def _opened(log: Path, node: str) -> Iterator[int]:
    """The log, for appending. Nothing is fenced that leaves no trace: a log that cannot be opened is refused."""
    try:
        descriptor = os.open(log, _LOG, 0o640)
    except OSError as error:
        raise _failed(node, f"the log {log} cannot be opened: {error.strerror}", f"mend {log}") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _failed(node, f"the log {log} is not a regular file", f"move {log} away")
        yield descriptor
    finally:
        os.close(descriptor)


def _add(descriptor: int, end: str, said: str) -> None:
    """Note how it ended. The node is off by now or it is not, and a full disk does not change which."""
    with suppress(OSError):
        _note(descriptor, "\n    ".join((end, *map(_printable, said[:KEPT].splitlines()))))


def _note(descriptor: int, text: str) -> None:
    when = datetime.now(UTC).isoformat(timespec="seconds")
    os.write(descriptor, f"{when} {text}\n".encode())


def _printable(line: str) -> str:
    """People read the log with cat: what came from somebody's power switch must not drive their terminal."""
    return "".join(character if character.isprintable() else " " for character in line)
