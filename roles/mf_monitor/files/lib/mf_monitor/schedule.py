"""Schedule probes: of each subject once an interval, spread over it, and at once when something has changed.

All of it is on the monotonic clock: the wall clock may be set back.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import math
from collections.abc import Awaitable, Callable, Collection, Mapping

from .clocks import awaken
from .judging.states import CONNECTIVITY, DOWN, THROTTLED, UNKNOWN, ProbeResult, SubjectState
from .settings import Service, Settings

PEERS = 30  # hosts of the same role that are probed as soon as one turns
TOO_SOON = 0.1  # intervals between a probe out of turn and the next in turn


class Schedule:
    """The next probe of each name. ``intervals``: name to seconds, in the order in which they are spread."""

    def __init__(self, intervals: Mapping[str, float], clock: Callable[[], float]) -> None:
        self.intervals = intervals
        self._clock = clock
        self._due: list[tuple[float, str]] = []
        self._planned: dict[str, float] = {}
        self._phases: dict[str, float] = {}
        self._changed = asyncio.Event()
        self._running: dict[str, asyncio.Task[None]] = {}

    def start(self, urgent: Collection[str]) -> None:
        """Plan everything: spread over the interval, ``urgent`` names at once."""
        now = self._clock()
        for number, (name, interval) in enumerate(self.intervals.items()):
            self._phases[name] = now + interval * (number + 0.5) / len(self.intervals)
            self.plan(name, now if name in urgent else self._phases[name])

    def plan(self, name: str, at: float) -> None:
        """Probe it then; an earlier probe that is planned already stands."""
        planned = self._planned.get(name)
        if planned is None or at < planned:
            self._planned[name] = at
            heapq.heappush(self._due, (at, name))
            self._changed.set()

    def plan_soon(self, name: str, seconds: float = 0.0) -> None:
        """Probe it out of turn."""
        self.plan(name, self._clock() + seconds)

    async def run(self, probe: Callable[[str], Awaitable[None]]) -> None:
        """Call ``probe`` for each name that is due, never twice at once; what is under way is cancelled at the end."""
        try:
            while True:
                self._start_due(probe)
                self._changed.clear()
                pause = min(1.0, max(0.0, self._due[0][0] - self._clock())) if self._due else 1.0
                if pause > 0:
                    await awaken(self._changed, pause)
                else:
                    await asyncio.sleep(0)
        finally:
            for task in self._running.values():
                task.cancel()
            await asyncio.gather(*self._running.values(), return_exceptions=True)

    def _start_due(self, probe: Callable[[str], Awaitable[None]]) -> None:
        now = self._clock()
        while self._due and self._due[0][0] <= now:
            at, name = heapq.heappop(self._due)
            if self._planned.get(name) != at:
                continue  # an earlier probe was planned since
            del self._planned[name]
            if name not in self._running:  # what is under way plans the next
                self._running[name] = asyncio.create_task(self._run(name, probe))

    async def _run(self, name: str, probe: Callable[[str], Awaitable[None]]) -> None:
        try:
            await probe(name)
        finally:
            del self._running[name]
            self.plan(name, self._in_turn(name))

    def _in_turn(self, name: str) -> float:
        """The next probe in turn, as if there had been none out of turn: the phases stay spread all the same."""
        now, interval, phase = self._clock(), self.intervals[name], self._phases[name]
        following = phase + interval * math.ceil((now - phase) / interval)
        return following if following - now > TOO_SOON * interval else following + interval


def intervals(settings: Settings) -> dict[str, float]:
    """Everything that is probed in turn, and how often, in the order in which it is spread."""
    services = [service for host in settings.hosts for service in host.services]
    names = {
        service.subject: service.interval for service in sorted(services, key=lambda service: share(service.subject))
    }
    names[CONNECTIVITY] = settings.interval
    if settings.health:
        names |= {f"{host.name}/health": settings.interval for host in settings.hosts if host.health}
    return names


def share(name: str) -> float:
    """Place of a subject in the interval, 0 to 1: spread evenly, the same after each start."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 2**32


def turns(before: SubjectState, result: ProbeResult) -> bool:
    """Whether a result is the first of a failure, or of a recovery."""
    bad = (DOWN, THROTTLED)
    if result.state in (UNKNOWN, before.state, before.soft):
        return False
    return result.state in bad or before.state in bad


def related(
    settings: Settings, subjects: Mapping[str, SubjectState], service: Service, result: ProbeResult
) -> list[str]:
    """The subjects to probe at once because a service has turned: is it alone?

    The host's other services show whether it is the host; its peers, those of the same provider first, whether it is
    one root cause, to be notified in one message.
    """
    host = next(host for host in settings.hosts if host.name == service.host)
    others = [service for service in host.services if service.is_evidence] if result.state == DOWN else []
    if service.is_evidence:
        peers = [peer for peer in settings.hosts if peer.role == host.role and peer is not host]
        peers.sort(key=lambda peer: peer.provider != host.provider)
        others += [near for peer in peers[:PEERS] for near in peer.services if near.kind == service.kind]
    names = []
    for other in others:
        current = subjects.get(other.subject, SubjectState())
        worth = result.state in (DOWN, THROTTLED) or current.state in (DOWN, THROTTLED)
        if other is not service and worth and current.checked < result.started:
            names.append(other.subject)
    return names
