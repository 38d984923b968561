"""The model of simulate_overload.py, whose head describes it: mail, MXs, their load and checks, senders."""

from __future__ import annotations

import hashlib
import heapq
import math
import random
import sys
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
TAKING = 0.2  # from the end of the survey to refusing

TRIES = 3  # MXs a sender goes through before it comes again later
COME_AGAIN = (300.0, 600.0, 1200.0, 2400.0)

NOTHING, NAIVE, BUDGET = "none", "naive", "budget"


class Case(NamedTuple):
    """One run: ``fleet`` MXs, of which ``minimum`` should accept; ``throttling`` is none, naive or budget."""

    fleet: int
    minimum: int
    throttling: str


class Outcome(NamedTuple):
    """What a run came to.

    ``accepted``: messages accepted during the surge, as a share of those sent in it; ``at_once``: share of these that
    some MX took at the first visit. ``fewest``: fewest MXs not refusing at any moment; ``below``: longest time (s) with
    fewer than ``minimum``; ``none_accepting``: time (s) in which all refused. ``recovered``: seconds from the
    surge's end until, for good, less mail waits (at senders and MXs) than a calm minute brings; None: not by the end.
    ``minutes``: fewest not refusing in each minute.
    """

    case: Case
    accepted: float
    at_once: float
    fewest: int
    below: float
    none_accepting: float
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
        """Whether it greets within the time a survey takes."""
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
        self._none_since: float | None = None
        self.fewest = case.fleet
        self.minute_fewest = case.fleet
        self.below = self.none_accepting = 0.0
        known = [{"name": host.name, "address": host.name, "port": 25} for host in self.hosts]
        if case.throttling != NOTHING:
            for index, host in enumerate(self.hosts):
                host.fleet = {"peers": known[:index] + known[index + 1 :]}
                self._at(host.due + self._chance.random() * JITTER, partial(self._check, host))

    def run(self, progress: Callable[[float], None] = lambda share: None) -> Outcome:
        """All of it; ``progress`` is called with the share that is done."""
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
            self.none_accepting,
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
        """Let senders go through their MXs, which have these ``rooms``; return how many messages no MX took."""
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

    def _at(self, when: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), event))

    def happen(self, until: float) -> None:
        """Let everything happen that is to happen before ``until``."""
        while self._events and self._events[0][0] < until:
            self.now, _, event = heapq.heappop(self._events)
            event()

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
            self._at(self.now + budget.delay(host.name, host.fleet), partial(self._begin, host, renewal=False))

    def _begin(self, host: Host, *, renewal: bool) -> None:
        first, takes = self._survey(host)
        if not budget.is_enough(first, self.case.minimum):
            self._at(self.now + takes, partial(self._hold, host, load.MARK))
            return
        self._at(self.now + takes + TAKING, partial(self._hold, host, load.REFUSE))
        if not renewal:
            self._at(
                self.now + takes + TAKING + budget.settle(host.fleet), partial(self._settle, host, first, last=False)
            )

    def _settle(self, host: Host, first: peers.Survey, *, last: bool) -> None:
        second, takes = self._survey(host, first.asked)
        if budget.is_enough(second, self.case.minimum):
            return
        if last or budget.must_yield(host.name, first, second, self.case.minimum):
            self._at(self.now + takes, partial(self._hold, host, load.MARK))
        else:
            self._at(self.now + takes + budget.settle(host.fleet), partial(self._settle, host, first, last=True))

    def _survey(self, host: Host, only: Collection[str] | None = None) -> tuple[peers.Survey, float]:
        """The host's survey, and how long it takes: an MX that is silent costs the whole time, a refusal none."""
        takes = 0.0

        def ask(addresses: Sequence[tuple[str, int]], seconds: float) -> Mapping[tuple[str, int], bool]:
            nonlocal takes
            asked = [(address, self._by_name[address[0]]) for address in addresses]
            if any(not host.refusing and not host.greets() for _, host in asked):
                takes = seconds
            return {address: host.greets() for address, host in asked}

        return peers.survey(host.fleet, ask, self._chance.sample, only), takes

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
        if self._none_since is not None:
            self.none_accepting += now - self._none_since
        self._below_since = None if accepting >= self.case.minimum else self._below_since or now
        self._none_since = None if accepting else now


def turn(name: str) -> float:
    """Seconds into a period at which a host's check begins: roles/mf_tree/vars (offset) and mf_checks' cron (splay)."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    return 60.0 * (int(digest[:8], 16) % 60 % 2) + int(digest[8:16], 16) % 10
