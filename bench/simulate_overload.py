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
- **naive**: the same check and hysteresis, but it refuses without asking anybody. **budget**: it asks 30 peers at most,
  and settles as mf.throttle.budget says. A peer at its session limit doesn't greet within 2 s, so it counts as not
  accepting.
- **Senders** know all MXs. They take one at random, go on to another when it refuses or has no room, three in all, and
  come again after 5, 10, 20, then every 40 minutes, each +-20 %. Nobody gives up.

Where it is crude: all messages cost the same, and all MXs are equal, reachable and alive; work runs in steps of 5 s; a
sender loses no time on an MX that doesn't answer; real senders may keep to an MX that worked; the surge begins and ends
at once and hits all alike; what overload costs (2 % a session) is a guess (``--cost``): a machine that starts to swap
loses far more, which is what throttling is for. Jobs that back off at the marker, which the budget always leaves, gain
nothing here. So compare the rows with each other; they don't predict a real fleet's figures.

Same arguments, same seed: same figures. Exit codes: 0 done, 2 wrong command line.
"""

from __future__ import annotations

import argparse
import hashlib
import heapq
import json
import math
import random
import sys
import time
from collections import Counter
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = map(str, REPO.glob("roles/*/files/lib"))

from mf.throttle import budget, peers
from mf_checks import load

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

# Times are seconds, rates messages a second.
STEP = 5.0
CALM, SURGE = 0.6, 1.25  # share of the fleet's capacity that arrives
SURGE_BEGINS, SURGE_ENDS, END = 600.0, 1800.0, 7200.0

CAPACITY = 1.0
SLOTS = 15  # sessions at once (children_max)
BACKLOG = 60  # connections that wait for a session
EASY = 5  # sessions that cost nothing extra
COST = 0.02  # what each further one costs, as a share of the work
WEIGHT = math.exp(-STEP / 60.0)

PERIOD, JITTER, MISSED = 120.0, 1.0, 0.01
HIGH, LOW, LEASE = 5.0, 4.0, 300.0
TAKING = 0.2  # from having looked to refusing

TRIES = 3  # MXs a sender goes through before it comes again later
COME_AGAIN = (300.0, 600.0, 1200.0, 2400.0)

NOTHING, NAIVE, BUDGET = "none", "naive", "budget"
FLEETS = (3, 30, 1000)


class Case(NamedTuple):
    """One run: ``fleet`` MXs, of which ``minimum`` should accept; ``throttling`` is none, naive or budget."""

    fleet: int
    minimum: int
    throttling: str


class Outcome(NamedTuple):
    """What a run came to.

    ``accepted``: messages accepted during the surge, as a share of those sent in it; ``at_once``: share of these that
    some MX took at the first visit. ``fewest``: fewest MXs not refusing at any moment; ``below``: longest time (s) with
    fewer than ``minimum``; ``nobody``: time (s) in which all refused. ``recovered``: seconds from the surge's end
    until, for good, less mail waits (at senders and MXs) than a calm minute brings; None: not by the end. ``minutes``:
    fewest not refusing in each minute.
    """

    case: Case
    accepted: float
    at_once: float
    fewest: int
    below: float
    nobody: float
    recovered: float | None
    minutes: list[int]


class Host:
    """One MX: its sessions and connections (``queue``), its load, and what its lease asks for."""

    __slots__ = ("calm_runs", "carry", "due", "fleet", "holding", "load", "name", "queue", "refusing", "until")

    def __init__(self, name: str, due: float) -> None:
        self.name = name
        self.due = due
        self.queue = 0
        self.carry = 0.0
        self.load = 0.0
        self.holding = load.NONE
        self.calm_runs = 0
        self.refusing = False
        self.until = 0.0
        self.fleet: dict[str, Any] = {}

    def greets(self) -> bool:
        """Whether it greets within the time a look takes."""
        return not self.refusing and self.queue < SLOTS + peers.PATIENCE * CAPACITY

    def room(self) -> int:
        """How many connections it takes now."""
        return 0 if self.refusing else SLOTS + BACKLOG - self.queue

    def work(self, cost: float) -> int:
        """Filter for one STEP, sample the load; how many messages were accepted."""
        if not self.queue:
            self.carry = 0.0
            self.load *= WEIGHT
            return 0
        before = min(self.queue, SLOTS)
        able = self.carry + CAPACITY * STEP / (1 + cost * max(0, before - EASY))
        done = min(self.queue, int(able))
        self.queue -= done
        self.carry = able - done if self.queue else 0.0
        self.load = self.load * WEIGHT + (before + min(self.queue, SLOTS)) / 2 * (1 - WEIGHT)
        return done


class Simulation:
    """One run of one case. The same ``seed`` brings the same mail to each kind of throttling."""

    def __init__(self, case: Case, seed: int, cost: float = COST) -> None:
        self.case = case
        self._cost = cost
        self._mail = random.Random(f"mail {seed} {case.fleet}")
        self._chance = random.Random(f"chance {seed} {case.fleet}")
        self.now = 0.0
        self.hosts = [Host(name, turn(name)) for name in (f"mx{number}" for number in range(1, case.fleet + 1))]
        self._by_name = {host.name: host for host in self.hosts}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._later: dict[int, Counter[int]] = {}  # step -> how often tried -> messages
        self._refusing = 0
        self._below_since: float | None = None
        self._nobody_since: float | None = None
        self.fewest = case.fleet
        self.minute_fewest = case.fleet
        self.below = self.nobody = 0.0
        known = [{"name": host.name, "address": host.name, "port": 25} for host in self.hosts]
        if case.throttling != NOTHING:
            for index, host in enumerate(self.hosts):
                host.fleet = {"peers": known[:index] + known[index + 1 :]}
                self._at(host.due + self._chance.random() * JITTER, partial(self._check, host))

    def run(self, progress: Callable[[float], None] = lambda share: None) -> Outcome:
        """All of it; ``progress`` is told the share that is done."""
        sent = accepted = at_once = waiting = 0
        last_bad = SURGE_ENDS
        minutes: list[int] = []
        calm_minute = CALM * CAPACITY * self.case.fleet * 60
        steps = int(END / STEP)
        for step in range(steps):
            begins = step * STEP
            self.happen(begins)
            surging = SURGE_BEGINS <= begins < SURGE_ENDS
            fresh = self._arrivals((SURGE if surging else CALM) * CAPACITY * STEP * self.case.fleet)
            batches = self._later.pop(step, Counter())
            batches[0] = fresh
            levels = sorted(batches)
            self._chance.shuffle(levels)
            rooms = [host.room() for host in self.hosts]
            for tried in levels:
                refused = self._deliver(batches[tried], rooms)
                self._put_off(step, tried, refused)
                if tried == 0 and surging:
                    at_once += fresh - refused
            done = sum(host.work(self._cost) for host in self.hosts)
            waiting += fresh - done
            if surging:
                sent += fresh
                accepted += done
            self.happen(begins + STEP)
            if begins >= SURGE_ENDS and waiting >= calm_minute:
                last_bad = begins + STEP
            if (begins + STEP) % 60 == 0:
                minutes.append(self.minute_fewest)
                self.minute_fewest = self.case.fleet - self._refusing
                progress((step + 1) / steps)
        self._count(0, END)
        return Outcome(
            self.case,
            accepted / max(1, sent),
            at_once / max(1, sent),
            self.fewest,
            self.below,
            self.nobody,
            None if last_bad >= END else last_bad - SURGE_ENDS,
            minutes,
        )

    # --- senders

    def _arrivals(self, mean: float) -> int:
        if mean > 50:
            return max(0, round(self._mail.gauss(mean, math.sqrt(mean))))
        limit, product, arrived = math.exp(-mean), self._mail.random(), 0
        while product > limit:
            product *= self._mail.random()
            arrived += 1
        return arrived

    def _deliver(self, messages: int, rooms: list[int]) -> int:
        """Let senders go through their MXs, which have these ``rooms``; how many messages nobody took."""
        if not messages or not any(rooms):
            return messages
        chance, fleet = self._chance.random, len(rooms)
        turned_away: list[tuple[int, ...]] = []
        for index, arriving in Counter(self._chance.choices(range(fleet), k=messages)).items():
            taken = min(arriving, rooms[index])
            if taken:
                rooms[index] -= taken
                self.hosts[index].queue += taken
            if arriving > taken:
                turned_away.extend([(index,)] * (arriving - taken))
        for _ in range(1, min(TRIES, fleet)):
            still: list[tuple[int, ...]] = []
            for tried in turned_away:
                index = int(chance() * fleet)
                while index in tried:
                    index = int(chance() * fleet)
                if rooms[index]:
                    rooms[index] -= 1
                    self.hosts[index].queue += 1
                else:
                    still.append((*tried, index))
            turned_away = still
        return len(turned_away)

    def _put_off(self, step: int, tried: int, messages: int) -> None:
        wait = COME_AGAIN[tried] / STEP
        soon, late = step + round(wait * 0.8), step + round(wait * 1.2)
        again = min(tried + 1, len(COME_AGAIN) - 1)
        for when, number in Counter(self._chance.choices(range(soon, late + 1), k=messages)).items():
            self._later.setdefault(when, Counter())[again] += number

    # --- checks

    def _at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), what))

    def happen(self, until: float) -> None:
        """Let everything happen that is to happen before ``until``."""
        while self._events and self._events[0][0] < until:
            self.now, _, what = heapq.heappop(self._events)
            what()

    def _check(self, host: Host) -> None:
        host.due += PERIOD
        self._at(host.due + self._chance.random() * JITTER, partial(self._check, host))
        if self._chance.random() < MISSED:
            return
        want, host.calm_runs = load.decide(host.load, host.holding, host.calm_runs, high=HIGH, low=LOW, mark=None)
        if want != load.REFUSE or self.case.throttling == NAIVE:
            self._hold(host, want)
            return
        # from here on as in Control.on
        if host.holding == load.REFUSE:
            self._begin(host, renewal=True)
        else:
            self._at(self.now + budget.turn(host.name, host.fleet), partial(self._begin, host, renewal=False))

    def _begin(self, host: Host, *, renewal: bool) -> None:
        first, takes = self._look(host)
        if not budget.is_enough(first, self.case.minimum):
            self._at(self.now + takes, partial(self._hold, host, load.MARK))
            return
        self._at(self.now + takes + TAKING, partial(self._hold, host, load.REFUSE))
        if not renewal:
            self._at(
                self.now + takes + TAKING + budget.settle(host.fleet), partial(self._settle, host, first, last=False)
            )

    def _settle(self, host: Host, first: peers.Sight, *, last: bool) -> None:
        second, takes = self._look(host, first.asked)
        if budget.is_enough(second, self.case.minimum):
            return
        if last or budget.must_yield(host.name, first, second, self.case.minimum):
            self._at(self.now + takes, partial(self._hold, host, load.MARK))
        else:
            self._at(self.now + takes + budget.settle(host.fleet), partial(self._settle, host, first, last=True))

    def _look(self, host: Host, only: Collection[str] | None = None) -> tuple[peers.Sight, float]:
        """What the host sees, and how long it looks: an MX that is silent costs the whole time, a refusal none."""
        takes = 0.0

        def ask(addresses: Sequence[tuple[str, int]], seconds: float) -> Mapping[tuple[str, int], bool]:
            nonlocal takes
            asked = [(address, self._by_name[address[0]]) for address in addresses]
            if any(not one.refusing and not one.greets() for _, one in asked):
                takes = seconds
            return {address: one.greets() for address, one in asked}

        return peers.look(host.fleet, ask, self._chance.sample, only), takes

    def _hold(self, host: Host, want: str) -> None:
        """Take or renew the lease, or with NONE give it back."""
        host.holding = want
        self._refuse(host, want == load.REFUSE)
        if want != load.NONE:
            host.until = self.now + LEASE
            self._at(host.until, partial(self._expire, host))

    def _expire(self, host: Host) -> None:
        if host.holding != load.NONE and host.until <= self.now:
            self._hold(host, load.NONE)

    def _refuse(self, host: Host, refusing: bool) -> None:
        change = refusing - host.refusing
        host.refusing = refusing
        if change:
            self._count(change, self.now)

    def _count(self, change: int, now: float) -> None:
        """Keep account of how many accept, and for how long they were too few."""
        self._refusing += change
        accepting = self.case.fleet - self._refusing
        self.fewest = min(self.fewest, accepting)
        self.minute_fewest = min(self.minute_fewest, accepting)
        if self._below_since is not None:
            self.below = max(self.below, now - self._below_since)
        if self._nobody_since is not None:
            self.nobody += now - self._nobody_since
        self._below_since = None if accepting >= self.case.minimum else self._below_since or now
        self._nobody_since = None if accepting else now


def turn(name: str) -> float:
    """Seconds into a period at which a host's check begins: roles/mf_tree/vars (offset) and mf_checks' cron (splay)."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    return 60.0 * (int(digest[:8], 16) % 60 % 2) + int(digest[8:16], 16) % 10


