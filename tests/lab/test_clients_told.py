# SPDX-License-Identifier: GPL-2.0-or-later
"""Whoever may hold a lock is told, whatever comes between: a cut cable, a kill, a second failure.

All in one lab, each test with a service of its own. Which locks are held, and what a client's kernel makes of the
notice, is read from the kernels; the ledger and the records show what the next owner would know.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from nlmfo.failover.plan import Action
from tests.lab import cluster
from tests.lab.cluster import Service
from tests.lab.lab import Lab
from tests.lab.node import Node
from tests.lab.test_grace_ends import (
    LONG,
    MEDIUM,
    SOON,
    Ground,
    client_address,
    in_words,
    keepers_in_grace,
    named_locks,
    nothing_lost,
    prepared,
    progress,
    wait_until_asking,
)
from tests.lab.witness import WORKLOAD, await_true, held_on, lost_by
from tests.workload.holder import LOCKS

SERVICES = ("cable", "killed", "twice", "keeper", "gone", "given", "theirs")
#: Seconds until a client that does not answer is forgotten, in the service where it is.
FORGET_AFTER = 15
#: What a client's kernel says of each lock that it asked for again in vain.
REFUSED = "failed to reclaim lock"
#: sm-notify sends a host name, which clients have to mount by and to resolve.
NAME = "theirs.example"


@pytest.fixture(scope="module")
def whole_ground(shared_lab: Lab) -> Ground:
    return prepared(shared_lab, ("a", "b", "c"), ("one", "two", "three"), SERVICES)


@pytest.fixture
def ground(whole_ground: Ground) -> Iterator[Ground]:
    yield whole_ground
    for client in whole_ground.clients:
        whole_ground.lab.plug(client)
    for name in SERVICES:
        if name in whole_ground.settings:
            whole_ground.end(name)
            whole_ground.settings.pop(name)


def account(server: Node, service: Service, client: str) -> dict[str, Any]:
    """The last line about a client in the ledger of notices; nothing without one."""
    lines = server.run("cat", f"/srv/nlmfo/{service.name}/ledger").out.splitlines()
    entries = [json.loads(line) for line in lines]
    found: dict[str, Any] = next((entry for entry in reversed(entries) if entry["client"] == client), {})
    return found


def owed(server: Node, service: Service) -> set[str]:
    """The clients of earlier generations that a record is left of: sm-notify would tell them as well."""
    home = f"/srv/nlmfo/{service.name}/sm_{service.addresses[0].partition('/')[0]}"
    return set(server.shell(f"ls {home}/sm.bak").split())


def nsm_state(server: Node, service: Service) -> int:
    home = f"/srv/nlmfo/{service.name}/sm_{service.addresses[0].partition('/')[0]}"
    return int(server.shell(f"od -A n -t d4 {home}/state"))


def kill_before(server: Node, service: Service, action: Action) -> None:
    """Start a takeover that is killed just before the last step of that kind."""
    plan = json.loads(cluster.nlmfo(server, "plan", "takeover", service.name, "--json").out)
    assert plan["refused"] is None
    steps = [step["action"] for step in (*plan["first"], *plan["steps"])]
    number = max(number for number, each in enumerate(steps, 1) if each == action)
    program = ("/opt/nlmfo/bin/python", "-B", f"{WORKLOAD}/cut_off.py", str(number), "kill")
    result = server.run(*program, "takeover", service.name, deadline=cluster.COMMAND)
    assert result.status == -signal.SIGKILL, result
    assert result.out.splitlines()[-1].startswith(f"cut off before {action}")


def kill_keeper(server: Node, service: Service) -> None:
    """With SIGKILL, and see it gone."""
    pid = server.shell(f"cat /run/nlmfo/{service.name}/keep.pid").strip()
    server.shell(f"kill -KILL {pid}")
    await_true("the keeper to be gone", lambda: server.run("test", "-e", f"/proc/{pid}").status != 0, 30)


def unfinished(server: Node, service: Service) -> str | None:
    document = json.loads(cluster.nlmfo(server, "status", service.name, "--json").out)
    found: str | None = document["services"][0]["unfinished"]
    return found


def until_told(server: Node, service: Service, client: str) -> None:
    await_true(
        "the client to be told",
        lambda: account(server, service, client).get("standing") in ("answered", "back", "left"),
        SOON,
    )


@pytest.mark.timeout(600)
def test_a_client_whose_cable_was_cut_is_reported_stays_on_record_and_is_told_when_it_is_back(ground: Ground) -> None:
    a, b = ground.servers[:2]
    one, two = ground.clients[:2]
    service = ground.service("cable", MEDIUM)
    cluster.takeover(a, service)
    away = ground.holder(one, cluster.mount(one, service))
    directory = cluster.mount(two, service)
    two.shell(f"mkdir {directory}/other")
    other = ground.holder(two, f"{directory}/other")
    address = client_address(ground, one)
    cluster.release(a, service)
    ground.lab.unplug(one)
    watch = ground.watch(b, service)
    said = cluster.takeover(b, service)
    assert f"client {address} was not told" in said
    assert named_locks(said) == in_words(service.export), said
    watch.wait_for_end(SOON)
    assert other.held <= watch.over().locks
    assert not away.held & held_on(b, service)
    assert account(b, service, address)["standing"] == "unreachable"
    assert address in owed(b, service)
    assert lost_by(one) == []  # it knows nothing yet: its application goes on as if it had its locks

    ground.lab.plug(one)
    await_true("the client's kernel to hear of it", lambda: " ".join(lost_by(one)).count(REFUSED) >= len(LOCKS), SOON)
    until_told(b, service, address)
    await_true("its old record to go", lambda: address not in owed(b, service), SOON)
    assert other.held <= held_on(b, service)
    assert lost_by(two) == []


@pytest.mark.timeout(600)
def test_a_takeover_killed_after_its_address_came_up_needs_nobody_for_the_notices(ground: Ground) -> None:
    a, b = ground.servers[:2]
    one, two = ground.clients[:2]
    service = ground.service("killed", LONG)
    cluster.takeover(a, service)
    holder = ground.holder(one, cluster.mount(one, service))
    directory = cluster.mount(two, service)
    address = client_address(ground, one)
    cluster.release(a, service)
    contender = ground.contender(two, directory)
    wait_until_asking(two)
    watch = ground.watch(b, service)
    kill_before(b, service, Action.ANSWER)

    await_true("the locks to come back", lambda: holder.held <= held_on(b, service), SOON)
    until_told(b, service, address)
    watch.wait_for_end(SOON)
    assert holder.held <= watch.over().locks
    assert unfinished(b, service) is not None
    assert f"{service.name}: done" in b.check("nlmfo", "resume", service.name, deadline=cluster.COMMAND)
    assert unfinished(b, service) is None
    nothing_lost(holder, contender, b, service)


@pytest.mark.timeout(900)
def test_a_client_that_missed_two_takeovers_is_told_by_the_third_server_of_the_last_one(ground: Ground) -> None:
    a, b, c = ground.servers
    one, two = ground.clients[:2]
    service = ground.service("twice", LONG)
    cluster.takeover(a, service)
    away = ground.holder(one, cluster.mount(one, service))
    directory = cluster.mount(two, service)
    two.shell(f"mkdir {directory}/other")
    other = ground.holder(two, f"{directory}/other")
    address = client_address(ground, one)
    cluster.release(a, service)
    ground.lab.unplug(one)
    cluster.takeover(b, service)
    first = account(b, service, address)
    assert (first["standing"], first["state"]) == ("unreachable", nsm_state(b, service))
    assert address in owed(b, service)

    b.cut_power()
    said = cluster.takeover(c, service, "--fenced", "b")
    assert f"client {address} was not told" in said
    second = account(c, service, address)
    assert second["standing"] == "unreachable"
    assert second["state"] == nsm_state(c, service) > first["state"]
    assert second["since"] == first["since"]
    asked = cluster.nlmfo(c, "notify", service.name, address)
    assert (asked.status, f"{address}: did not answer" in asked.out) == (1, True), asked
    assert account(c, service, address)["attempts"] > second["attempts"]
    ground.lab.plug(one)
    assert cluster.nlmfo(c, "notify", service.name).status == 0
    until_told(c, service, address)
    await_true("the locks to come back", lambda: away.held | other.held <= held_on(c, service), SOON)
    told = account(c, service, address)
    assert (told["state"], told["since"]) == (second["state"], first["since"])
    assert lost_by(one) + lost_by(two) == []


@pytest.mark.timeout(900)
def test_a_keeper_that_is_killed_while_it_has_to_tell_is_noticed_and_started_again(ground: Ground) -> None:
    a, b = ground.servers[:2]
    one = ground.clients[0]
    service = ground.service("keeper", LONG)
    cluster.takeover(a, service)
    holder = ground.holder(one, cluster.mount(one, service))
    address = client_address(ground, one)

    # A run that waits for it takes the service down again: another node may try.
    cluster.release(a, service)
    ground.lab.unplug(one)
    run = b.start("nlmfo", "takeover", service.name, deadline=cluster.COMMAND)
    await_true("the keeper to begin", lambda: account(b, service, address).get("standing") == "told", SOON)
    kill_keeper(b, service)
    result = run.wait(cluster.COMMAND)
    assert result.status == 1, result
    assert "the process that tells the clients ('nlmfo keep') has ended" in result.err
    assert "/srv" not in b.shell("cat /proc/mounts")
    assert held_on_nothing(b)

    # Without a run nobody is told, until somebody goes on with the one that was cut off.
    kill_before(a, service, Action.ANSWER)
    kill_keeper(a, service)
    ground.lab.plug(one)
    assert account(a, service, address)["standing"] in ("pending", "told", "unreachable")
    assert address in owed(a, service)
    assert not holder.held & held_on(a, service)
    assert f"{service.name}: done" in a.check("nlmfo", "resume", service.name, deadline=cluster.COMMAND)
    await_true("the locks to come back", lambda: holder.held <= held_on(a, service), SOON)
    until_told(a, service, address)
    holder.wait_for_more()
    assert lost_by(one) == []
    assert holder.failures == []


def held_on_nothing(server: Node) -> bool:
    return server.shell("cat /proc/locks; ip netns list") == ""


@pytest.mark.timeout(900)
def test_a_client_that_died_stays_on_record_until_it_may_be_forgotten(ground: Ground) -> None:
    a, b = ground.servers[:2]
    three = ground.clients[2]
    kept = ground.service("gone", MEDIUM)
    given_up = ground.service("given", MEDIUM, forget_after=str(FORGET_AFTER))
    address = client_address(ground, three)
    for service in (kept, given_up):
        cluster.takeover(a, service)
        ground.holder(three, cluster.mount(three, service))
    ground.jobs.clear()
    three.cut_power()
    for service in (kept, given_up):
        cluster.release(a, service)
        said = cluster.takeover(b, service)
        assert f"client {address} was not told" in said
    await_true("it to be forgotten", lambda: account(b, given_up, address).get("standing") == "left", SOON)
    forgotten = account(b, given_up, address)
    assert forgotten["detail"] == f"no answer for {FORGET_AFTER} s ('forget_after')"
    assert forgotten["at"] - forgotten["since"] >= FORGET_AFTER
    await_true("its record to go", lambda: address not in owed(b, given_up), SOON)

    # Neither the end of grace nor a further move, with all that these do to the records.
    await_true("the end of grace", lambda: not keepers_in_grace(b, kept), SOON)
    since = account(b, kept, address)["since"]
    assert address in owed(b, kept)
    cluster.release(b, kept)
    cluster.takeover(a, kept)
    found = account(a, kept, address)
    assert (found["standing"], found["since"]) == ("unreachable", since)
    assert address in owed(a, kept)
    assert is_named(a, kept, address)


def is_named(server: Node, service: Service, client: str) -> bool:
    return re.search(rf"\b{re.escape(client)}\b", server.check("nlmfo", "clients", service.name)) is not None


@pytest.mark.timeout(600)
def test_sm_notify_of_nfs_utils_tells_them_just_as_well(ground: Ground) -> None:
    a, b = ground.servers[:2]
    one, two = ground.clients[:2]
    service = ground.service("theirs", LONG, notifier='"sm-notify"', names=f'["{NAME}"]')
    for node in (a, b, one, two):
        node.shell(f"echo {service.addresses[0].partition('/')[0]} {NAME} >> /etc/hosts")
    cluster.takeover(a, service)
    holder = ground.holder(one, cluster.mount(one, service, NAME))
    directory = cluster.mount(two, service, NAME)
    address = client_address(ground, one)
    cluster.release(a, service)
    contender = ground.contender(two, directory)
    wait_until_asking(two)
    watch = ground.watch(b, service)
    cluster.takeover(b, service)
    watch.wait_for_end(LONG / 2)
    assert holder.held <= watch.over().locks
    assert progress(b, service)["ended"] == "every lock is held again"
    assert account(b, service, address)["standing"] == "back"
    assert address not in owed(b, service)
    nothing_lost(holder, contender, b, service)
