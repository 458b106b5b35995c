# SPDX-License-Identifier: GPL-2.0-or-later
"""A service's own nfsd is set up before anybody waits, and started and stopped with a kernel in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from nlmfo.config import Service
from nlmfo.errors import DeadlineExceeded, NlmfoError
from nlmfo.host import node_listeners, own_nfsd
from nlmfo.host.namespaces import Namespaces
from nlmfo.host.own_nfsd import prepare, start, stop, unwanted_versions
from nlmfo.kernel import lockd, nfsd, nfsd_settings
from nlmfo.kernel.files import ControlError
from nlmfo.kernel.nfsd import is_set_up
from tests.unit import shapes
from tests.unit.kernel_fake import FakeKernel

T = TypeVar("T")


class InMemory(Namespaces):
    """Namespaces with a kernel of their own, in memory."""

    kernel: FakeKernel

    def call(self, function: Callable[..., T], *, deadline: float = 0) -> T:
        del deadline
        return function(files=self.kernel)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> FakeKernel:
    fake = FakeKernel((6, 1, 176))
    fake.client_tracking = True
    monkeypatch.setattr(InMemory, "kernel", fake, raising=False)

    def add(listener: nfsd_settings.Listener, *, files: FakeKernel) -> None:
        nfsd_settings.add_listener(listener, files=files)

    monkeypatch.setattr(node_listeners, "add", add)
    return fake


@pytest.fixture
def there(kernel: FakeKernel) -> InMemory:
    del kernel
    return InMemory("home")


def short(kernel: FakeKernel) -> list[str]:
    return [f"{file.rsplit('/', 1)[-1]} {data.decode().strip()}" for file, data in kernel.writes]


def test_what_can_be_set_before_threads_run_is_set_and_no_grace_begins(kernel: FakeKernel, there: InMemory) -> None:
    prepare(there, service := shapes.service()._replace(grace=20))
    assert short(kernel) == ["versions -4", "nfsv4leasetime 20", "nfsv4gracetime 20", "portlist tcp 2049"]
    assert is_set_up(files=kernel)
    assert not lockd.in_grace(files=kernel)
    kernel.writes.clear()
    start(there, service)
    assert short(kernel) == ["nlm_grace_period 20", "threads 8"]
    assert lockd.in_grace(files=kernel)


def test_lockds_grace_is_set_last_because_another_service_may_have_changed_it(
    kernel: FakeKernel, there: InMemory
) -> None:
    service = shapes.service()._replace(grace=20)
    prepare(there, service)
    kernel.sysctl["nlm_grace_period"] = 200
    start(there, service)
    kernel.tick(30)
    assert not lockd.in_grace(files=kernel)


def test_a_service_without_a_grace_of_its_own_keeps_the_nodes(kernel: FakeKernel, there: InMemory) -> None:
    prepare(there, service := shapes.service()._replace(grace=None))
    start(there, service)
    assert not [line for line in short(kernel) if "grace" in line or "lease" in line]


@pytest.mark.parametrize("started", [False, True])
def test_what_is_stopped_leaves_nothing_that_keeps_the_network(
    kernel: FakeKernel, there: InMemory, *, started: bool
) -> None:
    prepare(there, shapes.service())
    if started:
        start(there, shapes.service())
    stop(there, 0)
    assert not is_set_up(files=kernel)


def test_a_listener_that_stays_after_a_stop_is_not_taken_for_a_stopped_nfsd(
    monkeypatch: pytest.MonkeyPatch, there: InMemory
) -> None:
    prepare(there, shapes.service())
    monkeypatch.setattr(FakeKernel, "_stop", lambda _: None)
    monkeypatch.setattr(own_nfsd, "STOP", 0.1)
    with pytest.raises(DeadlineExceeded, match="nfsd to stop"):
        stop(there, 0)


def test_a_kernel_that_does_not_serve_a_version_is_found_out_before_anybody_waits(
    kernel: FakeKernel, there: InMemory
) -> None:
    kernel._majors["3"] = False
    with pytest.raises(NlmfoError, match="does not serve NFS version 3") as caught:
        prepare(there, shapes.service()._replace(versions=("3", "4")))
    assert "on every node" in str(caught.value.hint)


def refused(*_: Any, **__: Any) -> None:
    raise ControlError("running 8 nfsd threads: out of memory", 12)


@pytest.mark.parametrize(("what", "do"), [("add_listener", prepare), ("set_threads", start)])
def test_nfsd_that_does_not_start_is_told_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, there: InMemory, what: str, do: Callable[[Namespaces, Service], None]
) -> None:
    monkeypatch.setattr(nfsd if what == "set_threads" else nfsd_settings, what, refused)
    with pytest.raises(NlmfoError, match=r"service 'home': nfsd does not start: .*out of memory") as caught:
        do(there, shapes.service())
    assert "dmesg" in str(caught.value.hint)


def test_nfsd_that_starts_while_lockd_is_out_of_grace_is_of_no_use(
    monkeypatch: pytest.MonkeyPatch, there: InMemory
) -> None:
    prepare(there, shapes.service())
    monkeypatch.setattr(lockd, "in_grace", lambda **_: False)
    with pytest.raises(NlmfoError, match="lockd is not in grace") as caught:
        start(there, shapes.service())
    assert "client mount" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("versions", "off"),
    [
        (("3",), ("4",)),
        (("3", "4"), ()),
        (("4",), ("3",)),
        (("3", "4.1"), ("4.0", "4.2")),
        (("4.1", "4.2"), ("3", "4.0")),
    ],
)
def test_nfsd_serves_no_minor_version_that_is_not_listed(versions: tuple[str, ...], off: tuple[str, ...]) -> None:
    assert unwanted_versions(shapes.service()._replace(versions=versions)) == off
