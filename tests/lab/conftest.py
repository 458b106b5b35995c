# SPDX-License-Identifier: GPL-2.0-or-later
"""A lab for each test, or for all of a module; when one fails, its report names the logs of every node."""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.lab.lab import Lab
from tests.lab.root import CACHE

LOGS = pytest.StashKey[Path]()


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """An empty lab, closed at the end whatever happens."""
    with Lab(_logs_of(request.node, request.node.name)) as made:
        yield made


@pytest.fixture(scope="module")
def shared_lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """The same for all tests of a module, where booting for each would take most of the time."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")  # each has a lab of its own
    with Lab(_logs_of(request.node, f"{request.node.path.stem} {worker}".strip())) as made:
        yield made


def _logs_of(node: pytest.Item | pytest.Collector, name: str) -> Path:
    logs = CACHE / "logs" / re.sub(r"\W+", "-", name)
    node.stash[LOGS] = logs
    return logs


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Name the logs in the report of a failed lab test."""
    report = yield
    logs = next((node.stash[LOGS] for node in reversed(item.listchain()) if LOGS in node.stash), None)
    if call.when == "call" and report.failed and logs is not None:
        report.sections.append(("lab", f"console and kernel log of each node: {logs}/"))
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this directory boots real kernels."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("lab")
