# SPDX-License-Identifier: GPL-2.0-or-later
"""A whole takeover or release: look, prove, plan, execute, and take down again what could not be brought up.

A run that is killed is picked up by the next command, whichever it is: ``resume`` goes on with what the journal says
was wanted, ``abort`` goes back. Both look again and plan anew; the journal only tells them which way.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from nlmfo.config import Config, Isolation, Service
from nlmfo.deadline import Deadline, poll_until
from nlmfo.errors import Incomplete, NlmfoError, NotOwned, Refused
from nlmfo.failover import last_run, plan
from nlmfo.failover.actions import Actions, Standpoint
from nlmfo.failover.engine import execute, uninterrupted
from nlmfo.failover.events import AwaitingRelease, Begun, CleaningUp, Ended, Planned, Proved, RollingBack, Sink
from nlmfo.failover.host import HostActions, no_way_into_grace
from nlmfo.failover.journal import Journal
from nlmfo.failover.last_run import RUNS
from nlmfo.failover.look import look
from nlmfo.failover.netns import NetnsActions
from nlmfo.failover.observe import Observed
from nlmfo.failover.owner import registry_of
from nlmfo.failover.plan import Action, Plan
from nlmfo.failover.verbs import Outcome, Verb
from nlmfo.host import node_server, own_mounts
from nlmfo.host.pins import RUN
from nlmfo.ownership import fence, proof
from nlmfo.ownership.proof import Proof, Word
from nlmfo.ownership.record import OwnerRecord, boot_id
from nlmfo.ownership.registry import Registry

#: Seconds to wait for another service's run: in host isolation it may restart the nfsd of all.
TURN = 300.0
#: Seconds between two looks at the owner record while it is awaited that it says "released".
POLL = 0.02
#: What the fence hook prints.
FENCE_LOG = Path("/var/log/nlmfo-fence.log")
#: Refusals that mean that somebody else may serve after all: nobody must be told that the service was released here.
EVIDENCE = frozenset({"mmp-in-use", "fsck-running", "newer-copy", "wrong-node", "wrong-state", "owner-unreadable"})


class Busy(NlmfoError):
    """Somebody else is at work on the service on this node."""


def hands_of(config: Config, service: Service, registry: Registry, standpoint: Standpoint, sink: Sink) -> Actions:
    """The hands for the service's isolation."""
    kind = HostActions if service.isolation is Isolation.HOST else NetnsActions
    return kind(config, service, registry, standpoint, sink)


def takeover(config: Config, service: Service, word: Word, sink: Sink, *, wait: float = 0.0) -> bool:
    """Serve ``service`` on this node; False when it was served here already, whole, and everybody told.

    While another node serves it, get everything ready that can be, and wait for up to ``wait`` seconds until its
    release is on record. Raises Refused when another node may be serving it, before anything is changed. When a step
    fails, what was begun is taken down and the owner record says so: another node may try. Incomplete when even that
    failed.
    """
    with only_run(service):
        return _takeover(config, service, word, sink, wait)


def release(config: Config, service: Service, sink: Sink) -> None:
    """Let go of ``service`` on this node; NotOwned when there is nothing of it here.

    Raises Incomplete when a step fails: what is done stays done, and ``resume`` goes on from there.
    """
    with only_run(service):
        _release(config, service, Verb.RELEASE, sink)


def fence_node(config: Config, node: str) -> Word:
    """Have the hook of the configuration fence a node; the word that follows from it. Raises Refused."""
    if not config.fence:
        raise NlmfoError(
            f"there is no fence hook to fence {node} with",
            hint='set [cluster] fence = ["/path/to/command", "{node}"], or say --fenced if it is down for certain',
        )
    fence.fence(config.fence, node, deadline=config.fence_deadline, log=FENCE_LOG)
    return Word(fenced=node)


