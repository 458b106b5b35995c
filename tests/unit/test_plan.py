# SPDX-License-Identifier: GPL-2.0-or-later
"""The order of a takeover and of a release, for every shape of service and for whatever is there."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlmfo.config import Isolation, Service
from nlmfo.failover import plan as planner
from nlmfo.failover.observe import Observed
from nlmfo.failover.plan import ORDER, WHY, Action, InvalidPlan, Plan, Step, amends, check, prelude, release, waves
from tests.unit import shapes

NETNS = tuple(shapes.service(partitions, addresses) for partitions, addresses in product((1, 2, 3), (1, 2)))
HOST = tuple(service._replace(isolation=Isolation.HOST) for service in NETNS)
SHAPES = NETNS + HOST
every_shape = pytest.mark.parametrize(
    "service", SHAPES, ids=lambda s: f"{s.isolation}-{len(s.partitions)}p{len(s.addresses)}a"
)
services = st.sampled_from(SHAPES)

#: What must have happened, all of it, before a step may begin; written down here a second time on purpose, from the
#: facts about kernels and clients and not from the plan's own table.
TAKEOVER_NEEDS = {
    Action.CLAIM: {Action.PROVE},
    Action.MOUNT: {Action.PROVE, Action.CLAIM},
    Action.RECORDS: {Action.CLAIM, Action.MOUNT},
    Action.EXPORT: {Action.MOUNT, Action.ISOLATE, Action.RECORDS},
    Action.START_DAEMONS: {Action.ISOLATE},
    Action.SET_UP_NFSD: {Action.ISOLATE, Action.START_DAEMONS},
    Action.START_NFSD: {Action.START_DAEMONS, Action.SET_UP_NFSD, Action.MOUNT, Action.RECORDS, Action.EXPORT},
    Action.GRACE: {Action.MOUNT, Action.RECORDS, Action.EXPORT, Action.KEEP},
    Action.ADDRESS_UP: {
        *(Action.CLAIM, Action.MOUNT, Action.EXPORT, Action.START_DAEMONS, Action.START_NFSD, Action.GRACE)
    },
    Action.ANSWER: {Action.ADDRESS_UP},
    Action.NOTIFY: {Action.RECORDS, Action.START_NFSD, Action.KEEP, Action.GRACE, Action.ADDRESS_UP, Action.ANSWER},
    Action.RECLAIM: {Action.NOTIFY},
    Action.ISOLATE: set(),
    Action.KEEP: {Action.RECORDS, Action.EXPORT},
}
RELEASE_NEEDS = {
    Action.UNEXPORT: {Action.ADDRESS_DOWN},
    Action.NOTE_LOCKS: {Action.FREEZE, Action.ADDRESS_DOWN, Action.STOP_KEEPER},
    Action.REVIVE: {Action.ADDRESS_DOWN, Action.UNEXPORT},
    Action.UNLOCK: {Action.FREEZE, Action.ADDRESS_DOWN, Action.UNEXPORT, Action.NOTE_LOCKS, Action.REVIVE},
    Action.STOP_NFSD: {Action.FREEZE, Action.ADDRESS_DOWN, Action.NOTE_LOCKS, Action.UNLOCK, Action.REVIVE},
    Action.VERIFY_UNLOCKED: {Action.ADDRESS_DOWN, Action.UNLOCK, Action.STOP_NFSD},
    Action.STOP_DAEMONS: {Action.STOP_NFSD},
    Action.COLLECT: {Action.STOP_NFSD, Action.STOP_DAEMONS, Action.STOP_KEEPER, Action.DETACH},
    Action.UNISOLATE: {Action.STOP_DAEMONS, Action.COLLECT},
    Action.UMOUNT: {
        *(Action.UNEXPORT, Action.UNLOCK, Action.VERIFY_UNLOCKED, Action.STOP_DAEMONS, Action.STOP_KEEPER),
        *(Action.DETACH, Action.COLLECT, Action.UNISOLATE),
    },
    Action.DISOWN: {Action.ADDRESS_DOWN, Action.STOP_NFSD, Action.COLLECT, Action.UNISOLATE, Action.UMOUNT},
}


#: What one isolation has and the other does not.
ONLY_NETNS = {
    *(Action.ISOLATE, Action.START_DAEMONS, Action.SET_UP_NFSD, Action.START_NFSD),
    *(Action.STOP_NFSD, Action.STOP_DAEMONS, Action.UNISOLATE, Action.REVIVE),
}
ONLY_HOST = {Action.KEEP, Action.GRACE, Action.DETACH}


def of(service: Service) -> set[Action]:
    """The actions that the service's isolation knows."""
    return set(Action) - (ONLY_HOST if service.isolation is Isolation.NETNS else ONLY_NETNS)


