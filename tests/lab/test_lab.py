# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab itself: what it promises to the tests that are built on it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.lab.lab import Lab
from tests.lab.node import Node, NodeDown, free_of_guests
from tests.lab.root import CHECKOUT
from tests.lab.witness import await_true


@pytest.fixture
def node(lab: Lab) -> Node:
    """One light node, booted."""
    made = lab.node("node")
    lab.boot()
    return made


@pytest.fixture(scope="module")
def lasting(shared_lab: Lab) -> Node:
    """The same for those who leave nothing behind."""
    made = shared_lab.node("lasting")
    shared_lab.boot()
    return made


def test_a_command_returns_its_status_and_both_outputs(lasting: Node) -> None:
    result = lasting.run("sh", "-c", "echo out; echo err >&2; exit 7")
    assert (result.status, result.out, result.err) == (7, "out\n", "err\n")


def test_a_command_is_killed_with_its_children_at_its_deadline(lasting: Node) -> None:
    assert lasting.run("sh", "-c", "sleep 9999 & sleep 9999", deadline=1).status == 124
    assert lasting.run("pgrep", "sleep").status == 1


def test_several_commands_run_at_once_and_their_lines_arrive_while_they_run(lasting: Node) -> None:
    slow = lasting.start("sh", "-c", "echo begun; cat /lab/share/go; sleep 9999")
    await_true("the first line", lambda: not slow.lines.empty(), 10)
    assert slow.lines.get()[1] == "begun"
    assert lasting.check("echo", "meanwhile") == "meanwhile\n"
    slow.signal(signal.SIGKILL)
    assert slow.wait(10).status == -signal.SIGKILL


def test_files_go_in_and_out_byte_by_byte(lasting: Node) -> None:
    content = bytes(range(256)) * 100
    lasting.put(content, "/root/a/b")
    assert lasting.get("/root/a/b") == content


def test_what_a_node_writes_to_its_root_stays_in_its_memory(lab: Lab, node: Node) -> None:
    node.shell("echo spoilt > /etc/hostname; rm -rf /opt/nlmfo")
    assert (lab.directory / "root/etc/hostname").read_text() != "spoilt\n"
    assert (lab.directory / "root/opt/nlmfo/bin/python").exists()


def test_a_power_cut_keeps_what_was_synced_and_loses_what_was_not(lab: Lab) -> None:
    disk = lab.disk("disk")
    node = lab.node("node", disks=[disk])
    lab.boot()
    mount = f"mount UUID={disk.uuid} /mnt"
    node.shell(f"{mount}; echo safe > /mnt/synced; sync; echo gone > /mnt/unsynced")
    job = node.start("sleep", "9999")
    node.cut_power()
    with pytest.raises(NodeDown, match="went down"):
        job.wait(10)
    lab.boot()
    assert node.shell(f"{mount}; cat /mnt/synced; ls /mnt") == "safe\nlost+found\nsynced\n"


def test_a_hung_node_answers_nothing_and_goes_on_when_resumed(node: Node) -> None:
    ticking = node.start("sh", "-c", "while sleep 0.1; do echo tick; done")
    await_true("a tick", lambda: not ticking.lines.empty(), 10)
    node.hang()
    time.sleep(0.5)  # what was on its way arrives
    before = ticking.lines.qsize()
    with pytest.raises(NodeDown):
        node.start("true").wait(2)
    assert ticking.lines.qsize() == before
    node.resume()
    await_true("more ticks", lambda: ticking.lines.qsize() > before, 10)
    assert node.run("true").status == 0


def test_nodes_reach_each_other_unless_a_cable_is_pulled(lab: Lab) -> None:
    one, two = lab.node("one"), lab.node("two")
    lab.boot()

    def reaches(target: str) -> bool:
        return one.run("ping", "-c", "1", "-W", "1", target).status == 0

    assert reaches("10.10.0.2")
    assert reaches("fd00::2")
    lab.unplug(two)
    assert not reaches("10.10.0.2")
    lab.plug(two)
    await_true("the cable to work again", lambda: reaches("10.10.0.2"), 20)


def test_a_disk_and_the_registry_are_shared_by_nodes(lab: Lab) -> None:
    disk = lab.disk("disk")
    one, two = lab.node("one", disks=[disk]), lab.node("two", disks=[disk])
    lab.boot()
    one.shell(f"mount UUID={disk.uuid} /mnt; echo hello > /mnt/file; umount /mnt; echo there > /lab/registry/note")
    assert two.shell(f"mount UUID={disk.uuid} /mnt; cat /mnt/file /lab/registry/note") == "hello\nthere\n"


def test_two_nodes_that_link_to_one_name_at_once_have_one_winner(lab: Lab) -> None:
    """Which is what claims of an epoch in a registry stand on."""
    nodes = [lab.node("one"), lab.node("two")]
    lab.boot()
    (lab.registry / "name").mkdir()
    race = """
import os, time
me = os.uname().nodename
for n in range(100):
    own = f"/lab/registry/{me}.{n}"
    open(own, "w").close()
    while time.time() % 0.02 > 0.001: pass
    try: os.link(own, f"/lab/registry/name/{n}")
    except FileExistsError: continue
    print(n)
"""
    jobs = [node.start("/usr/bin/python3", "-c", race, stream=False) for node in nodes]
    won = [set(job.wait(120).out.split()) for job in jobs]
    assert won[0] | won[1] == {str(n) for n in range(100)}
    assert not won[0] & won[1]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_no_process_of_a_lab_outlives_a_test_that_is_ended_by(how: signal.Signals) -> None:
    program = """
import pathlib, signal, sys, time
from tests.lab.lab import Lab
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, if we are a background job
with Lab(pathlib.Path(sys.argv[1])) as lab:
    lab.node("one"), lab.node("two")
    lab.boot()
    print(lab.directory, flush=True)
    time.sleep(600)
"""
    logs = CHECKOUT / f".lab/logs/ended-by-{how.name}"
    argv = [sys.executable, "-c", program, str(logs)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=CHECKOUT) as test:
        assert test.stdout is not None
        directory = Path(test.stdout.readline().strip())
        assert len(free_of_guests(f"{directory}/")) > 2  # it was up
        os.kill(test.pid, how)
        try:
            test.wait(60)
        finally:
            test.kill()
    await_true("every process of the lab to be gone", lambda: not free_of_guests(f"{directory}/"), 30)
    assert directory.exists() == (how is signal.SIGKILL)  # only that one leaves the directory behind
    subprocess.run(["rm", "-rf", directory], check=True)