def resume(config: Config, service: Service, word: Word, sink: Sink) -> bool:
    """Go on with the last run for ``service`` on this node if it did not end well; False when it did."""
    with only_run(service):
        past = last_run.newest(RUNS, service.name)
        if past is None or past.finished:
            return False
        if past.verb is Verb.TAKEOVER:
            _takeover(config, service, word, sink)
        else:
            _let_go(config, service, past.verb, sink)
        return True


def abort(config: Config, service: Service, sink: Sink) -> Outcome:
    """Go back to a safe state after a run that did not end well: SERVED or RELEASED.

    A release that has taken nothing down yet is called off; everything else ends in nothing being left here.
    """
    with only_run(service):
        past = last_run.newest(RUNS, service.name)
        if past is None or past.finished:
            raise NlmfoError(
                f"service '{service.name}': no run on this node is unfinished",
                hint=f"'nlmfo release {service.name}' lets go of it",
            )
        if past.verb is Verb.RELEASE and look(config, service, registry_of(config)).serves(service):
            _takeover(config, service, Word(), sink)
            return Outcome.SERVED
        _let_go(config, service, Verb.ABORT, sink)
        return Outcome.RELEASED


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a command would do now. ``refused``: why it would not; ``first``: what is cleaned up beforehand."""

    verb: Verb
    first: Plan
    steps: Plan
    proof: Proof | None = None
    refused: Refused | None = None


def outlook(config: Config, service: Service, verb: Verb, word: Word) -> Outlook:
    """Plan and change nothing. NotOwned when there would be nothing to release."""
    registry = registry_of(config)
    seen = look(config, service, registry)
    if seen.superseded(config.node):
        return Outlook(verb, (), (), refused=superseded(config.node, service, seen))
    if verb is not Verb.TAKEOVER:
        _refuse_if_nothing(service, seen)
        return Outlook(verb, (), (*plan.release(service, seen), *plan.amends(seen)))
    first, steps = plan.takeover(service, seen)
    try:
        found = _prove(config, service, seen, word) if _claims(steps) else None
        _refuse_if_unfit(config, service, seen, word, steps)
    except Refused as refused:
        return Outlook(verb, first, steps, refused=refused)
    return Outlook(verb, first, steps, proof=found)


def _takeover(config: Config, service: Service, word: Word, sink: Sink, wait: float = 0.0) -> bool:
    registry = registry_of(config)
    seen = look(config, service, registry)
    _refuse_if_superseded(config, service, seen)
    _stop_if_unread(service, seen)
    first, steps = plan.takeover(service, seen)
    if not first and not steps:
        _close_earlier(config, service, seen, Outcome.SERVED, sink)
        return False
    claims = _claims(steps)
    found = _prove(config, service, seen, word, patient=wait > 0) if claims else None
    _refuse_if_unfit(config, service, seen, word, steps)
    with (
        _journal(config, service, Verb.TAKEOVER, seen, sink, word) as log,
        closing(hands_of(config, service, registry, Standpoint(word), log)) as hands,
    ):
        log(Planned((*first, *steps)))
        if first:
            log(CleaningUp(service.name))
            _execute_or_leave(service, first, hands, log)
        ready, steps = plan.prelude(steps)
        try:
            execute(ready, hands, log)
            if claims:
                if found is None:
                    hands.stand_by()
                    found, seen = _await_release(config, service, registry, seen, Deadline(wait), log)
                log(Proved(service.name, found.reason, found.epoch))
                hands.standpoint = Standpoint(word, found, 0 if seen.owner is None else seen.owner.state)
            execute(steps, hands, log)
        except BaseException as error:  # also when interrupted: nothing may stay half-served
            if not claims:
                raise _left(service, error) from error
            with uninterrupted():  # nor by a second Ctrl-C
                _take_down(config, service, registry, hands, error, log)
            raise
        log(Ended(Outcome.SERVED))
    return True


def _await_release(
    config: Config, service: Service, registry: Registry, seen: Observed, limit: Deadline, sink: Sink
) -> tuple[Proof, Observed]:
    """The proof, as soon as the owner's release is on record; raises Refused when it is not in time."""
    sink(AwaitingRelease(service.name, seen.owner.node if seen.owner else ""))
    while True:
        seen = replace(seen, owner=registry.read(service.name))
        found = _prove(config, service, seen, Word(), patient=not limit.passed())
        if found is not None:
            return found, seen
        time.sleep(min(POLL, limit.remaining()))