def takeover(service: Service, *neighbours: str) -> Plan:
    """The plan for a node where nothing of the service is left."""
    first, steps = planner.takeover(service, shapes.observed(service, neighbours=neighbours))
    assert first == ()
    return steps


def all_up(service: Service, **more: object) -> Observed:
    if service.isolation is Isolation.NETNS:
        return replace(shapes.all_up(service), **more)  # type: ignore[arg-type]
    return replace(shapes.all_up(service), isolated=False, traces=True, attached=True, **more)  # type: ignore[arg-type]


def stopped(service: Service) -> tuple[Plan, ...]:
    """The release of a service whose nfsd somebody stopped: its locks are left behind, in namespaces of its own."""
    host = service.isolation is Isolation.HOST
    return () if host else (release(service, all_up(service, threads=0, set_up=False, stranded=True)),)


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
    host = service.isolation is Isolation.HOST
    isolated = not host and draw(st.booleans())
    there = isolated or host
    threads = draw(st.integers(0, 8)) if there else 0
    seen = shapes.observed(
        service,
        owned=draw(st.booleans()),
        mounted=draw(st.integers(0, len(service.partitions))),
        isolated=isolated,
        traces=isolated or draw(st.booleans()),
        threads=threads,
        set_up=isolated and (threads > 0 or draw(st.booleans())),
        exported=there and draw(st.booleans()),
        addresses=there and draw(st.booleans()),
        attached=there and draw(st.booleans()),
        kept=draw(st.booleans()),
        listed=draw(st.booleans()),
        in_grace=draw(st.booleans()),
        told=draw(st.booleans()),
        stranded=isolated and not threads and draw(st.booleans()),
    )
    return service, seen


@every_shape
def test_a_takeover_begins_with_the_claim_and_notifies_when_all_else_is_up(service: Service) -> None:
    ready, steps = (actions(part) for part in prelude(takeover(service)))
    # Before anything is proved only what is nobody else's business: no mount, no address.
    own = [Action.ISOLATE, Action.START_DAEMONS, Action.SET_UP_NFSD]
    assert ready == (own if service.isolation is Isolation.NETNS else [])
    assert steps[:2] == [Action.PROVE, Action.CLAIM]
    assert steps[-3:] == [Action.ANSWER, Action.NOTIFY, Action.RECLAIM]


@every_shape
def test_a_takeover_has_every_step_that_a_client_relies_on(service: Service) -> None:
    assert set(actions(takeover(service))) == (set(TAKEOVER_NEEDS) | {Action.PROVE}) & of(service)


@given(services, st.data())
def test_cut_anywhere_a_takeover_has_done_nothing_before_its_time(service: Service, data: st.DataObject) -> None:
    plan = takeover(service)
    done = actions(plan[: data.draw(st.integers(0, len(plan)))])
    for action in done:
        assert TAKEOVER_NEEDS.get(action, set()) & of(service) <= set(done[: done.index(action)])


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


