# SPDX-License-Identifier: GPL-2.0-or-later
"""Prints what happens in the lab as a timeline."""

from __future__ import annotations

import os
import sys
import textwrap
import time

WIDTH = 108
MARGIN = " " * 22


class Story:
    """A timeline: seconds since the beginning, who, and what."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ

    def title(self, text: str) -> None:
        print(f"\n{self._paint('1', text)}", flush=True)

    def tell(self, who: str, what: str) -> None:
        seconds = time.monotonic() - self._begin
        for number, line in enumerate(textwrap.wrap(what, WIDTH - len(MARGIN))):
            print(f"{seconds:7.1f} s  {self._paint('36', f'{who:<10}')} {line}" if number == 0 else MARGIN + line)
        sys.stdout.flush()

    def quote(self, text: str) -> None:
        """What a program said, a line at a time."""
        for line in text.splitlines():
            print(MARGIN + self._paint("2", f"| {line}"))
        sys.stdout.flush()

    def good(self, text: str) -> None:
        print(self._paint("32", text), flush=True)

    def bad(self, text: str) -> None:
        print(self._paint("1;31", text), flush=True)

    def _paint(self, code: str, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self._colour else text
