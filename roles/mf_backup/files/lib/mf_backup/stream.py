"""A dump of databases on stdout, with the facts of the same moment as its last line.

borg runs this (``create --content-from-command``) and makes no archive when it fails. Dump and facts see the same
moment although MariaDB can't share a snapshot between connections: commits are held (BACKUP STAGE BLOCK_COMMIT, which
waits for no query) until mariadb-dump and our own connection have both begun theirs. mariadb-dump has begun when it has
written the name of the first database, which it does after START TRANSACTION. Held in all: some 20 ms.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import IO

from . import facts

HOLD_LIMIT = 10.0  # seconds that commits are held, at most; then the dump fails
PIECE = 1 << 20
STAGES = ("START", "FLUSH", "BLOCK_DDL", "BLOCK_COMMIT")
BEGUN = b"\n-- Current Database: "


def command(socket: str, databases: Sequence[str]) -> list[str]:
    """The command line of mariadb-dump."""
    return [
        "/usr/bin/mariadb-dump",
        f"--socket={socket}",
        "--user=root",
        "--single-transaction",
        "--quick",
        "--routines",
        "--events",
        "--triggers",
        "--hex-blob",
        "--default-character-set=utf8mb4",
        "--add-drop-database",
        f"--max-allowed-packet={facts.PACKET}",
        "--databases",
        *databases,
    ]


def dump(socket: str, databases: Sequence[str], newest: Mapping[str, str], out: IO[bytes]) -> facts.Facts:
    """Write the dump and its facts; returns the facts. Raises facts.DatabaseError."""
    holder, reader = facts.connect(socket), facts.connect(socket)
    missing = sorted(set(databases) - facts.existing(reader))
    if missing:
        raise facts.DatabaseError(f"no database {', '.join(missing)} at {socket}; see mf_backup_databases")
    for query in facts.SESSION:
        facts.ask(reader, query)
    child: subprocess.Popen[bytes] | None = None
    try:
        facts.ask(holder, f"SET lock_wait_timeout = {int(HOLD_LIMIT)}")
        for stage in STAGES:
            facts.ask(holder, f"BACKUP STAGE {stage}")
        taken = time.time()
        child = subprocess.Popen(command(socket, databases), stdout=subprocess.PIPE)
        assert child.stdout is not None
        head = _begun(child)
        facts.ask(reader, facts.SNAPSHOT)
        facts.ask(holder, "BACKUP STAGE END")
        counted: Future[facts.Facts] = Future()

        def count() -> None:
            try:
                counted.set_result(facts.take(reader, databases, newest, taken))
            except Exception as error:  # noqa: BLE001  (raised again by result)
                counted.set_exception(error)

        threading.Thread(target=count, daemon=True).start()
        out.write(head)
        while piece := child.stdout.read(PIECE):
            out.write(piece)
        if child.wait():
            raise facts.DatabaseError(f"mariadb-dump ended with {child.returncode}")
        recorded = counted.result()
    finally:
        holder.close()  # ends the hold, if that is still on
        if child is not None and child.poll() is None:
            child.terminate()
            child.wait()
    out.write(facts.line(recorded))
    out.flush()
    return recorded


def _begun(child: subprocess.Popen[bytes]) -> bytes:
    """Wait until mariadb-dump has begun its snapshot; returns its output so far. Raises facts.DatabaseError."""
    assert child.stdout is not None
    late = threading.Timer(HOLD_LIMIT, child.terminate)
    late.start()
    head = b""
    try:
        while BEGUN not in head:
            piece = child.stdout.read1(65536)  # type: ignore[attr-defined]
            if not piece:
                raise facts.DatabaseError(f"mariadb-dump ended with {child.wait()} before it had begun")
            head += piece
    finally:
        late.cancel()
    return head
