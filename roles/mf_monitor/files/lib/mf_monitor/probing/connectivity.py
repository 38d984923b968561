"""The connectivity check: several reference hosts outside the fleet, asked before silence is blamed on a target.

A reference is an address and port that should always answer; a refusal is an answer, too. One that answers is enough:
"everything is down" must not be said by a monitor that is itself cut off. Silence over IPv6 needs one that answers over
IPv6, silence over IPv4 one over IPv4: a monitor may lose one of them only.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from dataclasses import dataclass

from ..judging.states import DOWN, SILENT, UP, ProbeResult
from ..settings import Settings
from . import probes


def _family(address: str) -> int:
    """Of a numeric address; 0 for a name."""
    try:
        return socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
    except ValueError:
        return 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the network was there in a check that began then (on the monotonic clock)."""

    started: float
    up: bool
    message: str
    families: frozenset[int] = frozenset()  # of the references that answered

    def reaches(self, address: str) -> bool:
        """Whether silence from there is its own: something answered the same way, IPv4 or IPv6."""
        if not self.families:
            return self.up
        family = _family(address)
        return self.up if not family else family in self.families


class ConnectivityCheck:
    """Asks the references; any number of waiters share one check."""

    def __init__(self, settings: Settings, world: probes.World) -> None:
        self._references = settings.references
        self._wanted = {_family(name) for name, _ in settings.references} - {0} or {socket.AF_INET}
        self._limit = min(3.0, settings.timeout)
        self._clock = world.clock
        self._running: tuple[float, asyncio.Task[Verdict]] | None = None
        self.last = Verdict(-1.0, True, "not asked yet")

    async def after(self, moment: float) -> Verdict:
        """The verdict of a check that began at or after ``moment`` (monotonic); a new one when there is none."""
        if self.last.started >= moment:
            return self.last
        if self._running is None or self._running[1].done() or self._running[0] < moment:
            self._running = (time.monotonic(), asyncio.create_task(self._check()))
        return await asyncio.shield(self._running[1])

    async def probe(self) -> ProbeResult:
        """A fresh check as a result of the subject ``uplink``."""
        began, started = self._clock(), time.perf_counter()
        verdict = await self.after(time.monotonic())
        latency = round((time.perf_counter() - started) * 1000, 3) if verdict.up else None
        state, reason = (UP, "") if verdict.up else (DOWN, SILENT)
        return ProbeResult("uplink", began, self._clock(), state, verdict.message, reason, latency)

    async def _check(self) -> Verdict:
        began = time.monotonic()
        if not self._references:
            self.last = Verdict(began, True, "no references are set")
            return self.last
        waiting = {asyncio.create_task(self._answers(*one)) for one in self._references}
        total = len(waiting)
        families: set[int] = set()
        try:
            async with asyncio.timeout(self._limit + 1):
                for done in asyncio.as_completed(waiting):
                    families.add(await done)
                    if self._wanted <= families:
                        break
        except TimeoutError:
            pass
        for task in waiting:
            task.cancel()
        families.discard(0)
        message = "a reference answers" if families else f"none of {total} references answers"
        self.last = Verdict(began, bool(families), message, frozenset(families))
        return self.last

    async def _answers(self, name: str, port: int) -> int:
        """The address family in which it answers, or 0."""
        loop = asyncio.get_running_loop()
        family = 0
        try:
            async with asyncio.timeout(self._limit):
                for address in await probes.addresses(name, port):
                    family = socket.AF_INET6 if ":" in address else socket.AF_INET
                    with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as channel:
                        await loop.sock_connect(channel, (address, port))
                        return family
        except ConnectionRefusedError:
            return family
        except (OSError, TimeoutError):
            pass
        return 0
