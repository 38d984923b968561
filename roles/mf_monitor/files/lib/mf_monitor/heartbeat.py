"""The heartbeat: call a dead man's switch outside the fleet while this monitor evaluates results and can store them."""

from __future__ import annotations

import asyncio
import sqlite3

from mf import text

from . import journal
from .probing import addresses, http
from .probing.world import World
from .recorder import Recorder
from .rules import place
from .store import refuses


class Heartbeat:
    """Send a heartbeat once a minute, or once an interval if that is shorter."""

    def __init__(self, world: World, recorder: Recorder) -> None:
        self._world = world
        self._recorder = recorder
        self._sent = float("-inf")
        self._task: asyncio.Task[None] | None = None

    def send_if_due(self) -> None:
        """Send a heartbeat when a switch is set and the time has come."""
        settings, now = self._world.settings, self._world.clocks.monotonic()
        if settings.heartbeat and now - self._sent >= min(60.0, settings.interval):
            self._sent = now
            self._task = asyncio.create_task(self._send(self._world.clocks.wall()))

    async def _send(self, now: float) -> None:
        good = await send_heartbeat(self._world.settings.heartbeat, self._world)
        try:
            await self._recorder.stored(lambda store: store.put("heartbeat", f"{now:.0f} {int(good)}"))
        except sqlite3.Error as error:
            if not refuses(error):
                raise


async def send_heartbeat(url: str, world: World) -> bool:
    """Request the switch's URL; whether it answered with 2xx."""
    secure = url.startswith("https://")
    name, _, path = url.partition("://")[2].partition("/")
    try:
        host, port = place(name if ":" in name.rpartition("]")[2] else f"{name}:{443 if secure else 80}")
        target = http.Target(secure, host, port, host, f"/{path}")
        async with asyncio.timeout(world.settings.timeout):
            places = await addresses.resolve(host, port)
            status, *_ = await http.fetch(target, world.strict, places)
        if 200 <= status < 300:
            return True
        journal.log(f"the heartbeat was answered with {status}")
    except Exception as error:  # noqa: BLE001  (the switch raises the alarm when nothing comes)
        journal.log(f"the heartbeat can't be sent: {type(error).__name__} {text.clean(str(error), 60)}")
    return False