def _release(config: Config, service: Service, verb: Verb, sink: Sink) -> None:
    registry = registry_of(config)
    seen = look(config, service, registry)
    _refuse_if_nothing(service, seen)
    _refuse_if_superseded(config, service, seen)
    with (
        _journal(config, service, verb, seen, sink, Word()) as log,
        closing(hands_of(config, service, registry, Standpoint(), log)) as hands,
    ):
        steps = (*plan.release(service, seen), *plan.amends(seen))
        log(Planned(steps))
        _execute_or_leave(service, steps, hands, log)
        log(Ended(Outcome.RELEASED))


def _execute_or_leave(service: Service, steps: Plan, hands: Actions, sink: Sink) -> None:
    """What is done stays done when a step fails, and the error says how to go on."""
    try:
        execute(steps, hands, sink)
    except (NlmfoError, KeyboardInterrupt) as error:
        raise _left(service, error) from error


def _let_go(config: Config, service: Service, verb: Verb, sink: Sink) -> None:
    """Release what is left, if anything is."""
    try:
        _release(config, service, verb, sink)
    except NotOwned:
        _close_earlier(config, service, look(config, service, registry_of(config)), Outcome.RELEASED, sink)


def _take_down(
    config: Config, service: Service, registry: Registry, hands: Actions, error: BaseException, sink: Sink
) -> None:
    try:
        seen = replace(look(config, service, registry), listed=False)
        if _is_evidence(error):
            seen = replace(seen, owned=False)
        back = (*plan.release(service, seen), *plan.amends(seen))
        if back:
            sink(RollingBack(service.name))
        execute(back, hands, sink)
    except Exception as trouble:  # whatever it is, what is left must not go unsaid
        raise Incomplete(
            f"service '{service.name}': the takeover failed ({error}), and so did taking it down again: {trouble}",
            hint=f"fence {config.node}, or mend the cause and run 'nlmfo abort {service.name}' here; until then "
            "no other node may take over",
        ) from trouble
    sink(Ended(Outcome.TAKEN_DOWN if back else Outcome.UNTOUCHED, str(error)))


def _left(service: Service, error: BaseException) -> BaseException:
    """What a run ends with that leaves something behind."""
    then = f"'nlmfo resume {service.name}' goes on from here, 'nlmfo abort {service.name}' goes back"
    if isinstance(error, KeyboardInterrupt):
        return Incomplete("interrupted: something is left here", hint=then)
    if not isinstance(error, NlmfoError):
        return error
    return Incomplete(error.text, hint=f"{error.hint}; then {then}" if error.hint else then)


def _is_evidence(error: BaseException) -> bool:
    cause = error.__cause__
    return isinstance(cause, Refused) and cause.code in EVIDENCE


def _claims(steps: Plan) -> bool:
    return any(step.action is Action.CLAIM for step in steps)


def _prove(config: Config, service: Service, seen: Observed, word: Word, *, patient: bool = False) -> Proof | None:
    """Why this node may serve; None, to the ``patient``, while the owner record says that another does."""
    try:
        return proof.of_absence(
            service.name,
            seen.owner,
            config.node,
            boot_id(),
            word,
            has_registry=config.registry is not None,
            holds=bool(seen.mounted),
        )
    except Refused as refused:
        if patient and refused.code == "still-served":
            return None
        raise


