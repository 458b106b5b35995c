# SPDX-License-Identifier: GPL-2.0-or-later
"""The order of a takeover and of a release, for every shape of service and for whatever is there."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlmfo.config import Service
from nlmfo.failover.observe import Observed
from nlmfo.failover.plan import ORDER, Action, InvalidPlan, Step, check, release, takeover
from tests.unit import shapes

SHAPES = tuple(shapes.service(partitions, addresses) for partitions, addresses in product((1, 2, 3), (1, 2)))
every_shape = pytest.mark.parametrize("service", SHAPES, ids=lambda s: f"{len(s.partitions)}p{len(s.addresses)}a")
services = st.sampled_from(SHAPES)

#: What must have happened, all of it, before a step may begin; written down here a second time on purpose, from the
#: facts about kernels and clients and not from the plan's own table.
TAKEOVER_NEEDS = {
    Action.MOUNT: {Action.CLAIM},
    Action.RECORDS: {Action.CLAIM, Action.MOUNT},
    Action.ISOLATE: {Action.CLAIM},
    Action.EXPORT: {Action.MOUNT, Action.ISOLATE},
    Action.START_DAEMONS: {Action.ISOLATE, Action.RECORDS},
    Action.START_NFSD: {Action.START_DAEMONS, Action.MOUNT},
    Action.ADDRESS_UP: {Action.CLAIM, Action.MOUNT, Action.EXPORT, Action.START_DAEMONS, Action.START_NFSD},
    Action.ANSWER: {Action.ADDRESS_UP},
    Action.NOTIFY: {Action.RECORDS, Action.START_NFSD, Action.ADDRESS_UP, Action.ANSWER},
    Action.RECLAIM: {Action.NOTIFY},
    Action.KEEP: {Action.RECLAIM},
}
RELEASE_NEEDS = {
    Action.UNEXPORT: {Action.ADDRESS_DOWN},
    Action.UNLOCK: {Action.FREEZE, Action.ADDRESS_DOWN},
    Action.STOP_NFSD: {Action.FREEZE, Action.ADDRESS_DOWN, Action.UNLOCK},
    Action.VERIFY_UNLOCKED: {Action.ADDRESS_DOWN, Action.STOP_NFSD},
    Action.STOP_DAEMONS: {Action.STOP_NFSD},
    Action.COLLECT: {Action.STOP_NFSD, Action.STOP_DAEMONS},
    Action.UNISOLATE: {Action.STOP_DAEMONS, Action.COLLECT},
    Action.UMOUNT: {Action.VERIFY_UNLOCKED, Action.STOP_DAEMONS, Action.COLLECT, Action.UNISOLATE},
    Action.DISOWN: {Action.ADDRESS_DOWN, Action.STOP_NFSD, Action.UNISOLATE, Action.UMOUNT},
}


def actions(steps: tuple[Step, ...]) -> list[Action]:
    return [step.action for step in steps]


def subjects(steps: tuple[Step, ...], action: Action) -> list[str]:
    return [step.subject for step in steps if step.action is action]


def too_early(steps: tuple[Step, ...], needs: dict[Action, set[Action]]) -> list[str]:
    """Each step that begins while something that it needs, and that the plan has, is still to come."""
    plan = actions(steps)
    return [
        f"{action} before {late}"
        for position, action in enumerate(plan)
        for late in needs.get(action, set()) & set(plan[position + 1 :])
    ]


@st.composite
def observations(draw: st.DrawFn) -> tuple[Service, Observed]:
    """Anything that a cut-off run can leave behind."""
    service = draw(services)
    isolated = draw(st.booleans())
    seen = shapes.observed(
        service,
        owned=draw(st.booleans()),
        mounted=draw(st.integers(0, len(service.partitions))),
        isolated=isolated,
        traces=isolated or draw(st.booleans()),
        threads=draw(st.integers(0, 8)) if isolated else 0,
        exported=isolated and draw(st.booleans()),
        addresses=isolated and draw(st.booleans()),
    )
    return service, seen


@every_shape
def test_a_takeover_begins_with_the_claim_and_notifies_when_all_else_is_up(service: Service) -> None:
    plan = actions(takeover(service))
    assert plan[0] is Action.CLAIM
    assert plan[plan.index(Action.NOTIFY) :] == [Action.NOTIFY, Action.RECLAIM, Action.KEEP]


@every_shape
def test_a_takeover_has_every_step_that_a_client_relies_on(service: Service) -> None:
    assert set(actions(takeover(service))) == set(TAKEOVER_NEEDS) | {Action.CLAIM}


@given(services, st.data())
def test_cut_anywhere_a_takeover_has_done_nothing_before_its_time(service: Service, data: st.DataObject) -> None:
    plan = takeover(service)
    done = actions(plan[: data.draw(st.integers(0, len(plan)))])
    for action in done:
        assert TAKEOVER_NEEDS.get(action, set()) <= set(done[: done.index(action)])


@every_shape
def test_a_takeover_mounts_all_partitions_before_it_reads_records_or_exports(service: Service) -> None:
    plan = takeover(service)
    assert sorted(subjects(plan, Action.MOUNT)) == sorted(str(p.mountpoint) for p in service.partitions)
    assert too_early(plan, TAKEOVER_NEEDS) == []


def test_a_takeover_mounts_a_parent_before_what_lies_below_it() -> None:
    plan = takeover(shapes.service(partitions=3))
    assert subjects(plan, Action.MOUNT) == ["/srv/home", "/srv/other", "/srv/home/data"]


@every_shape
def test_all_addresses_come_up_in_one_step_after_the_last_export_is_ready(service: Service) -> None:
    plan = takeover(service)
    assert subjects(plan, Action.ADDRESS_UP) == [", ".join(str(a) for a in service.addresses)]
    assert subjects(plan, Action.EXPORT) == [", ".join(str(e.path) for e in service.exports)]


def swaps(plan: tuple[Step, ...]) -> list[tuple[int, int]]:
    """Positions of two steps of which the first has to come first, by the plan's own rules."""
    numbered = list(enumerate(plan))
    return [(i, j) for i, a in numbered for j, b in numbered[i + 1 :] if (a.action, b.action) in ORDER]


