"""The index in MariaDB: connection by unix socket, schema by version, and every statement that the quarantine uses.

No password exists: MariaDB asks the kernel who is at the other end of its socket (its plugin ``unix_socket``).
All statements run at READ COMMITTED: a batch of deletes locks the rows it deletes and no gap beside them.
"""

from __future__ import annotations

import contextlib
import os

import pymysql
import pymysql.cursors

from . import DuplicateError, QuarantineError, layout
from .schema import COLUMNS, MIGRATIONS, SCHEMA, judge, migrations, statements

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any, TypeVar

    from .envelope import Message

    Value = TypeVar("Value")

SOCKET = "/run/mysqld/mysqld.sock"
NAME = "mf_quarantine"
USER = "mf-quarantine"
RIGHTS = "SELECT, INSERT, UPDATE, DELETE"

_ROW = ", ".join(COLUMNS)
_SESSION = "SET SESSION tx_isolation = 'READ-COMMITTED', time_zone = '+00:00', innodb_lock_wait_timeout = 20"
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\0": "\\0"})
_AGAIN = (1205, 1213)  # lock wait timeout, deadlock: the transaction was undone and may be tried again
_DUPLICATE = 1062
_TRIES = 5
_CHUNK = 1000  # ids in one IN (...)


class DatabaseError(QuarantineError):
    """MariaDB doesn't do what it should."""


