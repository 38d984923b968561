"""What the monitor remembers: one SQLite file. One writer (the engine); the page and the command read and add little.

``subject`` names what has a state: ``mx1/smtp`` (a service), ``mx1`` (a host), ``fleet``. All times are epoch seconds,
latencies milliseconds. Tables:

=========  ==========================================================================================================
current    a row a subject: its believed state and the JSON memory of its state machine
health     a row a host: the object of ``/mf/bin/health --json`` as last read, when, and whether that went well
buckets    latency and failures of a subject in 5 minutes; kept for 8 days
days       seconds a subject spent in each state on one day (UTC), and its latency; kept for 400 days
incidents  one row for each cause, open while ``closed`` is null; ``alert`` is the JSON memory of what was sent
events     an incident's timeline
messages   the queue of texts on their way to a channel, and what became of them; kept for 90 days
silences   what shall not alert until when
meta       single values
=========  ==========================================================================================================

A file that SQLite calls damaged is moved aside (``…damaged-<time>``) and a new one begun; ``Store.damage`` says so.
Commits are durable (``synchronous=FULL``): what was promised to be sent survives kill -9 and a power cut.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 1
STATES = ("up", "warning", "throttled", "maintenance", "down", "unknown")
BUCKET = 300
DAY = 86400
KEEP_BUCKETS = 8 * DAY
KEEP_DAYS = 400  # days
KEEP_MESSAGES = 90 * DAY
STUCK = 20  # attempts
LONGEST_PAUSE = 90.0  # seconds, more than any between two attempts
BUSY = 10.0  # seconds to wait for the other process's commit

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE subjects (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE current (
  subject INTEGER PRIMARY KEY REFERENCES subjects, state TEXT NOT NULL, since REAL NOT NULL, checked REAL NOT NULL,
  latency REAL, words TEXT NOT NULL, memory TEXT NOT NULL);
CREATE TABLE health (
  host TEXT PRIMARY KEY, tried REAL NOT NULL, read REAL, ok INTEGER NOT NULL, words TEXT NOT NULL, record TEXT
) WITHOUT ROWID;
CREATE TABLE buckets (
  subject INTEGER NOT NULL, start INTEGER NOT NULL, looks INTEGER NOT NULL, bad INTEGER NOT NULL,
  timed INTEGER NOT NULL, ms REAL NOT NULL, ms_max REAL NOT NULL, PRIMARY KEY (subject, start)) WITHOUT ROWID;
CREATE INDEX buckets_start ON buckets (start);
CREATE TABLE days (
  subject INTEGER NOT NULL, day INTEGER NOT NULL, up REAL NOT NULL, warning REAL NOT NULL, throttled REAL NOT NULL,
  maintenance REAL NOT NULL, down REAL NOT NULL, unknown REAL NOT NULL, timed INTEGER NOT NULL, ms REAL NOT NULL,
  ms_max REAL NOT NULL, PRIMARY KEY (subject, day)) WITHOUT ROWID;
CREATE INDEX days_day ON days (day);
CREATE TABLE incidents (
  id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, kind TEXT NOT NULL, host TEXT NOT NULL,
  service TEXT NOT NULL, severity TEXT NOT NULL, title TEXT NOT NULL, opened REAL NOT NULL, closed REAL,
  acked REAL, acked_by TEXT NOT NULL DEFAULT '', ack_until REAL, alert TEXT NOT NULL DEFAULT '{}');
CREATE INDEX incidents_opened ON incidents (opened);
CREATE UNIQUE INDEX incidents_one_open ON incidents (key) WHERE closed IS NULL;
CREATE TABLE events (
  id INTEGER PRIMARY KEY, incident INTEGER NOT NULL REFERENCES incidents, at REAL NOT NULL, what TEXT NOT NULL,
  words TEXT NOT NULL);
CREATE INDEX events_incident ON events (incident, at);
CREATE TABLE messages (
  id INTEGER PRIMARY KEY AUTOINCREMENT, created REAL NOT NULL, channel TEXT NOT NULL, kind TEXT NOT NULL,
  severity TEXT NOT NULL, text TEXT NOT NULL, incidents TEXT NOT NULL, status TEXT NOT NULL, attempts INTEGER NOT NULL,
  next_try REAL NOT NULL, finished REAL, repeat INTEGER NOT NULL, error TEXT NOT NULL, stand_in_for INTEGER);
CREATE INDEX messages_status ON messages (status, next_try);
CREATE INDEX messages_created ON messages (created);
CREATE TABLE silences (
  id INTEGER PRIMARY KEY, pattern TEXT NOT NULL, until REAL NOT NULL, reason TEXT NOT NULL, by TEXT NOT NULL,
  created REAL NOT NULL);
"""

