"""A repair of a systemd unit: what may forbid it, and the count that is kept of it. Slow path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mf import decisions, state
from mf.maintenance import Maintenance
from mf.text import clean

from .breaker import Breaker, ask, save, told

LEAST = 5.0  # seconds: an action that could be waited for no longer than that isn't begun


@dataclass
class Healer:
    """One action on a unit, which maintenance, the host's action lock and the circuit breaker may forbid.

    ``breaker``: as it is stored; afterwards as it is once it was asked. ``maintenance``: its marker, if there is one.
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
        """What forbids the action; empty when nothing does.

        ``uncured``: a restart left the same symptom before, and nothing has changed since. ``left``: seconds for it.
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
        """Store the breaker before anything is done, the attempt counted as failed; returns what forbids it now."""
        if self.maintenance is not None or not self.locked:
            return obstacle
        unkept = self.keep(self.breaker if obstacle else told(self.breaker, self.now, healed=False))
        return obstacle or unkept

    def healed(self) -> None:
        """Count the attempt as one that helped."""
        self.keep(told(self.breaker, self.now, healed=True))

    def keep(self, breaker: Breaker) -> str:
        """Store the breaker; what went wrong, or nothing. One that can't remember would let restarts go on for ever."""
        try:
            save(self.places, self.unit, breaker)
        except OSError as error:
            return f"the circuit breaker can't be stored, neither on disk nor in /run: {error.strerror}"
        return ""

    def log(self, outcome: str, reason: str) -> None:
        """Write to the decision log."""
        decisions.record(self.places, self.check, self.action, self.unit, reason, outcome, self.evidence)
