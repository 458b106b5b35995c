# SPDX-License-Identifier: GPL-2.0-or-later
"""The linters agree with every file; a tool that is missing is an error, not a skip."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent


def tracked(*patterns: str) -> list[str]:
    """Files of the project, also those that are not committed yet."""
    listed = subprocess.run(
        [
            "git",
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
            "--deduplicate",
            "-z",
            "--",
            *patterns,
        ],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [name for name in listed.stdout.split("\0") if name and (CHECKOUT / name).exists()]


def shell_scripts() -> list[str]:
    first_lines = ((name, (CHECKOUT / name).read_bytes().split(b"\n", 1)[0]) for name in tracked())
    return [name for name, line in first_lines if line.startswith(b"#!") and line.rstrip().endswith((b"sh", b"dash"))]


LINTERS: dict[str, Callable[[], list[str | Path]]] = {
    "ruff check": lambda: [BIN / "ruff", "check", "."],
    "ruff format": lambda: [BIN / "ruff", "format", "--check", "."],
    "mypy": lambda: [BIN / "mypy"],
    "codespell": lambda: [BIN / "codespell", *tracked()],
    "shellcheck": lambda: ["shellcheck", *shell_scripts()],
}


@pytest.mark.parametrize("name", LINTERS)
def test_it_agrees(name: str) -> None:
    done = subprocess.run(LINTERS[name](), cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"


def test_every_source_file_names_its_licence() -> None:
    sources = [name for name in tracked("*.py", "*.sh", "*.c", "*.service", "Makefile") if name != "LICENSE"]
    sources += shell_scripts()
    without = [name for name in sources if "SPDX-License-Identifier" not in (CHECKOUT / name).read_text()[:200]]
    assert without == []
