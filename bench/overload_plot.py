"""The figures of simulate_overload.py as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from overload_model import BUDGET, END, NAIVE, SURGE_BEGINS, SURGE_ENDS, Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH, PANEL, LEFT, TOP, GAP = 820, 96, 56, 74, 58  # pixels
STYLE = """\
    text { fill: #1f2328; }
    path { fill: none; stroke: #59636e; stroke-width: 1; }
    .name { font-weight: 600; }
    .small { font-size: 12px; fill: #59636e; }
    .end { text-anchor: end; }
    .middle { text-anchor: middle; }
    .surge { fill: #eaeef2; }
    .naive { stroke: #bc4c00; stroke-width: 1.6; stroke-dasharray: 5 3; }
    .budget { stroke: #0969da; stroke-width: 2; }
    .minimum { stroke-dasharray: 1 4; }
    @media (prefers-color-scheme: dark) {
      text { fill: #f0f6fc; }
      path { stroke: #9198a1; }
      .small { fill: #9198a1; }
      .surge { fill: #262c36; }
      .naive { stroke: #f0883e; }
      .budget { stroke: #4493f8; }
    }"""


def plot(outcomes: Sequence[Outcome]) -> str:
    """An SVG: of each fleet, the fewest MXs that accepted in each minute, naive beside budget."""
    fleets = sorted({outcome.case.fleet for outcome in outcomes})
    across = WIDTH - LEFT - 32
    height = TOP + len(fleets) * (PANEL + GAP) - 24

    def x(minute: float) -> float:
        return round(LEFT + across * minute * 60 / END, 1)

    font = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img"'
        f' aria-labelledby="title desc" font-family="{font}" font-size="14">\n'
        '  <title id="title">Overload: MXs that accept mail, naive throttling and under the fleet budget</title>'
    )
    sentences: list[str] = []
    body: list[str] = []
    for row, fleet in enumerate(fleets):
        drawn = {
            kind: max(
                (outcome for outcome in outcomes if outcome.case[::2] == (fleet, kind)),
                key=lambda outcome: outcome.case.minimum,
            )
            for kind in (NAIVE, BUDGET)
        }
        minimum = drawn[BUDGET].case.minimum
        top = TOP + row * (PANEL + GAP)
        bottom = top + PANEL
        sentences.append(
            f"Of {fleet} MXs, at the worst moment, {drawn[NAIVE].fewest} accepted with naive throttling and"
            f" {drawn[BUDGET].fewest} under the budget, whose minimum is {minimum}."
        )
        level = round(bottom - PANEL * minimum / fleet, 1)
        first, last = x(SURGE_BEGINS / 60), x(SURGE_ENDS / 60)
        caption = (
            f"accepted during the surge: naive {drawn[NAIVE].accepted:.0%}, budget {drawn[BUDGET].accepted:.0%} of what"
            " was sent"
        )
        body += [
            f'  <rect class="surge" x="{first}" y="{top}" width="{round(last - first, 1)}" height="{PANEL}"/>',
            f'  <text class="name" x="{LEFT}" y="{top - 10}">{fleet} MXs</text>',
            f'  <text class="small" x="{LEFT + 96}" y="{top - 10}">{caption}</text>',
            f'  <path d="M{LEFT} {top} V{bottom} H{LEFT + across}"/>',
            f'  <path class="minimum" d="M{LEFT} {level} H{LEFT + across}"/>',
            f'  <text class="small end" x="{LEFT - 8}" y="{top + 5}">{fleet}</text>',
            f'  <text class="small end" x="{LEFT - 8}" y="{level + 4}">{minimum}</text>',
            f'  <text class="small end" x="{LEFT - 8}" y="{bottom + 4}">0</text>',
        ]
        for kind, outcome in drawn.items():
            line, before = "", None
            for minute, accepting in enumerate(outcome.minutes):
                if accepting != before:
                    y = round(bottom - PANEL * accepting / fleet, 1)
                    line += f"M{x(minute)} {y}" if before is None else f"H{x(minute)}V{y}"
                    before = accepting
            body.append(f'  <path class="{kind}" d="{line}H{LEFT + across}"/>')
        body += [
            f'  <text class="small middle" x="{x(minute)}" y="{bottom + 18}">{minute}{" min" * (minute == 120)}</text>'
            for minute in range(0, 121, 30)
        ]
    key = [
        ("naive", "naive: refuses, asks no peer"),
        ("budget", "under the budget"),
        ("minimum", "the minimum"),
    ]
    legend = []
    for column, (kind, label) in enumerate(key):
        left = LEFT + (0, 240, 415)[column]
        legend += [
            f'  <path class="{kind}" d="M{left} 22 H{left + 34}"/>',
            f'  <text class="small" x="{left + 42}" y="26">{label}</text>',
        ]
    legend += [
        f'  <rect class="surge" x="{LEFT + 555}" y="14" width="34" height="16"/>',
        f'  <text class="small" x="{LEFT + 597}" y="26">the surge</text>',
    ]
    sentences.insert(0, "Simulated: fewest MXs that accept mail in each minute, before, in and after a surge.")
    parts = [head, f'  <desc id="desc">{" ".join(sentences)}</desc>', f"  <style>\n{STYLE}\n  </style>"]
    parts += [*legend, *body, "</svg>"]
    return "\n".join(parts) + "\n"
