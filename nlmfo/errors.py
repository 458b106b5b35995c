# SPDX-License-Identifier: GPL-2.0-or-later
"""The ways in which nlmfo says no.

Errors carry data; the text says what failed, on which object and why, and ``hint`` says what to do next.
Only ``nlmfo.cli`` prints them or turns them into an exit status.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any


class ExitCode(IntEnum):
    """What the command line ends with; documented in nlmfo(8), docs/man/nlmfo.8.md."""

    OK = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    INCOMPLETE = 4
    NOT_OWNED = 5
    DEADLINE = 124


class NlmfoError(Exception):
    """Base of every error that nlmfo raises on purpose."""

    exit_code = ExitCode.FAILED

    def __init__(self, text: str, *, hint: str | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        """Whole through a pipe: BaseException's own would call the subclass with the text as its only argument."""
        return _restore, (type(self), self.args, self.__dict__)


class ConfigError(NlmfoError):
    """A configuration file that cannot be used: names the file, the key, what is wrong and the fix."""

    exit_code = ExitCode.USAGE

    def __init__(self, file: Path, key: str | None, reason: str, *, hint: str | None = None) -> None:
        where = f"{file}: {key}" if key else f"{file}"
        super().__init__(f"{where}: {reason}", hint=hint)
        self.file = file
        self.key = key
        self.reason = reason


class Refused(NlmfoError):
    """nlmfo will not act, because acting could serve a file system twice or lose a lock.

    ``code`` is the stable name of the reason; scripts may match on it. ``forcible``: whether ``--force=CODE`` passes
    it. Evidence that somebody else serves is not: what is wrong has to be mended.
    """

    exit_code = ExitCode.REFUSED

    def __init__(self, code: str, text: str, *, hint: str | None = None, forcible: bool = False) -> None:
        super().__init__(text, hint=hint)
        self.code = code
        self.forcible = forcible


class NotOwned(NlmfoError):
    """The service is not served by this node."""

    exit_code = ExitCode.NOT_OWNED


class StepFailed(NlmfoError):
    """A step of a plan did not succeed; the error's ``__cause__`` is what happened."""

    def __init__(self, step: str, cause: NlmfoError | OSError) -> None:
        super().__init__(f"{step}: {cause}", hint=getattr(cause, "hint", None))
        self.step = step
        self.exit_code = getattr(cause, "exit_code", ExitCode.FAILED)


class Incomplete(NlmfoError):
    """A run stopped half-way and its undo did not restore a safe state either."""

    exit_code = ExitCode.INCOMPLETE


class DeadlineExceeded(NlmfoError):
    """Something did not happen in time."""

    exit_code = ExitCode.DEADLINE

    def __init__(self, what: str, seconds: float, *, hint: str | None = None) -> None:
        super().__init__(f"{what}: not within {seconds:g} s", hint=hint)
        self.what = what
        self.seconds = seconds


class CommandFailed(NlmfoError):
    """A program that nlmfo started ended with an unexpected status."""

    def __init__(self, argv: Sequence[str], returncode: int, stderr: str, *, hint: str | None = None) -> None:
        self.argv = tuple(argv)
        self.returncode = returncode
        self.stderr = stderr
        ended = f"signal {-returncode}" if returncode < 0 else f"status {returncode}"
        said = f": {stderr.strip()}" if stderr.strip() else ""
        import shlex  # noqa: PLC0415 - 1 ms that only a failure needs

        super().__init__(f"'{shlex.join(argv)}' ended with {ended}{said}", hint=hint)


def _restore(kind: type[NlmfoError], args: tuple[Any, ...], fields: dict[str, Any]) -> NlmfoError:
    """What ``__reduce__`` took apart."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(fields)
    return error