@pytest.mark.parametrize("make", [takeover, lambda service: release(service, shapes.all_up(service))])
@every_shape
def test_whichever_two_dependent_steps_are_swapped_the_check_says_so(service: Service, make: object) -> None:
    assert callable(make)
    plan = make(service)
    pairs = swaps(plan)
    assert pairs
    for i, j in pairs:
        wrong = list(plan)
        wrong[i], wrong[j] = wrong[j], wrong[i]
        with pytest.raises(InvalidPlan, match="is planned before"):
            check(tuple(wrong))


def postponed(plan: tuple[Step, ...], needs: dict[Action, set[Action]]) -> list[tuple[Step, ...]]:
    """Every plan in which one step, and nothing else, has moved to just after a step that needs it."""
    wrong = []
    for late, prerequisite in enumerate(plan):
        for step in range(late + 1, len(plan)):
            if prerequisite.action in needs.get(plan[step].action, set()):
                wrong.append((*plan[:late], *plan[late + 1 : step + 1], prerequisite, *plan[step + 1 :]))
    return wrong


@every_shape
def test_a_takeover_in_which_anything_comes_too_late_is_never_carried_out(service: Service) -> None:
    plans = postponed(takeover(service), TAKEOVER_NEEDS)
    assert len(plans) >= 20
    for wrong in plans:
        with pytest.raises(InvalidPlan):
            check(wrong)


@given(observations())
def test_a_release_of_any_rest_in_which_anything_comes_too_late_is_never_carried_out(
    case: tuple[Service, Observed],
) -> None:
    for wrong in postponed(release(*case), RELEASE_NEEDS):
        with pytest.raises(InvalidPlan):
            check(wrong)


def test_every_rule_of_order_is_met_by_some_plan_so_none_is_dead_letter() -> None:
    service = shapes.service(partitions=2)
    seen = {
        (plan[i].action, plan[j].action)
        for plan in (takeover(service), release(service, shapes.all_up(service)))
        for i, j in swaps(plan)
    }
    assert seen == set(ORDER)


def test_the_check_sees_one_of_several_mounts_that_comes_too_late() -> None:
    with pytest.raises(InvalidPlan, match="'export' is planned before 'mount'"):
        check((Step(Action.MOUNT, "/a"), Step(Action.EXPORT, "/a"), Step(Action.MOUNT, "/b")))


def test_the_check_allows_the_same_action_several_times_in_a_row() -> None:
    check((Step(Action.MOUNT, "/a"), Step(Action.MOUNT, "/b"), Step(Action.EXPORT, "/a")))


@every_shape
def test_the_release_of_a_whole_service_takes_everything_down_and_then_says_so(service: Service) -> None:
    plan = release(service, shapes.all_up(service))
    assert set(actions(plan)) == set(RELEASE_NEEDS) | {Action.FREEZE, Action.ADDRESS_DOWN}
    assert actions(plan)[:2] == [Action.FREEZE, Action.ADDRESS_DOWN]
    assert actions(plan)[-1] is Action.DISOWN
    assert too_early(plan, RELEASE_NEEDS) == []


def test_a_release_unmounts_what_lies_below_before_its_parent() -> None:
    service = shapes.service(partitions=3)
    plan = release(service, shapes.all_up(service))
    assert subjects(plan, Action.UMOUNT) == ["/srv/home/data", "/srv/other", "/srv/home"]


@given(observations())
def test_a_release_of_any_rest_keeps_the_order(case: tuple[Service, Observed]) -> None:
    assert too_early(release(*case), RELEASE_NEEDS) == []


@given(observations())
def test_a_release_takes_down_exactly_what_is_there(case: tuple[Service, Observed]) -> None:
    service, seen = case
    plan = release(service, seen)
    mounted = {str(p.mountpoint) for p in service.partitions if p.uuid in seen.mounted}
    planned = set(actions(plan))
    assert set(subjects(plan, Action.UMOUNT)) == mounted
    assert set(subjects(plan, Action.VERIFY_UNLOCKED)) == mounted
    assert (Action.DISOWN in planned) is seen.owned
    assert (Action.UNISOLATE in planned) is (seen.isolated or seen.traces)
    assert (Action.STOP_NFSD in planned) is (seen.threads > 0)
    for action in (Action.FREEZE, Action.ADDRESS_DOWN, Action.UNEXPORT, Action.STOP_DAEMONS, Action.COLLECT):
        assert (action in planned) is seen.isolated
    # Without running threads the kernels 6.9 to 6.12.65 oops on this write.
    assert set(subjects(plan, Action.UNLOCK)) == (mounted if seen.threads else set())


def test_nothing_is_planned_where_nothing_is_there() -> None:
    service = shapes.service()
    assert release(service, shapes.observed(service)) == ()


def test_a_step_reads_as_action_and_object() -> None:
    assert str(Step(Action.MOUNT, "/srv/home")) == "mount: /srv/home"
    assert str(Step(Action.NOTIFY, "")) == "notify clients"


def test_plans_name_paths_as_the_configuration_does() -> None:
    service = shapes.service(exports=("/srv/other/a b",), state=Path("/srv/other/.nlmfo"))
    assert subjects(takeover(service), Action.EXPORT) == ["/srv/other/a b"]
    assert subjects(takeover(service), Action.RECORDS) == ["/srv/other/.nlmfo"]
