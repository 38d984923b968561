#!/usr/bin/env python3
"""Migrate an index of its own on the real server to a next schema of two statements: with an error, then corrected.

Prints, as one JSON object, the result of each step, the versions after it, and the index at the end. As root.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, "/mf/lib")

from mf_quarantine import database, migration, schema

NAME, ACCOUNT = "mf_quarantine_next", "mf-quarantine-next"
FIRST = "-- a comment; of one line\nALTER TABLE ledger ADD COLUMN IF NOT EXISTS next INT NOT NULL DEFAULT 7;\n"


def migrate(server: database.Database, folder: Path) -> dict[str, Any]:
    """Run the migrations of this release, then the next one in both versions; return the results."""
    results: dict[str, Any] = {}

    def step(key: str) -> None:
        try:
            results[key] = migration.migrate(folder=str(folder), name=NAME, account=ACCOUNT)
        except database.DatabaseError as error:
            results[key] = str(error)
        results[f"{key} there"] = [
            row[0] for row in server.rows(f"SELECT version FROM {NAME}.schema_version ORDER BY 1")
        ]

    shutil.copytree(schema.MIGRATIONS, folder, dirs_exist_ok=True)
    step("first")
    server.run(f"INSERT INTO {NAME}.ledger (id, domain, state) VALUES ('x', 'a.example', 'kept')")
    schema.SCHEMA += 1
    path = folder / f"{schema.SCHEMA:04d}_next.sql"
    path.write_text(f"{FIRST}CREATE TABLE IF NOT EXISTS next (id NONSENSE);\n")
    step("broken")
    path.write_text(f"{FIRST}CREATE TABLE IF NOT EXISTS next (id INT PRIMARY KEY);\n")
    step("mended")
    step("again")
    results["row"] = [list(row) for row in server.rows(f"SELECT id, next FROM {NAME}.ledger")]
    tables = "SELECT table_name FROM information_schema.tables WHERE table_schema = %s AND table_name LIKE 'next%%'"
    results["tables"] = [row[0] for row in server.rows(tables, (NAME,))]
    return results


def main() -> None:
    """Migrate, print the results, remove the index."""
    server = database.Database(name="", user="root", check=False)
    try:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(migrate(server, Path(folder))))
    finally:
        server.run(f"DROP DATABASE IF EXISTS {NAME}")
        server.run(f"DROP USER IF EXISTS '{ACCOUNT}'@'localhost'")


if __name__ == "__main__":
    main()
