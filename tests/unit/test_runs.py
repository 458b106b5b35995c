# SPDX-License-Identifier: GPL-2.0-or-later
"""Whole runs, on a node in memory and with a real registry: whatever happens, nothing is half-served in silence."""

from __future__ import annotations

import errno
import fcntl
import os
from dataclasses import replace
from pathlib import Path

import pytest

from nlmfo.config import Config, Service
from nlmfo.errors import DeadlineExceeded, ExitCode, Incomplete, NlmfoError, NotOwned, Refused, StepFailed
from nlmfo.failover import plan, runs
from nlmfo.failover.events import CleaningUp, Event, Proved, RollingBack, StepNotDone, StepStarted
from nlmfo.failover.plan import Action
from nlmfo.ownership.proof import Word
from nlmfo.ownership.record import OwnerRecord, Standing
from nlmfo.ownership.registry import DirectoryRegistry, NoRegistry
from tests.unit import shapes
from tests.unit.node_fake import Log, Node, hands_of
from tests.unit.shapes import EARLIER_BOOT, HERE, THERE

SERVICE = shapes.service(partitions=2, addresses=2)
TAKEOVER_ACTIONS = [step.action for step in plan.takeover(SERVICE)]
RELEASE_ACTIONS = [step.action for step in plan.release(SERVICE, shapes.all_up(SERVICE))]


