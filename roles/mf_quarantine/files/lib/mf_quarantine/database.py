"""A connection to MariaDB by its unix socket, and the ways to run a statement.

There is no password: MariaDB gets the user at the other end of its socket from the kernel (plugin ``unix_socket``).
All statements run at READ COMMITTED: a batch of deletes locks the rows it deletes and no gap beside them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import pymysql
import pymysql.cursors

from . import DuplicateError, QuarantineError, schema

Value = TypeVar("Value")

SOCKET = "/run/mysqld/mysqld.sock"
NAME = "mf_quarantine"
USER = "mf-quarantine"

_SESSION = "SET SESSION tx_isolation = 'READ-COMMITTED', time_zone = '+00:00', innodb_lock_wait_timeout = 20"
_AGAIN = (1205, 1213)  # lock wait timeout, deadlock: the transaction was undone and may be tried again
_DUPLICATE = 1062
_TRIES = 5


class DatabaseError(QuarantineError):
    """MariaDB refuses a connection or a statement, or fails."""


class Database:
    """One connection. ``with database.transaction():`` commits at its end or undoes everything."""

    def __init__(self, socket: str = SOCKET, name: str = NAME, user: str = USER, *, check: bool = True) -> None:
        try:
            self._connection = pymysql.connect(
                unix_socket=socket,
                user=user,
                database=name or None,
                charset="utf8mb4",
                # no transaction stays open between two statements: a migration would have to wait for it
                autocommit=True,
                local_infile=True,
                connect_timeout=5,
                read_timeout=300,
                write_timeout=300,
                init_command=_SESSION,
            )
        except pymysql.MySQLError as error:
            raise DatabaseError(f"{_message(error)}; see: systemctl status mariadb mf-quarantine-schema") from None
        if check:
            schema.judge(self.version(), name)

    def close(self) -> None:
        """Close the connection; an open transaction is undone."""
        with contextlib.suppress(pymysql.MySQLError):
            self._connection.close()

    def version(self) -> int:
        """The schema's version; 0 if there is none."""
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
        """Run a statement; returns the number of rows it changed. Raises DatabaseError."""
        try:
            with self._connection.cursor() as cursor:
                return int(cursor.execute(sql, values or None))
        except pymysql.MySQLError as error:
            raise _error(error) from error

    def load(self, table: str, columns: str, rows: Sequence[str]) -> None:
        """Insert rows of tab-separated, escaped fields by LOAD DATA: several times faster than INSERT.

        LOCAL: the server gets the rows from this process's memory, and needs no right to read files. It skips rows that
        exist already, so the number of new ones is compared. Raises DuplicateError, DatabaseError.
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
        """The rows of a query, unbuffered; the connection can't be used for another statement meanwhile."""
        try:
            with self._connection.cursor(pymysql.cursors.SSDictCursor) as cursor:
                cursor.execute(sql, values or None)
                yield from cursor.fetchall_unbuffered()
        except pymysql.MySQLError as error:
            raise _error(error) from error

    def retried(self, work: Callable[[], Value]) -> Value:
        """Run ``work`` in a transaction, again after a deadlock; returns its result. Raises DatabaseError."""
        for left in range(_TRIES - 1, -1, -1):
            try:
                with self.transaction():
                    return work()
            except DatabaseError as error:
                code = error.__cause__.args[0] if error.__cause__ is not None and error.__cause__.args else 0
                if code not in _AGAIN or not left:
                    raise
        raise AssertionError


def _message(error: Exception) -> str:
    reason = str(error.args[1] if len(error.args) > 1 else error)
    return f"MariaDB: {reason[:300]}"


def _error(error: pymysql.MySQLError) -> QuarantineError:
    kind = DuplicateError if error.args and error.args[0] == _DUPLICATE else DatabaseError
    return kind(_message(error))
