"""Send past the queue: while nothing can be stored nothing can be queued, and operators must be notified of that."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from mf import text

from .. import journal, texts
from ..judging.severity import URGENT, Problem
from ..settings import Settings
from .outbox import Outbox


class Direct:
    """Sends while the store fails. ``refused``: why nothing can be stored now, or empty."""

    def __init__(self, settings: Settings, outbox: Outbox) -> None:
        self._settings = settings
        self._outbox = outbox
        self._sent: set[str] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.refused = ""

    def send(self, problems: Mapping[str, Problem], reason: str) -> None:
        """Notify once that nothing can be stored, and of every urgent problem as it begins."""
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
        """Leave sending to the queue again, once results can be stored."""
        if self.refused:
            journal.log("what is seen can be stored again")
            self.refused, self._sent = "", set()
