"""The queue of messages on their way to a channel, and their outcomes."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, fields

from .connection import DAY, Connection

KEEP_MESSAGES = 90 * DAY
STUCK = 20  # attempts
LONGEST_PAUSE = 90.0  # seconds, more than any between two attempts
# message.status
QUEUED, SENDING, SENT, GIVEN_UP, HELD_BACK = "queued", "sending", "sent", "given up", "held back"


@dataclass(frozen=True, slots=True)
class Message:
    """A message on its way to a channel. Times are epoch seconds; ``finished`` is None until it is sent or given up.

    ``repeat``: an attempt before may have arrived. ``stand_in_for``: the message of a failing channel.
    """

    id: int
    created: float
    channel: str
    kind: str
    severity: str
    text: str
    incidents: tuple[int, ...]
    status: str
    attempts: int
    next_try: float
    repeat: bool
    finished: float | None
    error: str
    stand_in_for: int | None


def _message(row: sqlite3.Row) -> Message:
    values = {item.name: row[item.name] for item in fields(Message)}
    return Message(**{**values, "incidents": tuple(json.loads(row["incidents"])), "repeat": bool(row["repeat"])})


class Messages:
    """Table ``messages``."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    def enqueue(
        self,
        created: float,
        channel: str,
        kind: str,
        severity: str,
        text: str,
        incidents: Sequence[int] = (),
        *,
        status: str = QUEUED,
        stand_in_for: int | None = None,
    ) -> int:
        """Put a message into the queue; its number."""
        cursor = self._db.execute(
            "INSERT INTO messages (created, channel, kind, severity, text, incidents, status, attempts, next_try, "
            "repeat, error, stand_in_for) VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?, 0, '', ?)",
            (created, channel, kind, severity, text, json.dumps(list(incidents)), status, created, stand_in_for),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def due(self, now: float) -> list[Message]:
        """The oldest queued message of each channel, if its time has come: what happened first is sent first.

        A message that the gateway has refused for long doesn't hold up the others any more.
        """
        heads = "SELECT *, min(id) FROM messages WHERE status = ? GROUP BY channel, attempts >= ?"
        # further away than any pause: the clock was set back
        due = f"SELECT * FROM ({heads}) WHERE next_try <= ? OR next_try > ? ORDER BY id"
        return [_message(row) for row in self._db.rows(due, QUEUED, STUCK, now, now + LONGEST_PAUSE)]

    def recover(self, now: float) -> int:
        """After a crash, queue again what was being sent, marked as repeat: it may have arrived."""
        cursor = self._db.execute(
            "UPDATE messages SET status = ?, repeat = 1, next_try = ? WHERE status = ?", (QUEUED, now, SENDING)
        )
        return cursor.rowcount

    def set(
        self,
        number: int,
        status: str,
        *,
        attempts: int,
        next_try: float,
        finished: float | None,
        error: str,
        unsure: bool = False,
    ) -> bool:
        """Store the outcome of a message. ``unsure``: it may have arrived, so that the next attempt is a repeat.

        False when it is unknown here: the file was replaced meanwhile.
        """
        cursor = self._db.execute(
            "UPDATE messages SET status = ?, attempts = ?, next_try = ?, finished = ?, error = ?, "
            "repeat = max(repeat, ?) WHERE id = ?",
            (status, attempts, next_try, finished, error, int(unsure), number),
        )
        return cursor.rowcount == 1

    def not_stood_in_for(self, channel: str) -> list[Message]:
        """While a channel fails: messages that wait for it and haven't been given to its second channel yet."""
        own = "SELECT * FROM messages WHERE status IN (?, ?) AND channel = ? AND"
        if not self._db.rows(f"{own} error != '' AND attempts < ? LIMIT 1", QUEUED, SENDING, channel, STUCK):
            return []
        given = "SELECT stand_in_for FROM messages WHERE stand_in_for IS NOT NULL"
        query = f"{own} stand_in_for IS NULL AND id NOT IN ({given}) ORDER BY id"
        return [_message(row) for row in self._db.rows(query, QUEUED, SENDING, channel)]

    def newest(self, limit: int = 50) -> list[Message]:
        """The newest messages."""
        return [_message(row) for row in self._db.rows("SELECT * FROM messages ORDER BY id DESC LIMIT ?", limit)]

    def sent_since(self, channel: str, since: float) -> int:
        """Number of messages queued for a channel since then, without those held back."""
        query = "SELECT count(*) AS n FROM messages WHERE channel = ? AND created >= ? AND status != ?"
        return int(self._db.rows(query, channel, since, HELD_BACK)[0]["n"])

    def held_back(self, channel: str) -> list[Message]:
        """Messages held back from a channel and not listed since, oldest first."""
        query = "SELECT * FROM messages WHERE status = ? AND channel = ? AND finished IS NULL ORDER BY id"
        return [_message(row) for row in self._db.rows(query, HELD_BACK, channel)]

    def set_named(self, channel: str, now: float) -> None:
        """Mark messages held back as listed in one message."""
        query = "UPDATE messages SET finished = ? WHERE status = ? AND channel = ? AND finished IS NULL"
        self._db.execute(query, (now, HELD_BACK, channel))

    def prune(self, now: float) -> None:
        """Drop what is older than it is kept, unless it is still to be sent."""
        old = "DELETE FROM messages WHERE created < ? AND status NOT IN (?, ?)"
        self._db.execute(old, (now - KEEP_MESSAGES, QUEUED, SENDING))
