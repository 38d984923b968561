"""A repair of a systemd unit: its obstacles, and the count of repairs. Slow path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mf import decisions, state
from mf.maintenance import Maintenance
from mf.text import clean

from .breaker import Breaker, after_restart, ask, save

LEAST = 5.0  # seconds of the deadline that must be left for an action to begin


@dataclass
class Healer:
    """One action on a unit, which maintenance, the host's action lock and the circuit breaker may forbid.

    ``breaker``: the stored one, then its state after ``ask``. ``maintenance``: the active one, if any.
    ``locked``: whether this run holds the action lock. ``evidence`` goes into each line of the decision log.
    """

    places: state.Places
    check: str
    unit: str
    action: str
    breaker: Breaker
    maintenance: Maintenance | None
    locked: bool
    evidence: Mapping[str, state.Json]

    def __post_init__(self) -> None:
        self.now = state.boottime()
        self.allowed, self.breaker = ask(self.breaker, self.now)

    def obstacle(self, *, uncured: bool, left: float) -> str:
        """The obstacle to the action; empty when there is none.

        ``uncured``: an earlier restart left the same symptom, and nothing has changed since. ``left``: seconds left.
        """
        if self.maintenance is not None:
            return f"maintenance ({clean(self.maintenance.reason, 60)})"
        if not self.locked:
            return "another action is under way on this host"
        if uncured:
            again = "a restart did not cure it; not tried again before something changes"
            return f"{again}: see journalctl -u {self.unit}"
        if not self.allowed:
            minutes = max(1, round(((self.breaker.until or self.now) - self.now) / 60))
            return f"the circuit breaker is open for {minutes} more min: restarts don't help, or not for long"
        return "too little of this run's time is left" if left < LEAST else ""

    def count(self, obstacle: str) -> str:
        """Store the breaker before the action, the attempt counted as failed; returns the obstacle to it now."""
        if self.maintenance is not None or not self.locked:
            return obstacle
        unstored = self.keep(self.breaker if obstacle else after_restart(self.breaker, self.now, healed=False))
        return obstacle or unstored

    def healed(self) -> None:
        """Count the attempt as a success."""
        self.keep(after_restart(self.breaker, self.now, healed=True))

    def keep(self, breaker: Breaker) -> str:
        """Store the breaker; returns the error, or nothing. Without a stored breaker restarts would go on for ever."""
        try:
            save(self.places, self.unit, breaker)
        except OSError as error:
            return f"the circuit breaker can't be stored, neither on disk nor in /run: {error.strerror}"
        return ""

    def log(self, outcome: str, reason: str) -> None:
        """Write to the decision log."""
        decisions.record(self.places, self.check, self.action, self.unit, reason, outcome, self.evidence)
