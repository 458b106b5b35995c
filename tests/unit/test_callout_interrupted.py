# SPDX-License-Identifier: GPL-2.0-or-later
"""The callout killed at every system call, and two of them at once: no record is lost, none is spoiled."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nlmfo.records.callout import Mode
from nlmfo.records.spool import drain_spool
from tests.unit.callout_stand import CALLOUTS, HOME, NAME, NODE, SECONDS, Stand, build, whole
from tests.unit.callout_stepper import Stepper

CLIENT = "192.0.2.17"
OTHER = "192.0.2.18"
ENOUGH_STEPS = 20_000


@pytest.fixture(scope="module", params=["compiled", "script"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(request.param, tmp_path_factory.mktemp("build"))


def stride(program: Path) -> int:
    """The script makes ten times as many system calls, most of them to load the programs that it runs."""
    return 97 if program.parent == CALLOUTS else 1


def cut_off(stand: Stand, steps: int, *words: str) -> bool:
    """Run the callout for so many steps, then kill it with all that it started; false if it had ended."""
    stepper = Stepper()
    stepper.start((stand.program, *words), stand.environment())
    cut = stepper.run(steps)
    stepper.cut()
    return cut


def fresh(root: Path, program: Path, mode: Mode) -> Stand:
    root.mkdir()
    stand = Stand(root, program)
    stand.store.add(HOME, OTHER, NAME)
    stand.configure(mode=mode)
    return stand


@pytest.mark.parametrize("mode", [Mode.SYNC, Mode.ASYNC])
def test_a_callout_killed_anywhere_spoils_no_record_and_can_be_called_again(
    tmp_path: Path, program: Path, mode: Mode
) -> None:
    for steps in range(0, ENOUGH_STEPS, stride(program)):
        stand = fresh(tmp_path / str(steps), program, mode)
        cut = cut_off(stand, steps, "add-client", CLIENT, NODE)
        assert stand.record(OTHER).read_text() == whole(OTHER)
        assert {record.client for record in stand.store.current(HOME)} <= {CLIENT, OTHER}
        if not cut:
            break
        stand.call("add-client", CLIENT, NODE)
        drain_spool(stand.store, stand.spool, deadline=SECONDS)
        assert stand.record(CLIENT).read_text() == whole(CLIENT)
    assert {record.client for record in stand.store.current(HOME)} == {CLIENT, OTHER}
    assert steps > 50, "there were system calls to cut at"


def test_a_record_being_replaced_is_on_record_at_every_moment(tmp_path: Path, program: Path) -> None:
    for steps in range(0, ENOUGH_STEPS, stride(program)):
        stand = fresh(tmp_path / str(steps), program, Mode.SYNC)
        stand.configure(name="renamed.example")
        cut = cut_off(stand, steps, "add-client", OTHER, NODE)
        assert stand.record(OTHER).read_text() in (whole(OTHER), whole(OTHER, "renamed.example"))
        if not cut:
            break
    assert stand.record(OTHER).read_text() == whole(OTHER, "renamed.example")
    assert steps > 50, "there were system calls to cut at"


def test_a_deletion_killed_anywhere_deletes_nobody_else(tmp_path: Path, program: Path) -> None:
    for steps in range(0, ENOUGH_STEPS, stride(program)):
        stand = fresh(tmp_path / str(steps), program, Mode.SYNC)
        stand.store.add(HOME, CLIENT, NAME)
        cut = cut_off(stand, steps, "del-client", CLIENT, NODE)
        assert stand.record(OTHER).read_text() == whole(OTHER)
        if not cut:
            break
    assert {record.client for record in stand.store.current(HOME)} == {OTHER}
    assert steps > 50, "there were system calls to cut at"


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
@pytest.mark.parametrize("mode", [Mode.SYNC, Mode.ASYNC])
@pytest.mark.parametrize("same", [True, False], ids=["one-client", "two-clients"])
def test_two_callouts_at_once_leave_both_records_whole(
    tmp_path_factory: pytest.TempPathFactory, program: Path, mode: Mode, same: bool, seed: int
) -> None:
    if program.parent == CALLOUTS:
        pytest.skip("too slow to step through")
    stand = fresh(tmp_path_factory.mktemp("stand") / "here", program, mode)
    stand.configure(mode=mode, name="renamed.example")
    clients = (OTHER, OTHER) if same else (CLIENT, OTHER)
    # Not hypothesis's own choices: how many there are to make depends on the kernel, too.
    choices = random.Random(seed)
    stepper = Stepper()
    for client in clients:
        stepper.start((program, "add-client", client, NODE), stand.environment())
    assert not stepper.run(ENOUGH_STEPS, choices.randrange)
    for client in clients:
        assert stand.record(client).read_text() == whole(client, "renamed.example")
    assert stand.spooled() == []
    assert stand.on_record() == set(clients)
