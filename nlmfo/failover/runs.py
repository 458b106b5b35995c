# SPDX-License-Identifier: GPL-2.0-or-later
"""A whole takeover or release: observe, prove, plan, execute, and take down again what could not be brought up."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from nlmfo.config import Config, Service
from nlmfo.errors import Incomplete, NlmfoError, NotOwned
from nlmfo.failover import plan
from nlmfo.failover.actions import Actions
from nlmfo.failover.engine import execute
from nlmfo.failover.events import CleaningUp, Proved, RollingBack, Sink
from nlmfo.failover.observe import Observed, observe
from nlmfo.host.namespaces import RUN
from nlmfo.ownership import proof
from nlmfo.ownership.proof import Word
from nlmfo.ownership.record import boot_id
from nlmfo.ownership.registry import DirectoryRegistry, NoRegistry, Registry


def registry_of(config: Config) -> Registry:
    """Where the owner records of this configuration are."""
    return NoRegistry(RUN) if config.registry is None else DirectoryRegistry(config.registry)


def takeover(config: Config, service: Service, word: Word, sink: Sink) -> bool:
    """Serve ``service`` on this node; False when it was served here already.

    Raises Refused when another node may be serving it, before anything is changed. When a step fails, what was
    begun is taken down and the owner record says so: another node may try. Incomplete when even that failed.
    """
    with _only_run(service):
        registry = registry_of(config)
        seen = observe(service, config.node, registry)
        actions = Actions(config, service, registry, sink)
        if seen.serves(service):
            actions.thaw()  # in case a release was killed before it changed anything else
            return False
        found = proof.of_absence(
            service.name, seen.owner, config.node, boot_id(), word, has_registry=config.registry is not None
        )
        sink(Proved(service.name, found.reason, found.epoch))
        actions.proof = found
        actions.known_state = 0 if seen.owner is None else seen.owner.state
        if seen.anything():
            sink(CleaningUp(service.name))
            execute(plan.release(service, seen), actions, sink)
        try:
            execute(plan.takeover(service), actions, sink)
        except BaseException:  # also when interrupted: nothing may stay half-served
            with _uninterrupted():
                sink(RollingBack(service.name))
                _take_down(config, service, registry, actions, sink)
            raise
        return True


def release(config: Config, service: Service, sink: Sink) -> None:
    """Let go of ``service`` on this node; NotOwned when there is nothing of it here."""
    with _only_run(service):
        registry = registry_of(config)
        seen = observe(service, config.node, registry)
        if not seen.anything() and not seen.owned:
            raise NotOwned(f"service '{service.name}' is not served here{_by_whom(seen)}")
        execute(plan.release(service, seen), Actions(config, service, registry, sink), sink)


def _take_down(config: Config, service: Service, registry: Registry, actions: Actions, sink: Sink) -> None:
    try:
        execute(plan.release(service, observe(service, config.node, registry)), actions, sink)
    except Exception as error:  # whatever it is, what is left must not go unsaid
        raise Incomplete(
            f"service '{service.name}': the takeover failed, and so did taking it down again: {error}",
            hint=f"fence {config.node}, or mend the cause and run 'nlmfo release {service.name}' here; until then "
            "no other node may take over",
        ) from error


def _by_whom(seen: Observed) -> str:
    return f": {seen.owner.node} has it ({seen.owner.standing})" if seen.owner else ""


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """What takes a half-served service down is not stopped by a second Ctrl-C; every step has its deadline."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _only_run(service: Service) -> Iterator[None]:
    """One run for a service at a time on this node."""
    RUN.mkdir(mode=0o755, exist_ok=True)
    descriptor = os.open(RUN / f"{service.name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NlmfoError(
                f"service '{service.name}': another nlmfo is at work on it on this node",
                hint="wait for it to end",
            ) from None
        yield
    finally:
        os.close(descriptor)
