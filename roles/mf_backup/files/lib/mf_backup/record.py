"""Control's record of its backups: the last outcome of each job, and every archive that it made.

``/mf/var/state/backup.json``, ``backup-archives.jsonl`` and, for each dump, ``backup-facts/ARCHIVE.json``: the facts of
the databases at that moment, apart from the repository's own copy. All survive a reboot. After an intruder was on
control, don't trust them: see /mf/bin/offsite history.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from mf import state
from mf.borg import Archive

from .facts import Facts, checked


@dataclass
class Past:
    """The outcomes of a job. Times are epoch seconds, 0 for never; ``failures`` are those since the last success."""

    started: float = 0.0
    succeeded: float = 0.0
    seconds: float = 0.0
    failures: int = 0
    kind: str = ""
    error: str = ""
    archive: str = ""
    warning: str = ""  # of a run that succeeded
    figures: dict[str, float] = field(default_factory=dict)


class Record:
    """The files, read on creation. A damaged file counts as absent: see ``adopted``."""

    def __init__(self, places: state.Places) -> None:
        self._state = f"{places.persistent}/backup.json"
        self._ledger = f"{places.persistent}/backup-archives.jsonl"
        self._facts = f"{places.persistent}/backup-facts"
        self._restoring = f"{places.persistent}/backup-restoring"
        document: Mapping[str, Any] = state.decode(state.read_bytes(self._state)) or {}
        self.repository = str(document.get("repository", ""))
        self._number = number if isinstance(number := document.get("number"), int) else 0
        self.jobs = jobs_of(document)
        self.archives = _archives(state.read_bytes(self._ledger, 1 << 28) or b"")

    @property
    def adopted(self) -> bool:
        """Whether the repository is on record: this machine created it, or adopted it when it was restored."""
        return bool(self.repository)

    @property
    def restoring(self) -> set[str]:
        """The jobs whose archives a restore has begun to restore and not finished: see ``jobs``."""
        return set((state.read_bytes(self._restoring) or b"").decode(errors="replace").split())

    @restoring.setter
    def restoring(self, jobs: set[str]) -> None:
        if jobs:
            state.write_atomic(self._restoring, (" ".join(sorted(jobs)) + "\n").encode(), durable=True)
        else:
            with suppress(FileNotFoundError):
                os.unlink(self._restoring)

    def past(self, job: str) -> Past:
        """The outcomes of a job."""
        return self.jobs.setdefault(job, Past())

    def next_sequence(self) -> int:
        """One more than the highest sequence number of any archive: the newest is by number, whatever the clocks."""
        return max((self._number, *(archive.sequence for archive in self.archives.values()))) + 1

    def take_sequence(self) -> int:
        """The next number, on disk before an archive is made with it, so that it is never used twice.

        Raises OSError.
        """
        self._number = self.next_sequence()
        self.save()
        return self._number

    def newest(self, job: str) -> Archive | None:
        """The archive of that job with the highest number."""
        return max(
            (archive for archive in self.archives.values() if archive.job == job),
            key=lambda archive: archive.sequence,
            default=None,
        )

    def facts_path(self, name: str) -> str:
        """Path of the facts of a dump, apart from the repository: see mf_backup.facts."""
        return f"{self._facts}/{name}.json"

    def facts(self, name: str) -> Facts | None:
        """This machine's facts of a dump; None if it has none (it was rebuilt)."""
        return checked(state.decode(state.read_bytes(self.facts_path(name), 1 << 28)))

    def tidy(self) -> None:
        """Remove the facts of dumps that aren't on record any more, or never succeeded."""
        try:
            names = os.listdir(self._facts)
        except FileNotFoundError:
            return
        for name in names:
            if name.removesuffix(".json") not in self.archives:
                os.unlink(f"{self._facts}/{name}")

    def forget(self, names: Iterable[str]) -> int:
        """Remove archives from the ledger; returns how many were in it. Raises OSError."""
        going = self.archives.keys() & set(names)
        if going:
            self.replace({name: archive for name, archive in self.archives.items() if name not in going})
        return len(going)

    def save(self) -> None:
        """Write the jobs' state. Raises OSError."""
        document = {
            "version": 1,
            "repository": self.repository,
            "number": self._number,
            "jobs": {name: asdict(past) for name, past in self.jobs.items()},
        }
        state.write_atomic(self._state, (json.dumps(document) + "\n").encode(), 0o644, durable=True)

    def add(self, archive: Archive) -> None:
        """Append one archive to the ledger. Raises OSError."""
        self.archives[archive.name] = archive
        descriptor = os.open(self._ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            os.write(descriptor, (json.dumps(asdict(archive)) + "\n").encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def replace(self, archives: Mapping[str, Archive]) -> None:
        """A new ledger: after a restore, or after an attended prune. Raises OSError."""
        self.archives = dict(archives)
        text = "".join(json.dumps(asdict(archive)) + "\n" for archive in archives.values())
        state.write_atomic(self._ledger, text.encode(), 0o644, durable=True)
        self.tidy()


def jobs_of(document: Mapping[str, Any]) -> dict[str, Past]:
    """The outcomes of each job, from the content of backup.json; damaged values count as absent."""
    jobs = document.get("jobs")
    return {name: _past(values) for name, values in jobs.items()} if isinstance(jobs, dict) else {}


def _past(values: Any) -> Past:
    defaults = asdict(Past()).items()
    try:
        return Past(**{name: type(default)(values[name]) for name, default in defaults if name in values})
    except (TypeError, ValueError, OverflowError):
        return Past()


def _archives(data: bytes) -> dict[str, Archive]:
    archives = {}
    for line in data.splitlines():
        try:
            archive = Archive(**json.loads(line))
        except (ValueError, TypeError):
            continue  # a line torn by a full disk or a crash: the archive shows up as unknown in a comparison
        archives[archive.name] = archive
    return archives
