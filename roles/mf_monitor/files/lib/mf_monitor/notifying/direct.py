"""Past the queue: while nothing can be stored, nothing can be queued, and that must be known all the same."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from mf import text

from .. import journal, texts
from ..judging.severity import URGENT, Problem
from ..settings import Settings
from .outbox import Outbox


class Direct:
    """``refused``: why nothing can be stored now, or nothing."""

    def __init__(self, settings: Settings, outbox: Outbox) -> None:
        self._settings = settings
        self._outbox = outbox
        self._sent: set[str] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.refused = ""

    def send(self, problems: Mapping[str, Problem], reason: str) -> None:
        """Send once that nothing can be stored, and every urgent problem as it comes."""
        first, self.refused = not self.refused, reason
        urgent = {key for key, problem in problems.items() if problem.severity == URGENT}
        fresh = urgent - self._sent
        if not first and not fresh:
            return
        self._sent |= urgent
        titles = [f"{self._settings.host} can't store what it sees ({text.clean(reason, 40)})"]
        titles += [problems[key].title for key in sorted(fresh)]
        message = texts.compose(self._settings.name, "URGENT", titles, "")
        journal.log(message)
        task = asyncio.create_task(self._outbox.direct(URGENT, message))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def end(self) -> None:
        """It can be stored again: the queue takes over."""
        if self.refused:
            journal.log("what is seen can be stored again")
            self.refused, self._sent = "", set()