class Database:
    """One connection. ``with database.transaction():`` commits at its end or undoes everything."""

    def __init__(self, socket: str = SOCKET, name: str = NAME, user: str = USER, *, check: bool = True) -> None:
        try:
            self._connection = pymysql.connect(
                unix_socket=socket,
                user=user,
                database=name or None,
                charset="utf8mb4",
                # nothing stays open between two statements: a migration would have to wait for it
                autocommit=True,
                local_infile=True,
                connect_timeout=5,
                read_timeout=300,
                write_timeout=300,
                init_command=_SESSION,
            )
        except pymysql.MySQLError as error:
            raise DatabaseError(f"{_words(error)}; look at: systemctl status mariadb mf-quarantine-schema") from None
        if check:
            judge(self.version(), name)

    def close(self) -> None:
        """End the connection; what wasn't committed is undone."""
        with contextlib.suppress(pymysql.MySQLError):
            self._connection.close()

    def version(self) -> int:
        """The schema's version; 0 when there is none."""
        try:
            return int(self.rows("SELECT COALESCE(MAX(version), 0) FROM schema_version")[0][0])
        except DatabaseError as error:
            if isinstance(error.__cause__, pymysql.ProgrammingError):
                return 0
            raise

    # --- statements

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing. Raises DatabaseError."""
        try:
            self._connection.begin()
            yield
            self._connection.commit()
        except pymysql.MySQLError as error:
            self._undo()
            raise _error(error) from error
        except BaseException:
            self._undo()
            raise

    def _undo(self) -> None:
        with contextlib.suppress(pymysql.MySQLError, OSError):
            self._connection.rollback()

    def run(self, sql: str, values: Sequence[object] = ()) -> int:
        """One statement; returns the number of rows it changed. Raises DatabaseError."""
        try:
            with self._connection.cursor() as cursor:
                return int(cursor.execute(sql, values or None))
        except pymysql.MySQLError as error:
            raise _error(error) from error

    def load(self, table: str, columns: str, rows: Sequence[str]) -> None:
        """Rows of tab-separated fields (see ``_field``) into a table, by LOAD DATA: several times faster than INSERT.

        LOCAL: the server asks this process for the rows, which are in its memory, and needs no right to read files.
        It would also skip what is there already, so all rows must have come in. Raises DuplicateError, DatabaseError.
        """
        with os.fdopen(os.memfd_create(table, os.MFD_CLOEXEC), "w", encoding="utf-8", newline="") as memory:
            memory.write("\n".join(rows) + "\n")
            memory.flush()
            source = f"/proc/self/fd/{memory.fileno()}"
            sql = f"LOAD DATA LOCAL INFILE '{source}' INTO TABLE {table} CHARACTER SET utf8mb4 {columns}"
            if self.run(sql) != len(rows):
                raise DuplicateError(f"a row of {table} was there already; nothing was done")

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(sql, values or None)
                return list(cursor.fetchall())
        except pymysql.MySQLError as error:
            raise _error(error) from error

    def stream(self, sql: str, values: Sequence[object] = ()) -> Iterator[dict[str, Any]]:
        """The rows of a query one after the other, as they come; nothing else can use the connection meanwhile."""
        try:
            with self._connection.cursor(pymysql.cursors.SSDictCursor) as cursor:
                cursor.execute(sql, values or None)
                yield from cursor.fetchall_unbuffered()
        except pymysql.MySQLError as error:
            raise _error(error) from error

    def retried(self, work: Callable[[], Value]) -> Value:
        """``work`` in a transaction, again if it met a deadlock."""
        for left in range(_TRIES - 1, -1, -1):
            try:
                with self.transaction():
                    return work()
            except DatabaseError as error:
                code = error.__cause__.args[0] if error.__cause__ is not None and error.__cause__.args else 0
                if code not in _AGAIN or not left:
                    raise
        raise AssertionError

    # --- ledger and index

    def known(self, idents: Sequence[str]) -> set[str]:
        """Those of some ids that the ledger has."""
        found: set[str] = set()
        for chunk in _chunks(idents):
            found.update(row[0] for row in self.rows(f"SELECT id FROM ledger WHERE id IN ({_marks(chunk)})", chunk))
        return found

    def over(self, idents: Sequence[str]) -> set[str]:
        """Those of some ids that came and aren't kept: expired, canaries, bad."""
        found: set[str] = set()
        for chunk in _chunks(idents):
            sql = f"SELECT id FROM ledger WHERE state <> 'kept' AND id IN ({_marks(chunk)})"
            found.update(row[0] for row in self.rows(sql, chunk))
        return found

    def mark(self, domain: str, ident: str, *, lost: bool) -> None:
        """Note that a message's file is gone for good, or there again."""
        self.run("UPDATE message SET lost = %s WHERE domain = %s AND id = %s", (lost, domain, ident))

    def add(self, kept: Sequence[Message], others: Sequence[tuple[str, str, str]] = ()) -> None:
        """Index messages and note other ids ``(id, domain, state)``, in one transaction.

        Raises DuplicateError when the ledger knows one of them; then nothing was done.
        """
        entries = [(one.id, one.domain, "kept") for one in kept] + [*others]
        self.retried(lambda: self._add(kept, entries))

    def _add(self, kept: Sequence[Message], entries: Sequence[tuple[str, str, str]]) -> None:
        if entries:
            self.load("ledger", "(id, domain, state)", ["\t".join(entry) for entry in entries])
        self._index(kept)

    def _index(self, kept: Sequence[Message]) -> None:
        if not kept:
            return
        self.load(
            "message",
            "(domain, id, mx, sender, recipients, subject, plugin, reason, size, kept, truncated, @sha256)"
            " SET sha256 = UNHEX(@sha256)",
            [
                f"{one.domain}\t{one.id}\t{one.mx}\t{_field(one.sender)}\t{_field(one.recipients)}\t{_field(one.subject)}"
                f"\t{_field(one.plugin)}\t{_field(one.reason)}\t{one.size}\t{one.kept}\t{int(one.truncated)}"
                f"\t{one.sha256.hex()}"
                for one in kept
            ],
        )
        sums: dict[tuple[str, str, str], list[int]] = {}
        for one in kept:
            entry = sums.setdefault((layout.day(one.id), one.domain, one.mx), [0, 0])
            entry[0] += 1
            entry[1] += one.size
        # in one order for everybody, so that two writers can't wait for each other
        for start in range(0, len(sums), _CHUNK):
            part = [(*key, *entry) for key, entry in sorted(sums.items())[start : start + _CHUNK]]
            self.run(
                "INSERT INTO tally (day, domain, mx, imported, imported_bytes)"
                f" VALUES {', '.join(['(%s, %s, %s, %s, %s)'] * len(part))}"
                " ON DUPLICATE KEY UPDATE imported = imported + VALUES(imported),"
                " imported_bytes = imported_bytes + VALUES(imported_bytes)",
                [value for row in part for value in row],
            )

    def index_again(self, kept: Sequence[Message]) -> None:
        """Index messages whose files are there and whose rows are not; the ledger may know them as kept (repair).

        Raises DuplicateError when a row has appeared meanwhile; then nothing was done.
        """

        def work() -> None:
            for one in kept:
                self.run(
                    "INSERT INTO ledger (id, domain, state) VALUES (%s, %s, 'kept')"
                    " ON DUPLICATE KEY UPDATE state = 'kept'",
                    (one.id, one.domain),
                )
            self._index(kept)

        self.retried(work)

    def newest(self) -> str:
        """The last of all ids that ever came; "" when none did."""
        return str(self.rows("SELECT COALESCE(MAX(id), '') FROM ledger")[0][0])

    def domains(self) -> list[str]:
        """All domains that have messages. A loose scan of the primary key: its cost is in domains, not messages."""
        found: list[str] = []
        while row := self.rows(
            "SELECT domain FROM message WHERE domain > %s ORDER BY domain LIMIT 1", (found[-1] if found else "",)
        ):
            found.append(row[0][0])
        return found

    def older(self, domain: str, before: str, limit: int) -> list[tuple[str, str, int]]:
        """The oldest ``(id, mx, size)`` of a domain whose ids sort before ``before``."""
        return [
            (ident, mx, size)
            for ident, mx, size in self.rows(
                "SELECT id, mx, size FROM message WHERE domain = %s AND id < %s ORDER BY id LIMIT %s",
                (domain, before, limit),
            )
        ]

    def amount(self, domain: str, before: str) -> tuple[int, int]:
        """How many messages of a domain sort before ``before``, and their bytes."""
        sql = "SELECT COUNT(*), COALESCE(SUM(size), 0) FROM message WHERE domain = %s AND id < %s"
        count, size = self.rows(sql, (domain, before))[0]
        return int(count), int(size)

    def forget(self, domain: str, gone: Sequence[tuple[str, str, int]]) -> None:
        """Take expired messages ``(id, mx, size)`` out of the index; the ledger goes on knowing them."""

        def work() -> None:
            idents = [ident for ident, _, _ in gone]
            marks = _marks(idents)
            # another run may have been faster, and what isn't deleted here must not be counted here
            there = {
                row[0]
                for row in self.rows(
                    f"SELECT id FROM message WHERE domain = %s AND id IN ({marks}) FOR UPDATE", (domain, *idents)
                )
            }
            if not there:
                return
            self.run(f"DELETE FROM message WHERE domain = %s AND id IN ({marks})", (domain, *idents))
            self.run(f"UPDATE ledger SET state = 'expired' WHERE id IN ({marks})", idents)
            sums: dict[tuple[str, str], list[int]] = {}
            for ident, mx, size in gone:
                if ident in there:
                    entry = sums.setdefault((layout.day(ident), mx), [0, 0])
                    entry[0] += 1
                    entry[1] += size
            for (day, mx), (count, size) in sorted(sums.items()):
                self.run(
                    "UPDATE tally SET expired = expired + %s, expired_bytes = expired_bytes + %s"
                    " WHERE day = %s AND domain = %s AND mx = %s",
                    (count, size, day, domain, mx),
                )

        self.retried(work)

    def trim_ledger(self, before: str, limit: int) -> int:
        """Forget the oldest ids for good, at most ``limit``; never one whose message is still kept. Returns how
        many.
        """
        rows = self.rows(
            "SELECT id FROM ledger WHERE id < %s AND state <> 'kept' ORDER BY id LIMIT %s", (before, limit)
        )
        if rows:
            idents = [row[0] for row in rows]
            self.retried(lambda: self.run(f"DELETE FROM ledger WHERE id IN ({_marks(idents)})", idents))
        return len(rows)

    def trim_sums(self, before: str, limit: int) -> int:
        """Forget sums of days (``YYYY-MM-DD``) before this one of which nothing is kept. Returns how many rows."""
        sql = "DELETE FROM tally WHERE day < %s AND imported = expired LIMIT %s"
        return self.retried(lambda: self.run(sql, (before, limit)))

    def find(self, ident: str) -> dict[str, Any] | None:
        """``{id, domain, state, ...}`` of an id, with all columns of its row while it is kept; None when it never
        came.
        """
        entry = self.rows("SELECT domain, state FROM ledger WHERE id = %s", (ident,))
        if not entry:
            return None
        domain, state = entry[0]
        rows = list(self.stream(f"SELECT {_ROW} FROM message WHERE domain = %s AND id = %s", (domain, ident)))
        return {"id": ident, "domain": domain, **(rows[0] if rows else {}), "state": state}

    def idents(self, domain: str, day: str) -> dict[str, bool]:
        """The ids of a domain's day (``YYYY-MM-DD``), each with whether it is known to be lost."""
        start = day.replace("-", "")
        return {
            ident: bool(lost)
            for ident, lost in self.rows(
                "SELECT id, lost FROM message WHERE domain = %s AND id >= %s AND id < %s", (domain, start, start + "~")
            )
        }

    def days(self, domain: str) -> list[str]:
        """The days (``YYYY-MM-DD``) of which a domain has messages."""
        found: list[str] = []
        after = ""
        while row := self.rows(
            "SELECT id FROM message WHERE domain = %s AND id > %s ORDER BY id LIMIT 1", (domain, after)
        ):
            found.append(layout.day(row[0][0]))
            after = row[0][0][:8] + "~"
        return found


