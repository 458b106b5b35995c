# SPDX-License-Identifier: GPL-2.0-or-later
"""Whole runs, in a cluster in memory: whatever fails, nothing is half-served in silence."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from nlmfo.config import Isolation, Service
from nlmfo.errors import DeadlineExceeded, ExitCode, Incomplete, NlmfoError, NotOwned, Refused, StepFailed
from nlmfo.failover import plan, runs
from nlmfo.failover.events import (
    AwaitingRelease,
    Begun,
    CleaningUp,
    Ended,
    Event,
    Planned,
    Proved,
    RollingBack,
    Sink,
    StepDone,
    StepNotDone,
    StepStarted,
)
from nlmfo.failover.owner import registry_of
from nlmfo.failover.plan import Action
from nlmfo.failover.runs import Outlook
from nlmfo.failover.verbs import Outcome, Verb
from nlmfo.host.node_server import Unfit
from nlmfo.ownership.proof import Word
from nlmfo.ownership.record import OwnerRecord, Standing
from nlmfo.ownership.registry import DirectoryRegistry, NoRegistry
from tests.unit import shapes
from tests.unit.cluster_fake import Cluster, Killed, Log, Node, Spot
from tests.unit.shapes import HERE, THERE

SERVICE = shapes.service(partitions=2, addresses=2)
TAKEOVER_ACTIONS = list(dict.fromkeys(step.action for step in plan.takeover(SERVICE, shapes.observed(SERVICE))[1]))
RELEASE_ACTIONS = list(dict.fromkeys(step.action for step in plan.release(SERVICE, shapes.all_up(SERVICE))))
CLAIMED = TAKEOVER_ACTIONS.index(Action.CLAIM) + 1


class Scene:
    """The first node of a cluster, one service, and the runs of nlmfo on it."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cluster = Cluster([SERVICE], directory, monkeypatch)
        self.run = directory / HERE

    @property
    def node(self) -> Node:
        return self.cluster.nodes[HERE]

    @property
    def spot(self) -> Spot:
        return self.node.spot("home")

    @property
    def log(self) -> Log:
        return self.cluster.log

    def takeover(self, *, fenced: str | None = None) -> bool:
        return self.cluster.takeover(HERE, "home", fenced=fenced)

    def release(self) -> None:
        self.cluster.release(HERE, "home")

    def serves(self) -> bool:
        return self.cluster.serving("home") == [HERE]

    def owner(self) -> OwnerRecord | None:
        return self.cluster.registry.read("home")

    def owned_by(self, node: str, standing: Standing = Standing.SERVING) -> OwnerRecord:
        record = shapes.record(7, node, standing, boot="an earlier boot")
        self.cluster.registry.claim(record)
        return record

    def outlook(self, verb: Verb, word: Word | None = None) -> Outlook:
        with self.cluster._nlmfo(HERE, None) as config:
            return runs.outlook(config, SERVICE, verb, word or Word())


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(tmp_path, monkeypatch)


def standing(record: OwnerRecord | None) -> tuple[int, str, str]:
    assert record is not None
    return record.epoch, record.node, str(record.standing)


def test_a_takeover_serves_and_says_so_in_the_registry(scene: Scene) -> None:
    assert scene.takeover() is True
    assert scene.serves()
    assert standing(scene.owner()) == (1, HERE, "serving")
    assert scene.log.events[-1] == Ended(Outcome.SERVED)


def test_a_takeover_begins_with_the_proof_and_tells_the_whole_plan(scene: Scene) -> None:
    scene.takeover()
    assert scene.log.of(Proved) == [Proved("home", "it was never served before", 1)]
    (planned,) = scene.log.of(Planned)
    assert isinstance(planned, Planned)
    done = [event.step for event in scene.log.events if isinstance(event, StepDone)]
    assert sorted(map(str, done)) == sorted(map(str, planned.steps))
    assert scene.log.events.index(planned) < scene.log.events.index(scene.log.of(StepStarted)[0])


def test_a_release_takes_all_of_it_down_and_says_so_in_the_registry(scene: Scene) -> None:
    scene.takeover()
    scene.release()
    assert scene.spot.empty()
    assert standing(scene.owner()) == (1, HERE, "released")
    assert scene.log.events[-1] == Ended(Outcome.RELEASED)


def test_a_service_that_moves_back_and_forth_rises_by_one_epoch_each_time(scene: Scene) -> None:
    for epoch in (1, 2, 3):
        scene.takeover()
        assert standing(scene.owner())[0] == epoch
        scene.release()


def test_taking_over_what_is_served_here_already_touches_nothing(scene: Scene) -> None:
    scene.takeover()
    scene.log.events.clear()
    scene.node.begun.clear()
    journals = len(scene.node.journals)
    assert scene.takeover() is False
    assert scene.node.begun == []
    assert scene.log.events == []
    assert len(scene.node.journals) == journals
    assert standing(scene.owner()) == (1, HERE, "serving")


def test_records_that_a_killed_release_left_frozen_are_thawed_by_a_takeover_of_what_still_serves(scene: Scene) -> None:
    scene.takeover()
    scene.spot.frozen = True
    scene.node.begun.clear()
    assert scene.takeover() is True
    assert not scene.spot.frozen
    assert scene.node.begun == [Action.THAW]


