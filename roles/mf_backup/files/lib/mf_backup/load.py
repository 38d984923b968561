"""A dump out of the repository and into a database server, and the comparison with what was recorded."""

from __future__ import annotations

import subprocess
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from mf import Failure, borg
from mf.borg import Archive

from . import facts
from .repository import Borg

DUMP = "dump.sql"  # the one file in an archive of the job dump
PIECE = 1 << 20
LIMIT = 12 * 3600.0  # seconds for a whole dump
TAIL = 8 << 20  # bytes at the end of a dump in which the facts are looked for


class LoadError(Failure):
    """The dump couldn't be loaded. One line."""


@dataclass(frozen=True)
class Loaded:
    """``recorded`` at dump time, ``restored`` after the load, their differences, bytes of SQL.

    ``apart``: whether it was compared with this machine's record, not only with the facts in the dump.
    """

    recorded: facts.Facts
    restored: facts.Facts
    differences: tuple[str, ...]
    size: int
    apart: bool = False


@contextmanager
def large_packets(socket: str) -> Generator[None]:
    """The server takes statements of any size meanwhile: a drill's and the real one, so that both take the same."""
    connection = facts.connect(socket)
    try:
        ((before,),) = facts.ask(connection, "SELECT @@GLOBAL.max_allowed_packet")
        facts.ask(connection, f"SET GLOBAL max_allowed_packet = {facts.PACKET}")
        try:
            yield
        finally:
            facts.ask(connection, f"SET GLOBAL max_allowed_packet = {before}")
    finally:
        connection.close()


def load(
    repository: Borg, archive: Archive, socket: str, newest: Mapping[str, str], known: facts.Facts | None = None
) -> Loaded:
    """Stream a dump into the server at this socket and compare. Raises LoadError, BorgError, DatabaseError.

    ``known`` is what this machine recorded when the dump was made; without it (it was rebuilt) the dump's own facts do.
    The server must be one that may lose what it has: a dump drops each of its databases first.
    """
    with large_packets(socket):
        tail, size = _pour(repository, archive, socket)
    recorded = facts.parse(tail)
    if recorded is None:
        raise LoadError(f"{archive.name} has no facts at its end: it is not a whole dump of ours")
    connection = facts.connect(socket)
    try:
        for query in facts.SESSION:
            facts.ask(connection, query)
        restored = facts.take(connection, recorded["databases"], newest)
    finally:
        connection.close()
    return Loaded(recorded, restored, tuple(facts.mismatches(known, recorded, restored)), size, known is not None)


def _pour(repository: Borg, archive: Archive, socket: str) -> tuple[bytes, int]:
    """Stream the dump into a client; the end of it, and its size. Raises LoadError, BorgError."""
    client = subprocess.Popen(
        [
            "/usr/bin/mariadb",
            "--no-defaults",
            f"--socket={socket}",
            "--user=root",
            "--default-character-set=utf8mb4",
            f"--max-allowed-packet={facts.PACKET}",
        ],
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
    return bytes(tail), size