@pytest.mark.parametrize("make", [takeover, lambda service: release(service, all_up(service))])
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
    assert len(plans) >= 15
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
    seen = {
        (plan[i].action, plan[j].action)
        for service in (NETNS[2], HOST[2])
        for plan in (takeover(service), release(service, all_up(service)), *stopped(service))
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
    plan = release(service, all_up(service))
    first = [Action.FREEZE, Action.STOP_KEEPER, Action.ADDRESS_DOWN]
    assert set(actions(plan)) == {*RELEASE_NEEDS, *first, Action.DETACH} & of(service) - {Action.REVIVE}
    assert actions(plan)[:3] == first
    assert actions(plan)[-1] is Action.DISOWN
    assert too_early(plan, RELEASE_NEEDS) == []


@every_shape
@pytest.mark.parametrize("more", [{"in_grace": True}, {"told": False}])
def test_locks_are_not_noted_while_some_may_not_be_reclaimed_yet(service: Service, more: dict[str, bool]) -> None:
    plan = release(service, all_up(service, **more))
    assert Action.UNLOCK in actions(plan)
    assert Action.NOTE_LOCKS not in actions(plan)


def test_a_release_unmounts_what_lies_below_before_its_parent() -> None:
    service = shapes.service(partitions=3)
    plan = release(service, all_up(service))
    assert subjects(plan, Action.UMOUNT) == ["/srv/home/data", "/srv/other", "/srv/home"]


@given(observations())
def test_a_release_of_any_rest_keeps_the_order(case: tuple[Service, Observed]) -> None:
    assert too_early(release(*case), RELEASE_NEEDS) == []


def test_locks_are_dropped_where_clients_can_come_to_and_verified_everywhere() -> None:
    """Through an export with crossmnt they come to what is mounted below it."""
    service = shapes.service(partitions=3, exports=("/srv/home",))
    plan = release(service, all_up(service))
    assert subjects(plan, Action.UNLOCK) == ["/srv/home/data", "/srv/home"]
    assert subjects(plan, Action.VERIFY_UNLOCKED) == ["/srv/home/data", "/srv/other", "/srv/home"]


def test_where_the_node_has_exports_of_its_own_locks_are_dropped_everywhere() -> None:
    service = shapes.service(partitions=3, exports=("/srv/home",), isolation=Isolation.HOST)
    assert subjects(release(service, all_up(service)), Action.UNLOCK) == ["/srv/home/data", "/srv/other", "/srv/home"]


@given(observations())
def test_a_release_takes_down_exactly_what_is_there(case: tuple[Service, Observed]) -> None:
    service, seen = case
    plan = release(service, seen)
    mounted = {str(p.mountpoint) for p in service.partitions if p.uuid in seen.mounted}
    planned = set(actions(plan))
    assert set(subjects(plan, Action.UMOUNT)) == mounted
    assert set(subjects(plan, Action.VERIFY_UNLOCKED)) == mounted
    assert (Action.DISOWN in planned) is (seen.owned or seen.listed)
    whole = seen.owned and seen.told and seen.threads > 0 and len(seen.mounted) == len(service.partitions)
    there = seen.isolated or service.isolation is Isolation.HOST
    assert (Action.NOTE_LOCKS in planned) is (whole and there and not seen.in_grace)
    # Without running threads the kernels 6.9 to 6.12.65 oops on this write.
    assert (Action.REVIVE in planned) is seen.stranded
    assert set(subjects(plan, Action.UNLOCK)) == (mounted if seen.threads or seen.stranded else set())
    assert (Action.STOP_KEEPER in planned) is seen.kept
    if service.isolation is Isolation.NETNS:
        assert (Action.UNISOLATE in planned) is (seen.isolated or seen.traces)
        assert (Action.STOP_NFSD in planned) is (seen.set_up or seen.stranded)
        for action in (Action.ADDRESS_DOWN, Action.UNEXPORT, Action.STOP_DAEMONS):
            assert (action in planned) is seen.isolated
        # Records that the callout does not write to are another node's, or not even mounted.
        for action in (Action.FREEZE, Action.COLLECT):
            assert (action in planned) is seen.attached
    else:
        for action in (Action.FREEZE, Action.DETACH, Action.COLLECT):
            assert (action in planned) is seen.attached
        assert (Action.ADDRESS_DOWN in planned) is bool(seen.addresses)
        assert (Action.UNEXPORT in planned) is bool(seen.exported or seen.attached or seen.traces)


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


@every_shape
def test_for_a_service_that_is_up_and_whose_clients_were_told_there_is_nothing_to_do(service: Service) -> None:
    assert planner.takeover(service, all_up(service)) == ((), ())


@every_shape
@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ({"kept": False}, [Action.KEEP]),
        ({"frozen": True}, [Action.THAW]),
        ({"told": False, "in_grace": True}, [Action.ANSWER, Action.NOTIFY, Action.RECLAIM]),
        (
            {"told": False, "in_grace": True, "frozen": True, "kept": False},
            [Action.THAW, Action.KEEP, Action.ANSWER, Action.NOTIFY, Action.RECLAIM],
        ),
    ],
)
def test_what_a_takeover_that_was_killed_late_still_owes_is_all_that_is_done(
    service: Service, more: dict[str, object], wanted: list[Action]
) -> None:
    first, steps = planner.takeover(service, all_up(service, **more))
    assert (first, actions(steps)) == ((), wanted)