class Scene:
    """One node, one service, one registry, and the runs of nlmfo on it."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        registry = directory / "registry"
        (registry / "services").mkdir(parents=True)
        self.service = SERVICE
        self.config: Config = shapes.config(registry)
        self.registry = DirectoryRegistry(registry)
        self.node = Node(SERVICE)
        self.log = Log()
        self.run = directory / "run"
        monkeypatch.setattr(runs, "RUN", self.run)
        monkeypatch.setattr(runs, "observe", self.node.observe)
        monkeypatch.setattr(runs, "Actions", hands_of(self.node))

    def takeover(self, word: Word | None = None) -> bool:
        return runs.takeover(self.config, self.service, word or Word(), self.log)

    def release(self) -> None:
        runs.release(self.config, self.service, self.log)

    def owner(self) -> OwnerRecord | None:
        return self.registry.read(self.service.name)

    def owned_by(self, node: str, standing: Standing = Standing.SERVING) -> OwnerRecord:
        record = shapes.record(7, node, standing, boot=EARLIER_BOOT)
        (self.registry.directory / "services/home/owner").mkdir(parents=True, exist_ok=True)
        self.registry.claim(record)
        return record


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(tmp_path, monkeypatch)


def standing(record: OwnerRecord | None) -> tuple[int, str, str]:
    assert record is not None
    return record.epoch, record.node, str(record.standing)


def test_a_takeover_serves_and_says_so_in_the_registry(scene: Scene) -> None:
    assert scene.takeover() is True
    assert scene.node.serves()
    assert standing(scene.owner()) == (1, HERE, "serving")


def test_a_takeover_begins_with_the_proof(scene: Scene) -> None:
    scene.takeover()
    assert scene.log.events[0] == Proved("home", "it was never served before", 1)


def test_a_release_takes_all_of_it_down_and_says_so_in_the_registry(scene: Scene) -> None:
    scene.takeover()
    scene.release()
    assert scene.node.empty()
    assert standing(scene.owner()) == (1, HERE, "released")


def test_a_service_that_moves_back_and_forth_rises_by_one_epoch_each_time(scene: Scene) -> None:
    for epoch in (1, 2, 3):
        scene.takeover()
        assert standing(scene.owner())[0] == epoch
        scene.release()


def test_taking_over_what_is_served_here_already_touches_nothing(scene: Scene) -> None:
    scene.takeover()
    scene.log.events.clear()
    scene.node.begun.clear()
    assert scene.takeover() is False
    assert scene.node.begun == []
    assert scene.log.events == []
    assert standing(scene.owner()) == (1, HERE, "serving")


def test_records_that_a_killed_release_left_frozen_are_thawed_by_a_takeover_of_what_still_serves(scene: Scene) -> None:
    scene.takeover()
    scene.node.frozen = True
    assert scene.takeover() is False
    assert not scene.node.frozen


def test_a_refused_takeover_touches_nothing(scene: Scene) -> None:
    record = scene.owned_by(THERE)
    with pytest.raises(Refused) as caught:
        scene.takeover()
    assert caught.value.code == "still-served"
    assert scene.node.begun == []
    assert scene.log.events == []
    assert scene.owner() == record


def test_a_takeover_without_a_registry_to_read_touches_nothing(scene: Scene) -> None:
    (scene.registry.directory / "services").rmdir()
    with pytest.raises(Refused) as caught:
        scene.takeover()
    assert caught.value.code == "registry-unavailable"
    assert scene.node.begun == []


def test_a_fenced_owner_is_succeeded(scene: Scene) -> None:
    scene.owned_by(THERE)
    scene.takeover(Word(fenced=THERE))
    assert standing(scene.owner()) == (8, HERE, "serving")


def test_what_an_earlier_boot_of_this_node_served_is_taken_over_again(scene: Scene) -> None:
    scene.owned_by(HERE)
    scene.takeover()
    assert scene.node.serves()
    assert standing(scene.owner()) == (8, HERE, "serving")


@pytest.mark.parametrize("when", ["instead", "afterwards"])
@pytest.mark.parametrize("action", TAKEOVER_ACTIONS[1:])
def test_a_step_that_fails_takes_down_what_was_begun(scene: Scene, action: Action, when: str) -> None:
    getattr(scene.node, when)[action] = NlmfoError("broken", hint="mend it")
    with pytest.raises(StepFailed) as caught:
        scene.takeover()
    assert caught.value.hint == "mend it"
    assert scene.node.empty()
    assert standing(scene.owner()) == (1, HERE, "released")
    assert scene.log.of(RollingBack) == [RollingBack("home")]


def test_a_claim_that_fails_leaves_the_owner_as_it_was(scene: Scene) -> None:
    record = scene.owned_by(THERE, Standing.RELEASED)
    scene.node.instead[Action.CLAIM] = Refused("device-held", "it is in use")
    with pytest.raises(StepFailed) as caught:
        scene.takeover()
    assert caught.value.exit_code is ExitCode.REFUSED
    assert scene.node.empty()
    assert scene.owner() == record


def test_a_claim_that_another_node_wins_leaves_the_winner_in_peace(scene: Scene) -> None:
    winner = replace(shapes.record(1, THERE), boot_id=EARLIER_BOOT)

    def other_node_is_faster(event: Event) -> None:
        scene.log(event)
        if isinstance(event, Proved):
            (scene.registry.directory / "services/home/owner").mkdir(parents=True)
            scene.registry.claim(winner)

    with pytest.raises(StepFailed) as caught:
        runs.takeover(scene.config, SERVICE, Word(), other_node_is_faster)
    assert caught.value.exit_code is ExitCode.REFUSED
    assert scene.owner() == winner
    assert scene.node.begun == [Action.CLAIM]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), MemoryError(), ZeroDivisionError()])
@pytest.mark.parametrize("action", TAKEOVER_ACTIONS)
def test_an_interruption_at_any_step_takes_down_what_was_begun(
    scene: Scene, action: Action, error: BaseException
) -> None:
    scene.node.afterwards[action] = error
    with pytest.raises(type(error)):
        scene.takeover()
    assert scene.node.empty()
    assert standing(scene.owner()) == (1, HERE, "released")


@pytest.mark.parametrize("action", RELEASE_ACTIONS[:-1])
def test_when_taking_down_fails_too_the_run_is_incomplete_and_the_service_stays_ours(
    scene: Scene, action: Action
) -> None:
    scene.node.afterwards[Action.NOTIFY] = NlmfoError("first trouble")
    scene.node.instead[action] = NlmfoError("second trouble")
    with pytest.raises(Incomplete) as caught:
        scene.takeover()
    assert caught.value.exit_code is ExitCode.INCOMPLETE
    assert "second trouble" in caught.value.text
    assert f"fence {HERE}" in str(caught.value.hint)
    assert "nlmfo release home" in str(caught.value.hint)
    assert standing(scene.owner()) == (1, HERE, "serving")


@pytest.mark.parametrize(
    "error", [OSError(errno.ESTALE, "Stale file handle"), Refused("registry-unavailable", "gone"), ZeroDivisionError()]
)
def test_when_nothing_can_be_observed_during_the_taking_down_the_run_is_incomplete(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def blind(*_: object) -> None:
        raise error

    def trouble(event: Event) -> None:
        if isinstance(event, RollingBack):
            monkeypatch.setattr(runs, "observe", blind)

    scene.node.instead[Action.EXPORT] = NlmfoError("first trouble")
    with pytest.raises(Incomplete):
        runs.takeover(scene.config, SERVICE, Word(), trouble)


def test_after_an_incomplete_run_release_finishes_the_work_once_the_cause_is_gone(scene: Scene) -> None:
    scene.node.afterwards[Action.NOTIFY] = NlmfoError("first trouble")
    scene.node.instead[Action.UMOUNT] = NlmfoError("target is busy")
    with pytest.raises(Incomplete):
        scene.takeover()
    scene.node.instead.clear()
    scene.release()
    assert scene.node.empty()
    assert standing(scene.owner()) == (1, HERE, "released")


class Killed(BaseException):
    """SIGKILL: nothing of the run happens after it."""


def kill_at(scene: Scene, monkeypatch: pytest.MonkeyPatch, position: int) -> None:
    """Run a takeover that is killed before its step number ``position``, in the midst of nlmfo and without mercy."""

    def reaper(event: Event) -> None:
        if isinstance(event, StepStarted) and len(scene.node.begun) == position:
            raise Killed

    with monkeypatch.context() as dead:
        dead.setattr(runs, "_take_down", lambda *_: None)
        with pytest.raises(Killed):
            runs.takeover(scene.config, SERVICE, Word(), reaper)
    scene.node.begun.clear()


@pytest.mark.parametrize("position", range(len(TAKEOVER_ACTIONS)))
def test_killed_before_any_step_a_second_takeover_gets_there(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, position: int
) -> None:
    kill_at(scene, monkeypatch, position)
    scene.takeover()
    assert scene.node.serves()
    assert standing(scene.owner())[1:] == (HERE, "serving")


@pytest.mark.parametrize("position", range(1, len(TAKEOVER_ACTIONS)))
def test_killed_before_any_step_a_release_gets_there_too(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, position: int
) -> None:
    kill_at(scene, monkeypatch, position)
    scene.release()
    assert scene.node.empty()
    assert standing(scene.owner()) == (1, HERE, "released")


@pytest.mark.parametrize("action", RELEASE_ACTIONS)
def test_a_release_that_fails_at_any_step_can_be_run_again(scene: Scene, action: Action) -> None:
    scene.takeover()
    scene.node.instead[action] = NlmfoError("broken")
    with pytest.raises(StepFailed):
        scene.release()
    assert standing(scene.owner()) == (1, HERE, "serving")
    scene.node.instead.clear()
    scene.release()
    assert scene.node.empty()
    assert standing(scene.owner()) == (1, HERE, "released")


@pytest.mark.parametrize("action", RELEASE_ACTIONS[1:])
def test_a_release_that_was_cut_off_at_any_step_can_be_turned_into_a_takeover(scene: Scene, action: Action) -> None:
    scene.takeover()
    scene.node.afterwards[action] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        scene.release()
    scene.node.afterwards.clear()
    scene.takeover()
    assert scene.node.serves()
    assert standing(scene.owner()) == (2, HERE, "serving")


def test_what_a_dead_run_left_behind_goes_before_the_new_takeover_begins(scene: Scene) -> None:
    scene.owned_by(THERE, Standing.RELEASED)
    scene.node.mounted.add(SERVICE.mount_order[0].uuid)
    scene.takeover()
    assert scene.log.of(CleaningUp) == [CleaningUp("home")]
    assert scene.node.begun.index(Action.UMOUNT) < scene.node.begun.index(Action.CLAIM)
    assert scene.node.serves()


def test_when_the_rest_cannot_be_taken_down_the_takeover_does_not_begin(scene: Scene) -> None:
    scene.node.mounted.add(SERVICE.mount_order[0].uuid)
    scene.node.instead[Action.UMOUNT] = DeadlineExceeded("unmount", 30)
    with pytest.raises(StepFailed) as caught:
        scene.takeover()
    assert caught.value.exit_code is ExitCode.DEADLINE
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


def test_the_rest_of_a_service_that_another_node_serves_goes_without_touching_its_record(scene: Scene) -> None:
    record = scene.owned_by(THERE)
    scene.node.mounted.add(SERVICE.mount_order[0].uuid)
    scene.release()
    assert scene.node.empty()
    assert scene.owner() == record


def test_a_failed_step_is_told_before_the_taking_down_begins(scene: Scene) -> None:
    scene.node.instead[Action.EXPORT] = NlmfoError("broken")
    with pytest.raises(StepFailed):
        scene.takeover()
    kinds = [type(event) for event in scene.log.events]
    assert kinds.index(StepNotDone) < kinds.index(RollingBack)


@pytest.mark.parametrize("run", ["takeover", "release"])
def test_while_one_run_is_at_work_on_a_service_another_does_not_begin(scene: Scene, run: str) -> None:
    scene.run.mkdir()
    with (scene.run / "home.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(NlmfoError, match="another nlmfo is at work on it"):
            getattr(scene, run)()
    assert scene.node.begun == []


def test_two_runs_of_which_neither_waits_do_not_share_the_service(scene: Scene) -> None:
    refused: list[NlmfoError] = []

    def meanwhile(event: Event) -> None:
        if isinstance(event, Proved):
            with pytest.raises(NlmfoError, match="another nlmfo is at work on it") as caught:
                scene.release()
            refused.append(caught.value)

    assert runs.takeover(scene.config, SERVICE, Word(), meanwhile) is True
    assert len(refused) == 1


def test_runs_for_different_services_do_not_wait_for_each_other(scene: Scene) -> None:
    scene.run.mkdir()
    with (scene.run / "mail.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert scene.takeover() is True


def test_a_run_that_ended_lets_the_next_one_in_whether_it_failed_or_not(scene: Scene) -> None:
    scene.node.instead[Action.MOUNT] = NlmfoError("broken")
    with pytest.raises(StepFailed):
        scene.takeover()
    scene.node.instead.clear()
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

    runs.takeover(scene.config, SERVICE, Word(), look)
    assert flags
    assert not any(flags)


def test_the_configuration_decides_where_owners_are_recorded(tmp_path: Path) -> None:
    service: dict[str, Service] = {}
    assert isinstance(runs.registry_of(shapes.config(tmp_path, service)), DirectoryRegistry)
    assert isinstance(runs.registry_of(shapes.config(None, service)), NoRegistry)