def migrate(
    socket: str = SOCKET,
    folder: str = MIGRATIONS,
    user: str = "root",
    name: str = NAME,
    account: str = USER,
    *,
    dry_run: bool = False,
) -> list[str]:
    """Create database, account and rights, bring the schema to SCHEMA. As root. Returns what was done; [] is nothing.

    ``dry_run``: only what would be done.

    A run that is interrupted can be repeated: a version counts once all its statements are through. Raises
    DatabaseError."""
    done: list[str] = []
    files = migrations(folder)
    server = Database(socket, "", user, check=False)
    try:
        # two at once would both begin the same version
        if server.rows("SELECT GET_LOCK('mf_quarantine_migrate', 60)")[0][0] != 1:
            raise DatabaseError("another migration has been running for a minute; see: mysqladmin processlist")
        new = not server.rows("SELECT 1 FROM information_schema.schemata WHERE schema_name = %s", (name,))
        unknown = not server.rows("SELECT 1 FROM mysql.user WHERE User = %s AND Host = 'localhost'", (account,))
        if dry_run:
            there = 0
            if not new:
                server.run(f"USE {name}")
                there = server.version()
            if there > SCHEMA:
                judge(there, name)
            return [
                *([f"database {name} created"] if new else []),
                *([f"account {account} created"] if unknown else []),
                *(f"schema brought to version {version}" for version in range(there + 1, SCHEMA + 1)),
            ]
        server.run(f"CREATE DATABASE IF NOT EXISTS {name} CHARACTER SET utf8mb4")
        if new:
            done.append(f"database {name} created")
        if unknown:
            server.run(f"CREATE USER IF NOT EXISTS '{account}'@'localhost' IDENTIFIED VIA unix_socket")
            done.append(f"account {account} created")
        server.run(f"GRANT {RIGHTS} ON {name}.* TO '{account}'@'localhost'")
        server.run(f"USE {name}")
        server.run(
            "CREATE TABLE IF NOT EXISTS schema_version"
            " (version INT PRIMARY KEY, applied DATETIME NOT NULL) ENGINE=InnoDB"
        )
        there = server.version()
        if there > SCHEMA:
            judge(there, name)
        for version in range(there + 1, SCHEMA + 1):
            for statement in statements(files[version]):
                server.run(statement)
            with server.transaction():
                server.run("INSERT INTO schema_version (version, applied) VALUES (%s, UTC_TIMESTAMP())", (version,))
            done.append(f"schema brought to version {version}")
    finally:
        server.close()
    return done


def _chunks(items: Sequence[str]) -> Iterable[Sequence[str]]:
    return (items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK))


def _field(text: str) -> str:
    """A text as a field for LOAD DATA."""
    return text.translate(_ESCAPES)


def _marks(items: Sequence[object]) -> str:
    return ", ".join(["%s"] * len(items))


def _words(error: Exception) -> str:
    said = str(error.args[1] if len(error.args) > 1 else error)
    return f"MariaDB: {said[:300]}"


def _error(error: pymysql.MySQLError) -> QuarantineError:
    kind = DuplicateError if error.args and error.args[0] == _DUPLICATE else DatabaseError
    return kind(_words(error))
