"""Load a dump from the repository into a database server, and compare the result with its recorded facts."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import IO

from mf import Failure, borg
from mf.borg import Archive

from . import facts
from .repository import Borg

DUMP = "dump.sql"  # the one file in an archive of the job dump
PIECE = 1 << 20
LIMIT = 12 * 3600.0  # seconds for a whole dump
TAIL = 8 << 20  # bytes at the end of a dump that are searched for the facts


class LoadError(Failure):
    """The dump couldn't be loaded. One line."""


@dataclass(frozen=True)
class Loaded:
    """The facts recorded at dump time, the differences after the load, bytes of SQL.

    ``apart``: whether it was compared with this machine's record, not only with the facts in the dump.
    """

    recorded: facts.Facts
    differences: tuple[str, ...]
    size: int
    apart: bool = False


def load(
    repository: Borg, archive: Archive, socket: str, newest: Mapping[str, str], known: facts.Facts | None = None
) -> Loaded:
    """Stream a dump into the server at this socket and compare. Raises LoadError, BorgError, DatabaseError.

    ``known`` is this machine's record of the dump; without it (the machine was rebuilt) the dump's own facts are used.
    The server's databases may be lost: a dump drops each of its databases first.
    """
    # a drill's server and the real one: so both accept the same
    with facts.variable(socket, "max_allowed_packet", facts.PACKET):
        tail, size = _pour(repository, archive, socket)
    recorded = facts.parse(tail)
    if recorded is None:
        raise LoadError(f"{archive.name} has no facts at its end: it is not a whole dump of ours")
    with closing(facts.connect(socket)) as connection:
        for query in facts.SESSION:
            facts.ask(connection, query)
        restored = facts.take(connection, recorded["databases"], newest, time.time())
    return Loaded(recorded, tuple(facts.mismatches(known, recorded, restored)), size, known is not None)


def _pour(repository: Borg, archive: Archive, socket: str) -> tuple[bytes, int]:
    """Stream the dump into a client; returns its last bytes, and its size. Raises LoadError, BorgError."""
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
