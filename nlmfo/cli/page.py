# SPDX-License-Identifier: GPL-2.0-or-later
"""One run as a page of HTML for the post-mortem: the time line drawn, the report, and everything that was said.

The page needs nothing but itself: no script, no font, no address. All text in it is escaped, since names of clients
come from the network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from nlmfo.cli import history, words
from nlmfo.failover.events import AwaitingRelease, Progressed, Proved, StepDone, StepNotDone
from nlmfo.failover.past import Run
from nlmfo.failover.report import GRACE_BEGINS
from nlmfo.plain import plain

#: Pixels: the whole drawing, the column of names, a line, the two above all, and the chart of clients and locks.
WIDTH, NAMES, LINE, ABOVE, CHART = 1000, 330, 20, 40, 140
#: Room for seconds at the right of the longest bar, and for the axis.
RIGHT, AXIS = 90, 28

_STYLE = """
:root { color-scheme: light dark; --text: #1c2024; --dim: #63696f; --rule: #d5d9dd; --back: #ffffff; --bar: #3b74b8;
        --bad: #c4302b; --grace: #f2c14e; --told: #3b74b8; --home: #2e8b57; --locks: #8a4fb0; }
@media (prefers-color-scheme: dark) {
:root { --text: #e6e8ea; --dim: #9aa1a8; --rule: #3a4046; --back: #16191c; --bar: #6ea3e0; --bad: #ff7b72;
        --grace: #9a7414; --told: #6ea3e0; --home: #5fc48c; --locks: #c39be6; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--text); background: var(--back); margin: 2rem auto;
       max-width: 1040px; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin-bottom: .2rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
p.sub { color: var(--dim); margin-top: 0; }
pre { overflow-x: auto; font-size: 13px; line-height: 1.4; border-left: 3px solid var(--rule); padding-left: 1rem; }
svg { width: 100%; height: auto; } svg text { font: 12px system-ui, sans-serif; fill: var(--text); }
svg .dim { fill: var(--dim); } svg .rule { stroke: var(--rule); } svg .bar { fill: var(--bar); }
svg .bad { fill: var(--bad); } svg .grace { fill: var(--grace); opacity: .28; }
svg .line { fill: none; stroke-width: 2; } svg .told { stroke: var(--told); } svg .home { stroke: var(--home); }
svg .locks { stroke: var(--locks); } svg .wait { stroke: var(--dim); stroke-dasharray: 4 4; }
"""


def of(run: Run) -> str:
    """The page."""
    title = f"{run.begun.verb} of {run.begun.service} on {run.begun.node}"
    return "\n".join(
        (
            "<!DOCTYPE html>",
            f'<html lang="en"><head><meta charset="utf-8"><title>nlmfo: {_text(title)}</title>',
            f"<style>{_STYLE}</style></head><body>",
            f"<h1>{_text(title)}: {escape(history.outcome(run))}</h1>",
            f'<p class="sub">{_text(run.name)}, {words.when(run.report.began)} by the clock of that node</p>',
            "<h2>Time line</h2>",
            drawing(run),
            "<h2>Report</h2>",
            f"<pre>{escape(history.came_to(run))}</pre>",
            "<h2>What happened</h2>",
            f"<pre>{escape(history.happened(run))}</pre>",
            "</body></html>",
        )
    )


def _text(said: str) -> str:
    return escape(plain(said))


def drawing(run: Run) -> str:
    """The steps as bars, grace as a band behind them, and below it how clients and locks came back."""
    scale = _Scale.of(run)
    bars = list(_bars(run))
    curves = list(_curves(run))
    steps = ABOVE + len(bars) * LINE
    height = steps + AXIS + (CHART + AXIS if curves else 0)
    parts = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="time line of the run">']
    parts += _band(run, scale, height - (AXIS if curves else 0))
    parts += _axis(scale, steps)
    for number, bar in enumerate(bars):
        parts += _drawn_bar(bar, scale, ABOVE + number * LINE)
    parts += _waited(scale, steps)
    if curves:
        parts += _drawn_curves(curves, scale, steps + AXIS)
    return "\n".join((*parts, "</svg>"))


@dataclass(frozen=True, slots=True)
class _Scale:
    """From moments to pixels. The time for which a takeover waited for a release is left out, and marked."""

    begin: float
    end: float
    waited_from: float
    waited: float

    @classmethod
    def of(cls, run: Run) -> _Scale:
        begin, end = run.heard[0].at, run.heard[-1].at
        waits = [heard.at for heard in run.heard if isinstance(heard.event, AwaitingRelease)]
        proofs = [heard.at for heard in run.heard if isinstance(heard.event, Proved)]
        waited = proofs[0] - waits[0] if waits and proofs and proofs[0] > waits[0] else 0.0
        return cls(begin, max(end - waited, begin + 0.001), waits[0] if waited else end, waited)

    def seconds(self, at: float) -> float:
        """Since the beginning, without the time that was waited."""
        skipped = min(max(0.0, at - self.waited_from), self.waited)
        return max(0.0, at - skipped - self.begin)

    def x(self, at: float) -> float:
        return self.of_seconds(self.seconds(at))

    def of_seconds(self, seconds: float) -> float:
        return NAMES + (WIDTH - NAMES - RIGHT) * seconds / (self.end - self.begin)


@dataclass(frozen=True, slots=True)
class _Bar:
    name: str
    begin: float
    end: float
    done: bool
    detail: str


@dataclass(frozen=True, slots=True)
class _Curve:
    """How many of how many, at which moment; ``kind`` is its class in the style sheet."""

    name: str
    kind: str
    total: int
    points: tuple[tuple[float, int], ...]


def _bars(run: Run) -> Iterator[_Bar]:
    for heard in run.heard:
        match heard.event:
            case StepDone(step, seconds, detail):
                yield _Bar(str(step), heard.at - seconds, heard.at, True, detail)
            case StepNotDone(step, seconds, error):
                yield _Bar(str(step), heard.at - seconds, heard.at, False, error)


def _curves(run: Run) -> Iterator[_Curve]:
    """Of this service; of those that share its nfsd the report tells."""
    seen = [
        (heard.at, heard.event.progress)
        for heard in run.heard
        if isinstance(heard.event, Progressed) and heard.event.service == run.begun.service
    ]
    counts = [(at, found.counted) for at, found in seen]
    owed = max((clients.owed for _, clients in counts), default=0)
    if owed:
        yield _Curve("clients told", "told", owed, tuple((at, clients.told) for at, clients in counts))
        yield _Curve("clients back", "home", owed, tuple((at, clients.back + clients.left) for at, clients in counts))
    locks = [(at, found.locks) for at, found in seen if found.locks is not None]
    total = max((each.total for _, each in locks), default=0)
    if total:
        yield _Curve("locks held again", "locks", total, tuple((at, each.back) for at, each in locks))


def _band(run: Run, scale: _Scale, height: int) -> list[str]:
    """Grace, from the step that began it to its end, or to that of the run."""
    begins = [h.at for h in run.heard if isinstance(h.event, StepDone) and h.event.step.action in GRACE_BEGINS]
    if not begins:
        return []
    over = [h.at for h in run.heard if isinstance(h.event, Progressed) and not h.event.progress.in_grace]
    begin = begins[-1]
    end = min((at for at in over if at >= begin), default=run.heard[-1].at)
    left, width = scale.x(begin), max(1.0, scale.x(end) - scale.x(begin))
    said = f"in grace for {end - begin:.1f} s{'' if over else ' and longer'}"
    return [
        f'<rect class="grace" x="{left:.1f}" y="{LINE}" width="{width:.1f}" height="{height - LINE}">'
        f"<title>{said}</title></rect>",
        f'<text class="dim" x="{left - 6:.1f}" y="{2 * LINE - 6}" text-anchor="end">{said}</text>',
    ]


def _axis(scale: _Scale, top: int) -> list[str]:
    """A tick at each round number of seconds."""
    whole = scale.end - scale.begin
    tick = next((t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600) if whole / t <= 10), whole)
    parts = [f'<line class="rule" x1="{NAMES}" y1="{top}" x2="{WIDTH - RIGHT}" y2="{top}"/>']
    for number in range(int(whole / tick) + 1):
        x = scale.of_seconds(number * tick)
        parts.append(f'<line class="rule" x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{top + 5}"/>')
        parts.append(f'<text class="dim" x="{x:.1f}" y="{top + 18}" text-anchor="middle">{number * tick:g} s</text>')
    return parts


def _drawn_bar(bar: _Bar, scale: _Scale, top: int) -> list[str]:
    begin, end = scale.x(bar.begin), scale.x(bar.end)
    name = bar.name if len(bar.name) <= 52 else bar.name[:49] + "..."
    detail = f": {bar.detail}" if bar.detail else ""
    hint = f"<title>{_text(bar.name + detail)}</title>"
    return [
        f'<text x="{NAMES - 10}" y="{top + LINE - 6}" text-anchor="end">{_text(name)}'
        f"<title>{_text(bar.name)}</title></text>",
        f'<rect class="{"bar" if bar.done else "bad"}" x="{begin:.1f}" y="{top + 4}" '
        f'width="{max(1.5, end - begin):.1f}" height="{LINE - 8}" rx="2">{hint}</rect>',
        f'<text class="dim" x="{max(begin + 1.5, end) + 6:.1f}" y="{top + LINE - 6}">{bar.end - bar.begin:.2f} s'
        f"{'' if bar.done else ' FAILED'}</text>",
    ]


def _waited(scale: _Scale, bottom: int) -> list[str]:
    if not scale.waited:
        return []
    x, said = scale.x(scale.waited_from), f"waited {scale.waited:.1f} s for the release"
    return [
        f'<line class="wait" x1="{x:.1f}" y1="{ABOVE}" x2="{x:.1f}" y2="{bottom}"/>',
        f'<text class="dim" x="{x - 6:.1f}" y="{LINE - 6}" text-anchor="end">{said}</text>',
    ]


def _drawn_curves(curves: Sequence[_Curve], scale: _Scale, top: int) -> list[str]:
    """All on one scale, of which the top is everything."""
    bottom, right = top + CHART, WIDTH - RIGHT
    parts = [f'<line class="rule" x1="{NAMES}" y1="{bottom}" x2="{right}" y2="{bottom}"/>']
    for number, curve in enumerate(curves):
        room = CHART - 10
        height = [(scale.x(at), bottom - room * value / curve.total) for at, value in curve.points]
        path = [f"M{height[0][0]:.1f},{bottom}"]
        for x, y in height:
            path += [f"H{x:.1f}", f"V{y:.1f}"]
        path.append(f"H{right}")
        said = f"{curve.name}: {curve.points[-1][1]} of {curve.total}"
        y = top + 20 + number * LINE
        parts += [
            f'<path class="line {curve.kind}" d="{" ".join(path)}"><title>{said}</title></path>',
            f'<line class="line {curve.kind}" x1="{NAMES - 30}" y1="{y - 4}" x2="{NAMES - 10}" y2="{y - 4}"/>',
            f'<text x="{NAMES - 38}" y="{y}" text-anchor="end">{said}</text>',
        ]
    return parts
