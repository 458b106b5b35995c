# SPDX-License-Identifier: GPL-2.0-or-later
"""Replaces a small file in one step, for those that need not outlive the node (see nlmfo.records for those that do)."""

from __future__ import annotations

import os
from pathlib import Path


def replace_file(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Whoever reads the file finds the old text or the new one, whole. Raises OSError, and leaves nothing behind."""
    new = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(text.encode())
            os.fchmod(file.fileno(), mode)
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
