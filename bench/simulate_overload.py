"""Overload of a whole fleet, simulated: no throttling, naive throttling, and throttling under the fleet budget.

The deciding code is the real one: ``decide`` of mf_checks.load, and ``is_enough`` and ``must_yield`` of
mf.throttle.budget, in the order in which ``Control.on`` of mf.throttle.control uses them. All around it is a model:

- **Mail** arrives for the fleet as a Poisson process: 60 % of what the fleet can filter, and 125 % for a surge of
  20 minutes that begins after 10. Then it is watched for 90 more.
- **An MX** filters one message a second, shared by 15 sessions at most; beyond 5 sessions each costs 2 % (cache, disk),
  so a full one manages 0.83. Up to 60 more connections wait unaccepted. What is connected is always served.
- **Load** is sampled every 5 s and averaged with a weight of exp(-5/60), as the kernel's one-minute average is; the
  sample is the mean of sessions before and after those 5 s.
- **Each MX checks** every 2 minutes, in odd or even ones and 0 to 9 s into them (from its name, as the roles do it),
  and up to a second later by chance. One run in a hundred fails. Thresholds 5.0 and 4.0, two calm runs, a lease of
  300 s that each run renews.
- **naive**: the same check and hysteresis, but it refuses without asking a peer. **budget**: it asks 30 peers at most,
  and settles by mf.throttle.budget. A peer at its session limit doesn't greet within 2 s, so it counts as not
  accepting.
- **Senders** know all MXs. They take one at random, go on to another when it refuses or has no room, three in all, and
  come again after 5, 10, 20, then every 40 minutes, each +-20 %. No sender gives up.

Where it is crude: all messages cost the same, and all MXs are equal, reachable and alive; work runs in steps of 5 s; a
sender loses no time on an MX that doesn't answer; real senders may keep to an MX that worked; the surge begins and ends
at once and hits all alike; what overload costs (2 % a session) is a guess (``--cost``): a machine that starts to swap
loses far more, which is what throttling is for. Jobs that back off at the marker, which the budget always leaves, gain
nothing here. So compare the rows with each other; they don't predict a real fleet's figures.

Same arguments, same seed: same figures. Exit codes: 0 done, 2 wrong command line.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overload_model import (
    BUDGET,
    COST,
    EASY,
    END,
    NAIVE,
    NOTHING,
    SURGE,
    SURGE_BEGINS,
    SURGE_ENDS,
    Case,
    Outcome,
    Simulation,
)
from overload_plot import plot

if TYPE_CHECKING:
    from collections.abc import Sequence

FLEETS = (3, 30, 1000)


def cases(fleets: Sequence[int], minimum: int | None) -> list[Case]:
    """The runs for these fleets. Without ``minimum``: two thirds of each fleet, and the budget also with 2."""
    chosen = []
    for fleet in fleets:
        share = min(fleet, minimum or math.ceil(fleet * 2 / 3))
        chosen += [Case(fleet, share, throttling) for throttling in (NOTHING, NAIVE, BUDGET)]
        if minimum is None and share > 2:
            chosen.append(Case(fleet, 2, BUDGET))
    return chosen


LEFT_ALIGNED = "throttling"
HEADINGS = ("MXs", "minimum", LEFT_ALIGNED, "accepted", "at once", "fewest", "too few for", "none for", "recovered")


def table(outcomes: Sequence[Outcome]) -> str:
    """Aligned columns, for a terminal."""
    rows = [HEADINGS]
    for outcome in outcomes:
        ended = outcome.recovered is not None
        rows.append(
            (
                str(outcome.case.fleet),
                str(outcome.case.minimum),
                outcome.case.throttling,
                f"{outcome.accepted:.1%}",
                f"{outcome.at_once:.1%}",
                str(outcome.fewest),
                f"{outcome.below:.0f} s",
                f"{outcome.none_accepting:.0f} s",
                f"{(outcome.recovered or 0) / 60:.0f} min" if ended else f"> {(END - SURGE_ENDS) / 60:.0f} min",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if heading == LEFT_ALIGNED else cell.rjust(width)
            for cell, width, heading in zip(row, widths, HEADINGS, strict=True)
        ).rstrip()
        for row in rows
    )


LEGEND = f"""\
accepted: during the surge, of the mail sent in it; at once: of that, taken at the first visit; fewest: MXs not
refusing, at the worst moment; too few for: longest time below the minimum; none for: time in which all refused;
recovered: from the surge's end until less mail waits than a calm minute brings, for good. The surge is {SURGE:.0%} of
capacity for {(SURGE_ENDS - SURGE_BEGINS) / 60:.0f} minutes, so no more than {1 / SURGE:.0%} can be accepted in it."""


def as_json(outcome: Outcome) -> dict[str, Any]:
    """An outcome with its case's fields beside its own."""
    own = outcome._asdict()
    del own["case"]
    return {**outcome.case._asdict(), **own}


def simulate(case: Case, seed: int, cost: float = COST, *, show: bool = False) -> Outcome:
    """One case; ``show``: print the progress on stderr."""
    label = f"{case.fleet} MXs, {case.throttling}, minimum {case.minimum}"
    began = time.monotonic()
    there = sys.stderr.isatty()

    def progress(share: float) -> None:
        if show and there:
            print(f"\r{label}: {share:4.0%}", end="", file=sys.stderr, flush=True)

    outcome = Simulation(case, seed, cost).run(progress)
    if show:
        print(f"{chr(13) * there}{label}: done in {time.monotonic() - began:.1f} s", file=sys.stderr)
    return outcome


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line, simulate, print."""
    parser = argparse.ArgumentParser(
        description="Simulate overloaded fleets of MXs: no throttling, naive throttling, throttling under the budget.",
        epilog="The model, and where it is crude, is described at the head of this file.",
    )
    parser.add_argument("--fleet", type=int, action="append", metavar="N", help="MXs; may be repeated (3, 30, 1000)")
    parser.add_argument("--min-accepting", type=int, metavar="N", help="the budget's minimum (two thirds, and 2)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="seed of the random numbers (default 1)")
    parser.add_argument(
        "--cost",
        type=float,
        default=100 * COST,
        metavar="PERCENT",
        help=f"cost of sessions beyond {EASY} (%(default)g)",
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw the course as SVG into FILE")
    options = parser.parse_args(argv)
    fleets = options.fleet or list(FLEETS)
    if min(fleets) < 2 or max(fleets) > 5000:
        parser.error("--fleet: 2 to 5000")
    if options.min_accepting is not None and options.min_accepting < 1:
        parser.error("--min-accepting: 1 or more")
    if not 0 <= options.cost <= 100:
        parser.error("--cost: 0 to 100")
    outcomes = [
        simulate(case, options.seed, options.cost / 100, show=case.fleet >= 300)
        for case in cases(fleets, options.min_accepting)
    ]
    if options.json:
        print(json.dumps([as_json(outcome) for outcome in outcomes], indent=1))
    else:
        print(f"{table(outcomes)}\n\n{LEGEND}")
    if options.plot:
        options.plot.write_text(plot(outcomes), encoding="utf-8")


if __name__ == "__main__":
    main()
