# SPDX-License-Identifier: GPL-2.0-or-later
"""What the notices of a service say, and from where, whoever sends them."""

from __future__ import annotations

import os
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from nlmfo.config import Isolation, Notifier
from nlmfo.failover import senders
from nlmfo.failover.senders import sender_of
from nlmfo.host import view
from nlmfo.notify import Notice, Outcome, smnotify
from tests.unit import shapes

ADDRESS = ip_address("10.10.0.100")
CLIENTS = ("192.0.2.1", "192.0.2.2")


def told(heard: list[str]) -> Callable[[Notice], None]:
    return lambda notice: heard.append(notice.client)


def answered(calls: list[dict[str, Any]]) -> Callable[..., None]:
    """A notifier that every client answers."""

    def notify(*given: Any, on_notice: Callable[[Notice], None], **more: Any) -> None:
        calls.append({"given": given, **more})
        for client in CLIENTS:
            on_notice(Notice(client, Outcome.TOLD, (), 1, 0.1, ""))

    return notify


def test_ours_sends_every_name_from_the_floating_address_with_the_number_of_the_generation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[dict[str, Any]] = []
    heard: list[str] = []
    monkeypatch.setattr(senders, "notify", answered(calls))
    sender_of(shapes.service(), tmp_path)(ADDRESS, CLIENTS, 7, 12.0, told(heard))
    names = ("nfs100.example", "nfs100", "10.10.0.100")
    assert calls == [{"given": (CLIENTS,), "source": ADDRESS, "names": names, "state": 7, "deadline": 12.0}]
    assert heard == list(CLIENTS)


@pytest.mark.parametrize(("isolation", "user"), [(Isolation.NETNS, os.getuid()), (Isolation.HOST, 4711)])
def test_sm_notify_gets_the_time_that_it_needs_and_the_user_that_statd_has_where_it_runs(
    isolation: Isolation, user: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In a service's own namespaces the distribution's directory of statd's is covered."""
    (tmp_path / "sm").mkdir()
    monkeypatch.setattr(view, "STATD_DIRECTORY", tmp_path)
    monkeypatch.setattr(view, "statd_user", lambda: view.StatdUser(4711, 4711))
    calls: list[dict[str, Any]] = []
    heard: list[str] = []
    monkeypatch.setattr(smnotify, "sm_notify", answered(calls))
    service = shapes.service()._replace(notifier=Notifier.SM_NOTIFY, isolation=isolation)
    sender_of(service, tmp_path)(ADDRESS, CLIENTS, 7, 8.0, told(heard))
    (call,) = calls
    assert call["given"] == (tmp_path, CLIENTS)
    assert (call["source"], call["name"], call["state"]) == (ADDRESS, "nfs100.example", 7)
    assert call["user"][0] == user
    assert call["deadline"] == senders.ROUND
    assert heard == list(CLIENTS)
