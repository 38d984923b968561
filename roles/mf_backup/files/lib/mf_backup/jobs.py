"""The jobs of a host's backups: dump, full, verify, drill. One at a time on a host, each recorded.

The caller holds the repository lock. A job raises Failure; ``perform`` records the outcome for check-backup.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass

from mf import Failure, borg, state, text
from mf.borg import Archive, Comparison, compare

from . import facts, load, repository, scratch
from .record import Past, Record
from .settings import Settings

BORGMATIC = "/usr/bin/borgmatic"
BORGMATIC_YAML = "/mf/etc/backup/borgmatic.yaml"
PROGRAM = "/mf/bin/backup"
VAR = "/mf/var/backup"
ROOM_FACTOR = 2.5  # a dump of 1 GB may need 2.5 GB as a database: row overhead, indexes, logs
ROOM_LEAST = 500 << 20  # bytes: an empty server has some 200 MB


LOCK = "backup-turn"
"""The repository lock: its file's name in the locks' directory. Not that of check-backup, which runs beside a job."""


class JobError(Failure):
    """A job failed, and not in borg. ``kind`` as in borg.BorgError; the text is one line."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass
class Context:
    """Settings, paths, record and repository of a job; ``now`` is epoch seconds."""

    settings: Settings
    places: state.Places
    record: Record
    borg: repository.Borg
    now: Callable[[], float] = time.time


def perform(job: str, context: Context) -> Past:
    """Run one job and record its outcome; never raises for a failure of the job."""
    record, past = context.record, context.record.past(job)
    past.started = context.now()
    began = time.monotonic()
    past.warning = ""
    try:
        ensure_repository(context)
        past.archive, past.figures = {"dump": dump, "full": full, "verify": verify, "drill": drill}[job](context)
    except (Failure, OSError) as error:
        past.failures += 1
        past.kind = getattr(error, "kind", "failed")
        past.error = text.clean(str(error), 300)
        if isinstance(error, borg.BorgError) and past.kind == "absent" and record.archives:
            # this machine has archives in it
            past.kind, gone = "vanished", f"the repository is gone, or some of its {len(record.archives)} archives"
            past.error = text.clean(f"{gone}: {error}", 300)
    else:
        past.failures, past.kind, past.error = 0, "", ""
        past.succeeded = past.started
    past.seconds = round(time.monotonic() - began, 3)
    record.save()
    return past


def ensure_repository(context: Context) -> None:
    """Create the repository on the first day; refuse one that isn't on record here. Raises BorgError, JobError.

    A machine without a record doesn't write into a repository that has archives of its name: it was rebuilt, and its
    empty database must not become the newest backup before an operator has restored the last one. Nor does a machine
    on which a restore stopped half way.
    """
    record = context.record
    if record.restoring:
        raise JobError(
            "foreign",
            "a restore was begun here and didn't succeed: do it again (docs/restore.md), or leave it at what is there:"
            " /mf/bin/backup adopt",
        )
    if record.adopted:
        return
    try:
        stored = context.borg.archives()
    except borg.BorgError as error:
        if error.kind != "absent" or record.archives:
            raise
        context.borg.run("init", "--encryption=repokey-blake2", "--make-parent-dirs", limit=300)
        stored = {}
    if stored and not record.archives:
        raise JobError(
            "foreign",
            f"{len(stored)} archives of {context.settings.prefix} are there, and this machine has no record of them:"
            " restore (playbooks/restore_control.yml), or take them over as they are: /mf/bin/backup adopt",
        )
    record.repository = identity(context)
    record.save()


def identity(context: Context) -> str:
    """The repository's id."""
    return str(context.borg.json("info", "--json")["repository"]["id"])


def adopt(context: Context) -> Comparison:
    """Take the repository as it is: drop borg's records of it, record its list anew. Returns the changes."""
    forget(context)
    stored, repository = context.borg.archives(), identity(context)
    change = compare(context.record.archives, stored)
    kept = {name: context.record.archives.get(name, archive) for name, archive in stored.items()}
    context.record.replace(
        {name: archive if stored[name].id == archive.id else stored[name] for name, archive in kept.items()}
    )
    context.record.repository = repository
    context.record.save()
    context.record.restoring = set()
    return change


def forget(context: Context) -> None:
    """Remove borg's own records of the repository, because of which it would refuse an older one."""
    for folder in (".cache/borg", ".config/borg/security"):
        shutil.rmtree(f"{context.borg.env['BORG_BASE_DIR']}/{folder}", ignore_errors=True)


def dump(context: Context) -> tuple[str, dict[str, float]]:
    """The databases, streamed into the repository."""
    if not context.settings.databases:
        raise JobError("setting", "mf_backup_databases names no database")
    name, sequence = _next(context, "dump")
    answer = context.borg.json(
        "create",
        "--json",
        "--compression=zstd,3",
        "--checkpoint-interval=86400",
        "--content-from-command",
        f"--stdin-name={load.DUMP}",
        f"::{name}",
        "--",
        PROGRAM,
        "stream",
        "--facts",
        context.record.facts_path(name),
        limit=context.settings.jobs["dump"].period,
    )
    made = _made(context, "dump", sequence, answer)
    context.record.tidy()
    return made


