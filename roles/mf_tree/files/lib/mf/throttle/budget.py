"""The fleet budget: how hosts that act at the same moment agree that enough of them accept mail.

The only information that a host has about the others is ``peers.survey``. The protocol:

1. Delay (the load check only): in the order of names, spread over SPREAD. Hosts of a small fleet that all want to
   refuse in the same second are then so far apart that each sees what the ones before it did.
   Survey the peers. Too few would be left: keep accepting ("over budget").
2. Refuse.
3. Settle: wait longer than a survey and the start of a refusal together may last, and survey again. Two hosts that
   both passed step 1 began to refuse less than that apart, so now each sees the other. Enough accept: done.
4. Otherwise, of the hosts that accepted at the first survey and don't now, this host included, as many as are missing
   must yield, the lowest ranks (names in order) first. Each host computes the same ranks, and yields if it is among
   them.
5. A host that stayed settles once more and surveys: if still too few accept (one of the others had died, not refused),
   it yields as well. At every renewal a host that finds too few yields whatever its rank: renewals are splayed, so the
   first to renew makes room and the next one sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from . import peers

TAKING = 1.0  # seconds; more than one nft batch lasts
SPREAD = 5.0  # seconds over which hosts that begin at the same moment are spread


class Budget:
    """The protocol as one host follows it. ``fleet`` is that section of the settings."""

    def __init__(
        self, host: str, fleet: Mapping[str, Any], survey: Callable[..., peers.Survey], sleep: Callable[[float], None]
    ) -> None:
        self._host = host
        self._fleet = fleet
        self._survey = survey
        self._sleep = sleep
        self._minimum = int(fleet.get("min_accepting", 0))

    @property
    def applies(self) -> bool:
        """Whether the fleet has a minimum."""
        return self._minimum > 0

    def survey(self, *, delayed: bool) -> peers.Survey:
        """Step 1. ``delayed``: after this host's delay."""
        if delayed:
            self._sleep(delay(self._host, self._fleet))
        return self._survey(self._fleet)

    def allows(self, survey: peers.Survey) -> bool:
        """Whether the fleet keeps its minimum while this host refuses."""
        return is_enough(survey, self._minimum)

    def contest(self, first: peers.Survey) -> peers.Survey | None:
        """Steps 3 to 5, after this host began to refuse: the survey by which it must yield, None when it need not.

        ``first`` is the survey of step 1.
        """
        for last in (False, True):
            self._sleep(settle(self._fleet))
            survey = self._survey(self._fleet, only=first.asked)
            if self.allows(survey):
                return None
            if last or must_yield(self._host, first, survey, self._minimum):
                return survey
        return None

    def describe(self, survey: peers.Survey) -> str:
        """``over budget: 1 of 2 peers accept mail; 2 must``."""
        return f"over budget: {survey.describe(self._minimum)}"


def settle(fleet: Mapping[str, Any]) -> float:
    """Step 3: seconds between the start of a refusal and the next survey."""
    return peers.patience(fleet) + TAKING


def is_enough(survey: peers.Survey, minimum: int) -> bool:
    """Whether the fleet keeps its minimum while this host refuses."""
    return survey.estimate() >= minimum


def delay(host: str, fleet: Mapping[str, Any]) -> float:
    """Step 1: seconds that ``host`` waits before its survey."""
    names = sorted({host, *(str(peer["name"]) for peer in fleet.get("peers", ()))})
    return SPREAD * names.index(host) / len(names)


def must_yield(host: str, first: peers.Survey, second: peers.Survey, minimum: int) -> bool:
    """Step 4: whether ``host``, which refuses, is one of those that must accept again.

    ``first`` is its survey before it began to refuse, ``second`` the one after.
    """
    missing = minimum - second.estimate()
    if missing <= 0:
        return False
    others = sorted((first.accepting & second.asked) - second.accepting)
    rank = sum(1 for name in others if name < host)
    if len(second.asked) < second.total:
        # a sample: the same share of the peers in it as of all
        scale = second.total / max(1, len(second.asked))
        missing = -(-missing * (len(others) + 1) // max(1, round(len(others) * scale) + 1))
    return rank < missing