def cases(fleets: Sequence[int], minimum: int | None) -> list[Case]:
    """The runs for these fleets. Without ``minimum``: two thirds of each fleet, and the budget also with 2."""
    found = []
    for fleet in fleets:
        share = min(fleet, minimum or math.ceil(fleet * 2 / 3))
        found += [Case(fleet, share, throttling) for throttling in (NOTHING, NAIVE, BUDGET)]
        if minimum is None and share > 2:
            found.append(Case(fleet, 2, BUDGET))
    return found


LEFT_ALIGNED = "throttling"
HEADINGS = ("MXs", "minimum", LEFT_ALIGNED, "accepted", "at once", "fewest", "too few for", "nobody for", "recovered")


def table(outcomes: Sequence[Outcome]) -> str:
    """Aligned columns, for people."""
    rows = [HEADINGS]
    for one in outcomes:
        ended = one.recovered is not None
        rows.append(
            (
                str(one.case.fleet),
                str(one.case.minimum),
                one.case.throttling,
                f"{one.accepted:.1%}",
                f"{one.at_once:.1%}",
                str(one.fewest),
                f"{one.below:.0f} s",
                f"{one.nobody:.0f} s",
                f"{(one.recovered or 0) / 60:.0f} min" if ended else f"> {(END - SURGE_ENDS) / 60:.0f} min",
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
refusing, at the worst moment; too few for: longest time below the minimum; nobody for: time in which all refused;
recovered: from the surge's end until less mail waits than a calm minute brings, for good. The surge is {SURGE:.0%} of
capacity for {(SURGE_ENDS - SURGE_BEGINS) / 60:.0f} minutes, so no more than {1 / SURGE:.0%} can be accepted in it."""


def as_json(outcome: Outcome) -> dict[str, Any]:
    """An outcome with its case's fields beside its own."""
    own = outcome._asdict()
    del own["case"]
    return {**outcome.case._asdict(), **own}


# --- the plot

WIDTH, PANEL, LEFT, TOP, GAP = 820, 96, 56, 74, 58  # of the plot, in pixels
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
    fleets = sorted({one.case.fleet for one in outcomes})
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
    said: list[str] = []
    body: list[str] = []
    for row, fleet in enumerate(fleets):
        drawn = {
            kind: max((one for one in outcomes if one.case[::2] == (fleet, kind)), key=lambda one: one.case.minimum)
            for kind in (NAIVE, BUDGET)
        }
        minimum = drawn[BUDGET].case.minimum
        top = TOP + row * (PANEL + GAP)
        bottom = top + PANEL
        said.append(
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
        for kind, one in drawn.items():
            line, before = "", None
            for minute, accepting in enumerate(one.minutes):
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
        ("naive", "naive: refuses, asks nobody"),
        ("budget", "under the budget"),
        ("minimum", "the minimum"),
    ]
    legend = []
    for column, (kind, words) in enumerate(key):
        left = LEFT + (0, 240, 415)[column]
        legend += [
            f'  <path class="{kind}" d="M{left} 22 H{left + 34}"/>',
            f'  <text class="small" x="{left + 42}" y="26">{words}</text>',
        ]
    legend += [
        f'  <rect class="surge" x="{LEFT + 555}" y="14" width="34" height="16"/>',
        f'  <text class="small" x="{LEFT + 597}" y="26">the surge</text>',
    ]
    said.insert(0, "Simulated: fewest MXs that accept mail in each minute, before, in and after a surge.")
    parts = [head, f'  <desc id="desc">{" ".join(said)}</desc>', f"  <style>\n{STYLE}\n  </style>"]
    parts += [*legend, *body, "</svg>"]
    return "\n".join(parts) + "\n"


def simulate(case: Case, seed: int, cost: float = COST, *, show: bool = False) -> Outcome:
    """One case; ``show``: say on stderr how far it is."""
    words = f"{case.fleet} MXs, {case.throttling}, minimum {case.minimum}"
    began = time.monotonic()
    there = sys.stderr.isatty()

    def progress(share: float) -> None:
        if show and there:
            print(f"\r{words}: {share:4.0%}", end="", file=sys.stderr, flush=True)

    outcome = Simulation(case, seed, cost).run(progress)
    if show:
        print(f"{chr(13) * there}{words}: done in {time.monotonic() - began:.1f} s", file=sys.stderr)
    return outcome


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line, simulate, print."""
    parser = argparse.ArgumentParser(
        description="Simulate overloaded fleets of MXs: no throttling, naive throttling, throttling under the budget.",
        epilog="The model, and where it is crude, is described at the head of this file.",
    )
    parser.add_argument("--fleet", type=int, action="append", metavar="N", help="MXs; may be repeated (3, 30 and 1000)")
    parser.add_argument("--min-accepting", type=int, metavar="N", help="the budget's minimum (two thirds, and 2)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="another one, another course of chance (1)")
    parser.add_argument(
        "--cost", type=float, default=100 * COST, metavar="PERCENT", help=f"of each session beyond {EASY} (%(default)g)"
    )
    parser.add_argument("--json", action="store_true", help="results as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw the course of it there, as SVG")
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
        print(json.dumps([as_json(one) for one in outcomes], indent=1))
    else:
        print(f"{table(outcomes)}\n\n{LEGEND}")
    if options.plot:
        options.plot.write_text(plot(outcomes), encoding="utf-8")


if __name__ == "__main__":
    main()
