"""The content of a database: for each table its number of rows, a checksum over them, and the age of its newest row.

Taken twice: when a dump is made, in the same snapshot as the dump, and of the databases that it was restored to.
Independent of the order of rows and of a server's storage.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Generator, Iterable, Mapping
from contextlib import closing, contextmanager
from typing import Any, TypedDict, cast

from mf import Failure

MARK = b"-- mf-facts: "
SESSION = ("SET NAMES utf8mb4", "SET time_zone = '+00:00'", "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
SNAPSHOT = "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"

PACKET = 1 << 30
"""Bytes of a statement or a row, at most: MariaDB's own limit. A dump writes bytes as hexadecimal digits, so a row that
fitted into the server's packets (Debian: 16 MB) may need larger ones to be restored."""


class Table(TypedDict):
    """A table: number of rows, their checksum, the newest value of the column with a row's age ("" for none)."""

    rows: int
    sum: str
    newest: str


class Facts(TypedDict, total=False):
    """Facts of databases: ``taken`` is epoch seconds, ``databases`` their tables by name. As JSON in a dump."""

    version: int
    taken: float
    databases: dict[str, dict[str, Table]]


class DatabaseError(Failure):
    """A connection or a query failed. One line."""


def connect(socket: str) -> Any:
    """A connection as root through the server's socket. Raises DatabaseError."""
    try:
        pymysql: Any = importlib.import_module("pymysql")
    except ImportError:
        raise DatabaseError("python3-pymysql is not installed; deploy control again") from None
    try:
        return pymysql.connect(unix_socket=socket, user="root", charset="utf8mb4", autocommit=True, connect_timeout=10)
    except pymysql.Error as error:
        raise DatabaseError(f"no database at {socket}: {error.args[-1]}") from None


def ask(connection: Any, query: str, values: Iterable[str] = ()) -> list[tuple[Any, ...]]:
    """Rows of a query. Raises DatabaseError."""
    try:
        with connection.cursor() as cursor:
            cursor.execute(query, tuple(values))
            return list(cursor.fetchall())
    except Exception as error:  # noqa: BLE001  (all of the driver's exceptions mean the same here)
        raise DatabaseError(f"{error.args[-1] if error.args else error}") from None


@contextmanager
def variable(socket: str, name: str, value: int, after: int | None = None) -> Generator[None]:
    """Set a global variable of the server meanwhile; then set it to ``after``, or back. Raises DatabaseError."""
    with closing(connect(socket)) as connection:
        ((before,),) = ask(connection, f"SELECT @@GLOBAL.{name}")
        ask(connection, f"SET GLOBAL {name} = {value}")
        try:
            yield
        finally:
            ask(connection, f"SET GLOBAL {name} = {before if after is None else after}")


def quoted(name: str) -> str:
    """An identifier for SQL."""
    return "`" + name.replace("`", "``") + "`"


def existing(connection: Any) -> set[str]:
    """Names of the server's databases."""
    return {str(row[0]) for row in ask(connection, "SELECT schema_name FROM information_schema.schemata")}


def take(connection: Any, databases: Iterable[str], newest: Mapping[str, str], taken: float) -> Facts:
    """The facts of these databases in the connection's transaction, which began at ``taken``. Raises DatabaseError."""
    contents: dict[str, dict[str, Table]] = {}
    for database in databases:
        tables = contents.setdefault(database, {})
        names = ask(
            connection,
            "SELECT table_name FROM information_schema.tables"
            " WHERE table_schema = %s AND table_type = 'BASE TABLE' ORDER BY 1",
            (database,),
        )
        for (table,) in names:
            tables[str(table)] = _table(connection, database, str(table), newest.get(f"{database}.{table}"))
    return {"version": 1, "taken": taken, "databases": contents}


def _table(connection: Any, database: str, table: str, newest: str | None) -> Table:
    columns = [
        str(row[0])
        for row in ask(
            connection,
            "SELECT column_name FROM information_schema.columns WHERE table_schema = %s AND table_name = %s"
            " ORDER BY ordinal_position",
            (database, table),
        )
    ]
    # one checksum for each value, so that no row is too long for a packet; NULL differs from ''
    values = ", ".join(f"IFNULL(CRC32({quoted(column)}), 'NULL')" for column in columns)
    last = f"MAX({quoted(newest)})" if newest in columns else "NULL"
    ((rows, total, when),) = ask(
        connection,
        f"SELECT COUNT(*), SUM(CRC32(CONCAT_WS(',', {values}))), {last} FROM {quoted(database)}.{quoted(table)}",
    )
    return {"rows": int(rows), "sum": str(total or 0), "newest": "" if when is None else str(when)}


def rows(facts: Facts) -> int:
    """All rows of all tables."""
    return sum(table["rows"] for tables in facts["databases"].values() for table in tables.values())


def line(facts: Facts) -> bytes:
    """The facts as a comment of SQL, the last line of a dump."""
    return MARK + json.dumps(facts, sort_keys=True).encode() + b"\n"


def parse(tail: bytes) -> Facts | None:
    """The facts at the end of a dump; None if there are none: it isn't whole, or isn't ours."""
    start = tail.rfind(b"\n" + MARK)
    if start < 0 or not tail.endswith(b"\n"):
        return None
    try:
        return checked(json.loads(tail[start + 1 + len(MARK) :]))
    except ValueError:
        return None


def checked(document: object) -> Facts | None:
    """A JSON document as facts; None if it has no databases. Their content was written here, and is trusted."""
    known = isinstance(document, dict) and isinstance(document.get("databases"), dict)
    return cast(Facts, document) if known else None


def differences(recorded: Facts, restored: Facts) -> list[str]:
    """The differences between recorded and restored databases, one short sentence each. Pure."""
    sentences = []
    for database, tables in sorted(recorded["databases"].items()):
        there = restored["databases"].get(database)
        if there is None:
            sentences.append(f"{database} is missing")
            continue
        for table, was in sorted(tables.items()):
            now = there.get(table)
            if now is None:
                sentences.append(f"{database}.{table} is missing")
            elif was["rows"] != now["rows"]:
                sentences.append(f"{database}.{table} has {now['rows']} rows, not {was['rows']}")
            elif was["sum"] != now["sum"]:
                sentences.append(f"{database}.{table} has another checksum")
            elif was["newest"] != now["newest"]:
                sentences.append(f"{database}.{table}: its newest row is of {now['newest']}, not {was['newest']}")
        sentences += [f"{database}.{table} is new" for table in sorted(set(there) - set(tables))]
    return sentences


def mismatches(known: Facts | None, recorded: Facts, restored: Facts) -> list[str]:
    """The differences of restored databases from the record kept apart from the repository (``known``), or without one
    from the dump's own facts (``recorded``). Pure."""
    sentences = differences(recorded if known is None else known, restored)
    if known is not None and known["databases"] != recorded["databases"] and not sentences:
        sentences = ["the dump's own record differs from the record kept here when it was made"]
    return sentences
