"""A dump out of the repository and into a database server, and what came out of it held against what was recorded."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO

from . import borg, facts
from .record import Archive

DUMP = "dump.sql"  # the one file in an archive of the job dump
PIECE = 1 << 20
LIMIT = 12 * 3600.0  # seconds for a whole dump
TAIL = 8 << 20  # bytes at the end of a dump in which the facts are looked for


class LoadError(Exception):
    """The dump couldn't be loaded. One line."""


@dataclass(frozen=True)
class Loaded:
    """``recorded`` at dump time, ``found`` after the load, what differs in words, bytes of SQL.

    ``apart``: whether it was held against what this machine has on record, not only against what is in the dump.
    """

    recorded: facts.Facts
    found: facts.Facts
    differences: tuple[str, ...]
    size: int
    apart: bool = False


def load(
    repository: borg.Borg, archive: Archive, socket: str, newest: Mapping[str, str], known: facts.Facts | None = None
) -> Loaded:
    """Stream a dump into the server at this socket and compare. Raises LoadError, BorgError, DatabaseError.

    ``known`` is what this machine recorded when the dump was made; without it (it was rebuilt) the dump's own facts do.
    The server must be one that may lose what it has: a dump drops each of its databases first.
    """
    client = subprocess.Popen(
        ["/usr/bin/mariadb", "--no-defaults", f"--socket={socket}", "--user=root", "--default-character-set=utf8mb4"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert client.stdin is not None
    assert client.stderr is not None
    into = client.stdin
    tail, size = bytearray(), 0

    def pump(out: IO[bytes]) -> None:
        nonlocal size
        while piece := out.read(PIECE):
            size += len(piece)
            tail.extend(piece)
            del tail[:-TAIL]
            try:
                into.write(piece)
            except BrokenPipeError:
                return

    try:
        repository.run("extract", "--stdout", f"::{archive.name}", DUMP, limit=LIMIT, sink=pump)
    except borg.BorgError:
        client.kill()
        raise
    finally:
        try:
            into.close()
        except BrokenPipeError:
            pass
        complaint = client.stderr.read().decode(errors="replace").strip()
        client.wait()
    if client.returncode:
        raise LoadError(f"mariadb refused the dump {archive.name}: {complaint[-200:]}")
    recorded = facts.parse(bytes(tail))
    if recorded is None:
        raise LoadError(f"{archive.name} has no facts at its end: it is not a whole dump of ours")
    connection = facts.connect(socket)
    try:
        for query in facts.SESSION:
            facts.ask(connection, query)
        found = facts.take(connection, recorded["databases"], newest)
    finally:
        connection.close()
    return Loaded(recorded, found, tuple(facts.held(known, recorded, found)), size, known is not None)
