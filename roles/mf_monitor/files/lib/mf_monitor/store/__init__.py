"""The monitor's database: one SQLite file. One writer (the engine); the page and the command read and add little.

``subject`` names what has a state: ``mx1/smtp`` (a service), ``mx1`` (a host), ``fleet``. All times are epoch seconds,
latencies milliseconds. Tables:

=========  ==========================================================================================================
current    a row a subject: its confirmed state and the JSON of its state machine
health     a row a host: the object of ``/mf/bin/health --json`` as last read, when, and whether that went well
buckets    latency and failures of a subject in 5 minutes; kept for 8 days
days       seconds a subject spent in each state on one day (UTC), and its latency; kept for 400 days
incidents  one row for each root cause, open while ``closed`` is null; ``alert`` is the JSON of what was sent
events     an incident's timeline
messages   the queue of texts on their way to a channel, and what became of them; kept for 90 days
silences   patterns of incidents that send no messages, and until when
meta       single values
=========  ==========================================================================================================

A file that SQLite calls damaged is moved aside (``…damaged-<time>``) and a new one made; ``Store.damage`` has the
reason. Commits are durable (``synchronous=FULL``): what was queued survives kill -9 and a power cut.
"""

from __future__ import annotations

from .connection import DAY, Connection, StoreError, damaged, refuses
from .current import Current
from .history import History
from .incidents import Incidents, Silence
from .messages import GIVEN_UP, HELD_BACK, QUEUED, SENDING, SENT, Message, Messages

__all__ = [
    "DAY",
    "GIVEN_UP",
    "HELD_BACK",
    "QUEUED",
    "SENDING",
    "SENT",
    "Message",
    "Silence",
    "Store",
    "StoreError",
    "damaged",
    "refuses",
]


class Store(Connection):
    """The open database with its tables by subject: ``store.messages.enqueue(…)`` inside ``with store.writing():``."""

    def __init__(
        self, path: str, *, readonly: bool = False, now: float | None = None, damage: str = "", own: bool = True
    ) -> None:
        """Open it; see ``Connection``."""
        super().__init__(path, readonly=readonly, now=now, damage=damage, own=own)
        self.current = Current(self)
        self.history = History(self)
        self.incidents = Incidents(self)
        self.messages = Messages(self)

    def prune(self, now: float) -> None:
        """Drop what is older than it is kept."""
        for part in (self.history, self.incidents, self.messages):
            part.prune(now)
