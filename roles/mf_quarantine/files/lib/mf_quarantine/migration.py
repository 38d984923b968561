"""Create database, account and schema of the index, or bring them up to date: ``quarantine migrate``, as root."""

from __future__ import annotations

from . import schema
from .database import NAME, SOCKET, USER, Database, DatabaseError

RIGHTS = "SELECT, INSERT, UPDATE, DELETE"


def migrate(
    socket: str = SOCKET,
    folder: str = schema.MIGRATIONS,
    user: str = "root",
    name: str = NAME,
    account: str = USER,
    *,
    dry_run: bool = False,
) -> list[str]:
    """Create database, account and rights, bring the schema to schema.SCHEMA. Returns the steps that were necessary.

    ``dry_run``: change nothing, return the same steps.

    An interrupted run can be repeated: a version counts once all its statements are done. Raises DatabaseError,
    SchemaError."""
    files = schema.migrations(folder)
    server = Database(socket, "", user, check=False)
    try:
        # two migrations at once would both begin the same version
        if server.rows("SELECT GET_LOCK('mf_quarantine_migrate', 60)")[0][0] != 1:
            raise DatabaseError("another migration has been running for a minute; see: mysqladmin processlist")
        steps: list[str] = []
        if not server.rows("SELECT 1 FROM information_schema.schemata WHERE schema_name = %s", (name,)):
            steps.append(f"database {name} created")
        if not server.rows("SELECT 1 FROM mysql.user WHERE User = %s AND Host = 'localhost'", (account,)):
            steps.append(f"account {account} created")
        if not dry_run:
            _create(server, name, account)
        version = 0
        if not dry_run or f"database {name} created" not in steps:
            server.run(f"USE {name}")
            version = server.version()
        if version > schema.SCHEMA:
            schema.judge(version, name)
        for number in range(version + 1, schema.SCHEMA + 1):
            if not dry_run:
                _apply(server, number, files[number])
            steps.append(f"schema brought to version {number}")
    finally:
        server.close()
    return steps


def _create(server: Database, name: str, account: str) -> None:
    """Each statement may be repeated: then it does nothing."""
    server.run(f"CREATE DATABASE IF NOT EXISTS {name} CHARACTER SET utf8mb4")
    server.run(f"CREATE USER IF NOT EXISTS '{account}'@'localhost' IDENTIFIED VIA unix_socket")
    server.run(f"GRANT {RIGHTS} ON {name}.* TO '{account}'@'localhost'")
    server.run(
        f"CREATE TABLE IF NOT EXISTS {name}.schema_version"
        " (version INT PRIMARY KEY, applied DATETIME NOT NULL) ENGINE=InnoDB"
    )


def _apply(server: Database, version: int, text: str) -> None:
    for statement in schema.statements(text):
        server.run(statement)
    with server.transaction():
        server.run("INSERT INTO schema_version (version, applied) VALUES (%s, UTC_TIMESTAMP())", (version,))