def full(context: Context) -> tuple[str, dict[str, float]]:
    """All other files: paths of the configuration, by borgmatic. Then compare the list with the record."""
    name, sequence = _next(context, "full")
    # with --json borgmatic fails when borg only warns, though the archive is made
    done = context.borg.run_other(
        borgmatic("create", "--override", f"storage.archive_name_format={name}"), context.settings.jobs["full"].period
    )
    (answer,) = context.borg.json("info", "--json", f"::{name}")["archives"]
    archive, figures = _made(context, "full", sequence, {"archive": answer})
    listed(context)
    if done.messages:
        # borg skips a file that it can't read, and reports it only here
        context.record.past("full").warning = text.clean(done.messages[0], 200)
        figures["warnings"] = len(done.messages)
    return archive, figures


def borgmatic(*arguments: str) -> list[str]:
    """A command line of borgmatic, whose own file has Borg's settings from the same variables."""
    return [BORGMATIC, "--config", BORGMATIC_YAML, *arguments]


def verify(context: Context) -> tuple[str, dict[str, float]]:
    """borgmatic check (segments' checksums, archives' metadata, the newest's data), and all data of an older one."""
    context.borg.run_other(borgmatic("check", "--force"), None)
    stored = listed(context)
    older = [name for name in stored if name != max(stored, key=lambda each: stored[each].sequence)]
    if older:
        sample = random.choice(older)
        context.borg.run("extract", "--dry-run", f"::{sample}")
        return sample, {"archives": len(stored)}
    return "", {"archives": len(stored)}


def listed(context: Context) -> dict[str, Archive]:
    """The repository's archives. Raises JobError when a recorded one is missing or has another id."""
    stored = context.borg.archives()
    difference = compare(context.record.archives, stored)
    if not difference.same:
        gone = [*difference.missing, *difference.changed]
        raise JobError(
            "vanished",
            f"{len(gone)} recorded archives are missing or others, {gone[0]} first; see /mf/bin/backup list",
        )
    for name in difference.unknown:
        # whole, but made by a run that was killed before it could record it
        context.record.add(stored[name])
    return stored


def drill(context: Context) -> tuple[str, dict[str, float]]:
    """Restore the newest dump into a server of its own and compare it with its recorded facts."""
    began, clock = context.now(), time.monotonic()
    stored = context.borg.archives()
    dumps = [archive for archive in stored.values() if archive.job == "dump"]
    if not dumps:
        raise JobError("vanished" if context.record.newest("dump") else "absent", "there is no dump to restore")
    archive = max(dumps, key=lambda dump: (dump.sequence, dump.name))
    known = context.record.archives.get(archive.name)
    _room((known.original if known else 0) * ROOM_FACTOR + ROOM_LEAST)
    with scratch.Scratch() as server:
        loaded = load.load(
            context.borg, archive, server.socket, context.settings.newest, context.record.facts(archive.name)
        )
        rto = time.monotonic() - clock
    if loaded.differences:
        raise JobError("mismatch", f"{archive.name} came back otherwise: {'; '.join(loaded.differences[:3])}")
    return archive.name, {
        "rpo_seconds": round(max(0.0, began - float(loaded.recorded["taken"])), 1),
        "rto_seconds": round(rto, 1),
        "rows": facts.rows(loaded.recorded),
        "apart": int(loaded.apart),
        "original_bytes": loaded.size,
    }


def _room(needed: float) -> None:
    state.make_folder(VAR, 0o711)
    free = shutil.disk_usage(VAR).free
    if free < needed:
        raise JobError("full", f"a drill needs {needed / 1e6:.0f} MB free in {VAR}, there are {free / 1e6:.0f}")


def _next(context: Context, job: str) -> tuple[str, int]:
    sequence = context.record.take_sequence()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(context.now()))
    return context.settings.archive(job, sequence, stamp), sequence


def _made(context: Context, job: str, sequence: int, answer: dict[str, object]) -> tuple[str, dict[str, float]]:
    """Record an archive; returns its name and figures."""
    printed = answer.get("archive")
    stats = printed.get("stats") if isinstance(printed, dict) else None
    if not isinstance(printed, dict) or not isinstance(stats, dict):
        raise JobError("failed", "borg printed no result")
    archive = Archive(
        name=str(printed["name"]),
        id=str(printed["id"]),
        job=job,
        sequence=sequence,
        time=context.now(),
        original=int(stats["original_size"]),
        stored=int(stats["deduplicated_size"]),
    )
    context.record.add(archive)
    return archive.name, {"original_bytes": archive.original, "stored_bytes": archive.stored}
