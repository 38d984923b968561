"""The monitor's clocks in one place: a test replaces them, and hours pass in a moment. And waiting for an event."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clocks:
    """Seconds: ``wall`` since the epoch, may be set back; ``monotonic``; ``cpu`` that the running thread has used."""

    wall: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    cpu: Callable[[], float] = time.thread_time


async def awaken(event: asyncio.Event, limit: float) -> None:
    """Wait for an event, at most so many seconds. (Python 3.11's wait_for may swallow a cancellation.)"""
    try:
        async with asyncio.timeout(limit):
            await event.wait()
    except TimeoutError:
        pass
