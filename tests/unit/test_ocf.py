# SPDX-License-Identifier: GPL-2.0-or-later
"""The resource agent: which of nlmfo's commands it runs, with which word, and what Pacemaker hears of it.

nlmfo and Pacemaker's own programs are stand-ins here, which say what they are told to; tests/lab/test_pacemaker.py has
the real ones.
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
DEGRADED = 190
#: When the owner took the service, and how Pacemaker writes moments before and after that.
SINCE = 1_795_303_721.3  # 2026-11-21 23:28:41 UTC
BEFORE, AFTER = "2026-11-21 23:28:40Z", "2026-11-21 23:29:33Z"
#: Prints what is in a file of its name, writes down its words, and ends with the status for its first word.
STAND_IN = """#!/bin/sh
echo "${0##*/} $*" >> "$STAND/ran"
cat "$STAND/${0##*/}.out" 2> /dev/null
cat "$STAND/${0##*/}.$3.err" >&2 2> /dev/null
read -r status < "$STAND/${0##*/}.$3" 2> /dev/null || status=0
exit "$status"
"""


@dataclass
class Stand:
    """A node of a cluster. ``status``: what nlmfo's commands end with."""

    directory: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("nlmfo", "crm_attribute", "stonith_admin"):
            self.program(name)
        self.environment = {
            "PATH": f"{self.directory}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "STAND": str(self.directory),
            "OCF_RESKEY_service": "home",
            "OCF_RESKEY_CRM_meta_on_node": "here",
            "OCF_RESKEY_CRM_meta_interval": "20000",
            "HA_VARRUN": f"{self.directory}/run",
        }
        self.says("crm_attribute", "true")
        self.fencing("")
        self.owned_by(None)

    def program(self, name: str) -> None:
        path = self.directory / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(STAND_IN)
        path.chmod(0o755)

    def says(self, program: str, text: str) -> None:
        (self.directory / f"{program}.out").write_text(f"{text}\n")

    def owned_by(self, node: str | None, standing: str = "serving") -> None:
        owner = None if node is None else {"node": node, "standing": standing, "since": SINCE}
        self.says("nlmfo", json.dumps({"node": "here", "services": [{"owner": owner}]}))

    def fencing(self, *events: str) -> None:
        """Pacemaker's history of fencing."""
        listed = "".join(f"<fence_event {event}/>" for event in events if event)
        self.says("stonith_admin", f"<pacemaker-result><list>{listed}</list></pacemaker-result>")

    def ends(self, command: str, status: int, *errors: str) -> None:
        """What a command of nlmfo ends with, and what it says on its standard error."""
        (self.directory / f"nlmfo.{command}").write_text(f"{status}\n")
        (self.directory / f"nlmfo.{command}.err").write_text("".join(f"nlmfo: {line}\n" for line in errors))

    def run(self, *words: str) -> int:
        return self.act(*words)[0]

    def act(self, *words: str) -> tuple[int, list[str]]:
        """The status, and the reasons that Pacemaker would show."""
        done = subprocess.run(
            [AGENT, *words], env=self.environment, capture_output=True, text=True, timeout=30, check=False
        )
        reasons = [line.removeprefix("ocf-exit-reason:") for line in done.stderr.splitlines() if "ocf-exit" in line]
        return done.returncode, reasons

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


def event(moment: str = AFTER, target: str = "gone", action: str = "reboot", status: str = "success") -> str:
    return f'target="{target}" action="{action}" status="{status}" completed="{moment}"'


@pytest.mark.parametrize(
    "moment", [AFTER, "2026-11-21 23:29:33.123456Z", "2026-11-22 00:29:33 +01:00", "2026-11-21 18:29:33.5 -05:00"]
)
def test_an_owner_that_was_fenced_since_it_took_the_service_is_passed_with_that_word(stand: Stand, moment: str) -> None:
    stand.owned_by("gone")
    stand.fencing(event(BEFORE), event(moment))
    assert stand.run("start") == SUCCESS
    assert stand.ran() == ["takeover home --fenced gone"]


