"""The open file: opened, or made anew when it is damaged, transactions, single values, subjects' numbers."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from mf import Failure

from . import schema

T = TypeVar("T")

DAY = 86400
KEEP_DAYS = 400  # days
BUSY = 10.0  # seconds to wait for the other process's commit


class StoreError(Failure):
    """The database can't be used. Its text is one line: the reason, and what to do."""


class Connection:
    """The open database. ``with store.writing():`` is one transaction; whatever raises in it undoes all of it."""

    def __init__(
        self, path: str, *, readonly: bool = False, now: float | None = None, damage: str = "", own: bool = True
    ) -> None:
        """Open it. ``damage``: what is already known to be wrong with it, so that a new file is made in any case.

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
            if isinstance(error, sqlite3.OperationalError) and not damaged(error):
                raise StoreError(f"{path} can't be opened: {error}; does its folder exist, and is it yours?") from None
            if not own:
                raise StoreError(
                    f"{path} is damaged ({error}); restart mf-monitor.service, it begins another"
                ) from None
            used = _used(path)
            aside = self._move_aside(time.time() if now is None else now)
            self.damage = f"history was damaged ({error}); moved to {aside}, started afresh"
            self._connection = self._open()
            # a number that an operator has seen never means another incident
            with self.writing():
                for table, number in used.items():
                    self._connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (table, number))

    def _connect(self, name: str, *, uri: bool = False) -> sqlite3.Connection:
        # The engine uses it from another thread than that which opened it, never from two at once.
        connection = sqlite3.connect(name, timeout=BUSY, isolation_level=None, check_same_thread=False, uri=uri)
        connection.row_factory = sqlite3.Row
        return connection

    def _open(self) -> sqlite3.Connection:
        connection = self._connect(self.path)
        try:
            _begin_wal(connection)
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA journal_size_limit=16777216")
            problem = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if problem != "ok":
                raise sqlite3.DatabaseError(str(problem).splitlines()[-1][:200])
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                # another process may make it at this moment: each waits for the other
                tables = schema.TABLES.replace(" TABLE ", " TABLE IF NOT EXISTS ").replace(
                    " INDEX ", " INDEX IF NOT EXISTS "
                )
                connection.executescript(f"BEGIN IMMEDIATE;{tables}PRAGMA user_version={schema.VERSION};COMMIT;")
            elif version != schema.VERSION:
                raise StoreError(f"{self.path} is of schema {version}, this is {schema.VERSION}; move it aside")
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

    def by_name(self, kind: Callable[..., T], query: str, *values: Any) -> dict[str, list[T]]:
        """Rows of a query, whose first column is their subject's name, by that name; ``kind`` takes the others."""
        grouped: dict[str, list[T]] = {}
        for name, *columns in self.rows(query, *values):
            grouped.setdefault(name, []).append(kind(*columns))
        return grouped

    def execute(self, query: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Run a statement."""
        return self._connection.execute(query, values)

    def executemany(self, query: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement once for each row."""
        self._connection.executemany(query, rows)

    def data_version(self) -> int:
        """Changes when another process has committed (PRAGMA data_version)."""
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    def get(self, key: str, default: str = "") -> str:
        """A value of ``meta``."""
        rows = self.rows("SELECT value FROM meta WHERE key = ?", key)
        return str(rows[0]["value"]) if rows else default

    def put(self, key: str, value: str) -> None:
        """Set a value of ``meta``."""
        self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def subject(self, name: str) -> int:
        """The number of a subject, given to it when it is first seen."""
        if name not in self._ids:
            self._connection.execute("INSERT OR IGNORE INTO subjects (name) VALUES (?)", (name,))
            self._ids[name] = self.rows("SELECT id FROM subjects WHERE name = ?", name)[0]["id"]
        return self._ids[name]


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
    """Whether an error means that nothing can be stored now: a full disk, an I/O error, another process's lock."""
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
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return isinstance(error, sqlite3.Error) and code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