def test_locks_that_a_stopped_nfsd_left_behind_are_dropped_by_one_that_runs_once_more(scene: Scene) -> None:
    """Found in the lab, on 6.1: nothing else can drop them, and while they are there nothing can be unmounted."""
    scene.takeover()
    scene.cluster.clients_lock("home", HERE)
    scene.spot.threads, scene.spot.grace, scene.spot.set_up = 0, False, False
    scene.node.begun.clear()
    assert scene.takeover() is True
    assert scene.node.begun.index(Action.REVIVE) < scene.node.begun.index(Action.UNLOCK)
    assert scene.spot.locks == scene.cluster.holding["home"] != set()


def killed_once_the_address_is_up(scene: Scene) -> None:
    def reaper(event: Event) -> None:
        if isinstance(event, StepDone) and event.step.action is Action.ADDRESS_UP:
            scene.cluster.dead = True

    with pytest.raises(Killed):
        scene.cluster.takeover(HERE, "home", sink=reaper)
    assert not scene.cluster.records["home"].told
    scene.node.begun.clear()


def test_clients_that_a_killed_takeover_did_not_tell_are_told_by_the_next_one(scene: Scene) -> None:
    killed_once_the_address_is_up(scene)
    scene.takeover()
    assert scene.node.begun == [Action.ANSWER, Action.NOTIFY, Action.RECLAIM]
    assert scene.cluster.records["home"].told


def test_clients_that_a_killed_takeover_did_not_tell_are_told_by_their_keeper_without_any_other_command(
    scene: Scene,
) -> None:
    killed_once_the_address_is_up(scene)
    scene.cluster.time_passes()
    assert scene.cluster.records["home"].told
    assert scene.node.begun == []
    assert scene.takeover() is False


def test_where_the_keeper_was_killed_as_well_it_is_started_again_and_tells_them(scene: Scene) -> None:
    killed_once_the_address_is_up(scene)
    scene.cluster.keepers_die(HERE)
    scene.takeover()
    assert scene.node.begun == [Action.KEEP, Action.ANSWER, Action.NOTIFY, Action.RECLAIM]
    assert scene.cluster.records["home"].told


def test_a_keeper_that_died_while_all_is_well_is_started_again_and_nobody_is_told_twice(scene: Scene) -> None:
    scene.takeover()
    scene.cluster.keepers_die(HERE)
    scene.cluster.grace_ends()
    scene.node.begun.clear()
    assert scene.takeover() is True
    assert scene.node.begun == [Action.KEEP]
    assert scene.spot.kept


def test_after_grace_everything_goes_down_and_up_again_so_that_they_can_be_told(scene: Scene) -> None:
    killed_once_the_address_is_up(scene)
    scene.cluster.keepers_die(HERE)
    scene.cluster.grace_ends()
    scene.takeover()
    assert scene.serves()
    assert scene.cluster.records["home"].told
    assert standing(scene.owner()) == (2, HERE, "serving")


def test_when_the_rest_of_a_late_takeover_fails_the_service_goes_on_being_served(scene: Scene) -> None:
    scene.takeover()
    scene.cluster.records["home"].told_state = 0
    scene.node.instead[Action.NOTIFY] = NlmfoError("no network", hint="mend it")
    with pytest.raises(Incomplete, match="no network") as caught:
        scene.takeover()
    assert str(caught.value.hint).startswith("mend it; then 'nlmfo resume home'")
    assert scene.serves()
    assert scene.cluster.unfinished(HERE, "home")


def test_a_refused_takeover_touches_nothing(scene: Scene) -> None:
    record = scene.owned_by(THERE)
    with pytest.raises(Refused) as caught:
        scene.takeover()
    assert caught.value.code == "still-served"
    assert scene.node.begun == []
    assert scene.log.events == []
    assert scene.node.journals == {}
    assert scene.owner() == record


def test_a_fenced_owner_is_succeeded(scene: Scene) -> None:
    scene.owned_by(THERE)
    scene.cluster.power_cut(THERE)
    scene.takeover(fenced=THERE)
    assert standing(scene.owner()) == (8, HERE, "serving")


def test_what_an_earlier_boot_of_this_node_served_is_taken_over_again(scene: Scene) -> None:
    scene.owned_by(HERE)
    scene.takeover()
    assert scene.serves()
    assert standing(scene.owner()) == (8, HERE, "serving")


def test_what_an_earlier_boot_of_this_node_served_can_be_let_go(scene: Scene) -> None:
    scene.owned_by(HERE)
    scene.release()
    assert scene.node.begun == [Action.DISOWN]
    assert standing(scene.owner()) == (7, HERE, "released")


@pytest.mark.parametrize("when", ["instead", "afterwards"])
@pytest.mark.parametrize("action", TAKEOVER_ACTIONS[CLAIMED:])
def test_a_step_that_fails_takes_down_what_was_begun(scene: Scene, action: Action, when: str) -> None:
    getattr(scene.node, when)[action] = NlmfoError("broken", hint="mend it")
    with pytest.raises(StepFailed) as caught:
        scene.takeover()
    assert caught.value.hint == "mend it"
    assert scene.spot.empty()
    assert standing(scene.owner()) == (1, HERE, "released")
    assert scene.log.of(RollingBack) == [RollingBack("home")]
    assert scene.log.of(Ended) == [Ended(Outcome.TAKEN_DOWN, str(caught.value))]
    assert not scene.cluster.unfinished(HERE, "home")


