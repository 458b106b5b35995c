# SPDX-License-Identifier: GPL-2.0-or-later
"""Text with its own checksum as the last line, ``sha256 <64 hex digits>``: what a crash or a disk spoiled shows.

It keeps nobody from forging: whoever can write the file can seal it.
"""

from __future__ import annotations

import hashlib


def seal(text: str) -> bytes:
    """The text, which ends with a newline, and its checksum."""
    body = text.encode("utf-8", errors="surrogateescape")
    return body + f"sha256 {hashlib.sha256(body).hexdigest()}\n".encode("ascii")


def unseal(content: bytes) -> tuple[str, bool]:
    """The text without its checksum, or what is left of it; and whether it is whole."""
    body = content[: content.rfind(b"sha256 ")] if b"sha256 " in content else content
    text = body.decode("utf-8", errors="surrogateescape")
    return text, seal(text) == content
