# SPDX-License-Identifier: GPL-2.0-or-later
"""What several unit tests need."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from nlmfo.host import journald, space


@pytest.fixture(autouse=True)
def no_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test writes into the journal of the machine that it runs on."""
    monkeypatch.setattr(journald, "SOCKET", Path("/nonexistent/journal"))


@pytest.fixture(autouse=True)
def no_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it keep samples of that machine's free space."""
    monkeypatch.setattr(space, "HOME", Path("/dev/null/space"))


@pytest.fixture
def alarm() -> Iterator[None]:
    """SIGALRM interrupts like Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