def _refuse_if_unfit(config: Config, service: Service, seen: Observed, word: Word, steps: Plan) -> None:
    """Host isolation relies on the node's own NFS server: what would lose a lock there is refused beforehand."""
    if service.isolation is not Isolation.HOST or not any(step.action is Action.GRACE for step in steps):
        return
    if not seen.per_address and not config.restart_nfsd:
        raise no_way_into_grace(service)
    node_server.refuse_if_unfit(node_server.unfit(own_mounts.v3_clients(), service.versions), word.forced)


def _stop_if_unread(service: Service, seen: Observed) -> None:
    """A service whose storage is slow is not taken down for that, and those of others are not restarted."""
    if seen.unread and (seen.serves(service) or seen.unread != (service.name,)):
        raise NlmfoError(
            f"the records of {', '.join(seen.unread)} do not answer: nobody can tell whether their clients were told",
            hint="see to the storage that they lie on, then try again",
        )


def _refuse_if_superseded(config: Config, service: Service, seen: Observed) -> None:
    """What was mounted here while another node had it must not be written to any more, and an unmount writes."""
    if seen.superseded(config.node):
        raise superseded(config.node, service, seen)


def superseded(node: str, service: Service, seen: Observed) -> Refused:
    by = seen.owner.node if seen.owner else ""
    return Refused(
        "superseded",
        f"service '{service.name}': {by} has taken it over, and its partitions are still mounted on {node}: "
        "whatever is written here now destroys them, and unmounting writes",
        hint=f"restart {node} without writing anything back: 'echo b > /proc/sysrq-trigger'; then have the "
        f"file systems checked on {by}",
    )


def _refuse_if_nothing(service: Service, seen: Observed) -> None:
    if not (seen.anything() or seen.owned or seen.listed):
        raise not_served(service, seen.owner)


def not_served(service: Service, owner: OwnerRecord | None, hint: str | None = None) -> NotOwned:
    """That a service is not served here, and who has it; the ``hint`` is for where somebody has."""
    by = f": {owner.node} has it ({owner.standing})" if owner else ""
    return NotOwned(f"service '{service.name}' is not served here{by}", hint=hint if owner else None)


@contextmanager
def _journal(config: Config, service: Service, verb: Verb, seen: Observed, sink: Sink, word: Word) -> Iterator[Sink]:
    """The journal of a run, which says how the run ended also when that was badly."""
    state = service.state_partition
    log = Journal(service, sink, attached=service.state.is_dir() and (state is None or state.uuid in seen.mounted))
    try:
        log(Begun(verb, service.name, config.node, boot_id(), word.fenced, word.released_by, log.run))
        yield log
    except BaseException as error:
        if not log.ended:
            log(Ended(Outcome.INCOMPLETE, str(error) or type(error).__name__))
        raise
    finally:
        log.close()


def _close_earlier(config: Config, service: Service, seen: Observed, outcome: Outcome, sink: Sink) -> None:
    """Nothing is left to do: a run that was cut off before has come to its end."""
    past = last_run.newest(RUNS, service.name)
    if past is not None and not past.finished:
        with _journal(config, service, past.verb, seen, sink, Word()) as log:
            log(Ended(outcome))


@contextmanager
def alone(service: Service) -> Iterator[None]:
    """One process at a time changes anything of a service on this node. Raises Busy."""
    RUN.mkdir(mode=0o755, exist_ok=True)
    with ExitStack() as held:
        if not _lock(held, RUN / f"{service.name}.lock"):
            raise Busy(
                f"service '{service.name}': another nlmfo is at work on it on this node", hint="wait for it to end"
            )
        yield


@contextmanager
def only_run(service: Service) -> Iterator[None]:
    """One run for a service at a time on this node, and for all services that share its nfsd."""
    with ExitStack() as held:
        held.enter_context(alone(service))
        if service.isolation is Isolation.HOST:
            what = "the run of another service that shares this node's nfsd"
            poll_until(what, lambda: _lock(held, RUN / "host.lock"), Deadline(TURN), interval=0.1)
        yield


def _lock(held: ExitStack, path: Path) -> bool:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    held.callback(os.close, descriptor)
    return True
