# SPDX-License-Identifier: GPL-2.0-or-later
"""A lab for each test; when one fails, its report names the logs of every node."""

from __future__ import annotations

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
    logs = CACHE / "logs" / re.sub(r"\W+", "-", request.node.name)
    request.node.stash[LOGS] = logs
    with Lab(logs) as made:
        yield made


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Name the logs in the report of a failed lab test."""
    report = yield
    logs = item.stash.get(LOGS, None)
    if call.when == "call" and report.failed and logs is not None:
        report.sections.append(("lab", f"console and kernel log of each node: {logs}/"))
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this directory boots real kernels."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("lab")
