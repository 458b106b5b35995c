# SPDX-License-Identifier: GPL-2.0-or-later
"""When grace may end early: a truth table that was written by hand, against every combination of what can be known."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, combinations, product

import pytest

from nlmfo.config import Consistency, EndGrace, Isolation, Service
from nlmfo.failover.grace import Known, why_it_may_end
from nlmfo.records.ledger import Standing
from tests.unit import shapes

SYNC, ASYNC, SNAPSHOT = Consistency
BACK, LEFT, ANSWERED = Standing.BACK, Standing.LEFT, Standing.ANSWERED
UNSETTLED = (Standing.PENDING, Standing.TOLD, Standing.UNREACHABLE)

#: All of what makes an early end possible, and nothing else does. Each line: (the configuration), then what is known:
#: is anybody on record; locks of before (None: nobody noted them); exact; how many are missing; are the records whole.
MAY_END = {
    # Everybody on record is done with (BACK, LEFT or ANSWERED), and every lock that a release noted is held again.
    *product(("reclaimed", "estimate"), (SYNC, ASYNC, SNAPSHOT), ["done"], (0, 7), [True], [0], (True, False)),
    # The same by the last look before a crash, which may miss some: only where the configuration says so.
    *product(["estimate"], (SYNC, ASYNC, SNAPSHOT), ["done"], (0, 7), [False], [0], (True, False)),
    # Nobody is on record of records that are whole: then nobody was granted a lock, if records come before locks,
    *product(("reclaimed", "estimate"), [SYNC], ["nobody"], (None, 0), (True, False), [0], [True]),
    # and otherwise if a release saw that there was no lock either.
    *product(("reclaimed", "estimate"), (ASYNC, SNAPSHOT), ["nobody"], [0], [True], [0], [True]),
}


def groups() -> list[tuple[str, frozenset[Standing]]]:
    """Every set of standings, with what it stands for in the table."""
    sets = [frozenset(some) for n in range(len(Standing) + 1) for some in combinations(Standing, n)]
    names = ["nobody" if not some else "waiting" if some & {*UNSETTLED} else "done" for some in sets]
    return list(zip(names, sets, strict=True))


def service(end_grace: str, consistency: Consistency, isolation: Isolation = Isolation.NETNS) -> Service:
    return shapes.service(isolation=isolation)._replace(end_grace=EndGrace(end_grace), consistency=consistency)


@pytest.mark.parametrize("isolation", Isolation)
@pytest.mark.parametrize("consistency", Consistency)
@pytest.mark.parametrize("end_grace", EndGrace)
def test_grace_ends_early_exactly_where_the_table_says_so(
    end_grace: EndGrace, consistency: Consistency, isolation: Isolation
) -> None:
    of = service(end_grace, consistency, isolation)
    ended = 0
    for group, standings in groups():
        for locks, exact, missing, complete in product((None, 0, 7), (True, False), (0, 1, 7), (True, False)):
            if missing > (locks or 0):
                continue
            known = Known(standings, locks, exact, missing, complete)
            case = (str(end_grace), consistency, group, locks, exact, missing, complete)
            expected = isolation is Isolation.NETNS and case in MAY_END
            assert bool(why_it_may_end(of, known)) is expected, known
            ended += expected
    assert bool(ended) is (isolation is Isolation.NETNS and end_grace is not EndGrace.NEVER)


@pytest.mark.parametrize("waiting", UNSETTLED)
def test_one_client_that_may_still_reclaim_is_waited_for_whatever_the_others_did(waiting: Standing) -> None:
    for others in chain.from_iterable(combinations((BACK, LEFT, ANSWERED), n) for n in range(4)):
        known = Known({waiting, *others}, 7, exact=True, missing=0, complete=True)
        assert why_it_may_end(service("estimate", SYNC), known) == ""


def test_the_reason_says_what_it_was_judged_by() -> None:
    known = Known({BACK}, 7, exact=True, missing=0, complete=True)
    assert why_it_may_end(service("reclaimed", SYNC), known) == "every lock is held again"
    assert "estimate" in why_it_may_end(service("estimate", SYNC), replace(known, exact=False))
    nobody = replace(known, standings=frozenset(), locks=None, exact=False)
    assert why_it_may_end(service("reclaimed", SYNC), nobody) == "nobody was on record"
