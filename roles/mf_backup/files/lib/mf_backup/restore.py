"""Restoring: a dump into the real server, files to their place. On a rebuilt machine, or on demand."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterable, Mapping
from contextlib import chdir, closing
from dataclasses import dataclass
from typing import IO

from mf import text
from mf.borg import Archive

from . import facts, load
from .jobs import Context, JobError

ASIDE = "/mf/var/backup/restored"  # for files outside of ``restore_paths``: the old configuration, for the operator


@dataclass(frozen=True)
class Restored:
    """``archive``, seconds it took, its age in seconds, the differences from the record."""

    archive: str
    seconds: float
    age: float
    differences: tuple[str, ...] = ()
    rows: int = 0


def choose(context: Context, wanted: Iterable[str], name: str = "") -> dict[str, Archive]:
    """For each of these jobs the archive of that name, or its newest (by number). Raises JobError, BorgError.

    A job without such an archive is left out, and so are databases where the settings name none. JobError if no job is
    left.
    """
    listed, chosen = context.borg.archives().values(), {}
    for job in wanted:
        candidates = [archive for archive in listed if archive.job == job and name in ("", archive.name)]
        if candidates and (job != "dump" or context.settings.databases):
            chosen[job] = max(candidates, key=lambda archive: (archive.sequence, archive.name))
    if not chosen:
        missing = name or "of " + " or ".join(wanted)
        raise JobError(
            "absent", f"the repository has no archive {missing} for this machine; /mf/bin/backup list shows all"
        )
    return chosen


def perform(context: Context, archives: Mapping[str, Archive]) -> dict[str, Restored]:
    """Restore these, by job. No job runs until that has succeeded: half a restore must not become the newest backup."""
    done = {}
    context.record.restoring |= set(archives)
    for job, archive in archives.items():
        done[job] = files(context, archive) if job == "full" else database(context, archive)
        if not done[job].differences:
            context.record.restoring -= {job}
    return done


def in_use(context: Context) -> list[str]:
    """Databases of the settings that have rows, a sentence each. Raises DatabaseError."""
    with closing(facts.connect(context.settings.socket)) as connection:
        there = facts.existing(connection)
        names = [name for name in context.settings.databases if name in there]
        taken = facts.take(connection, names, {}, context.now())
    full = {name: sum(table["rows"] for table in tables.values()) for name, tables in taken["databases"].items()}
    return [f"{name} has {rows} rows" for name, rows in full.items() if rows]


def overwritten(context: Context, archive: Archive) -> list[str]:
    """Files that a restore would replace, in a sentence; unchanged files count as well."""
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
    """Restore the databases of a dump into the real server; those of the same names are replaced.

    Only root may write to the server meanwhile: an import in the middle of a load would make it fail. It is writable
    afterwards in any case, for a restore that was killed leaves it read-only.
    """
    began = time.monotonic()
    with facts.variable(context.settings.socket, "read_only", 1, after=0):
        loaded = load.load(
            context.borg, archive, context.settings.socket, context.settings.newest, context.record.facts(archive.name)
        )
    age = max(0.0, context.now() - float(loaded.recorded["taken"]))
    return Restored(archive.name, time.monotonic() - began, age, loaded.differences, facts.rows(loaded.recorded))


def files(context: Context, archive: Archive) -> Restored:
    """Restore a full archive: the files of ``restore_paths`` to their place, all others below ASIDE."""
    began = time.monotonic()
    paths = [f"pp:{path.strip('/')}" for path in context.settings.restore_paths]
    # borg extracts into the current directory
    with chdir("/"):
        context.borg.run("extract", f"::{archive.name}", *paths)
    os.makedirs(ASIDE, 0o700, exist_ok=True)
    with chdir(ASIDE):
        context.borg.run("extract", *(f"--exclude={path}" for path in paths), f"::{archive.name}")
    return Restored(archive.name, time.monotonic() - began, max(0.0, context.now() - archive.time))


def afterwards(context: Context) -> list[tuple[str, int]]:
    """Run ``after_restore``'s commands, also after a failure; returns each with its exit code.

    If an MX is away the pull fails, and the repair of the restored files must run all the same.
    """
    return [
        (command, subprocess.run(command.split(), stdin=subprocess.DEVNULL, check=False).returncode)
        for command in context.settings.after_restore
    ]
