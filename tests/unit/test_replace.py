# SPDX-License-Identifier: GPL-2.0-or-later
"""A file that is replaced is there whole at every moment."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from nlmfo.replace import replace_file


def test_the_file_is_replaced_whole_and_everybody_may_read_it(tmp_path: Path) -> None:
    file = tmp_path / "nlmfo.prom"
    file.write_text("old")
    before = file.stat().st_ino
    replace_file(file, "new\n")
    assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == ("new\n", 0o644)
    assert file.stat().st_ino != before
    assert list(tmp_path.iterdir()) == [file]
    with pytest.raises(OSError, match="No such file"):
        replace_file(tmp_path / "away/nlmfo.prom", "new\n")
