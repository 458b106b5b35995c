# SPDX-License-Identifier: GPL-2.0-or-later
"""Two nodes are told to take over at the same moment: one serves, the other refuses and leaves nothing behind.

Two races, or twenty with NLMFO_TESTS=all.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab import cluster
from tests.lab.cluster import Service
from tests.lab.lab import Lab
from tests.lab.node import Node, Result
from tests.lab.test_takeover import held_nowhere
from tests.sampling import EVERYTHING

RACES = 20 if EVERYTHING else 2
#: What the loser of a race may see, by how late it is: the epoch taken under its eyes, the record, or the address.
LOST = ("refused (claim-lost)", "refused (still-served)", "refused (address-answers)")
#: Seconds for one race, generously.
ROUND = 120


@pytest.fixture
def service(lab: Lab) -> Service:
    """Configured on two servers, a and b, and served nowhere."""
    service = cluster.make_service(lab, "home", ["10.10.0.100/24"], 1234)
    servers = [lab.node(name, disks=cluster.disks(service)) for name in ("a", "b")]
    cluster.prepare(lab, servers, service)
    return service


@pytest.fixture
def without_registry(lab: Lab, service: Service) -> Service:
    """The same, and the nodes know nothing of each other."""
    for server in lab.nodes.values():
        server.put(f'[node]\nname = "{server.name}"\n', "/etc/nlmfo/nlmfo.toml")
    return service


def race(lab: Lab, *words: str) -> dict[str, Result]:
    """Tell every node at once to take over; how that ended on each."""
    jobs = {
        name: node.start("nlmfo", "takeover", "home", *words, deadline=cluster.COMMAND, stream=False)
        for name, node in lab.nodes.items()
    }
    return {name: job.wait(ROUND) for name, job in jobs.items()}


def assert_nothing_of(service: Service, server: Node) -> None:
    assert held_nowhere(server)
    addresses = server.shell("ip -brief address")
    assert not any(address.partition("/")[0] in addresses for address in service.addresses)


@pytest.mark.timeout(max(300, ROUND * RACES))
def test_of_two_takeovers_at_once_one_serves_and_the_other_leaves_nothing_behind(
    lab: Lab, service: Service, record_property: Any
) -> None:
    wins = dict.fromkeys(lab.nodes, 0)
    for epoch in range(1, RACES + 1):
        results = race(lab)
        assert sorted(result.status for result in results.values()) == [0, 3], results
        winner, loser = sorted(lab.nodes.values(), key=lambda node: results[node.name].status)
        refused = [line for line in results[loser.name].err.splitlines() if "refused" in line]
        print(f"race {epoch}: {winner.name} serves, {loser.name}: {refused[0]}")
        assert any(word in refused[0] for word in LOST), results
        assert_nothing_of(service, loser)
        status = cluster.nlmfo(loser, "status", "home")
        assert f"serving on {winner.name} " in status.out
        assert f"(epoch {epoch})" in status.out
        assert cluster.nlmfo(winner, "status", "home").status == 0
        cluster.release(winner, service)
        wins[winner.name] += 1
    record_property("races of two takeovers", RACES)
    print(f"{RACES} races, one winner each: {wins}")


def test_without_a_registry_and_without_a_word_nobody_takes_over(lab: Lab, without_registry: Service) -> None:
    for name, result in race(lab).items():
        assert result.status == 3, result
        assert "refused (no-proof)" in result.err
        assert "--released-by NODE" in result.err
        assert_nothing_of(without_registry, lab.nodes[name])


def test_without_a_registry_the_right_word_serves_and_a_wrong_one_is_found_out(
    lab: Lab, without_registry: Service
) -> None:
    a, b = lab.nodes.values()
    service = without_registry
    cluster.takeover(a, service, "--released-by", "b")
    cluster.release(a, service)
    cluster.takeover(b, service, "--released-by", "a")
    assert cluster.nlmfo(b, "status", "home").status == 0

    b.cut_power()
    wrong = cluster.nlmfo(a, "takeover", "home", "--fenced", "c")
    assert wrong.status == 3, wrong
    assert "refused (wrong-node)" in wrong.err
    assert "you named c, but b had it last" in wrong.err
    assert_nothing_of(service, a)

    cluster.takeover(a, service, "--fenced", "b")
    assert cluster.nlmfo(a, "status", "home").status == 0
