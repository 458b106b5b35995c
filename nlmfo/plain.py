# SPDX-License-Identifier: GPL-2.0-or-later
"""Names that others choose (clients, processes, files), made fit for a terminal and a log."""

from __future__ import annotations


def plain(name: str) -> str:
    """The name with a question mark for everything that is not printed as it is: control characters, bytes that are
    no text, marks that turn the direction of writing around.
    """
    return "".join(character if character.isprintable() else "?" for character in name)