# message.status
QUEUED, SENDING, SENT, GIVEN_UP, HELD_BACK = "queued", "sending", "sent", "given up", "held back"


class StoreError(Exception):
    """The database can't be used; one line that says what to do."""


class Store:
    """The open database. ``with store.writing():`` is one transaction; whatever raises in it undoes all of it."""

    def __init__(
        self, path: str, *, readonly: bool = False, now: float | None = None, damage: str = "", own: bool = True
    ) -> None:
        """Open it. ``damage``: what is already known to be wrong with it, so that another one is begun in any case.

        ``own``: it may be moved aside. Only the engine does that: under others it would go on in a file without a name.
        """
        self.path = path
        self.damage = ""
        self._ids: dict[str, int] = {}
        if readonly:
            self._connection = self._connect(f"file:{path}?mode=ro", uri=True)
            return
        try:
            if damage:
                raise sqlite3.DatabaseError(damage)
            self._connection = self._open()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and not _damaged(error):
                raise StoreError(f"{path} can't be opened: {error}; does its folder exist, and is it yours?") from None
            if not own:
                raise StoreError(
                    f"{path} is damaged ({error}); restart mf-monitor.service, it begins another"
                ) from None
            used = _used(path)
            aside = self._move_aside(time.time() if now is None else now)
            self.damage = f"history was damaged ({error}); moved to {aside}, started afresh"
            self._connection = self._open()
            # numbers that people have seen mean nothing else later
            with self.writing():
                for table, number in used.items():
                    self._connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (table, number))

    def _connect(self, name: str, *, uri: bool = False) -> sqlite3.Connection:
        # The engine uses it from one thread that isn't the one it was opened in, never from two at once.
        found = sqlite3.connect(name, timeout=BUSY, isolation_level=None, check_same_thread=False, uri=uri)
        found.row_factory = sqlite3.Row
        return found

    def _open(self) -> sqlite3.Connection:
        connection = self._connect(self.path)
        try:
            _begin_wal(connection)
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA journal_size_limit=16777216")
            said = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if said != "ok":
                raise sqlite3.DatabaseError(str(said).splitlines()[-1][:200])
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                # another process may have begun it in this moment: each waits for the other and finds it made
                schema = _SCHEMA.replace(" TABLE ", " TABLE IF NOT EXISTS ").replace(" INDEX ", " INDEX IF NOT EXISTS ")
                connection.executescript(f"BEGIN IMMEDIATE;{schema}PRAGMA user_version={SCHEMA_VERSION};COMMIT;")
            elif version != SCHEMA_VERSION:
                raise StoreError(f"{self.path} is of schema {version}, this is {SCHEMA_VERSION}; move it aside")
        except BaseException:
            connection.close()
            raise
        return connection

    def _move_aside(self, now: float) -> str:
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now))
        aside = Path(f"{self.path}.damaged-{stamp}")
        number = 1
        while aside.exists():
            number += 1
            aside = Path(f"{self.path}.damaged-{stamp}-{number}")
        for ending in ("", "-wal", "-shm"):
            path = Path(self.path + ending)
            if path.exists():
                path.rename(f"{aside}{ending}")
        return aside.name

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One transaction."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            self._ids.clear()
            # a full disk may have undone it already
            if self._connection.in_transaction:
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
            raise

    @contextmanager
    def reading(self) -> Iterator[None]:
        """One consistent view over several queries."""
        self._connection.execute("BEGIN")
        try:
            yield
        finally:
            self._connection.execute("COMMIT")

    def rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        """All rows of a query."""
        return self._connection.execute(query, values).fetchall()

    def data_version(self) -> int:
        """Changes when another process has committed (PRAGMA data_version)."""
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    # --- single values

    def get(self, key: str, default: str = "") -> str:
        """A value of ``meta``."""
        found = self.rows("SELECT value FROM meta WHERE key = ?", key)
        return str(found[0]["value"]) if found else default

    def put(self, key: str, value: str) -> None:
        """Set a value of ``meta``."""
        self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    # --- subjects

    def subject(self, name: str) -> int:
        """The number of a subject, given to it when it is first seen."""
        if name not in self._ids:
            self._connection.execute("INSERT OR IGNORE INTO subjects (name) VALUES (?)", (name,))
            self._ids[name] = self.rows("SELECT id FROM subjects WHERE name = ?", name)[0]["id"]
        return self._ids[name]

    def current(self) -> dict[str, sqlite3.Row]:
        """The state of every subject: ``state since checked latency words memory``."""
        query = "SELECT name, current.* FROM current JOIN subjects ON subjects.id = current.subject"
        return {row["name"]: row for row in self.rows(query)}

    def set_current(self, rows: Iterable[tuple[str, str, float, float, float | None, str, Mapping[str, Any]]]) -> None:
        """Store subjects' states: ``(name, state, since, checked, latency, words, memory)``."""
        self._connection.executemany(
            "INSERT OR REPLACE INTO current VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (self.subject(name), state, since, checked, latency, words, json.dumps(memory))
                for name, state, since, checked, latency, words, memory in rows
            ],
        )

    def forget_subjects(self, names: Iterable[str]) -> None:
        """Subjects that are watched no longer lose their state; their history stays."""
        self._connection.executemany(
            "DELETE FROM current WHERE subject = (SELECT id FROM subjects WHERE name = ?)", [(name,) for name in names]
        )

    def set_health(self, host: str, tried: float, ok: bool, words: str, record: Mapping[str, Any] | None) -> None:
        """What reading a host's health gave; a failure keeps the last good record and when that was read."""
        if ok:
            self._connection.execute(
                "INSERT OR REPLACE INTO health VALUES (?, ?, ?, 1, ?, ?)",
                (host, tried, tried, words, json.dumps(record)),
            )
        else:
            self._connection.execute(
                "INSERT INTO health VALUES (?, ?, NULL, 0, ?, NULL) "
                "ON CONFLICT (host) DO UPDATE SET tried = excluded.tried, ok = 0, words = excluded.words",
                (host, tried, words),
            )

    def health(self) -> dict[str, dict[str, Any]]:
        """By host: ``{"tried", "read" (null: never), "ok", "words", "record" (null: never)}``."""
        return {
            row["host"]: {
                "tried": row["tried"],
                "read": row["read"],
                "ok": bool(row["ok"]),
                "words": row["words"],
                "record": json.loads(row["record"]) if row["record"] else None,
            }
            for row in self.rows("SELECT * FROM health")
        }

    # --- history

    def add_looks(self, rows: Iterable[tuple[str, float, bool, float | None]]) -> None:
        """Count looks: ``(subject, at, bad, latency)`` each."""
        self._connection.executemany(
            "INSERT INTO buckets VALUES (?1, ?2, 1, ?3, ?4, ?5, ?5) ON CONFLICT (subject, start) DO UPDATE SET "
            "looks = looks + 1, bad = bad + ?3, timed = timed + ?4, ms = ms + ?5, ms_max = max(ms_max, ?5)",
            [
                (self.subject(name), int(at // BUCKET * BUCKET), int(bad), int(latency is not None), latency or 0.0)
                for name, at, bad, latency in rows
            ],
        )

    def add_time(self, rows: Iterable[tuple[str, float, str, float, float | None]]) -> None:
        """Count time: ``(subject, until, state, seconds, latency)`` each; over midnight it belongs to both days."""
        parts = []
        for name, until, state, seconds, latency in rows:
            number, end, left, timed = self.subject(name), until, seconds, latency
            while left > 0:
                day = int((end - 1e-6) // DAY)
                here = min(left, end - day * DAY)
                parts.append((number, day, *(here if state == one else 0.0 for one in STATES), timed))
                timed, end, left = None, day * DAY, left - here
        self._connection.executemany(
            "INSERT INTO days VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9 IS NOT NULL, coalesce(?9, 0), "
            "coalesce(?9, 0)) ON CONFLICT (subject, day) DO UPDATE SET up = up + ?3, warning = warning + ?4, "
            "throttled = throttled + ?5, maintenance = maintenance + ?6, down = down + ?7, unknown = unknown + ?8, "
            "timed = timed + (?9 IS NOT NULL), ms = ms + coalesce(?9, 0), ms_max = max(ms_max, coalesce(?9, 0))",
            parts,
        )

    def days(self, first: int, last: int, subject: str = "") -> dict[str, list[sqlite3.Row]]:
        """Days ``first`` to ``last`` (epoch days) by subject, oldest first; ``subject`` chooses one."""
        query = "SELECT name, days.* FROM days JOIN subjects ON subjects.id = days.subject WHERE day BETWEEN ? AND ?"
        if subject:
            found = self.rows(f"{query} AND name = ? ORDER BY day", first, last, subject)
        else:
            found = self.rows(f"{query} ORDER BY subject, day", first, last)
        by: dict[str, list[sqlite3.Row]] = {}
        for row in found:
            by.setdefault(row["name"], []).append(row)
        return by

    def latency(self, since: float) -> dict[str, list[sqlite3.Row]]:
        """Buckets from ``since`` on by subject: ``start looks bad timed ms ms_max``."""
        query = (
            "SELECT name, buckets.* FROM buckets JOIN subjects ON subjects.id = buckets.subject WHERE start >= ? "
            "ORDER BY subject, start"
        )
        by: dict[str, list[sqlite3.Row]] = {}
        for row in self.rows(query, int(since // BUCKET * BUCKET)):
            by.setdefault(row["name"], []).append(row)
        return by

    def prune(self, now: float) -> None:
        """Drop what is older than it is kept."""
        for table, column, oldest in (
            ("buckets", "start", now - KEEP_BUCKETS),
            ("days", "day", now // DAY - KEEP_DAYS),
            ("silences", "until", now - DAY),
        ):
            self._connection.execute(f"DELETE FROM {table} WHERE {column} < ?", (oldest,))
        self._connection.execute(
            "DELETE FROM messages WHERE created < ? AND status NOT IN ('queued', 'sending')", (now - KEEP_MESSAGES,)
        )
        old = "SELECT id FROM incidents WHERE closed < ?"
        self._connection.execute(f"DELETE FROM events WHERE incident IN ({old})", (now - KEEP_DAYS * DAY,))
        self._connection.execute("DELETE FROM incidents WHERE closed < ?", (now - KEEP_DAYS * DAY,))

    # --- incidents

    def open_incident(
        self, key: str, kind: str, host: str, service: str, severity: str, title: str, opened: float
    ) -> int:
        """A new incident; its number."""
        cursor = self._connection.execute(
            "INSERT INTO incidents (key, kind, host, service, severity, title, opened) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (key, kind, host, service, severity, title, opened),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def set_incident(self, number: int, severity: str, title: str, alert: Mapping[str, Any]) -> None:
        """Its severity, title and memory of alerts."""
        self._connection.execute(
            "UPDATE incidents SET severity = ?, title = ?, alert = ? WHERE id = ?",
            (severity, title, json.dumps(alert), number),
        )

    def rename_incident(self, former: str, key: str, kind: str, service: str) -> None:
        """Another key for an open one, unless that is open itself."""
        self._connection.execute(
            "UPDATE OR IGNORE incidents SET key = ?, kind = ?, service = ? WHERE key = ? AND closed IS NULL",
            (key, kind, service, former),
        )

    def close_incident(self, number: int, at: float) -> None:
        """It is over."""
        self._connection.execute("UPDATE incidents SET closed = ? WHERE id = ?", (at, number))

    def acknowledge(self, number: int, at: float, by: str, until: float | None) -> bool:
        """Somebody takes care of it, until then (None: until it is over). False when it isn't open."""
        cursor = self._connection.execute(
            "UPDATE incidents SET acked = ?, acked_by = ?, ack_until = ? WHERE id = ? AND closed IS NULL",
            (at, by, until, number),
        )
        return cursor.rowcount == 1

    def end_acknowledgement(self, number: int) -> None:
        """What was acknowledged has become worse."""
        self._connection.execute(
            "UPDATE incidents SET acked = NULL, acked_by = '', ack_until = NULL WHERE id = ?", (number,)
        )

    def add_event(self, incident: int, at: float, what: str, words: str) -> None:
        """A line of an incident's timeline."""
        self._connection.execute(
            "INSERT INTO events (incident, at, what, words) VALUES (?, ?, ?, ?)", (incident, at, what, words)
        )

    def incidents(self, *, since: float | None = None) -> list[dict[str, Any]]:
        """Open incidents, and with ``since`` also those that closed after it; newest first, ``alert`` decoded."""
        query = "SELECT * FROM incidents WHERE closed IS NULL OR closed >= ? ORDER BY opened DESC, id DESC"
        found = self.rows(query, 1e18 if since is None else since)
        return [{**dict(row), "alert": json.loads(row["alert"])} for row in found]

    def events(self, incidents: Sequence[int]) -> dict[int, list[dict[str, Any]]]:
        """The timelines of some incidents, oldest first: ``at what words``."""
        by: dict[int, list[dict[str, Any]]] = {number: [] for number in incidents}
        for start in range(0, len(incidents), 500):
            part = incidents[start : start + 500]
            marks = ",".join("?" * len(part))
            for row in self.rows(f"SELECT * FROM events WHERE incident IN ({marks}) ORDER BY at, id", *part):
                by[row["incident"]].append({"at": row["at"], "what": row["what"], "words": row["words"]})
        return by

    # --- messages

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
        cursor = self._connection.execute(
            "INSERT INTO messages (created, channel, kind, severity, text, incidents, status, attempts, next_try, "
            "repeat, error, stand_in_for) VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?, 0, '', ?)",
            (created, channel, kind, severity, text, json.dumps(list(incidents)), status, created, stand_in_for),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def due_messages(self, now: float) -> list[sqlite3.Row]:
        """The oldest queued message of each channel, if its time has come: what happened first is told first.

        One that the gateway has refused for long doesn't hold up the others any more.
        """
        heads = "SELECT *, min(id) FROM messages WHERE status = ? GROUP BY channel, attempts >= ?"
        # further away than any pause: the clock was set back
        due = f"SELECT * FROM ({heads}) WHERE next_try <= ? OR next_try > ? ORDER BY id"
        return self.rows(due, QUEUED, STUCK, now, now + LONGEST_PAUSE)

    def recover_messages(self, now: float) -> int:
        """After a crash: what was being sent may have arrived or not, so it is sent again, marked as repeat."""
        cursor = self._connection.execute(
            "UPDATE messages SET status = ?, repeat = 1, next_try = ? WHERE status = ?", (QUEUED, now, SENDING)
        )
        return cursor.rowcount

    def set_message(
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
        """What became of a message. ``unsure``: it may have arrived, so that the next attempt is a repeat.

        False when it is unknown here: the file was replaced meanwhile.
        """
        cursor = self._connection.execute(
            "UPDATE messages SET status = ?, attempts = ?, next_try = ?, finished = ?, error = ?, "
            "repeat = max(repeat, ?) WHERE id = ?",
            (status, attempts, next_try, finished, error, int(unsure), number),
        )
        return cursor.rowcount == 1

    def not_stood_in_for(self, channel: str) -> list[sqlite3.Row]:
        """While a channel fails: what waits for it and hasn't been given to another one yet."""
        own = "SELECT * FROM messages WHERE status IN (?, ?) AND channel = ? AND"
        if not self.rows(f"{own} error != '' AND attempts < ? LIMIT 1", QUEUED, SENDING, channel, STUCK):
            return []
        given = "SELECT stand_in_for FROM messages WHERE stand_in_for IS NOT NULL"
        query = f"{own} stand_in_for IS NULL AND id NOT IN ({given}) ORDER BY id"
        return self.rows(query, QUEUED, SENDING, channel)

    def messages(self, limit: int = 50) -> list[dict[str, Any]]:
        """The newest messages, ``incidents`` decoded."""
        found = self.rows("SELECT * FROM messages ORDER BY id DESC LIMIT ?", limit)
        return [{**dict(row), "incidents": json.loads(row["incidents"])} for row in found]

    def sent_since(self, channel: str, since: float) -> int:
        """How many messages were queued for a channel since then, held back ones left out."""
        query = "SELECT count(*) AS n FROM messages WHERE channel = ? AND created >= ? AND status != ?"
        return int(self.rows(query, channel, since, HELD_BACK)[0]["n"])

    def held_back(self, channel: str) -> list[sqlite3.Row]:
        """What was held back from a channel and not told of since, oldest first."""
        query = "SELECT * FROM messages WHERE status = ? AND channel = ? AND finished IS NULL ORDER BY id"
        return self.rows(query, HELD_BACK, channel)

    def told_of_held_back(self, channel: str, now: float) -> None:
        """They have been named in one message."""
        query = "UPDATE messages SET finished = ? WHERE status = ? AND channel = ? AND finished IS NULL"
        self._connection.execute(query, (now, HELD_BACK, channel))

    # --- silences

    def add_silence(self, pattern: str, until: float, reason: str, by: str, created: float) -> int:
        """Silence what fits a pattern (fnmatch over incident keys); its number."""
        cursor = self._connection.execute(
            "INSERT INTO silences (pattern, until, reason, by, created) VALUES (?, ?, ?, ?, ?)",
            (pattern, until, reason, by, created),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def end_silence(self, number: int) -> bool:
        """End one; False when there is none of that number."""
        return self._connection.execute("DELETE FROM silences WHERE id = ?", (number,)).rowcount == 1

    def silences(self, now: float) -> list[dict[str, Any]]:
        """Silences in force: ``id pattern until reason by created``."""
        return [dict(row) for row in self.rows("SELECT * FROM silences WHERE until > ? ORDER BY id", now)]


def _begin_wal(connection: sqlite3.Connection) -> None:
    """Turn the write-ahead log on; SQLite itself doesn't wait for another process that is doing the same."""
    give_up = time.monotonic() + BUSY
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
        time.sleep(0.01)


def _damaged(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _used(path: str) -> dict[str, int]:
    """The highest numbers of incidents and messages in a file that may be damaged, as far as they can be read."""
    try:
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=BUSY)
        try:
            rows = connection.execute("SELECT name, seq FROM sqlite_sequence WHERE name IN ('incidents', 'messages')")
            return {name: int(seq) for name, seq in rows}
        finally:
            connection.close()
    except (sqlite3.Error, ValueError, TypeError):
        return {}


def refuses(error: BaseException) -> bool:
    """Whether an error means that nothing can be stored now: a full disk, an I/O error, somebody else's lock."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return isinstance(error, sqlite3.Error) and code in (
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
    )


def damaged(error: BaseException) -> bool:
    """Whether an error means that the file is no longer a whole database."""
    return isinstance(error, sqlite3.Error) and _damaged(error)
