"""Measurements: results in buckets of five minutes, time by state in days."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

from .connection import DAY, KEEP_DAYS, Connection

STATES = ("up", "warning", "throttled", "maintenance", "down", "unknown")
BUCKET = 300
KEEP_BUCKETS = 8 * DAY

Time: TypeAlias = tuple[str, float, str, float, float | None]  # subject, until, state, seconds, latency


class Bucket(NamedTuple):
    """Five minutes from ``start``: ``bad`` of ``looks``; ``timed`` of them took ``ms`` in all, at most ``ms_max``."""

    start: int
    looks: int
    bad: int
    timed: int
    ms: float
    ms_max: float


class Day(NamedTuple):
    """Seconds by state on an epoch day (UTC); ``timed`` results took ``ms`` in all, at most ``ms_max``."""

    day: int
    up: float
    warning: float
    throttled: float
    maintenance: float
    down: float
    unknown: float
    timed: int
    ms: float
    ms_max: float


class History:
    """Tables ``buckets`` and ``days``."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    def add_results(self, rows: Iterable[tuple[str, float, bool, float | None]]) -> None:
        """Count results: ``(subject, at, bad, latency)`` each."""
        self._db.executemany(
            "INSERT INTO buckets VALUES (?1, ?2, 1, ?3, ?4, ?5, ?5) ON CONFLICT (subject, start) DO UPDATE SET "
            "looks = looks + 1, bad = bad + ?3, timed = timed + ?4, ms = ms + ?5, ms_max = max(ms_max, ?5)",
            [
                (self._db.subject(name), int(at // BUCKET * BUCKET), int(bad), int(latency is not None), latency or 0.0)
                for name, at, bad, latency in rows
            ],
        )

    def add_time(self, rows: Iterable[Time]) -> None:
        """Count time; over midnight it belongs to both days."""
        parts = []
        for name, until, state, seconds, latency in rows:
            number, end, left, timed = self._db.subject(name), until, seconds, latency
            while left > 0:
                day = int((end - 1e-6) // DAY)
                here = min(left, end - day * DAY)
                parts.append((number, day, *(here if state == kind else 0.0 for kind in STATES), timed))
                timed, end, left = None, day * DAY, left - here
        self._db.executemany(
            "INSERT INTO days VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9 IS NOT NULL, coalesce(?9, 0), "
            "coalesce(?9, 0)) ON CONFLICT (subject, day) DO UPDATE SET up = up + ?3, warning = warning + ?4, "
            "throttled = throttled + ?5, maintenance = maintenance + ?6, down = down + ?7, unknown = unknown + ?8, "
            "timed = timed + (?9 IS NOT NULL), ms = ms + coalesce(?9, 0), ms_max = max(ms_max, coalesce(?9, 0))",
            parts,
        )

    def days(self, first: int, last: int) -> dict[str, list[Day]]:
        """Days ``first`` to ``last`` (epoch days) by subject, oldest first."""
        return self._db.by_name(
            Day,
            f"SELECT name, {', '.join(Day._fields)} FROM days JOIN subjects ON subjects.id = days.subject "
            "WHERE day BETWEEN ? AND ? ORDER BY subject, day",
            first,
            last,
        )

    def latency(self, since: float) -> dict[str, list[Bucket]]:
        """Buckets from ``since`` on by subject, oldest first."""
        return self._db.by_name(
            Bucket,
            f"SELECT name, {', '.join(Bucket._fields)} FROM buckets JOIN subjects ON subjects.id = buckets.subject "
            "WHERE start >= ? ORDER BY subject, start",
            int(since // BUCKET * BUCKET),
        )

    def prune(self, now: float) -> None:
        """Drop what is older than it is kept."""
        self._db.execute("DELETE FROM buckets WHERE start < ?", (now - KEEP_BUCKETS,))
        self._db.execute("DELETE FROM days WHERE day < ?", (now // DAY - KEEP_DAYS,))
