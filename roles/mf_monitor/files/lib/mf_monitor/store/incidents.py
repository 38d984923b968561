"""Incidents, their timelines, and silences."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from .connection import DAY, KEEP_DAYS, Connection


class StoredIncident(NamedTuple):
    """A row of the table ``incidents``; times are epoch seconds."""

    id: int
    key: str
    kind: str
    host: str
    service: str
    severity: str
    title: str
    opened: float
    closed: float | None
    acked: float | None
    acked_by: str
    ack_until: float | None
    alert: Mapping[str, Any]


class Event(NamedTuple):
    """A line of an incident's timeline."""

    at: float
    what: str
    text: str


@dataclass(frozen=True, slots=True)
class Silence:
    """Incidents whose key fits ``pattern`` (fnmatch) send no messages; times are epoch seconds."""

    id: int
    pattern: str
    until: float
    reason: str
    by: str
    created: float


class Incidents:
    """Tables ``incidents``, ``events`` and ``silences``."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    def open(self, key: str, kind: str, host: str, service: str, severity: str, title: str, opened: float) -> int:
        """A new incident; its number."""
        cursor = self._db.execute(
            "INSERT INTO incidents (key, kind, host, service, severity, title, opened) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (key, kind, host, service, severity, title, opened),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def set(self, number: int, severity: str, title: str, alert: Mapping[str, Any]) -> None:
        """Set its severity, title and alert."""
        self._db.execute(
            "UPDATE incidents SET severity = ?, title = ?, alert = ? WHERE id = ?",
            (severity, title, json.dumps(alert), number),
        )

    def rename(self, former: str, key: str, kind: str, service: str) -> None:
        """Give an open incident another key, unless that key is open itself."""
        self._db.execute(
            "UPDATE OR IGNORE incidents SET key = ?, kind = ?, service = ? WHERE key = ? AND closed IS NULL",
            (key, kind, service, former),
        )

    def close(self, number: int, at: float) -> None:
        """Close it."""
        self._db.execute("UPDATE incidents SET closed = ? WHERE id = ?", (at, number))

    def acknowledge(self, number: int, at: float, by: str, until: float | None) -> bool:
        """An operator takes care of it, until then (None: until it is over). False when it isn't open."""
        cursor = self._db.execute(
            "UPDATE incidents SET acked = ?, acked_by = ?, ack_until = ? WHERE id = ? AND closed IS NULL",
            (at, by, until, number),
        )
        return cursor.rowcount == 1

    def end_acknowledgement(self, number: int) -> None:
        """End the acknowledgement: the incident has become worse."""
        self._db.execute("UPDATE incidents SET acked = NULL, acked_by = '', ack_until = NULL WHERE id = ?", (number,))

    def load(self, *, since: float | None = None) -> list[StoredIncident]:
        """Open incidents, and with ``since`` also those that closed after it; newest first."""
        query = "SELECT * FROM incidents WHERE closed IS NULL OR closed >= ? ORDER BY opened DESC, id DESC"
        rows = self._db.rows(query, 1e18 if since is None else since)
        return [StoredIncident._make([*columns, json.loads(alert)]) for *columns, alert in rows]

    def add_event(self, incident: int, at: float, what: str, text: str) -> None:
        """A line of an incident's timeline."""
        self._db.execute(
            "INSERT INTO events (incident, at, what, words) VALUES (?, ?, ?, ?)", (incident, at, what, text)
        )

    def events(self, incidents: Sequence[int]) -> dict[int, list[Event]]:
        """The timelines of some incidents, oldest first."""
        by: dict[int, list[Event]] = {number: [] for number in incidents}
        for start in range(0, len(incidents), 500):
            part = incidents[start : start + 500]
            marks = ",".join("?" * len(part))
            query = f"SELECT incident, at, what, words FROM events WHERE incident IN ({marks}) ORDER BY at, id"
            for number, *columns in self._db.rows(query, *part):
                by[number].append(Event(*columns))
        return by

    def add_silence(self, pattern: str, until: float, reason: str, by: str, created: float) -> int:
        """Silence what fits a pattern; its number."""
        cursor = self._db.execute(
            "INSERT INTO silences (pattern, until, reason, by, created) VALUES (?, ?, ?, ?, ?)",
            (pattern, until, reason, by, created),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def end_silence(self, number: int) -> bool:
        """End a silence; False when there is none of that number."""
        return self._db.execute("DELETE FROM silences WHERE id = ?", (number,)).rowcount == 1

    def silences(self, now: float) -> list[Silence]:
        """Silences in force."""
        return [Silence(*row) for row in self._db.rows("SELECT * FROM silences WHERE until > ? ORDER BY id", now)]

    def prune(self, now: float) -> None:
        """Drop what is older than it is kept."""
        oldest = now - KEEP_DAYS * DAY
        self._db.execute("DELETE FROM silences WHERE until < ?", (now - DAY,))
        self._db.execute("DELETE FROM events WHERE incident IN (SELECT id FROM incidents WHERE closed < ?)", (oldest,))
        self._db.execute("DELETE FROM incidents WHERE closed < ?", (oldest,))