@pytest.mark.parametrize(
    ("owner", "standing", "enabled", "history"),
    [
        ("other", "serving", "true", event()),  # it lives, and has to release the service itself
        ("gone", "serving", "true", ""),  # no member any more perhaps, but nobody turned it off
        ("gone", "serving", "true", event(BEFORE)),  # it came back since, and took the service
        ("gone", "serving", "true", event("2026-11-22 00:28:40 +01:00")),
        ("gone", "serving", "true", event(status="failed")),
        ("gone", "serving", "true", event(status="pending")),
        ("gone", "serving", "true", event(action="on")),  # unfencing
        ("gone", "serving", "true", event("some day")),
        ("gone", "serving", "false", event()),  # what Pacemaker has lost may live
        ("gone", "serving", "", event()),
        ("gone", "released", "true", event()),  # no word is needed
        ("here", "serving", "true", event(target="here")),  # this node's own, of an earlier boot
        (None, "", "true", event()),
    ],
)
def test_without_certain_fencing_no_word_is_given(
    stand: Stand, owner: str | None, standing: str, enabled: str, history: str
) -> None:
    stand.owned_by(owner, standing)
    stand.says("crm_attribute", enabled)
    stand.fencing(history)
    stand.run("start")
    assert stand.ran() == ["takeover home"]


@pytest.mark.parametrize("missing", ["crm_attribute", "stonith_admin"])
def test_where_pacemakers_programs_are_missing_no_word_is_given(stand: Stand, missing: str) -> None:
    stand.owned_by("gone")
    stand.fencing(event())
    (stand.directory / "bin" / missing).unlink()
    stand.run("start")
    assert stand.ran() == ["takeover home"]


def test_a_node_that_pacemaker_knows_by_another_name_is_not_started_on(stand: Stand) -> None:
    """Fencing is looked up by the owner's name."""
    stand.environment["OCF_RESKEY_CRM_meta_on_node"] = "here.example"
    status, (reason,) = stand.act("start")
    assert status == ARGS
    assert "calls this node here.example, nlmfo calls it here" in reason
    assert stand.ran() == []
    assert stand.run("stop") == stand.run("monitor") == SUCCESS


@pytest.mark.parametrize(
    ("action", "command", "statuses"),
    [
        ("start", "takeover", {0: SUCCESS, 1: GENERIC, 2: ARGS, 3: GENERIC, 4: GENERIC, 124: GENERIC}),
        ("stop", "release", {0: SUCCESS, 1: GENERIC, 4: GENERIC, 5: SUCCESS, 124: GENERIC}),
        ("monitor", "monitor", {0: SUCCESS, 1: GENERIC, 5: NOT_RUNNING, 124: GENERIC}),
        ("reload", "reload", {0: SUCCESS, 1: GENERIC, 2: ARGS, 5: NOT_RUNNING, 124: GENERIC}),
        ("validate-all", "status", {0: SUCCESS, 2: ARGS, 5: SUCCESS}),  # it may be served elsewhere
    ],
)
def test_each_exit_status_has_one_meaning(stand: Stand, action: str, command: str, statuses: dict[int, int]) -> None:
    for status, wanted in statuses.items():
        stand.ends(command, status)
        assert stand.run(action) == wanted, status


@pytest.mark.parametrize("status", [1, 2, 3, 124, 127])
@pytest.mark.parametrize("mended", ["reload-agent", "start"])
def test_a_reload_by_pacemaker_that_fails_is_no_error_and_shown_by_each_monitor_until_it_is_mended(
    stand: Stand, status: int, mended: str
) -> None:
    """An error, or 'degraded', would have Pacemaker stop and start a service that is served as before."""
    (stand.directory / "run/nlmfo").mkdir(parents=True)
    stand.ends("reload", status, "refused (fsid-changed): another fsid")
    assert stand.run("reload-agent") == SUCCESS
    for _ in range(2):
        assert stand.act("monitor") == (DEGRADED, ["not reloaded: refused (fsid-changed): another fsid"])
    stand.ends("monitor", 1, "nfsd does not run")
    assert stand.act("monitor") == (GENERIC, ["nfsd does not run"])
    for command in ("monitor", "reload"):
        stand.ends(command, 0)
    assert stand.run(mended) == SUCCESS
    assert stand.act("monitor") == (SUCCESS, [])


