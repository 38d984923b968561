"""Restoring: a dump into the real server, files to their place. On a rebuilt machine, or on demand."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from mf import text
from mf.borg import Archive

from . import facts, load
from .jobs import Context, JobError

ASIDE = "/mf/var/backup/restored"  # what has no place of its own: the old configuration, to look things up


@dataclass(frozen=True)
class Restored:
    """``archive``, seconds it took, the age of what came back in seconds, what differs from the record."""

    archive: str
    seconds: float
    age: float
    differences: tuple[str, ...] = ()
    rows: int = 0


def choose(context: Context, wanted: Iterable[str], name: str = "") -> dict[str, Archive]:
    """For each of these jobs the archive of that name, or its newest (by number). Raises JobError, BorgError.

    What no archive has is left out, and so are databases where the settings name none; JobError when nothing is left.
    """
    listed, chosen = context.borg.archives().values(), {}
    for job in wanted:
        candidates = [archive for archive in listed if archive.job == job and name in ("", archive.name)]
        if candidates and (job != "dump" or context.settings.databases):
            chosen[job] = max(candidates, key=lambda archive: (archive.sequence, archive.name))
    if not chosen:
        what = name or "of " + " or ".join(wanted)
        raise JobError(
            "absent", f"the repository has no archive {what} for this machine; /mf/bin/backup list shows all"
        )
    return chosen


def perform(context: Context, archives: Mapping[str, Archive]) -> dict[str, Restored]:
    """Restore these, by job. Until that has succeeded no job runs: half a restore must not become the newest backup."""
    done = {}
    context.record.restoring |= set(archives)
    for job, archive in archives.items():
        done[job] = files(context, archive) if job == "full" else database(context, archive)
        if not done[job].differences:
            context.record.restoring -= {job}
    return done


def in_use(context: Context) -> list[str]:
    """Databases of the settings that have rows, a sentence each. Raises DatabaseError."""
    connection = facts.connect(context.settings.socket)
    try:
        there = facts.existing(connection)
        names = [name for name in context.settings.databases if name in there]
        taken = facts.take(connection, names, {})
    finally:
        connection.close()
    full = {name: sum(table["rows"] for table in tables.values()) for name, tables in taken["databases"].items()}
    return [f"{name} has {rows} rows" for name, rows in full.items() if rows]


def overwritten(context: Context, archive: Archive) -> list[str]:
    """Files that a restore would replace, in a sentence; files that are the same count as well."""
    first: list[str] = []
    count = 0

    def hold(out: IO[bytes]) -> None:
        nonlocal count
        rest = b""
        while piece := out.read(load.PIECE):
            *entries, rest = (rest + piece).split(b"\0")
            for entry in entries:
                if entry[:1] == b"-" and os.path.lexists(b"/" + entry[1:]):
                    count += 1
                    if not first:
                        first.append(text.clean("/" + entry[1:].decode(errors="replace"), 120))

    paths = [f"pp:{path.strip('/')}" for path in context.settings.restore_paths]
    context.borg.run("list", "--format", "{type}{path}{NUL}", f"::{archive.name}", *paths, sink=hold)
    return [f"{count} files, {first[0]} first"] if first else []


def database(context: Context, archive: Archive) -> Restored:
    """The databases of a dump, into the real server; what was there under their names is replaced."""
    began = time.monotonic()
    with read_only(context.settings.socket):
        loaded = load.load(
            context.borg, archive, context.settings.socket, context.settings.newest, context.record.facts(archive.name)
        )
    age = max(0.0, context.now() - float(loaded.recorded["taken"]))
    return Restored(archive.name, time.monotonic() - began, age, loaded.differences, facts.rows(loaded.recorded))


@contextmanager
def read_only(socket: str) -> Generator[None]:
    """Let only root write to this server meanwhile: an import in the middle of a load would make it fail.

    It is writable afterwards, whatever it was before: a restore that was killed left it as it is here.
    """
    connection = facts.connect(socket)
    try:
        facts.ask(connection, "SET GLOBAL read_only = 1")
        try:
            yield
        finally:
            facts.ask(connection, "SET GLOBAL read_only = 0")
    finally:
        connection.close()


def files(context: Context, archive: Archive) -> Restored:
    """Files of a full archive: those of ``restore_paths`` to their place, all the rest below ASIDE."""
    began = time.monotonic()
    paths = [path.strip("/") for path in context.settings.restore_paths]
    _extract(context, archive, "/", [f"pp:{path}" for path in paths])
    os.makedirs(ASIDE, 0o700, exist_ok=True)
    excluded = [f"--exclude=pp:{path}" for path in paths]
    _extract(context, archive, ASIDE, [], excluded)
    return Restored(archive.name, time.monotonic() - began, max(0.0, context.now() - archive.time))


def _extract(
    context: Context, archive: Archive, target: str, patterns: Sequence[str], options: Sequence[str] = ()
) -> None:
    here = os.getcwd()
    os.chdir(target)  # borg extracts into the directory that it is started in
    try:
        context.borg.run("extract", *options, f"::{archive.name}", *patterns)
    finally:
        os.chdir(here)


def afterwards(context: Context) -> list[tuple[str, int]]:
    """Run ``after_restore``'s commands, all of them whatever fails; returns each with its exit code.

    An MX that is away makes the fetching fail, and that is no reason to leave out the repair of what did come back.
    """
    return [
        (command, subprocess.run(command.split(), stdin=subprocess.DEVNULL, check=False).returncode)
        for command in context.settings.after_restore
    ]
