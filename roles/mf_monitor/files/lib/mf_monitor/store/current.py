"""The state of every subject, and the health of every host as last read."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from mf import health_record

from .connection import Connection

# name, state, since, checked, latency, message, state machine
Row: TypeAlias = tuple[str, str, float, float, float | None, str, Mapping[str, Any]]


class StoredState(NamedTuple):
    """A row of the table ``current``; ``memory`` has the state machine of what is probed, else other data."""

    state: str
    since: float
    checked: float
    latency: float | None
    words: str
    memory: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class HostHealth:
    """A host's health as last read, and when (None: never); ``ok`` and ``message``: the result of the last attempt."""

    read: float | None
    ok: bool
    message: str
    record: health_record.Health | None

    @classmethod
    def of(cls, row: sqlite3.Row) -> HostHealth:
        """As stored; a record of another version, which isn't whole for this one, counts as never read."""
        try:
            record = health_record.decode(row["record"] or "")
        except health_record.HealthRecordError:
            record = None
        return cls(row["read"], bool(row["ok"]), row["words"], record)


class Current:
    """Tables ``current`` and ``health``."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    def load(self) -> dict[str, StoredState]:
        """The state of every subject."""
        rows = self._db.rows(
            "SELECT name, state, since, checked, latency, words, memory FROM current JOIN subjects ON id = subject"
        )
        return {name: StoredState._make([*columns, json.loads(memory)]) for name, *columns, memory in rows}

    def since(self, name: str) -> tuple[str, float] | None:
        """The stored state of a subject, and since when; None when there is none."""
        query = "SELECT state, since FROM current JOIN subjects ON id = subject WHERE name = ?"
        row = next(iter(self._db.rows(query, name)), None)
        return (row["state"], row["since"]) if row else None

    def set(self, rows: Iterable[Row]) -> None:
        """Store subjects' states."""
        self._db.executemany(
            "INSERT OR REPLACE INTO current VALUES (?, ?, ?, ?, ?, ?, ?)",
            [(self._db.subject(name), *columns, json.dumps(memory)) for name, *columns, memory in rows],
        )

    def forget(self, names: Iterable[str]) -> None:
        """Delete the state of subjects that aren't monitored any more; their history stays."""
        self._db.executemany(
            "DELETE FROM current WHERE subject = (SELECT id FROM subjects WHERE name = ?)", [(name,) for name in names]
        )

    def set_health(self, host: str, tried: float, ok: bool, message: str, record: Mapping[str, Any] | None) -> None:
        """Store a reading of a host's health; a failure keeps the last good record and when that was read."""
        if ok:
            self._db.execute(
                "INSERT OR REPLACE INTO health VALUES (?, ?, ?, 1, ?, ?)",
                (host, tried, tried, message, json.dumps(record)),
            )
        else:
            self._db.execute(
                "INSERT INTO health VALUES (?, ?, NULL, 0, ?, NULL) "
                "ON CONFLICT (host) DO UPDATE SET tried = excluded.tried, ok = 0, words = excluded.words",
                (host, tried, message),
            )

    def health(self) -> dict[str, HostHealth]:
        """The health of every host that was ever asked for it."""
        return {row["host"]: HostHealth.of(row) for row in self._db.rows("SELECT * FROM health")}
