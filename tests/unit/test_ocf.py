# SPDX-License-Identifier: GPL-2.0-or-later
"""The resource agent: which of nlmfo's commands it runs, with which word, and what Pacemaker hears of it.

nlmfo and Pacemaker's own programs are stand-ins here, which say what they are told to.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import pytest

AGENT = Path(__file__).parents[2] / "contrib/ocf/nlmfo"
SUCCESS, GENERIC, ARGS, UNIMPLEMENTED, PERM, INSTALLED, CONFIGURED, NOT_RUNNING = range(8)
#: Prints what is in a file of its name, writes down its words, and ends with the status for its first word.
STAND_IN = """#!/bin/sh
echo "${0##*/} $*" >> "$STAND/ran"
cat "$STAND/${0##*/}.out" 2> /dev/null
read -r status < "$STAND/${0##*/}.$3" 2> /dev/null || status=0
exit "$status"
"""


@dataclass
class Stand:
    """A node of a cluster. ``status``: what nlmfo's commands end with."""

    directory: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("nlmfo", "crm_attribute", "crm_node"):
            self.program(name)
        self.environment = {
            "PATH": f"{self.directory}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "STAND": str(self.directory),
            "OCF_RESKEY_service": "home",
        }
        self.says("crm_attribute", "true")
        self.says("crm_node", "here other")
        self.owned_by(None)

    def program(self, name: str) -> None:
        path = self.directory / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(STAND_IN)
        path.chmod(0o755)

    def says(self, program: str, text: str) -> None:
        (self.directory / f"{program}.out").write_text(f"{text}\n")

    def owned_by(self, node: str | None, standing: str = "serving") -> None:
        owner = None if node is None else {"node": node, "standing": standing}
        self.says("nlmfo", json.dumps({"node": "here", "services": [{"owner": owner}]}))

    def ends(self, command: str, status: int) -> None:
        (self.directory / f"nlmfo.{command}").write_text(f"{status}\n")

    def run(self, *words: str) -> int:
        done = subprocess.run([AGENT, *words], env=self.environment, capture_output=True, timeout=30, check=False)
        return done.returncode

    def ran(self) -> list[str]:
        """What nlmfo was told to do, but for questions."""
        lines = (self.directory / "ran").read_text().splitlines()
        found = [line.removeprefix("nlmfo --config /etc/nlmfo ") for line in lines if line.startswith("nlmfo ")]
        return [line for line in found if not line.startswith("status")]


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    return Stand(tmp_path)


def test_start_is_a_takeover_stop_a_release_and_monitor_asks_how_it_is(stand: Stand) -> None:
    assert [stand.run(action) for action in ("start", "monitor", "stop")] == [SUCCESS] * 3
    assert stand.ran() == ["takeover home", "monitor home", "release home"]


def test_an_owner_that_was_fenced_is_passed_with_that_word(stand: Stand) -> None:
    stand.owned_by("gone")
    assert stand.run("start") == SUCCESS
    assert stand.ran() == ["takeover home --fenced gone"]


@pytest.mark.parametrize(
    ("owner", "standing", "fencing", "members"),
    [
        ("other", "serving", "true", "here other"),  # it lives, and has to release the service itself
        ("gone", "serving", "false", "here other"),  # nobody has made sure that it is gone
        ("gone", "serving", "", "here other"),
        ("gone", "serving", "true", ""),  # nobody can tell who is a member
        ("gone", "released", "true", "here other"),  # no word is needed
        ("here", "serving", "true", ""),  # this node's own, of an earlier boot
        (None, "", "true", "here"),
    ],
)
def test_without_certain_fencing_no_word_is_given(
    stand: Stand, owner: str | None, standing: str, fencing: str, members: str
) -> None:
    stand.owned_by(owner, standing)
    stand.says("crm_attribute", fencing)
    stand.says("crm_node", members)
    stand.run("start")
    assert stand.ran() == ["takeover home"]


def test_where_pacemakers_programs_are_missing_no_word_is_given(stand: Stand) -> None:
    stand.owned_by("gone")
    for name in ("crm_attribute", "crm_node"):
        (stand.directory / "bin" / name).unlink()
    stand.run("start")
    assert stand.ran() == ["takeover home"]


@pytest.mark.parametrize(
    ("action", "command", "statuses"),
    [
        ("start", "takeover", {0: SUCCESS, 1: GENERIC, 2: CONFIGURED, 3: GENERIC, 4: GENERIC, 124: GENERIC}),
        ("stop", "release", {0: SUCCESS, 1: GENERIC, 4: GENERIC, 5: SUCCESS, 124: GENERIC}),
        ("monitor", "monitor", {0: SUCCESS, 1: GENERIC, 5: NOT_RUNNING, 124: GENERIC}),
    ],
)
def test_each_exit_status_has_one_meaning(stand: Stand, action: str, command: str, statuses: dict[int, int]) -> None:
    for status, wanted in statuses.items():
        stand.ends(command, status)
        assert stand.run(action) == wanted, status


def test_what_is_not_configured_or_not_installed_is_told_apart(stand: Stand) -> None:
    assert stand.run("validate-all") == SUCCESS
    stand.ends("status", 5)  # it is served elsewhere
    assert stand.run("validate-all") == SUCCESS
    stand.ends("status", 2)
    assert stand.run("monitor") == CONFIGURED
    stand.environment["OCF_RESKEY_nlmfo"] = "/away/nlmfo"
    assert stand.run("monitor") == INSTALLED
    del stand.environment["OCF_RESKEY_service"]
    assert stand.run("start") == CONFIGURED
    assert stand.ran() == []


def test_actions_that_it_has_not_are_said_to_be_missing(stand: Stand) -> None:
    assert (stand.run("promote"), stand.run()) == (UNIMPLEMENTED, ARGS)


def test_it_describes_itself_without_a_cluster_and_has_what_it_describes(stand: Stand) -> None:
    said = subprocess.run([AGENT, "meta-data"], env={"PATH": os.defpath}, capture_output=True, text=True, check=True)
    described = ElementTree.fromstring(said.stdout)
    assert described.findtext("version") == "1.1"
    source = AGENT.read_text()
    parameters = {each.get("name"): each for each in described.iter("parameter")}
    assert set(parameters) == set(re.findall(r"OCF_RESKEY_([a-z]+):=", source))
    assert [name for name, each in parameters.items() if each.get("required")] == ["service"]
    for name, each in parameters.items():
        content = each.find("content")
        assert content is not None
        assert f"OCF_RESKEY_{name}:={content.get('default', '')}}}" in source
    for action in (str(each.get("name")) for each in described.iter("action")):
        assert stand.run(action) != UNIMPLEMENTED
