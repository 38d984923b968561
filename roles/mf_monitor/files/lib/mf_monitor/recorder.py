"""Run the store in a thread of its own, and replace a file that is damaged while the monitor runs, once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

from .clocks import Clocks
from .judging.health import Reading
from .judging.states import ProbeResult
from .store import Store, damaged
from .store.history import Time

T = TypeVar("T")

MOST_KEPT = 200_000  # results and times that couldn't be stored


@dataclass(slots=True)
class Batch:
    """Batch to store: results, readings of health, times by state; and the subjects that changed."""

    results: list[ProbeResult] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    times: list[Time] = field(default_factory=list)
    changed: set[str] = field(default_factory=set)

    def add(self, results: list[ProbeResult], readings: list[Reading], times: list[Time]) -> None:
        """Add more. Beyond the limit the oldest are dropped; of readings the newest of each host counts."""
        self.results = [*self.results, *results][-MOST_KEPT:]
        self.readings = list({reading.host: reading for reading in [*self.readings, *readings]}.values())
        self.changed.update(result.subject for result in results)
        self.times = [*self.times, *times][-MOST_KEPT:]


class Recorder:
    """One writer of the store. ``refill(store)`` writes what is in memory into a new file, in one transaction."""

    def __init__(self, path: str, clocks: Clocks, refill: Callable[[Store], None]) -> None:
        self._path = path
        self._clocks = clocks
        self._refill = refill
        self._thread = ThreadPoolExecutor(1, "store")
        self._version = -1
        self.store = Store(path, now=clocks.wall())

    async def stored(self, function: Callable[[Store], T]) -> T:
        """Run a function of the store in one transaction, in the store's thread. A damaged file is replaced, once."""

        def work() -> T:
            with self.store.writing():
                return function(self.store)

        seen = self.store
        try:
            return await self._in_thread(work)
        except Exception as error:
            if not damaged(error):
                raise
            reason = str(error)
        await self.renew(seen, reason)
        return await self._in_thread(work)

    async def if_changed(self, load: Callable[[Store], None]) -> None:
        """Run ``load`` when another process has changed the file: an operator's command."""

        def work(store: Store) -> None:
            version = store.data_version()
            if version != self._version:
                load(store)
                self._version = version

        await self.stored(work)

    async def renew(self, seen: Store, reason: str) -> None:
        """Replace a damaged file, whatever a check of it finds; ``seen`` unless that has happened since."""
        await self._in_thread(lambda: self._renew(seen, reason))

    def _renew(self, seen: Store, reason: str) -> None:
        if self.store is not seen:
            return
        with suppress(Exception):
            seen.close()
        self.store = Store(self._path, now=self._clocks.wall(), damage=reason)
        self._version = -1
        with self.store.writing():
            self._refill(self.store)

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    def close(self) -> None:
        """Let the thread end, then close the file."""
        self._thread.shutdown(wait=True)
        self.store.close()
