"""The fleet budget: how hosts that act at the same moment agree that enough of them accept mail.

Hosts know nothing of each other but what ``peers.look`` sees. The protocol:

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

from collections.abc import Callable, Mapping
from typing import Any

from . import peers

TAKING = 1.0  # seconds; more than one nft batch lasts
SPREAD = 5.0  # seconds over which hosts that begin at the same moment take their turns


class Budget:
    """The protocol as one host follows it. ``fleet`` is that section of the settings."""

    def __init__(
        self, host: str, fleet: Mapping[str, Any], look: Callable[..., peers.Sight], sleep: Callable[[float], None]
    ) -> None:
        self._host = host
        self._fleet = fleet
        self._look = look
        self._sleep = sleep
        self._minimum = int(fleet.get("min_accepting", 0))

    @property
    def applies(self) -> bool:
        """Whether the fleet has a minimum."""
        return self._minimum > 0

    def look(self, *, in_turn: bool) -> peers.Sight:
        """Step 1. ``in_turn``: wait for this host's turn first."""
        if in_turn:
            self._sleep(turn(self._host, self._fleet))
        return self._look(self._fleet)

    def allows(self, sight: peers.Sight) -> bool:
        """Whether the fleet keeps its minimum while this host refuses."""
        return is_enough(sight, self._minimum)

    def contest(self, first: peers.Sight) -> peers.Sight | None:
        """Steps 3 to 5, after this host began to refuse: what it saw when it must yield, None when it need not.

        ``first`` is what it saw in step 1.
        """
        for last in (False, True):
            self._sleep(settle(self._fleet))
            sight = self._look(self._fleet, only=first.asked)
            if self.allows(sight):
                return None
            if last or must_yield(self._host, first, sight, self._minimum):
                return sight
        return None

    def words(self, sight: peers.Sight) -> str:
        """``over budget: 1 of 2 peers accept mail; 2 must``."""
        return f"over budget: {sight.words(self._minimum)}"


def settle(fleet: Mapping[str, Any]) -> float:
    """Step 3: seconds between taking and looking again."""
    return peers.patience(fleet) + TAKING


def is_enough(sight: peers.Sight, minimum: int) -> bool:
    """Whether the fleet keeps its minimum while this host refuses."""
    return sight.estimate() >= minimum


def turn(host: str, fleet: Mapping[str, Any]) -> float:
    """Step 1: seconds that ``host`` waits before it looks."""
    names = sorted({host, *(str(peer["name"]) for peer in fleet.get("peers", ()))})
    return SPREAD * names.index(host) / len(names)


def must_yield(host: str, first: peers.Sight, second: peers.Sight, minimum: int) -> bool:
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
