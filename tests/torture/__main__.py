# SPDX-License-Identifier: GPL-2.0-or-later
"""``make torture``: rounds of trouble on a lab, judged from the clients' logs. See --help."""

from __future__ import annotations

import argparse
import itertools
import random
import secrets
import statistics
import sys
import time
from collections.abc import Iterator, Sequence

from tests.lab.lab import Lab
from tests.lab.node import NodeDown
from tests.lab.root import CACHE
from tests.torture import checker, mutant, nemesis
from tests.torture.checker import Violation
from tests.torture.nemesis import TROUBLES, Trouble
from tests.torture.world import GRACE, Stage, Stuck, World

#: Seconds, beyond grace, in which every process gets on: a client asks again for a lock that it waits for every 30 s.
PATIENCE = 60.0
#: Rounds between two judgements of all that was said.
EVERY = 10
VIOLATIONS_SHOWN = 5


def arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.torture", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="how much trouble (default: %(default)s)")
    parser.add_argument("--seed", default="", help="replay the trouble of an earlier run")
    parser.add_argument("--servers", type=int, default=2)
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--isolation", choices=("netns", "host"), default="netns")
    parser.add_argument("--only", choices=[trouble.__name__ for trouble in TROUBLES], action="append")
    parser.add_argument(
        "--mutation", choices=("", *mutant.NAMES), default="", help="take a safety step out of nlmfo; see mutant.py"
    )
    return parser.parse_args(words)


class Run:
    """Rounds on one world."""

    def __init__(self, world: World, rounds: int, only: Sequence[str]) -> None:
        self.world = world
        self.rounds = rounds
        self._only = only

    def go(self) -> list[Violation]:
        """Until a violation, or to the end. What gets stuck is one, if clients have not seen a worse one."""
        try:
            self.world.start()
            return self._rounds()
        except (Stuck, NodeDown) as stuck:
            self.world.look_around()
            return self.judge() or [Violation(f"stuck in {self.world.about}: {stuck}", ())]
        except KeyboardInterrupt:
            self.world.say("interrupted: judged is what there is")
            return self.judge()
        finally:
            self.world.keep_histories()

    def _rounds(self) -> list[Violation]:
        for number, trouble in enumerate(itertools.islice(self._deal(), self.rounds), 1):
            begun, before = time.monotonic(), sum(self.world.takeovers.values())
            self._round(number, trouble)
            taken = sum(self.world.takeovers.values()) - before
            self.world.say(f"round {number}: {trouble.__name__}, {taken} takeovers, {time.monotonic() - begun:.0f} s")
            if (number % EVERY == 0 or self.world.stage.mutation) and (found := self.judge()):
                return found
        return self._calm() or self.judge()

    def _deal(self) -> Iterator[Trouble]:
        dealt = nemesis.deal(self.world.seed)
        return (trouble for trouble in dealt if not self._only or trouble.__name__ in self._only)

    def _round(self, number: int, trouble: Trouble) -> None:
        self.world.about = trouble.__name__
        begun = time.time()
        chance = random.Random(f"{self.world.seed} {number}")
        time.sleep(chance.uniform(0.5, 3))
        trouble(self.world, chance)
        self.world.restore(begun)

    def judge(self) -> list[Violation]:
        history = self.world.read()
        patience = GRACE + PATIENCE
        return checker.violations(history) + list(checker.stalled(history, self.world.outages, time.time(), patience))

    def _calm(self) -> list[Violation]:
        """Nothing happens any more: every process gets on."""
        begun, last = time.time(), {}
        while time.time() < begun + GRACE + PATIENCE:
            last = {process: times[-1] for process, times in self.world.read().progress.items()}
            if all(at > begun for process, at in last.items() if not process.endswith("holder")):
                return []
            time.sleep(1)
        late = [process for process, at in last.items() if at < begun and not process.endswith("holder")]
        return [Violation(f"{p} does nothing any more", ((last[p], "the last that it did"),)) for p in late]


def report(world: World) -> None:
    history = world.read()
    counted = checker.count(history)
    world.say(f"takeovers: {sum(world.takeovers.values())}: {dict(world.takeovers.most_common())}")
    if world.durations:
        world.say(f"a takeover took {statistics.median(world.durations):.1f} s (median of commands)")
    world.say(
        f"locks granted: {len(history.holds)}, refused: {history.refusals}, probes: {len(history.probes)}; "
        f"{counted.registers} counters at {counted.final} in all: {counted.acknowledged} acknowledged increments, "
        f"{counted.unknown} of processes that ended meanwhile"
    )


def main(words: Sequence[str]) -> int:
    chosen = arguments(words)
    seed = chosen.seed or secrets.token_hex(4)
    begun = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - begun:7.1f} s  {text}", flush=True)

    stage = Stage(chosen.servers, chosen.clients, chosen.isolation, chosen.mutation)
    again = f"--seed {seed} --servers {stage.servers} --clients {stage.clients} --isolation {stage.isolation}"
    again += f" --mutation {stage.mutation}" * bool(stage.mutation)
    again += "".join(f" --only {trouble}" for trouble in chosen.only or ())
    say(f"torture: {again} --rounds {chosen.rounds}")
    logs = CACHE / f"logs/torture-{stage.isolation}-{seed}"
    with Lab(logs) as lab:
        world = World(lab, stage, seed, say)
        found = Run(world, chosen.rounds, chosen.only or ()).go()
        report(world)
    for violation in found[:VIOLATIONS_SHOWN]:
        print(f"\nVIOLATION {violation}")
    say(f"{len(found)} violations; {again}; logs: {logs}" if found else f"no violation; {again}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
