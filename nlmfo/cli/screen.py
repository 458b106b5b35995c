# SPDX-License-Identifier: GPL-2.0-or-later
"""Standard output: plain lines, or, on a terminal, lines with one below them that is drawn again and again in place.

Nothing of the terminal's settings is changed, and the cursor never leaves its line: whatever ends the process, the
terminal is whole.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nlmfo.failover.engine import uninterrupted

#: Seconds between two drawings, and for the thread that draws to end.
REDRAW, END = 0.2, 2.0
#: Columns of a terminal that does not say how many it has.
COLUMNS = 80
#: Back to the beginning of the line; clear from the cursor to its end (ECMA-48: EL).
_START, _CLEAR = "\r", "\x1b[K"


def say(line: str) -> None:
    """Print; when nobody reads any more, go on in silence: a closed pipe must not stop a run, or its rollback."""
    try:
        print(line, flush=True)
    except OSError:
        _forsake()


def _forsake() -> None:
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def is_terminal() -> bool:
    """Whether standard output is a terminal that can go back to the beginning of a line and clear it."""
    # Where standard output was closed there is none at all.
    return sys.stdout is not None and sys.stdout.isatty() and os.environ.get("TERM", "") not in ("", "dumb")


def may_colour() -> bool:
    """What https://no-color.org asks for."""
    return is_terminal() and not os.environ.get("NO_COLOR")


class StatusLine:
    """The line at the bottom of the terminal that standard output is. ``words``: what it says now, empty for nothing.

    A thread draws it every ``REDRAW`` seconds. It takes no signal: one that it took would break into what the main
    thread has blocked it for (nlmfo.failover.engine.uninterrupted).
    """

    def __init__(self, words: Callable[[], str]) -> None:
        self._words = words
        self._fd = sys.stdout.fileno()
        self._encoding = sys.stdout.encoding or "utf-8"
        self._turn = threading.Lock()
        self._ended = threading.Event()
        self._shown = ""
        self._thread = threading.Thread(target=self._draw_again_and_again, name="status line", daemon=True)

    def start(self) -> None:
        sys.stdout.flush()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._thread.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def close(self) -> None:
        """Clear it, and draw no more."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join(END)
        with self._turn:
            self._draw("")

    def say(self, line: str) -> None:
        """A finished line above it."""
        with self._turn:
            self._shown = self._fitting()
            self._write(f"{_START}{_CLEAR}{line}\n{self._shown}")

    def redraw(self) -> None:
        """Draw what it says now, unless the terminal is stopped (Ctrl-S): a status is not worth waiting for."""
        with self._turn:
            if not self._ended.is_set() and select.select([], [self._fd], [], 0)[1]:
                self._draw(self._fitting())

    def _draw_again_and_again(self) -> None:
        while not self._ended.wait(REDRAW):
            self.redraw()

    def _draw(self, said: str) -> None:
        if said != self._shown:
            self._shown = said
            self._write(f"{_START}{said}{_CLEAR}")

    def _fitting(self) -> str:
        try:
            columns = os.get_terminal_size(self._fd).columns or COLUMNS
        except OSError:
            columns = COLUMNS
        # One less: a terminal whose last column is written to may go on to the next line.
        return cut(self._words(), columns - 1)

    def _write(self, text: str) -> None:
        content = text.encode(self._encoding, errors="replace")
        try:
            while content:
                content = content[os.write(self._fd, content) :]
        except OSError:  # the terminal is gone
            _forsake()


def cut(text: str, columns: int) -> str:
    """As much of a line as fits, and dots where something is missing. East Asian characters take two columns."""
    wide = [_width(character) for character in text]
    if sum(wide) <= columns:
        return text
    room, fits = columns - 3, 0
    while fits < len(text) and room >= wide[fits]:
        room -= wide[fits]
        fits += 1
    return (text[:fits] + "...")[: max(0, columns)]


def _width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


@contextmanager
def status_line(words: Callable[[], str]) -> Iterator[StatusLine]:
    """A status line for as long as something is done; cleared at the end, however that comes."""
    line = StatusLine(words)
    try:
        line.start()
        yield line
    finally:
        with uninterrupted():
            line.close()


def wall_clock() -> Callable[[], float]:
    """Seconds since 1970 by a clock that is not set while it is used."""
    begun, since = time.time(), time.monotonic()
    return lambda: begun + time.monotonic() - since
