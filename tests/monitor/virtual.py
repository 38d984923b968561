"""A monitor on a virtual clock: hours pass in a moment, and nothing outside the process is touched.

The loop's clock jumps to the next timer when nothing else is to be done, and what other loops do in threads is done in
place. So a test takes the same steps in the same order each time, however busy the machine is.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import selectors
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple, Unpack

from mf_monitor import settings
from mf_monitor.clocks import Clocks
from mf_monitor.engine import Engine
from mf_monitor.judging.states import DOWN, REFUSED, SILENT, UNKNOWN, UP, ProbeResult
from mf_monitor.probing.world import World
from mf_monitor.settings import Channel, Service

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

NOW = 1_790_000_000.0  # 2026-09-21, 14:13:20 UTC


class _Selector(selectors.SelectSelector):
    """Doesn't wait: lets the loop's clock jump instead."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "nothing will ever happen any more"
            self._loop.now += max(0.0, timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop of which the clock jumps."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_Selector(self))

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self.now

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Run it now."""
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001  (it is raised where it is awaited)
            future.set_exception(error)
        return future


def run(work: Callable[[], Awaitable[None]]) -> None:
    """Run a test on a loop of its own."""

    async def go() -> None:
        await work()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(go())


async def until(condition: Callable[[], bool], limit: float = 3600.0) -> None:
    """Wait for a condition, in virtual seconds."""
    async with asyncio.timeout(limit):
        while not condition():
            await asyncio.sleep(0.1)


@dataclasses.dataclass
class Fleet:
    """Three MXs with SMTP and ssh. ``faults``: subject to state, message and reason; all others are well."""

    raw: dict[str, Any]
    faults: dict[str, tuple[str, str, str]] = dataclasses.field(default_factory=dict)
    online: bool = True
    broken: set[str] = dataclasses.field(default_factory=set)  # channels that take nothing
    sent: list[tuple[str, str]] = dataclasses.field(default_factory=list)  # channel, text
    probed: list[tuple[str, float]] = dataclasses.field(default_factory=list)  # subject, when it was started
    set_back: float = 0.0  # seconds of the wall clock

    @property
    def texts(self) -> list[str]:
        """Messages that reached operators."""
        return [text for _, text in self.sent]

    def refuse(self, *subjects: str) -> None:
        """Let them refuse connections."""
        self.faults |= dict.fromkeys(subjects, (DOWN, "connection refused", REFUSED))

    def silence(self, *subjects: str) -> None:
        """Let them not answer."""
        self.faults |= dict.fromkeys(subjects, (DOWN, "no answer", SILENT))

    def mend(self, subjects: Iterable[str] = ()) -> None:
        """Let them be well again; all without ``subjects``."""
        for subject in list(subjects) or list(self.faults):
            self.faults.pop(subject, None)

    @property
    def clocks(self) -> Clocks:
        """Those of the running loop; no CPU is used."""
        loop = asyncio.get_running_loop()
        return Clocks(lambda: NOW + loop.time() - self.set_back, loop.time, lambda: 0.0)

    async def probe(self, service: Service, world: World) -> ProbeResult:
        """Stands for ``probes.probe``."""
        started = world.clocks.wall()
        self.probed.append((service.subject, world.clocks.monotonic()))
        state, message, reason = self.faults.get(service.subject, (UP, "well", ""))
        await asyncio.sleep(world.settings.timeout if reason == SILENT else 0.01)
        latency = None if state in (DOWN, UNKNOWN) else 10.0
        return ProbeResult(service.subject, started, world.clocks.wall(), state, message, reason, latency)

    async def answer(self, name: str, port: int, limit: float) -> int:
        """Stands for ``connectivity.answer``."""
        if not self.online:
            await asyncio.sleep(limit)
        return socket.AF_INET if self.online else 0

    async def send(self, channel: Channel, message: str) -> str:
        """Stands for ``outbox.Sender``."""
        await asyncio.sleep(0.5)
        if channel.name in self.broken:
            return "connection refused"
        self.sent.append((channel.name, message))
        return ""

    def engine(self, **changed: Any) -> Engine:
        """A monitor of it."""
        chosen = settings.parse({**self.raw, **changed})
        return Engine(chosen, clocks=self.clocks, probe=self.probe, answer=self.answer, send=self.send)


def fleet(folder: Path, **changed: Any) -> Fleet:
    """The fleet, all of it well, and a channel for what is urgent and notices."""
    services = [{"kind": "smtp"}, {"kind": "ssh"}]
    hosts = [
        {"name": f"mx{number}", "role": "mx", "address": f"192.0.2.{number}", "services": services}
        for number in (1, 2, 3)
    ]
    raw = {
        "host": "monitor1",
        "min_accepting": 2,
        "database": str(folder / "monitor.sqlite"),
        "references": ["192.0.2.99:53"],
        "channels": [{"name": "sms", "url": "x", "severities": ["urgent", "notice"]}],
        "hosts": hosts,
        **changed,
    }
    return Fleet(raw)


@contextlib.asynccontextmanager
async def watching(world: Fleet, **changed: Any) -> AsyncIterator[Engine]:
    """A monitor at work, once it has seen the fleet."""
    monitor = world.engine(**changed)
    task = asyncio.create_task(monitor.run())
    try:
        await until(lambda: monitor.view is not None and monitor.view.state != UNKNOWN)
        yield monitor
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