@pytest.mark.parametrize("action", TAKEOVER_ACTIONS[:CLAIMED])
def test_what_fails_before_the_claim_leaves_the_owner_as_it_was_and_nothing_on_the_node(
    scene: Scene, action: Action
) -> None:
    record = scene.owned_by(THERE, Standing.RELEASED)
    scene.node.instead[action] = Refused("device-held", "it is in use")
    with pytest.raises(StepFailed) as caught:
        scene.takeover()
    assert caught.value.exit_code is ExitCode.REFUSED
    assert scene.spot.empty()
    assert scene.owner() == record
    begun = action is not Action.ISOLATE
    assert scene.log.of(RollingBack) == [RollingBack("home")] * begun
    assert scene.log.of(Ended) == [Ended(Outcome.TAKEN_DOWN if begun else Outcome.UNTOUCHED, str(caught.value))]


@pytest.mark.parametrize("action", [Action.PROVE, Action.CLAIM])
def test_on_the_nodes_own_server_nothing_is_touched_before_the_claim(node: Cluster, action: Action) -> None:
    node.nodes[HERE].instead[action] = Refused("device-held", "it is in use")
    with pytest.raises(StepFailed) as caught:
        node.takeover(HERE, "home")
    assert caught.value.exit_code is ExitCode.REFUSED
    assert node.nodes[HERE].spot("home").empty()
    assert node.registry.read("home") is None
    assert node.log.of(RollingBack) == []
    assert node.log.of(Ended) == [Ended(Outcome.UNTOUCHED, str(caught.value))]


def test_records_that_were_not_mounted_yet_are_not_collected_by_the_taking_down(scene: Scene) -> None:
    """They are another node's as long as nothing is mounted, and the mount point is empty."""
    scene.node.afterwards[Action.START_DAEMONS] = NlmfoError("broken")
    with pytest.raises(StepFailed, match="broken"):
        scene.takeover()
    assert scene.spot.empty()
    assert not {Action.FREEZE, Action.COLLECT} & set(scene.node.begun)


@pytest.mark.parametrize(
    "code", ["mmp-in-use", "fsck-running", "newer-copy", "wrong-node", "wrong-state", "owner-unreadable"]
)
def test_evidence_that_comes_up_late_takes_everything_down_and_tells_nobody_to_go_ahead(
    scene: Scene, code: str
) -> None:
    scene.node.instead[Action.RECORDS] = Refused(code, "somebody else may serve it")
    with pytest.raises(StepFailed):
        scene.takeover()
    assert scene.spot.empty()
    assert standing(scene.owner()) == (1, HERE, "serving")


def test_a_claim_that_another_node_wins_leaves_the_winner_in_peace(scene: Scene) -> None:
    winner = shapes.record(1, THERE)

    def other_node_is_faster(event: Event) -> None:
        if isinstance(event, Proved):
            scene.cluster.registry.claim(winner)

    with pytest.raises(StepFailed) as caught, scene.cluster._nlmfo(HERE, None) as config:
        runs.takeover(config, SERVICE, Word(), other_node_is_faster)
    assert caught.value.exit_code is ExitCode.REFUSED
    assert scene.owner() == winner
    assert Action.MOUNT not in scene.node.begun
    assert scene.spot.empty()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), MemoryError(), ZeroDivisionError()])
@pytest.mark.parametrize("action", [action for action in TAKEOVER_ACTIONS if action not in plan.SIDE_BY_SIDE])
def test_an_interruption_at_any_step_takes_down_what_was_begun(
    scene: Scene, action: Action, error: BaseException
) -> None:
    scene.node.afterwards[action] = error
    with pytest.raises(type(error)):
        scene.takeover()
    assert scene.spot.empty()
    owner = scene.owner()
    assert owner is None or standing(owner) == (1, HERE, "released")


# What clients have not reclaimed yet when it fails must not be missing in a note of the locks: so none is made.
@pytest.mark.parametrize("action", [a for a in RELEASE_ACTIONS[:-1] if a is not Action.NOTE_LOCKS])
def test_when_taking_down_fails_too_the_run_is_incomplete_and_the_service_stays_ours(
    scene: Scene, action: Action
) -> None:
    scene.node.afterwards[Action.NOTIFY] = NlmfoError("first trouble")
    scene.node.instead[action] = NlmfoError("second trouble")
    with pytest.raises(Incomplete) as caught:
        scene.takeover()
    assert caught.value.exit_code is ExitCode.INCOMPLETE
    assert "first trouble" in caught.value.text
    assert "second trouble" in caught.value.text
    assert f"fence {HERE}" in str(caught.value.hint)
    assert "nlmfo abort home" in str(caught.value.hint)
    assert standing(scene.owner()) == (1, HERE, "serving")
    assert scene.cluster.unfinished(HERE, "home")


