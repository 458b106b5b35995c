# SPDX-License-Identifier: GPL-2.0-or-later
"""The guide for two nodes, docs/two-nodes.md: what it tells to type, typed in this order on the machines that it names.

Only what comes before is done here: machines, disks, the registry, and the installation.
"""

from __future__ import annotations

import tomllib
from functools import partial

import pytest

from tests import documentation
from tests.documentation import GUIDE, Command
from tests.lab import cluster, installed
from tests.lab.lab import Lab
from tests.lab.node import Node
from tests.lab.witness import await_true, lost_by

INSTALL, DEATH = "Install", "A server dies"
#: Seconds for a full node to boot.
BOOT = 180.0
#: Seconds for what a command shows to become as the page has it.
ANSWER = 60.0


def type_in(node: Node, command: Command) -> None:
    """Type a command, which has to succeed, and see that it answers what the page says.

    It is typed again until it does: what was begun by the command before may take a moment.
    """
    if command.line.endswith("&"):
        node.start("sh", "-c", command.line.removesuffix("&"))
        return

    def answers() -> bool:
        result = node.run("sh", "-c", command.line, deadline=cluster.COMMAND)
        said.append(f"{command.machine}# {command.line}\n{result}")
        assert result.status == 0, said[-1] + node.run("journalctl", "--no-pager", "--unit", "nlmfo@home").out
        return command.missing_in(result.out) == []

    said: list[str] = []
    try:
        await_true("the answer of the page", answers, ANSWER)
    except AssertionError as error:
        error.add_note(said[-1])
        raise


def files() -> dict[str, str]:
    """The configuration that the guide shows, by the path in each block's first line."""
    shown = [block.text for block in documentation.blocks(GUIDE) if block.language == "toml"]
    return {text.splitlines()[0].removeprefix("# "): text for text in shown}


def set_up(server: Node) -> None:
    server.shell("mkdir -p /cluster/nlmfo; mount --bind /lab/registry /cluster/nlmfo")
    installed.install(server)
    for path, text in files().items():
        server.put(text, path)


@pytest.mark.timeout(900)
def test_the_guide_for_two_nodes_does_what_it_says(lab: Lab) -> None:
    service = tomllib.loads(files()["/etc/nlmfo/services.d/home.toml"])
    disks = [lab.disk(f"disk{n}", identity=each["uuid"]) for n, each in enumerate(service["partition"])]
    machines = {name: lab.node(name, disks=disks, full=True) for name in ("server-a", "server-b")}
    machines["client"] = lab.node("client")
    lab.boot(seconds=BOOT)
    cluster.at_once(*(partial(set_up, machines[name]) for name in ("server-a", "server-b")))
    machines["client"].shell("rpcbind; rpc.statd --no-notify")  # as on any machine that mounts NFSv3

    typed = [command for command in documentation.commands(GUIDE) if command.heading != INSTALL]
    assert {command.machine for command in typed} == set(machines)
    before = ""
    for command in typed:
        if command.heading != before == "Move":
            assert lost_by(machines["client"]) == []
        if command.heading == DEATH != before:
            machines["server-b"].cut_power()
        before = command.heading
        type_in(machines[command.machine], command)
    assert before == DEATH
    assert lost_by(machines["client"]) == []
    machines["server-a"].check("systemctl", "start", "nlmfo@home", deadline=cluster.COMMAND)
