# SPDX-License-Identifier: GPL-2.0-or-later
"""What to tell someone who wrote a word that nlmfo does not know."""

from __future__ import annotations

from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The known word that looks like ``word``, as a question; all the known words when none does."""
    words = list(known)
    import difflib  # noqa: PLC0415 - 5 ms that only a mistake needs

    close = difflib.get_close_matches(word, words, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known here: {', '.join(words)}"
