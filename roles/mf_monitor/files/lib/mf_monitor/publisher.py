"""Write the status page from what is on disk, as often as that costs little."""

from __future__ import annotations

import asyncio
import importlib

from mf import text

from . import journal
from .clocks import Clocks
from .page import snapshot
from .recorder import Recorder
from .settings import Settings
from .store import Store, damaged

EVERY = 5.0  # seconds, at most so often; a large fleet's page seldomer, but once in an interval
CALM = 50  # times the CPU that a page took are let pass before the next: 2 % of a core


class Publisher:
    """Writes the page in a thread. ``effort``: CPU seconds of the last time."""

    def __init__(self, settings: Settings, clocks: Clocks, recorder: Recorder) -> None:
        self._settings = settings
        self._clocks = clocks
        self._recorder = recorder
        self._written = float("-inf")
        self._trouble = ""
        self._task: asyncio.Task[None] | None = None
        self.effort = 0.0

    def write_if_due(self) -> None:
        """Start writing the page when it is set, due, and the previous one is complete."""
        now = self._clocks.monotonic()
        pause = max(EVERY, min(CALM * self.effort, self._settings.interval))
        busy = self._task is not None and not self._task.done()
        if self._settings.page and now - self._written >= pause and not busy:
            self._written = now
            self._task = asyncio.create_task(self.write(self._clocks.wall()))

    async def write(self, now: float) -> None:
        """Write the page. An error is logged once, a damaged database replaced."""
        seen = self._recorder.store
        trouble = ""
        try:
            await asyncio.to_thread(self._write, now)
        except Exception as error:  # noqa: BLE001  (a page that can't be written must not end the watch)
            trouble = f"the page can't be written: {type(error).__name__}: {text.clean(str(error))}"
            if damaged(error):
                await self._recorder.renew(seen, str(error))
        if trouble and trouble != self._trouble:
            journal.log(trouble)
        self._trouble = trouble

    def _write(self, now: float) -> None:
        before = self._clocks.cpu()
        # a connection of its own sees what is on disk, not what the engine has in its cache
        store = Store(self._settings.database, readonly=True)
        try:
            shot = snapshot.take(store, self._settings, now)
        finally:
            store.close()
        # templates are loaded by the first page only: a monitor without one never needs them
        importlib.import_module(".page.render", __package__).write(shot, self._settings.page)
        self.effort = self._clocks.cpu() - before