def test_a_reload_by_pacemaker_of_what_is_not_here_says_so(stand: Stand) -> None:
    stand.ends("reload", 5)
    assert stand.run("reload-agent") == NOT_RUNNING


@pytest.mark.parametrize("status", [2, 3])
def test_what_cannot_be_told_is_not_running_where_nothing_of_it_is_and_fences_nobody(stand: Stand, status: int) -> None:
    for command in ("monitor", "release"):
        stand.ends(command, status, "registry /r: Input/output error, so nobody can tell who serves")
    assert (stand.run("monitor"), stand.run("stop")) == (NOT_RUNNING, SUCCESS)
    stand.environment["OCF_RESKEY_CRM_meta_interval"] = "0"
    assert stand.act("monitor") == (NOT_RUNNING, [])


@pytest.mark.parametrize("mark", ["netns/nlmfo-home", "nlmfo/home/attached"])
@pytest.mark.parametrize("status", [2, 3])
def test_what_cannot_be_told_of_a_service_that_is_here_is_shown_and_takes_nothing_down(
    stand: Stand, mark: str, status: int
) -> None:
    (stand.directory / "run" / mark).parent.mkdir(parents=True)
    (stand.directory / "run" / mark).touch()
    for command in ("monitor", "release"):
        stand.ends(command, status, "registry /r: Input/output error, so nobody can tell who serves")
    assert stand.act("monitor") == (DEGRADED, ["registry /r: Input/output error, so nobody can tell who serves"])
    assert stand.run("stop") != SUCCESS


def test_what_must_not_be_unmounted_is_a_stop_that_failed(stand: Stand) -> None:
    stand.ends("release", 3, "refused (superseded): service 'home': other has taken it over")
    assert stand.act("stop") == (GENERIC, ["refused (superseded): service 'home': other has taken it over"])


def test_the_reason_is_what_nlmfo_names_as_errors_and_a_probe_gives_none(stand: Stand) -> None:
    stand.ends("takeover", 3, "warning: a doubt", "refused (still-served): other serves it", "hint: release it there")
    stand.says("nlmfo", "home: making namespaces")
    assert stand.act("start")[1] == ["refused (still-served): other serves it; hint: release it there"]
    stand.says("nlmfo", "home: nfsd does not run\nhome: rpc.statd does not answer at 192.0.2.1")
    stand.ends("monitor", 1)
    assert stand.act("monitor")[1] == ["home: nfsd does not run; home: rpc.statd does not answer at 192.0.2.1"]
    stand.ends("monitor", 5, "service 'home' is not served here")
    assert stand.act("monitor")[1] == ["service 'home' is not served here"]
    stand.environment["OCF_RESKEY_CRM_meta_interval"] = "0"
    assert stand.act("monitor") == (NOT_RUNNING, [])


def test_what_is_not_configured_or_not_installed_is_told_apart(stand: Stand) -> None:
    stand.environment["OCF_RESKEY_nlmfo"] = "/away/nlmfo"
    assert stand.act("validate-all") == (INSTALLED, ["/away/nlmfo: not installed"])
    assert stand.run("start") == INSTALLED
    assert (stand.run("monitor"), stand.run("stop")) == (NOT_RUNNING, SUCCESS)
    del stand.environment["OCF_RESKEY_service"]
    for action in ("start", "stop", "monitor", "reload", "reload-agent", "validate-all"):
        assert stand.run(action) == CONFIGURED


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