@pytest.mark.parametrize(
    "error", [OSError(errno.ESTALE, "Stale file handle"), Refused("registry-unavailable", "gone"), ZeroDivisionError()]
)
def test_when_nothing_can_be_observed_during_the_taking_down_the_run_is_incomplete(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def blind(*_: object) -> None:
        raise error

    def trouble(event: Event) -> None:
        if isinstance(event, StepNotDone):
            monkeypatch.setattr(runs, "look", blind)

    scene.node.instead[Action.EXPORT] = NlmfoError("first trouble")
    with pytest.raises(Incomplete), scene.cluster._nlmfo(HERE, None) as config:
        runs.takeover(config, SERVICE, Word(), trouble)


@pytest.mark.parametrize("how", ["release", "abort", "resume"])
def test_after_an_incomplete_run_the_work_is_finished_once_the_cause_is_gone(scene: Scene, how: str) -> None:
    scene.node.afterwards[Action.NOTIFY] = NlmfoError("first trouble")
    scene.node.instead[Action.UMOUNT] = NlmfoError("target is busy")
    with pytest.raises(Incomplete):
        scene.takeover()
    scene.node.instead.clear()
    # It was on its way back: resuming does not try to take over again.
    getattr(scene.cluster, how)(HERE, "home")
    assert scene.spot.empty()
    assert standing(scene.owner()) == (1, HERE, "released")
    assert not scene.cluster.unfinished(HERE, "home")


@pytest.mark.parametrize("action", RELEASE_ACTIONS)
def test_a_release_that_fails_at_any_step_is_incomplete_and_can_be_resumed(scene: Scene, action: Action) -> None:
    scene.takeover()
    scene.cluster.grace_ends()
    scene.node.instead[action] = NlmfoError("broken", hint="mend it")
    with pytest.raises(Incomplete, match="broken") as caught:
        scene.release()
    assert caught.value.exit_code is ExitCode.INCOMPLETE
    then = "then 'nlmfo resume home' goes on from here, 'nlmfo abort home' goes back"
    assert caught.value.hint == f"mend it; {then}"
    assert standing(scene.owner()) == (1, HERE, "serving")
    assert scene.cluster.unfinished(HERE, "home")
    scene.node.instead.clear()
    assert scene.cluster.resume(HERE, "home") is True
    assert scene.spot.empty()
    assert standing(scene.owner()) == (1, HERE, "released")
    assert scene.cluster.resume(HERE, "home") is False


def test_a_clean_up_that_is_interrupted_says_that_something_is_left(scene: Scene) -> None:
    scene.spot.mounted.add(SERVICE.mount_order[0].uuid)
    scene.node.instead[Action.VERIFY_UNLOCKED] = KeyboardInterrupt()
    with pytest.raises(Incomplete, match="interrupted"):
        scene.takeover()
    assert scene.cluster.unfinished(HERE, "home")


def test_a_release_that_is_interrupted_says_that_something_is_left(scene: Scene) -> None:
    scene.takeover()
    scene.node.afterwards[Action.STOP_NFSD] = KeyboardInterrupt()
    with pytest.raises(Incomplete, match="interrupted") as caught:
        scene.release()
    assert "nlmfo resume home" in str(caught.value.hint)


@pytest.mark.parametrize("action", RELEASE_ACTIONS[2:])
def test_a_release_that_was_cut_off_at_any_step_can_be_turned_into_a_takeover(scene: Scene, action: Action) -> None:
    scene.takeover()
    scene.cluster.grace_ends()
    scene.node.afterwards[action] = NlmfoError("broken")
    with pytest.raises(Incomplete):
        scene.release()
    scene.node.afterwards.clear()
    scene.takeover()
    assert scene.serves()
    assert standing(scene.owner()) == (2, HERE, "serving")
    assert not scene.cluster.unfinished(HERE, "home")


@pytest.mark.parametrize("action", [Action.FREEZE, Action.STOP_KEEPER])
def test_a_release_that_has_taken_nothing_down_yet_is_called_off_by_abort(scene: Scene, action: Action) -> None:
    scene.takeover()
    scene.node.afterwards[action] = NlmfoError("broken")
    with pytest.raises(Incomplete):
        scene.release()
    scene.node.afterwards.clear()
    scene.cluster.abort(HERE, "home")
    assert scene.serves()
    assert not scene.spot.frozen
    assert standing(scene.owner()) == (1, HERE, "serving")
    assert not scene.cluster.unfinished(HERE, "home")


def test_there_is_nothing_to_abort_after_a_run_that_came_to_its_end(scene: Scene) -> None:
    scene.takeover()
    with pytest.raises(NlmfoError, match="no run on this node is unfinished") as caught:
        scene.cluster.abort(HERE, "home")
    assert "nlmfo release home" in str(caught.value.hint)
    assert scene.serves()


def test_what_a_dead_run_left_behind_goes_before_the_new_takeover_begins(scene: Scene) -> None:
    scene.owned_by(HERE, Standing.RELEASED)
    scene.spot.mounted.add(SERVICE.mount_order[0].uuid)
    scene.takeover()
    assert scene.log.of(CleaningUp) == [CleaningUp("home")]
    assert scene.node.begun.index(Action.UMOUNT) < scene.node.begun.index(Action.CLAIM)
    assert scene.serves()


def test_when_the_rest_cannot_be_taken_down_the_takeover_does_not_begin(scene: Scene) -> None:
    scene.spot.mounted.add(SERVICE.mount_order[0].uuid)
    scene.node.instead[Action.UMOUNT] = DeadlineExceeded("unmount", 30)
    with pytest.raises(Incomplete, match="unmount: not within 30 s") as caught:
        scene.takeover()
    assert caught.value.exit_code is ExitCode.INCOMPLETE
    assert Action.CLAIM not in scene.node.begun
    assert scene.owner() is None


def test_releasing_what_is_not_here_says_who_has_it(scene: Scene) -> None:
    scene.owned_by(THERE)
    with pytest.raises(NotOwned, match=r"'home' is not served here: node2 has it \(serving\)") as caught:
        scene.release()
    assert caught.value.exit_code is ExitCode.NOT_OWNED
    assert scene.node.begun == []


def test_releasing_what_was_never_served_is_no_work_either(scene: Scene) -> None:
    with pytest.raises(NotOwned, match=r"'home' is not served here$"):
        scene.release()


@pytest.mark.parametrize("then", list(Standing))
@pytest.mark.parametrize("how", ["release", "takeover", "resume", "abort"])
def test_what_is_still_mounted_after_another_node_took_over_is_never_touched_again(
    scene: Scene, then: Standing, how: str
) -> None:
    """An unmount writes, and so would a journal: over what the other node has written since."""
    scene.takeover()
    with pytest.raises(Killed):
        scene.cluster.release(HERE, "home", kill_at=20)
    scene.cluster.registry.claim(shapes.record(2, THERE, then))
    before, journals = list(scene.node.begun), len(scene.node.journals)
    with pytest.raises(Refused) as caught:
        getattr(scene.cluster, how)(HERE, "home")
    assert caught.value.code == "superseded"
    assert "sysrq-trigger" in str(caught.value.hint)
    assert scene.node.begun == before
    assert len(scene.node.journals) == journals
    found = scene.outlook(Verb.RELEASE)
    assert found.refused is not None
    assert found.refused.code == "superseded"


def test_a_failed_step_is_told_before_the_taking_down_begins(scene: Scene) -> None:
    scene.node.instead[Action.EXPORT] = NlmfoError("broken")
    with pytest.raises(StepFailed):
        scene.takeover()
    kinds = [type(event) for event in scene.log.events]
    assert kinds.index(StepNotDone) < kinds.index(RollingBack)


def test_planning_changes_nothing_and_says_what_a_run_would_do(scene: Scene) -> None:
    found = scene.outlook(Verb.TAKEOVER)
    assert found.refused is None
    assert found.proof is not None
    assert found.proof.epoch == 1
    assert scene.node.begun == []
    assert scene.node.journals == {}
    scene.takeover()
    assert list(dict.fromkeys(scene.node.begun)) == [*dict.fromkeys(step.action for step in found.steps)]


def test_a_plan_that_would_be_refused_is_made_all_the_same(scene: Scene) -> None:
    scene.owned_by(THERE)
    found = scene.outlook(Verb.TAKEOVER)
    assert found.refused is not None
    assert found.refused.code == "still-served"
    assert found.steps
    assert scene.outlook(Verb.TAKEOVER, Word(fenced=THERE)).refused is None
    with pytest.raises(NotOwned):
        scene.outlook(Verb.RELEASE)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """In host isolation: ``mail`` is served on the first node, its clients hold locks, and its grace is over."""
    services = [SERVICE._replace(isolation=Isolation.HOST), shapes.service(name="mail", isolation=Isolation.HOST)]
    cluster = Cluster(services, tmp_path, monkeypatch)
    cluster.takeover(HERE, "mail")
    cluster.clients_lock("mail", HERE)
    cluster.grace_ends()
    cluster.nodes[HERE].begun.clear()
    cluster.log.events.clear()
    return cluster


def test_host_isolation_without_a_way_into_grace_is_refused_before_anything_is_touched(node: Cluster) -> None:
    node.restart_nfsd = False
    with pytest.raises(Refused, match="cannot be put into grace without a restart") as caught:
        node.takeover(HERE, "home")
    assert caught.value.code == "no-grace"
    assert node.nodes[HERE].begun == []
    assert node.log.events == []


def test_a_kernel_that_can_give_an_address_its_grace_needs_no_restart(node: Cluster) -> None:
    node.restart_nfsd, node.grace_per_address = False, True
    node.takeover(HERE, "home")
    assert node.serving("home") == [HERE]


def test_a_server_that_would_lose_locks_is_refused_before_anything_is_touched_unless_forced(node: Cluster) -> None:
    node.unfit = (Unfit("statd-notifies", "it notifies", "set no-notify"), Unfit("nfsd-bound", "bound", "unbind"))
    for forced in ([], ["statd-notifies"], ["own-client"]):
        with pytest.raises(Refused, match="not fit for host isolation") as caught:
            node.takeover(HERE, "home", forced=forced)
        assert caught.value.code == ("nfsd-bound" if "statd-notifies" in forced else "statd-notifies")
    assert node.nodes[HERE].begun == []
    assert node.takeover(HERE, "home", forced=["statd-notifies", "nfsd-bound"]) is True


def test_what_serves_on_the_nodes_server_is_finished_also_where_nothing_may_be_restarted(node: Cluster) -> None:
    node.takeover(HERE, "home")
    node.nodes[HERE].spot("home").frozen = True
    node.restart_nfsd, node.unfit = False, (Unfit("nfsd-bound", "bound", "unbind"),)
    assert node.takeover(HERE, "home") is True
    assert not node.nodes[HERE].spot("home").frozen


@pytest.mark.parametrize("action", [Action.ADDRESS_UP, Action.ANSWER])
def test_others_who_lost_their_locks_to_a_takeover_that_failed_are_told_all_the_same(
    node: Cluster, action: Action
) -> None:
    node.nodes[HERE].instead[action] = NlmfoError("broken")
    with pytest.raises(StepFailed, match="broken"):
        node.takeover(HERE, "home")
    assert node.nodes[HERE].spot("home").empty()
    assert node.records["mail"].told
    assert node.nodes[HERE].spot("mail").locks == node.holding["mail"]


def test_others_who_lost_their_locks_to_a_takeover_that_was_killed_are_told_by_the_release_after_it(
    node: Cluster,
) -> None:
    def killed_after_grace(event: Event) -> None:
        if isinstance(event, StepDone) and event.step.action is Action.GRACE:
            node.dead = True

    with pytest.raises(Killed), node._nlmfo(HERE, None) as config:
        runs.takeover(config, node.services["home"], Word(), killed_after_grace)
    assert "mail" in {name for name, records in node.records.items() if not records.told}
    node.release(HERE, "home")
    assert node.records["mail"].told
    assert node.nodes[HERE].spot("mail").locks == node.holding["mail"]


@pytest.fixture
def another_run(scene: Scene) -> Iterator[Scene]:
    scene.run.mkdir()
    with (scene.run / "home.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield scene


@pytest.mark.parametrize("run", ["takeover", "release", "resume", "abort"])
def test_while_one_run_is_at_work_on_a_service_another_does_not_begin(another_run: Scene, run: str) -> None:
    with pytest.raises(NlmfoError, match="another nlmfo is at work on it"):
        getattr(another_run.cluster, run)(HERE, "home")
    assert another_run.node.begun == []


def test_two_runs_of_which_neither_waits_do_not_share_the_service(scene: Scene) -> None:
    refused: list[NlmfoError] = []

    with scene.cluster._nlmfo(HERE, None) as config:

        def meanwhile(event: Event) -> None:
            if isinstance(event, Proved):
                with pytest.raises(NlmfoError, match="another nlmfo is at work on it") as caught:
                    runs.release(config, SERVICE, Log())
                refused.append(caught.value)

        assert runs.takeover(config, SERVICE, Word(), meanwhile) is True
    assert len(refused) == 1


def test_runs_for_different_services_do_not_wait_for_each_other(scene: Scene) -> None:
    scene.run.mkdir()
    with (scene.run / "mail.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert scene.takeover() is True


def test_runs_for_services_that_share_an_nfsd_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "TURN", 0.2)
    cluster = Cluster([SERVICE._replace(isolation=Isolation.HOST)], tmp_path, monkeypatch)
    (tmp_path / HERE).mkdir()
    with (tmp_path / HERE / "host.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(DeadlineExceeded, match="the run of another service that shares this node's nfsd"):
            cluster.takeover(HERE, "home")
    assert cluster.nodes[HERE].begun == []
    assert cluster.takeover(HERE, "home") is True


def test_a_run_that_ended_lets_the_next_one_in_whether_it_failed_or_not(scene: Scene) -> None:
    scene.node.instead[Action.MOUNT] = NlmfoError("broken")
    with pytest.raises(StepFailed):
        scene.takeover()
    scene.node.instead.clear()
    assert scene.takeover() is True


def test_a_run_that_was_killed_lets_the_next_one_in(scene: Scene) -> None:
    with pytest.raises(Killed):
        scene.cluster.takeover(HERE, "home", kill_at=20)
    assert scene.takeover() is True


def test_what_a_run_starts_does_not_inherit_its_lock(scene: Scene) -> None:
    """A daemon that kept it would keep every later run out."""
    flags: list[bool] = []

    def look(event: Event) -> None:
        if isinstance(event, StepStarted):
            lock = (scene.run / "home.lock").stat()
            for entry in Path("/proc/self/fd").iterdir():
                number = int(entry.name)
                try:
                    same = os.path.samestat(os.fstat(number), lock)
                except OSError:  # the descriptor of the listing itself
                    continue
                if same:
                    flags.append(os.get_inheritable(number))

    with scene.cluster._nlmfo(HERE, None) as config:
        runs.takeover(config, SERVICE, Word(), look)
    assert flags
    assert not any(flags)


def test_the_configuration_decides_where_owners_are_recorded(tmp_path: Path) -> None:
    service: dict[str, Service] = {}
    assert isinstance(registry_of(shapes.config(tmp_path, service)), DirectoryRegistry)
    assert isinstance(registry_of(shapes.config(None, service)), NoRegistry)


def test_a_service_with_a_server_of_its_own_waits_for_none_of_the_others(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "TURN", 0.2)
    scene.run.mkdir()
    with (scene.run / "host.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert scene.takeover() is True


# Runs that had done everything but say so


def killed_at_the_very_end(scene: Scene, run: str) -> None:
    """The last thing that a run does is to write down that it has ended."""

    def last_word(event: Event) -> None:
        if isinstance(event, StepDone) and event.step.action in (Action.RECLAIM, Action.DISOWN):
            scene.cluster.dead = True

    work = partial(runs.takeover, word=Word()) if run == "takeover" else runs.release
    with pytest.raises(Killed), scene.cluster._nlmfo(HERE, None) as config:
        work(config, SERVICE, sink=last_word)
    assert scene.cluster.unfinished(HERE, "home")
    scene.node.begun.clear()
    scene.log.events.clear()


@pytest.mark.parametrize("how", ["takeover", "resume"])
def test_a_takeover_that_was_killed_when_all_was_done_has_come_to_its_end(scene: Scene, how: str) -> None:
    killed_at_the_very_end(scene, "takeover")
    getattr(scene.cluster, how)(HERE, "home")
    assert scene.node.begun == []
    assert scene.serves()
    assert scene.log.events[-1] == Ended(Outcome.SERVED)
    assert not scene.cluster.unfinished(HERE, "home")


def test_aborting_a_takeover_takes_it_down_although_all_of_it_is_up(scene: Scene) -> None:
    killed_at_the_very_end(scene, "takeover")
    assert scene.cluster.abort(HERE, "home") is Outcome.RELEASED
    assert scene.spot.empty()
    assert standing(scene.owner()) == (1, HERE, "released")
    assert not scene.cluster.unfinished(HERE, "home")


@pytest.mark.parametrize("how", ["resume", "abort"])
def test_a_release_that_was_killed_when_all_was_done_has_come_to_its_end(scene: Scene, how: str) -> None:
    scene.takeover()
    killed_at_the_very_end(scene, "release")
    getattr(scene.cluster, how)(HERE, "home")
    assert scene.node.begun == []
    assert scene.log.events[-1] == Ended(Outcome.RELEASED)
    assert not scene.cluster.unfinished(HERE, "home")


def test_aborting_a_release_that_has_begun_to_take_down_goes_on_with_it(scene: Scene) -> None:
    scene.takeover()
    scene.node.afterwards[Action.ADDRESS_DOWN] = NlmfoError("broken")
    with pytest.raises(Incomplete):
        scene.release()
    scene.node.afterwards.clear()
    assert scene.cluster.abort(HERE, "home") is Outcome.RELEASED
    assert scene.spot.empty()
    assert standing(scene.owner()) == (1, HERE, "released")


def test_after_a_reboot_an_abort_marks_what_its_earlier_boot_had_claimed_as_released(scene: Scene) -> None:
    killed_once_the_address_is_up(scene)
    assert standing(scene.owner()) == (1, HERE, "serving")
    scene.cluster.power_cut(HERE)
    scene.cluster.boot(HERE)
    scene.node.begun.clear()
    assert scene.cluster.abort(HERE, "home") is Outcome.RELEASED
    assert scene.node.begun == [Action.DISOWN]
    assert standing(scene.owner()) == (1, HERE, "released")


# What goes first, and what comes down again


def test_while_the_rest_of_an_earlier_run_goes_the_service_stays_this_nodes(scene: Scene) -> None:
    """Between letting go and claiming it again another node could come."""
    scene.takeover()
    scene.spot.addresses = False
    seen: list[tuple[int, str, str]] = []

    def look(event: Event) -> None:
        if isinstance(event, StepStarted):
            seen.append(standing(scene.owner()))

    with scene.cluster._nlmfo(HERE, None) as config:
        runs.takeover(config, SERVICE, Word(), look)
    assert set(seen) == {(1, HERE, "serving"), (2, HERE, "serving")}
    assert scene.serves()


def test_a_second_interruption_does_not_stop_the_taking_down(scene: Scene) -> None:
    scene.node.afterwards[Action.NOTIFY] = KeyboardInterrupt()

    def again(event: Event) -> None:
        if isinstance(event, RollingBack):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt), scene.cluster._nlmfo(HERE, None) as config:
            runs.takeover(config, SERVICE, Word(), again)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert scene.spot.empty()
    assert standing(scene.owner()) == (1, HERE, "released")


def test_what_an_earlier_boot_claimed_is_not_released_by_a_takeover_that_never_came_to_claim_it(scene: Scene) -> None:
    """It is still this node's word that counts: nobody else may come without being told that it is down."""
    record = scene.owned_by(HERE)
    scene.node.instead[Action.PROVE] = Refused("address-answers", "somebody answers")
    with pytest.raises(StepFailed):
        scene.takeover()
    assert scene.owner() == record


def test_a_claim_carries_on_which_generation_of_the_records_was_served_last(scene: Scene) -> None:
    scene.cluster.registry.claim(shapes.record(7, THERE, Standing.RELEASED)._replace(state=41))
    scene.takeover()
    owner = scene.owner()
    assert owner is not None
    assert owner.state == 41


# Without a registry


@pytest.fixture
def alone(scene: Scene) -> Scene:
    """Each node knows only what it did itself."""
    scene.cluster.registry_directory = None
    return scene


def test_without_a_registry_a_word_is_needed(alone: Scene) -> None:
    with pytest.raises(Refused, match="there is no registry") as caught:
        alone.takeover()
    assert caught.value.code == "no-proof"
    assert alone.node.begun == []
    assert alone.takeover(fenced=THERE) is True
    begun = next(event for event in alone.log.events if isinstance(event, Begun))
    assert (begun.verb, begun.service, begun.node, begun.fenced) == (Verb.TAKEOVER, "home", HERE, THERE)


def test_without_a_registry_what_this_boot_released_needs_a_word_again(alone: Scene) -> None:
    alone.takeover(fenced=THERE)
    alone.release()
    with pytest.raises(Refused, match="there is no registry"):
        alone.takeover()


def killed_with_its_partitions_mounted(scene: Scene) -> None:
    def reaper(event: Event) -> None:
        if isinstance(event, StepDone) and event.step.action is Action.RECORDS:
            scene.cluster.dead = True

    with pytest.raises(Killed), scene.cluster._nlmfo(HERE, None) as config:
        runs.takeover(config, SERVICE, Word(fenced=THERE), reaper)


@pytest.mark.parametrize("how", ["takeover", "resume"])
def test_without_a_registry_a_run_that_holds_a_partition_goes_on_by_itself(alone: Scene, how: str) -> None:
    killed_with_its_partitions_mounted(alone)
    getattr(alone.cluster, how)(HERE, "home")
    assert alone.serves()
    (proved,) = alone.log.of(Proved)
    assert proved.reason == "this node still has its partitions mounted, from a run that did not end"


def test_without_a_registry_what_an_earlier_boot_held_needs_a_word(alone: Scene) -> None:
    killed_with_its_partitions_mounted(alone)
    alone.cluster.power_cut(HERE)
    alone.cluster.boot(HERE)
    with pytest.raises(Refused, match="there is no registry"):
        alone.cluster.resume(HERE, "home")
    assert alone.cluster.resume(HERE, "home", fenced=THERE) is True
    assert alone.serves()


# A takeover that gets ready while another node still serves, and waits for its release


@pytest.fixture
def moving(scene: Scene) -> Scene:
    """The other node serves, its clients hold locks, and its grace is over."""
    scene.cluster.takeover(THERE, "home")
    scene.cluster.clients_lock("home", THERE)
    scene.cluster.grace_ends()
    scene.log.events.clear()
    return scene


def released_by_the_other_node(scene: Scene, ready: list[Action]) -> Sink:
    """A sink; ``ready``: what was done here when the release began."""

    def sink(event: Event) -> None:
        scene.log(event)
        if isinstance(event, AwaitingRelease):
            ready.extend(scene.node.begun)
            scene.cluster.meanwhile(lambda: scene.cluster.release(THERE, "home"))

    return sink


def test_a_takeover_that_waits_gets_ready_what_it_can_before_the_other_node_lets_go(moving: Scene) -> None:
    ready: list[Action] = []
    assert moving.cluster.takeover(HERE, "home", wait=60.0, sink=released_by_the_other_node(moving, ready)) is True
    assert moving.log.of(AwaitingRelease) == [AwaitingRelease("home", THERE)]
    assert ready == [Action.ISOLATE, Action.START_DAEMONS, Action.SET_UP_NFSD]
    assert moving.serves()
    assert standing(moving.owner()) == (2, HERE, "serving")
    assert moving.spot.locks == moving.cluster.holding["home"]
    assert not moving.spot.grace, "every lock that the release noted is held again"


def test_a_takeover_that_waits_claims_with_the_generation_that_the_release_left(moving: Scene) -> None:
    """Not with the one that it saw before: records of that one would pass for the newest."""
    moving.owner()
    record = moving.owner()
    assert record is not None
    moving.cluster.registry.update(record._replace(state=41))

    def sink(event: Event) -> None:
        if isinstance(event, AwaitingRelease):
            moving.cluster.registry.update(record._replace(state=43, standing=Standing.RELEASED))
            moving.cluster.nodes[THERE].spots.clear()

    moving.cluster.takeover(HERE, "home", wait=60.0, sink=sink)
    owner = moving.owner()
    assert owner is not None
    assert owner.state == 43


def test_a_release_that_does_not_come_in_time_leaves_the_owner_in_peace_and_nothing_here(moving: Scene) -> None:
    record = moving.owner()
    with pytest.raises(Refused) as caught:
        moving.cluster.takeover(HERE, "home", wait=1e-9)
    assert caught.value.code == "still-served"
    assert moving.log.of(Ended) == [Ended(Outcome.TAKEN_DOWN, str(caught.value))]
    assert moving.spot.empty()
    assert moving.owner() == record
    assert moving.cluster.serving("home") == [THERE]


def test_while_a_takeover_waits_its_keeper_leaves_the_records_of_the_other_node_alone(moving: Scene) -> None:
    moving.cluster.quick = True
    before = replace(moving.cluster.records["home"])
    with pytest.raises(Refused):
        moving.cluster.takeover(HERE, "home", wait=1e-9)
    assert Action.START_DAEMONS in moving.node.begun
    assert moving.cluster.records["home"] == before


def test_what_no_release_would_make_right_is_refused_at_once_however_long_it_may_wait(alone: Scene) -> None:
    with pytest.raises(Refused) as caught:
        alone.cluster.takeover(HERE, "home", wait=60.0)
    assert caught.value.code == "no-proof"
    assert alone.node.begun == []


# Where the journal goes


@pytest.fixture
def travelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """A service whose state directory lies on a partition of its own, below a mount point that is there."""
    scene = Scene(tmp_path, monkeypatch)
    partition = shapes.partition(1, tmp_path / "home")
    service = SERVICE._replace(partitions=(partition,), state=tmp_path / "home/state")
    scene.cluster.services["home"] = service
    return scene


def copy_open_at(scene: Scene, run: str) -> dict[Action | None, bool]:
    """At which steps the copy of the journal beside the records was open; None: when the run began."""
    found: dict[Action | None, bool] = {}

    def look(event: Event) -> None:
        if isinstance(event, Begun | StepStarted):
            action = event.step.action if isinstance(event, StepStarted) else None
            found[action] = bool(scene.cluster.shared_journals)

    work = partial(runs.takeover, word=Word()) if run == "takeover" else runs.release
    with scene.cluster._nlmfo(HERE, None) as config:
        work(config, scene.cluster.services["home"], sink=look)
    return found


def test_the_copy_of_the_journal_is_open_while_the_records_are_there_and_no_longer(travelling: Scene) -> None:
    travelling.cluster.services["home"].state.mkdir(parents=True)
    up = copy_open_at(travelling, "takeover")
    assert [action for action, is_open in up.items() if not is_open][-1] is Action.RECORDS
    down = copy_open_at(travelling, "release")
    assert [action for action, is_open in down.items() if not is_open] == [Action.UMOUNT, Action.DISOWN]


def test_a_state_directory_that_is_not_made_yet_is_no_place_for_the_journal(travelling: Scene) -> None:
    assert not any(list(copy_open_at(travelling, "takeover").values())[: TAKEOVER_ACTIONS.index(Action.RECORDS)])
    assert not any(copy_open_at(travelling, "release").values())
