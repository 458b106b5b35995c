# SPDX-License-Identifier: GPL-2.0-or-later
"""What an rpcbind knew is told to the one in its place: against the real rpcbind, in real namespaces."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from nlmfo.errors import NlmfoError
from nlmfo.host import daemons, rpcbind, view
from nlmfo.host.daemons import RPCBIND
from nlmfo.host.namespaces import Namespaces
from nlmfo.kernel import syscalls
from nlmfo.notify.wire import Registration
from tests.unit import namespaced, shapes

#: A daemon stays when whoever started it forgets it.
pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
#: nfsd and lockd as the kernel registers them.
NFSD = Registration(100003, 3, "tcp", "0.0.0.0.8.1", "superuser")
LOCKD = Registration(100021, 4, "udp6", "::.175.200", "superuser")


@pytest.fixture
def namespaces() -> Iterator[Namespaces]:
    with namespaced.own_mounts(), namespaced.made() as made:
        run = view.on_node(made, Path("/run"))
        for directory in (run / "rpcbind", run / "lock", made.directory / "log"):
            directory.mkdir(parents=True)
        made.call(lambda: syscalls.mount(os.fspath(run), Path("/run"), "none", syscalls.MS_BIND))
        daemons.start_again(made, shapes.service(name=made.service), RPCBIND)
        yield made


def test_an_rpcbind_that_was_killed_is_told_all_that_it_has_forgotten(namespaces: Namespaces) -> None:
    assert rpcbind.registered(namespaces) == ()
    rpcbind.register(namespaces, [NFSD, LOCKD])
    rpcbind.note(namespaces)
    daemons.start_again(namespaces, shapes.service(name=namespaces.service), RPCBIND)
    assert rpcbind.registered(namespaces) == ()
    rpcbind.register(namespaces, rpcbind.noted(namespaces))
    assert set(rpcbind.registered(namespaces)) == {NFSD, LOCKD}
    rpcbind.register(namespaces, [NFSD])  # who has registered since is left alone


def test_whether_rpcbind_has_taken_it_is_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpcbind, "_ask", lambda *_: ())  # as one that says yes and does nothing
    with pytest.raises(NlmfoError, match="does not take the RPC programs 100003, 100021"):
        rpcbind.register(Namespaces("home"), [NFSD, LOCKD])


def test_where_no_rpcbind_answers_nobody_is_registered_and_that_is_said(namespaces: Namespaces) -> None:
    daemons.stop(namespaces)
    with pytest.raises(NlmfoError, match="rpcbind does not answer"):
        rpcbind.registered(namespaces)
    assert rpcbind.noted(namespaces) == ()
