# SPDX-License-Identifier: GPL-2.0-or-later
"""Grace has two keepers, and is over when both have ended it: which is read back, and never taken for granted."""

from __future__ import annotations

import errno

import pytest

from nlmfo.errors import DeadlineExceeded, NlmfoError
from nlmfo.kernel import grace, lockd, nfsd
from nlmfo.kernel.files import ControlError
from tests.unit.kernel_fake import Answer, FakeKernel


def started(kernel: FakeKernel | None = None, *, tracking: bool = True) -> FakeKernel:
    """With an NFSv4 client of before: else its grace is over as soon as it begins, if nfsdcld runs."""
    kernel = kernel or FakeKernel()
    kernel.client_tracking, kernel.v4_clients = tracking, 1
    nfsd.set_threads(8, files=kernel)
    kernel.writes.clear()
    return kernel


def test_where_no_server_runs_there_is_no_grace() -> None:
    assert not grace.on(files=FakeKernel())


def test_grace_is_on_while_either_keeper_holds_it_as_for_a_client() -> None:
    kernel = started()
    assert grace.on(files=kernel)
    lockd.end_grace(files=kernel)
    assert grace.on(files=kernel), "NFSv4's keeps NLM in grace"
    assert kernel.request("8:1", 13) is Answer.GRACE
    nfsd.end_v4_grace(files=kernel)
    assert not grace.on(files=kernel)
    assert kernel.request("8:1", 13) is Answer.GRANTED

    kernel = started()
    nfsd.end_v4_grace(files=kernel)
    assert grace.on(files=kernel)
    assert kernel.request("8:1", 13) is Answer.GRACE


def test_nfsv4s_grace_is_ended_first_because_it_is_the_one_that_can_refuse() -> None:
    kernel = started()
    grace.end(files=kernel)
    assert [name for name, _ in kernel.writes] == ["v4_end_grace", "nlm_end_grace"]
    assert not grace.on(files=kernel)
    assert not kernel.in_grace


def test_a_grace_that_nfsv4_cannot_end_goes_on_protecting_the_locks() -> None:
    """Without nfsdcld the kernel answers EBUSY."""
    kernel = started(tracking=False)
    with pytest.raises(ControlError, match="nobody who keeps track of its clients") as raised:
        grace.end(files=kernel)
    assert raised.value.number == errno.EBUSY
    assert lockd.in_grace(files=kernel)
    assert "nlm_end_grace" not in [name for name, _ in kernel.writes]


class Deaf(FakeKernel):
    """Its laundromat never comes to end NFSv4's grace, though it was told to."""

    def _end_v4_grace(self) -> None:
        """As if another thread had not had its turn."""


def test_a_grace_that_does_not_end_is_an_error_after_a_while_and_lockds_is_left_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(grace, "V4", 0.05)
    kernel = started(Deaf())
    with pytest.raises(DeadlineExceeded, match="NFSv4's grace to end"):
        grace.end(files=kernel)
    assert lockd.in_grace(files=kernel)


class Restarted(FakeKernel):
    """Somebody restarts nfsd at the very moment at which grace has ended."""

    def _nlm_end_grace(self, data: bytes) -> bytes:
        answer = super()._nlm_end_grace(data)
        if data:
            self._start_v4_grace()
        return answer


def test_a_grace_that_is_on_although_both_said_that_it_ended_is_an_error() -> None:
    kernel = started(Restarted())
    with pytest.raises(NlmfoError, match="it is still on"):
        grace.end(files=kernel)
    assert grace.on(files=kernel)
