# SPDX-License-Identifier: GPL-2.0-or-later
"""The one place that starts programs: clean environment, no shell, no stdin, always a deadline.

What that takes is loaded when it is needed first: 15 ms, and whoever only looks at things needs none of it.

Programs start in /, so that none keeps a partition busy because nlmfo was called from a directory of it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nlmfo.errors import CommandFailed, DeadlineExceeded, NlmfoError

if TYPE_CHECKING:
    import subprocess

#: What every child sees, and nothing else: no locale, no proxy, no preload from the caller's session.
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
#: Seconds for a program to end after SIGKILL.
KILL = 5.0


def run(argv: Sequence[str | os.PathLike[str]], *, deadline: float, ok: tuple[int, ...] = (0,)) -> str:
    """Run a program to its end and return what it wrote to standard output.

    ``deadline`` is in seconds; a program that takes longer is killed with all its children.
    Raises CommandFailed, with the program's standard error, when its status is not in ``ok``.
    """
    import subprocess  # noqa: PLC0415 - see above

    words = [os.fspath(word) for word in argv]
    try:
        process = subprocess.Popen(
            words,
            env=ENVIRONMENT,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise _cannot_start(words, error) from error
    try:
        out, err = process.communicate(timeout=deadline)
    except subprocess.TimeoutExpired:
        _kill(process)
        raise DeadlineExceeded(f"'{words[0]}' did not end", deadline) from None
    except BaseException:  # interrupted: a mount that goes on would undo what is rolled back now
        _kill(process)
        raise
    if process.returncode not in ok:
        raise CommandFailed(words, process.returncode, err)
    return out


def spawn(argv: Sequence[str | os.PathLike[str]], *, log: Path) -> int:
    """Start a program that stays, in a session of its own, and return its process id.

    Standard output and error are appended to ``log``. The caller watches it by what it answers.
    """
    import subprocess  # noqa: PLC0415 - see above

    words = [os.fspath(word) for word in argv]
    log_fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    try:
        process = subprocess.Popen(
            words,
            env=ENVIRONMENT,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log_fd,
            stderr=log_fd,
            start_new_session=True,
        )
    except OSError as error:
        raise _cannot_start(words, error) from error
    finally:
        os.close(log_fd)
    return process.pid


def own_command(configuration: Path, *words: str) -> list[str]:
    """The command line of nlmfo itself: by the Python, from the files and with the configuration of this process."""
    return [os.fspath(sys.executable), "-m", "nlmfo", "--config", os.fspath(configuration), *words]


def load() -> None:
    """Have everything in memory that starting a program takes, for whoever may have no disk to read it from later."""
    import subprocess  # noqa: F401, PLC0415


def _kill(process: subprocess.Popen[str]) -> None:
    """End a program and its children. One that hangs in the kernel ends when it can: we wait for a moment only."""
    import subprocess  # noqa: PLC0415 - see above

    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=KILL)
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def _cannot_start(words: list[str], error: OSError) -> NlmfoError:
    return NlmfoError(
        f"cannot start '{words[0]}': {error.strerror}",
        hint="install the package that provides it" if isinstance(error, FileNotFoundError) else None,
    )
