"""The survey of the other MXs of the fleet: the number that accepts mail now. Its use is in ``budget``.

A peer counts as accepting when it greets with a 220 within the fleet's patience; any other outcome counts as not
accepting. At most SAMPLE peers are asked, chosen anew each time; for a larger fleet the lower bound of the sample's
confidence interval (Wilson score, 95 %) counts.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias

from .. import smtp

Ask: TypeAlias = Callable[[Sequence[tuple[str, int]], float], Mapping[tuple[str, int], bool]]

SAMPLE = 30  # peers asked at most
PATIENCE = 5.0  # seconds a peer may take to greet, and a survey; mf_greeting_patience, unless the settings lack it
_Z2 = 1.96**2  # of the 95 % interval


class Survey:
    """A survey of the peers: ``total`` of them, the names of those ``asked``, of these the ones ``accepting``."""

    def __init__(self, total: int, asked: Collection[str], accepting: Collection[str]) -> None:
        self.total = total
        self.asked = frozenset(asked)
        self.accepting = frozenset(accepting)

    def estimate(self) -> int:
        """Return the number of peers that accept: exact when all were asked, else no more than the sample supports."""
        asked, accepting = len(self.asked), len(self.accepting)
        if asked >= self.total or asked == 0:
            return accepting
        share = accepting / asked
        middle = share + _Z2 / (2 * asked)
        spread = (_Z2 * (share * (1 - share) + _Z2 / (4 * asked)) / asked) ** 0.5
        lower = max(0.0, (middle - spread) / (1 + _Z2 / asked))
        return max(accepting, int(lower * self.total))

    def describe(self, minimum: int) -> str:
        """One line: ``1 of 2 peers accept mail; 2 must``."""
        seen = f"{len(self.accepting)} of {len(self.asked)} peers accept mail"
        if len(self.asked) < self.total:
            seen += f", so of all {self.total} at least {self.estimate()}"
        return f"{seen}; {minimum} must"


def patience(fleet: Mapping[str, Any]) -> float:
    """Seconds that a peer may take to greet. One value for the whole fleet: settling depends on that of the others."""
    return float(fleet.get("patience", PATIENCE))


def survey(
    fleet: Mapping[str, Any],
    ask: Ask | None = None,
    choose: Callable[[Sequence[Mapping[str, Any]], int], Sequence[Mapping[str, Any]]] = random.sample,
    only: Collection[str] | None = None,
) -> Survey:
    """Ask the peers in ``fleet`` (settings: ``peers`` of name, numeric address, port) for their greeting.

    ``only``: names to ask again, so that two surveys can be compared. Never raises; takes as long as the slowest of
    them does to greet, the fleet's patience at most.
    """
    peers: list[Mapping[str, Any]] = list(fleet.get("peers", ()))
    if only is not None:
        asked: Sequence[Mapping[str, Any]] = [peer for peer in peers if peer["name"] in only]
    else:
        asked = peers if len(peers) <= SAMPLE else choose(peers, SAMPLE)
    if not asked:
        return Survey(len(peers), (), ())
    greeted = (ask or smtp.greeting_many)([(peer["address"], peer["port"]) for peer in asked], patience(fleet))
    accepting = [peer["name"] for peer in asked if greeted.get((peer["address"], peer["port"]), False)]
    return Survey(len(peers), [peer["name"] for peer in asked], accepting)
