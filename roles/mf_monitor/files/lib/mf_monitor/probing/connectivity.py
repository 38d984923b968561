"""The connectivity check: several reference hosts outside the fleet, asked before silence is blamed on a target.

A reference host has an address and port that should always answer; a refusal is an answer, too. A single answer is
enough: a monitor that is itself cut off must not report that everything is down. Silence over IPv6 needs an answer over
IPv6, silence over IPv4 an answer over IPv4: a monitor may lose only one family.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..clocks import Clocks
from ..judging.states import CONNECTIVITY, DOWN, SILENT, UP, ProbeResult
from ..settings import Settings
from . import addresses

Answer: TypeAlias = Callable[[str, int, float], Coroutine[Any, Any, int]]


def _family(address: str) -> int:
    """Of a numeric address; 0 for a name."""
    try:
        return socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
    except ValueError:
        return 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the network was there in a check that ``started`` then (on the monotonic clock)."""

    started: float
    up: bool
    message: str
    families: frozenset[int] = frozenset()  # of the reference hosts that answered

    def reaches(self, address: str) -> bool:
        """Whether silence from there is its own: something answered the same way, IPv4 or IPv6."""
        if not self.families:
            return self.up
        family = _family(address)
        return self.up if not family else family in self.families


async def answer(name: str, port: int, limit: float) -> int:
    """The address family in which a reference host answers within ``limit`` seconds, or 0."""
    loop = asyncio.get_running_loop()
    family = 0
    try:
        async with asyncio.timeout(limit):
            for address in await addresses.resolve(name, port):
                family = socket.AF_INET6 if ":" in address else socket.AF_INET
                with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as channel:
                    await loop.sock_connect(channel, (address, port))
                    return family
    except ConnectionRefusedError:
        return family
    except (OSError, TimeoutError):
        pass
    return 0


class ConnectivityCheck:
    """Asks the reference hosts; any number of waiters share one check."""

    def __init__(self, settings: Settings, clocks: Clocks, answer: Answer = answer) -> None:
        self._reference_hosts = settings.reference_hosts
        self._wanted = {_family(name) for name, _ in settings.reference_hosts} - {0} or {socket.AF_INET}
        self._limit = min(3.0, settings.timeout)
        self._clocks = clocks
        self._answer = answer
        self._running: tuple[float, asyncio.Task[Verdict]] | None = None
        self.last = Verdict(-1.0, True, "not asked yet")

    async def after(self, moment: float) -> Verdict:
        """The verdict of a check that started at or after ``moment`` (monotonic); without any, of a new check."""
        if self.last.started >= moment:
            return self.last
        if self._running is None or self._running[1].done() or self._running[0] < moment:
            self._running = (self._clocks.monotonic(), asyncio.create_task(self._check()))
        return await asyncio.shield(self._running[1])

    async def probe(self) -> ProbeResult:
        """A fresh check as a result of its subject."""
        started, before = self._clocks.wall(), self._clocks.monotonic()
        verdict = await self.after(self._clocks.monotonic())
        latency = round((self._clocks.monotonic() - before) * 1000, 3) if verdict.up else None
        state, reason = (UP, "") if verdict.up else (DOWN, SILENT)
        return ProbeResult(CONNECTIVITY, started, self._clocks.wall(), state, verdict.message, reason, latency)

    async def _check(self) -> Verdict:
        started = self._clocks.monotonic()
        if not self._reference_hosts:
            self.last = Verdict(started, True, "no reference hosts are set")
            return self.last
        answers = (self._answer(name, port, self._limit) for name, port in self._reference_hosts)
        waiting = {asyncio.create_task(answer) for answer in answers}
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
        message = "a reference host answers" if families else f"none of {total} reference hosts answers"
        self.last = Verdict(started, bool(families), message, frozenset(families))
        return self.last
