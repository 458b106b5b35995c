# SPDX-License-Identifier: GPL-2.0-or-later
"""The rule by which udev has a service taken over: for each of its disks, and only where there can be proof."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nlmfo.cli.main import main
from nlmfo.cli.udev import rules
from nlmfo.errors import NlmfoError
from tests.unit import shapes
from tests.unit.test_config import HOME, write

SERVICE = shapes.service(partitions=2)


def test_each_disk_of_the_service_asks_for_its_unit() -> None:
    lines = [line for line in rules(shapes.config(Path("/registry")), SERVICE).splitlines() if line[0] != "#"]
    assert [re.search('ID_FS_UUID}=="(.*?)"', line)[1] for line in lines] == [p.uuid for p in SERVICE.partitions]  # type: ignore[index]
    assert all(line.endswith(', TAG+="systemd", ENV{SYSTEMD_WANTS}+="nlmfo@home.service"') for line in lines)


def test_without_a_registry_there_is_no_rule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NlmfoError, match="udev has none to give"):
        rules(shapes.config(None), SERVICE)
    write(tmp_path, "", home=HOME)
    assert main(["--config", str(tmp_path), "udev", "home"]) == 1
    assert "registry" in capsys.readouterr().err