@every_shape
def test_clients_that_were_not_told_before_grace_was_over_get_a_new_one(service: Service) -> None:
    first, steps = planner.takeover(service, all_up(service, told=False, in_grace=False))
    assert steps == takeover(service)
    # Between letting go and claiming again another node could come: it goes on being owned.
    # And what is left of its locks is no account of them.
    kept = {Action.DISOWN, Action.NOTE_LOCKS}
    assert actions(first) == [a for a in actions(release(service, all_up(service))) if a not in kept]


def test_neighbours_that_were_not_told_are_told_in_grace_and_get_a_new_one_after_it() -> None:
    untold = {"neighbours": ("mail", "web"), "untold": ("web",)}
    first, steps = planner.takeover(HOST[0], all_up(HOST[0], in_grace=True, **untold))
    assert (first, actions(steps)) == ((), [Action.KEEP, Action.ANSWER, Action.NOTIFY, Action.RECLAIM])
    first, steps = planner.takeover(HOST[0], all_up(HOST[0], in_grace=False, **untold))
    assert steps == takeover(HOST[0], "mail", "web")
    assert Action.ADDRESS_DOWN in actions(first)


def test_on_a_shared_server_nothing_is_exported_any_more_when_locks_are_dropped() -> None:
    """A client may come by a neighbour's address, which stays up, and take its locks again."""
    plan = actions(release(HOST[0], all_up(HOST[0])))
    assert plan.index(Action.UNEXPORT) < plan.index(Action.UNLOCK)


@given(observations())
def test_what_is_left_of_a_run_goes_before_a_takeover_begins_and_stays_owned(case: tuple[Service, Observed]) -> None:
    service, seen = case
    first, steps = planner.takeover(service, seen)
    if seen.serves(service):
        return
    assert first == release(service, replace(seen, owned=False, listed=False))
    assert Action.DISOWN not in actions(first)
    assert steps == takeover(service)


def test_the_services_that_lose_their_locks_to_a_restart_are_named_beforehand_and_told_afterwards() -> None:
    plan = takeover(HOST[0], "mail", "web")
    (said,) = subjects(plan, Action.GRACE)
    assert said == "node-wide: the clients of mail, web lose their locks too, are told, and reclaim"
    assert subjects(plan, Action.NOTIFY) == subjects(plan, Action.RECLAIM) == ["home, mail, web"]
    assert subjects(takeover(HOST[0]), Action.GRACE) == ["node-wide; no other service is served here"]


def test_where_the_kernel_can_give_an_address_its_grace_nobody_else_is_named() -> None:
    seen = shapes.observed(HOST[0], neighbours=("mail",), per_address=True)
    _, plan = planner.takeover(HOST[0], seen)
    assert subjects(plan, Action.GRACE) == ["of this service's addresses only"]
    assert subjects(plan, Action.NOTIFY) == ["home"]


@pytest.mark.parametrize(
    ("threads", "in_grace", "untold", "wanted"),
    [
        (8, False, (), []),
        (8, True, (), []),
        (8, True, ("mail",), [Action.KEEP, Action.NOTIFY, Action.RECLAIM]),
        (8, False, ("mail",), [Action.KEEP, Action.GRACE, Action.NOTIFY, Action.RECLAIM]),
        (0, False, (), [Action.KEEP, Action.GRACE, Action.NOTIFY, Action.RECLAIM]),
    ],
)
def test_what_a_restart_that_was_cut_off_took_from_others_is_made_good(
    threads: int, in_grace: bool, untold: tuple[str, ...], wanted: list[Action]
) -> None:
    seen = shapes.observed(HOST[0], threads=threads, in_grace=in_grace, neighbours=("mail", "web"), untold=untold)
    assert actions(amends(seen)) == wanted


def test_nobody_is_owed_amends_where_no_other_service_is_served() -> None:
    assert amends(shapes.observed(HOST[0])) == ()


def test_what_does_not_lie_in_one_another_goes_side_by_side() -> None:
    plan = takeover(shapes.service(partitions=3))
    mounts = [wave for wave in waves(plan) if wave[0].action is Action.MOUNT]
    assert [[step.subject for step in wave] for wave in mounts] == [["/srv/home", "/srv/other"], ["/srv/home/data"]]


@every_shape
def test_waves_are_the_plan_in_its_order(service: Service) -> None:
    for plan in (takeover(service), release(service, all_up(service))):
        assert tuple(step for wave in waves(plan) for step in wave) == plan
        for wave in waves(plan):
            assert len({step.action for step in wave}) == 1


def test_every_action_has_its_reason_or_needs_none() -> None:
    assert set(WHY) == set(Action)
