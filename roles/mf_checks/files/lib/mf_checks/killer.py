"""End the processes whose verdict is to kill, up to the limit of one run. Slow path.

A pidfd holds each process before it is verified a last time, so no signal meets another process with the same number.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Sequence

from mf import decisions, maintenance, state

from .orphans import Verdict

GRACE = 3.0  # seconds between TERM and KILL
LAST = 2.0  # seconds after KILL in which a process has to end
LOCK_WAIT = 3.0

TERM, KILL, SURVIVED, SPARED, OUT_OF_REACH = "TERM", "KILL", "survived", "spared", "out of reach"
Outcome = tuple[Verdict, str]


class Killer:
    """Sends TERM, and KILL to what ignores it; logs each decision with its evidence.

    ``unchanged`` verifies a verdict once its process is held: the same process, and still without progress.
    """

    def __init__(self, places: state.Places, check: str, unchanged: Callable[[Verdict], bool]) -> None:
        self.places = places
        self.check = check
        self.unchanged = unchanged
        self.held: dict[int, Verdict] = {}
        self.outcomes: list[Outcome] = []

    def kill(self, doomed: Sequence[Verdict], cap: int, result: state.Result) -> str:
        """Kill up to the cap, or report the obstacle; returns the summary's part."""
        victims = doomed[:cap]
        with self.places.lock(state.ACTION, LOCK_WAIT) as locked:
            if maintenance.active(self.places) is not None:  # it may have begun during the wait
                obstacle = "maintenance"
            else:
                obstacle = "" if locked else "another action is under way on this host"
            outcomes = [] if obstacle else self.end(victims)
        if obstacle:
            for victim in victims:
                self.log(victim, "refused", obstacle)
            result.status = state.worst([result.status, state.WARNING])
            result.actions.append(f"refused to kill {names(victims)}: {obstacle}")
            return f"not killed ({obstacle}): {names(victims)}"
        result.actions += [
            f"{outcome}: {victim.kind} {victim.process.stat.pid}, {victim.process.age:.0f} s old, {victim.why()}"
            for victim, outcome in outcomes
        ]
        result.metrics["killed"] = sum(outcome in (TERM, KILL) for _, outcome in outcomes)
        status, summary = report(outcomes, len(doomed) - len(victims), cap)
        result.status = state.worst([result.status, status])
        return summary

    def end(self, victims: Iterable[Verdict]) -> list[Outcome]:
        """TERM, a grace period, KILL; all at once. Each is logged before its first signal."""
        try:
            for victim in victims:
                self.hold(victim)
            # a stopped process handles its TERM only when it runs again
            self.send(signal.SIGTERM, signal.SIGCONT)
            self.finish(self.ended(GRACE), TERM)
            self.send(signal.SIGKILL)
            self.finish(self.ended(LAST), KILL)
            self.finish(list(self.held), SURVIVED)
        finally:
            for descriptor in self.held:
                os.close(descriptor)
        return self.outcomes

    def hold(self, victim: Verdict) -> None:
        """Hold a process by a pidfd, unless it has changed since its verdict."""
        try:
            descriptor = os.pidfd_open(victim.process.stat.pid)
        except ProcessLookupError:
            self.outcomes.append((victim, SPARED))
            return
        except OSError as error:
            self.log(victim, f"failed: no pidfd ({error.strerror})")
            self.outcomes.append((victim, OUT_OF_REACH))
            return
        self.held[descriptor] = victim
        if self.unchanged(victim):
            self.log(victim, "begun")
            return
        del self.held[descriptor]
        os.close(descriptor)
        self.log(victim, "spared: it moved or was replaced")
        self.outcomes.append((victim, SPARED))

    def send(self, *numbers: signal.Signals) -> None:
        """Send signals to every process that is held."""
        for descriptor in self.held:
            for number in numbers:
                try:
                    signal.pidfd_send_signal(descriptor, number)
                except OSError:
                    pass  # it has just ended, or it shows as a survivor

    def ended(self, seconds: float) -> list[int]:
        """The pidfds of those that end within so many seconds."""
        descriptors: list[int] = []
        poll = select.poll()
        for descriptor in self.held:
            poll.register(descriptor, select.POLLIN)
        give_up = time.monotonic() + seconds
        while len(descriptors) < len(self.held) and (left := give_up - time.monotonic()) > 0:
            for descriptor, _ in poll.poll(left * 1000):
                poll.unregister(descriptor)
                descriptors.append(descriptor)
        return descriptors

    def finish(self, descriptors: Iterable[int], outcome: str) -> None:
        """Let processes go, and log how they ended."""
        for descriptor in descriptors:
            victim = self.held.pop(descriptor)
            os.close(descriptor)
            self.log(victim, "failed: survived KILL" if outcome == SURVIVED else f"done: {outcome}")
            self.outcomes.append((victim, outcome))

    def log(self, victim: Verdict, outcome: str, reason: str = "") -> None:
        """Write to the decision log."""
        process = victim.process
        reason = reason or f"{victim.kind}, {victim.why()}"
        decisions.record(self.places, self.check, "kill", str(process.stat.pid), reason, outcome, process.evidence())


def names(verdicts: Iterable[Verdict]) -> str:
    """``orphan 12, stuck 13``."""
    return ", ".join(f"{verdict.kind} {verdict.process.stat.pid}" for verdict in verdicts)


def report(outcomes: Iterable[Outcome], left: int, cap: int) -> tuple[str, str]:
    """``(status, summary)`` of a run's kills, with ``left`` processes beyond the cap. Pure."""
    by_outcome: dict[str, list[Verdict]] = {}
    for victim, outcome in outcomes:
        by_outcome.setdefault(KILL if outcome == TERM else outcome, []).append(victim)
    parts = ["killed " + (names(by_outcome.get(KILL, [])) or "none")]
    if SPARED in by_outcome:
        parts.append(f"{len(by_outcome[SPARED])} spared: moved or gone at the last moment")
    failures = []
    if OUT_OF_REACH in by_outcome:
        failures.append(f"{len(by_outcome[OUT_OF_REACH])} out of reach: the kernel gives no pidfd")
    if SURVIVED in by_outcome:
        failures.append(f"{len(by_outcome[SURVIVED])} survived KILL")
    if left > 0:
        failures.append(f"kill limit reached ({cap} per run), {left} left; investigate what creates them")
    status = state.CRITICAL if failures else state.WARNING if KILL in by_outcome else state.OK
    return status, ", ".join(parts + failures)
