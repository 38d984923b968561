"""The fleet budget: may this host refuse mail, or would too few MXs be left that accept it? Cold path only.

A peer counts as accepting when it greets with a 220 within the fleet's patience; whatever can't be known counts as not
accepting. At most SAMPLE peers are asked, chosen anew each time; of a larger fleet the lower end of what such a sample
allows (Wilson score interval, 95 %) is believed.

Hosts know nothing of each other but that. The protocol between hosts that act at the same moment:

1. Wait for one's turn (the load check only): in the order of names, spread over SPREAD. Hosts of a small fleet that all
   want to refuse in the same second are then so far apart that each sees what the ones before it did.
   Look. Too few would be left: keep accepting ("over budget").
2. Refuse.
3. Settle: wait longer than a look and the taking together may last, and look again. Two hosts that both passed step 1
   began to refuse less than that apart, so now each sees the other. Enough accept: done.
4. Otherwise, of those that accepted at the first look and don't now, this host included, as many as are missing must
   yield, the lowest ranks (names in order) first. Each host works that out alike, and yields if it is among them.
5. Who stayed settles once more and looks: if still too few accept (one of the others had died, not refused), it
   yields as well. At every renewal a host that finds too few yields whatever its rank: renewals are splayed,
   so the first to renew makes room and the next one sees it.
"""

from __future__ import annotations

import random

from .. import smtp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from typing import Any, TypeAlias

    Ask: TypeAlias = Callable[[Sequence[tuple[str, int]], float], Mapping[tuple[str, int], bool]]

SAMPLE = 30  # peers asked at most
PATIENCE = 5.0  # seconds a peer may take to greet, so a look at most; mf_greeting_patience, unless the settings lack it
TAKING = 1.0  # seconds; more than one nft batch lasts
SPREAD = 5.0  # seconds over which hosts that begin at the same moment take their turns
_Z2 = 1.96**2  # of the 95 % interval


class Sight:
    """What one look saw: ``total`` peers there are, names of those ``asked`` and of those ``accepting`` among them."""

    __slots__ = ("accepting", "asked", "total")

    def __init__(self, total: int, asked: Collection[str], accepting: Collection[str]) -> None:
        self.total = total
        self.asked = frozenset(asked)
        self.accepting = frozenset(accepting)

    def estimate(self) -> int:
        """How many of all peers accept: exact when all were asked, otherwise no more than the sample supports."""
        asked, accepting = len(self.asked), len(self.accepting)
        if asked >= self.total or asked == 0:
            return accepting
        share = accepting / asked
        middle = share + _Z2 / (2 * asked)
        spread = (_Z2 * (share * (1 - share) + _Z2 / (4 * asked)) / asked) ** 0.5
        lower = max(0.0, (middle - spread) / (1 + _Z2 / asked))
        return max(accepting, int(lower * self.total))

    def words(self, minimum: int) -> str:
        """For people: ``1 of 2 peers accept mail, at least 2 must``."""
        seen = f"{len(self.accepting)} of {len(self.asked)} peers accept mail"
        if len(self.asked) < self.total:
            seen += f", so of all {self.total} at least {self.estimate()}"
        return f"{seen}; {minimum} must"


def patience(fleet: Mapping[str, Any]) -> float:
    """Seconds that a peer may take to greet. One value for the whole fleet, for settling needs that of the others."""
    return float(fleet.get("patience", PATIENCE))


def settle(fleet: Mapping[str, Any]) -> float:
    """Step 3: seconds between taking and looking again."""
    return patience(fleet) + TAKING


def is_enough(sight: Sight, minimum: int) -> bool:
    """Whether the fleet keeps its minimum while this host refuses."""
    return sight.estimate() >= minimum


def turn(host: str, fleet: Mapping[str, Any]) -> float:
    """Step 1: seconds that ``host`` waits before it looks."""
    names = sorted({host, *(str(peer["name"]) for peer in fleet.get("peers", ()))})
    return SPREAD * names.index(host) / len(names)


def must_yield(host: str, first: Sight, second: Sight, minimum: int) -> bool:
    """Step 4: whether ``host``, which refuses, is one of those that must accept again.

    ``first`` is what it saw before it began, ``second`` what it sees now.
    """
    missing = minimum - second.estimate()
    if missing <= 0:
        return False
    others = sorted((first.accepting & second.asked) - second.accepting)
    rank = sum(1 for name in others if name < host)
    if len(second.asked) < second.total:
        # of a sample: the same share of those seen as of all
        scale = second.total / max(1, len(second.asked))
        missing = -(-missing * (len(others) + 1) // max(1, round(len(others) * scale) + 1))
    return rank < missing


def look(
    fleet: Mapping[str, Any],
    ask: Ask | None = None,
    choose: Callable[[Sequence[Mapping[str, Any]], int], Sequence[Mapping[str, Any]]] = random.sample,
    only: Collection[str] | None = None,
) -> Sight:
    """Ask the peers in ``fleet`` (settings: ``peers`` of name, numeric address, port) for their greeting.

    ``only``: names to ask again, so that two looks can be compared. Never raises; takes as long as the slowest of them
    does to greet, the fleet's patience at most.
    """
    peers: list[Mapping[str, Any]] = list(fleet.get("peers", ()))
    if only is not None:
        asked: Sequence[Mapping[str, Any]] = [peer for peer in peers if peer["name"] in only]
    else:
        asked = peers if len(peers) <= SAMPLE else choose(peers, SAMPLE)
    if not asked:
        return Sight(len(peers), (), ())
    greeted = (ask or smtp.greeting_many)([(peer["address"], peer["port"]) for peer in asked], patience(fleet))
    accepting = [peer["name"] for peer in asked if greeted.get((peer["address"], peer["port"]), False)]
    return Sight(len(peers), [peer["name"] for peer in asked], accepting)
