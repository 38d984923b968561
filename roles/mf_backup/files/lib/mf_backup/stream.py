"""A dump of databases on stdout, with the facts of the same moment as its last line.

borg runs this (``create --content-from-command``) and makes no archive when it fails. How dump and facts see the same
moment: MariaDB can't share a snapshot between connections, so commits are held (BACKUP STAGE BLOCK_COMMIT, which waits
for no query) until mariadb-dump and our own connection have both begun theirs. That mariadb-dump has is known when it
has written the name of the first database, which it does after START TRANSACTION. Held in all: some 20 ms.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from typing import IO

from . import facts

HOLD_LIMIT = 10.0  # seconds that commits are held, at most; then there is no dump this time
PIECE = 1 << 20
STAGES = ("START", "FLUSH", "BLOCK_DDL", "BLOCK_COMMIT")
BEGUN = b"\n-- Current Database: "


def command(socket: str, databases: Sequence[str], options: Sequence[str] = ()) -> list[str]:
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
        *options,
        "--databases",
        *databases,
    ]


def dump(socket: str, databases: Sequence[str], newest: dict[str, str], out: IO[bytes]) -> facts.Facts:
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
        counted = _Background(lambda: facts.take(reader, databases, newest, taken))
        out.write(head)
        while piece := child.stdout.read(PIECE):
            out.write(piece)
        if child.wait():
            raise facts.DatabaseError(f"mariadb-dump ended with {child.returncode}")
        recorded = counted.result()
    finally:
        holder.close()  # ends the hold, too
        if child is not None and child.poll() is None:
            child.terminate()
            child.wait()
    out.write(facts.line(recorded))
    out.flush()
    return recorded


def _begun(child: subprocess.Popen[bytes]) -> bytes:
    """What mariadb-dump wrote until it was seen to have begun its snapshot. Raises facts.DatabaseError."""
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


class _Background:
    """A function in a thread; its result or its exception later."""

    def __init__(self, function: Callable[[], facts.Facts]) -> None:
        self._value: facts.Facts = {}
        self._error: Exception | None = None

        def run() -> None:
            try:
                self._value = function()
            except Exception as error:  # noqa: BLE001  (raised again by result)
                self._error = error

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def result(self) -> facts.Facts:
        """Wait for it."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._value
