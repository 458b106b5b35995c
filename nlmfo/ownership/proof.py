# SPDX-License-Identifier: GPL-2.0-or-later
"""Proof that nobody else serves, before anything is mounted. What is not proved is refused."""

from __future__ import annotations

from dataclasses import dataclass

from nlmfo.errors import Refused
from nlmfo.ownership.record import OwnerRecord, Standing


@dataclass(frozen=True, slots=True)
class Word:
    """What the operator, or a cluster manager, vouches for; ``forced``: the codes of refusals to pass."""

    fenced: str | None = None
    released_by: str | None = None
    forced: frozenset[str] = frozenset()


HELD = "this node still has its partitions mounted, from a run that did not end"


@dataclass(frozen=True, slots=True)
class Proof:
    """Why this node may serve, and the epoch that it may claim.

    ``recorded``: the last owner itself wrote down that it has let go; nobody vouches for it.
    """

    reason: str
    epoch: int
    recorded: bool = False


def of_absence(
    service: str,
    record: OwnerRecord | None,
    node: str,
    boot_id: str,
    word: Word,
    *,
    has_registry: bool,
    holds: bool = False,
) -> Proof:
    """Why no other node can be serving; raises Refused when that is not certain.

    ``record`` is the newest owner record. Without a registry it is only this node's own memory, and proves nothing,
    unless this node still ``holds`` a partition that it mounted as the owner: nobody else can have it then.
    """
    if node in (word.fenced, word.released_by):
        raise Refused(
            "no-proof",
            f"service '{service}': {node} is this node itself",
            hint="name the other node, the one that had the service",
        )
    epoch = 1 if record is None else record.epoch + 1
    if not has_registry:
        held = holds and record is not None and record.serves(node, boot_id)
        return Proof(HELD if held else _vouched(service, word), epoch)
    if record is None:
        return Proof("it was never served before", epoch)
    if record.standing is Standing.RELEASED:
        return Proof(f"{record.node} released it (epoch {record.epoch})", epoch, recorded=True)
    if record.node == node:
        boot = "this boot" if record.boot_id == boot_id else "an earlier boot"
        return Proof(f"its owner is this node itself, in {boot}", epoch)
    if record.node in (word.fenced, word.released_by):
        return Proof(_vouched(service, word), epoch)
    raise Refused(
        "still-served",
        f"service '{service}': {record.node} serves it (epoch {record.epoch})",
        hint=_way(record, word),
    )


def _vouched(service: str, word: Word) -> str:
    if word.fenced:
        return f"{word.fenced} is fenced: the operator says so"
    if word.released_by:
        return f"{word.released_by} has released it: the operator says so"
    raise Refused(
        "no-proof",
        f"service '{service}': nothing proves that no other node serves it, because there is no registry",
        hint="name the node that had it: --fenced NODE or --released-by NODE; or set [cluster] registry",
    )


def _way(record: OwnerRecord, word: Word) -> str:
    named = word.fenced or word.released_by
    if named:
        return f"you named {named}, but the owner is {record.node}: look again which node is down"
    return (
        f"run 'nlmfo release {record.service}' there; "
        f"if {record.node} is down for certain (power off, fenced): --fenced {record.node}"
    )
