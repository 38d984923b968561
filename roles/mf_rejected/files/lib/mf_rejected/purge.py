"""Remove rejected mail from an MX: by age, or when the disk is nearly full.

It lies in ``ROOT/YYYY-MM-DD/<domain>/{tmp,new}/<id>``, written by a qpsmtpd plugin; an id begins with its time, so
names sort by age. Control fetches it with a read-only key, so the MX has no record of what was fetched. It is removed
for one of two reasons only:

- its day has been over for ``keep_days`` days, which is normal;
- the disk is nearly full and removing the oldest helps: reported as CRITICAL, because mail that control had not
  fetched by then is lost.

Accepted mail that a customer's server refused is there as well (see ``refused``). It is removed for neither reason
while it waits for an operator's decision; other mail makes room for one day's limit of it and no more.

The tree belongs to an account that talks to the internet, and this runs as root: every step goes by a file descriptor
of the directory above, and follows no symbolic link.
"""

from __future__ import annotations

import math
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Self

from mf import decisions, state, text

from . import purge_record, refused

CHECK = "rejected"
COUNTERS = "/run/qpsmtpd/rejections.json"
KEEP_FAILED = "keep failed"

HYSTERESIS = 2.0  # percent that are made free beyond the threshold, so that it isn't every run's work
GAP = 86400.0
"""Seconds between two runs after which the clock is doubted; this job runs every 10 minutes."""
DOUBT = 86400.0
"""Seconds for which nothing goes by age then: time to put a clock right before it costs mail."""
UNFINISHED = 86400.0  # seconds; no session lives that long, so an older file in tmp/ belongs to none

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Kept(NamedTuple):
    """One file: ``path`` is (day, domain, box, name), ``size`` in bytes on disk, ``modified`` in epoch seconds."""

    path: tuple[str, str, str, str]
    size: int
    modified: float


class Room(NamedTuple):
    """A file system's size and free room, in bytes and in inodes; ``inodes`` 0 where it counts none."""

    size: int
    free: int
    inodes: int
    inodes_free: int

    def percent(self) -> float:
        """The free share of the scarcer of the two, in percent."""
        space = 100.0 * self.free / self.size if self.size else 100.0
        return min(space, 100.0 * self.inodes_free / self.inodes) if self.inodes else space


class Purge(NamedTuple):
    """The effect of one run, or its plan. ``early`` are files removed before their time, oldest first."""

    days: list[str]  # removed by age
    aged: int  # files in them
    unfinished: int
    early: list[Kept]
    full: bool  # still nearly full, because removing all of it wouldn't help or didn't
    free_percent: float


def sacrifice(kept: Sequence[Kept], room: Room, free_percent: float) -> tuple[list[Kept], bool]:
    """``(files to remove so that there is room again, whether that is enough)``; ``kept`` oldest first. Pure.

    No file when there is room, and none when even all of them wouldn't bring the disk above ``free_percent``: then
    something else fills it, and removing mail that the quarantine still needs is of no use.
    """
    if room.percent() >= free_percent:
        return [], True
    space, inodes = _short(room, free_percent)
    if sum(file.size for file in kept) < space or len(kept) < inodes:
        return [], False
    space, inodes = _short(room, free_percent + HYSTERESIS)
    chosen = []
    for file in kept:
        if space <= 0 and inodes <= 0:
            break
        chosen.append(file)
        space -= file.size
        inodes -= 1
    return chosen, True


def _short(room: Room, percent: float) -> tuple[float, float]:
    """Bytes and inodes missing until that share is free."""
    return room.size * percent / 100 - room.free, room.inodes * percent / 100 - room.inodes_free


class Store:
    """The directory. Raises OSError when there is none."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._top = os.open(root, _DIRECTORY)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._top)

    def days(self) -> list[str]:
        """The stored days, oldest first."""
        return sorted(name for name in _folders(self._top) if purge_record.is_day(name))

    def room(self) -> Room:
        """Its file system's room, root's reserve left out."""
        figures = os.fstatvfs(self._top)
        return Room(
            figures.f_blocks * figures.f_frsize,
            figures.f_bavail * figures.f_frsize,
            figures.f_files,
            figures.f_favail,
        )

    def files(self, days: Sequence[str], boxes: tuple[str, ...] = ("new",)) -> Iterator[Kept]:
        """The files of these days, unsorted."""
        for day, domain, box, descriptor in self._boxes(days, boxes):
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except OSError:
                        continue
                    if not stat.S_ISDIR(status.st_mode):
                        yield Kept((day, domain, box, entry.name), status.st_blocks * 512, status.st_mtime)

    def remove_day(self, day: str, waits: Callable[[str], bool]) -> int:
        """Remove a day without the files that wait, by their names; returns how many files in ``new`` that were."""
        count = 0
        for _, domain, box, descriptor in self._boxes([day], ("new", "tmp")):
            for name in os.listdir(descriptor):
                count += not waits(name) and _unlink(name, descriptor) and box == "new"
            self._rmdir(day, domain, box)
        for _, domain in self._domains([day]):
            self._rmdir(day, domain)
        self._rmdir(day)
        return count

    def remove(self, files: Iterable[Kept], waits: Callable[[str], bool] = lambda _: False) -> None:
        """Remove single files, without those that wait by now."""
        for file in files:
            day, domain, box, name = file.path
            if waits(name):
                continue
            try:
                descriptor = self._open(day, domain, box)
            except OSError:
                continue
            try:
                _unlink(name, descriptor)
            finally:
                os.close(descriptor)

    def _boxes(self, days: Sequence[str], boxes: tuple[str, ...]) -> Iterator[tuple[str, str, str, int]]:
        for day, domain in self._domains(days):
            for box in boxes:
                try:
                    descriptor = self._open(day, domain, box)
                except OSError:
                    continue
                try:
                    yield day, domain, box, descriptor
                finally:
                    os.close(descriptor)

    def _domains(self, days: Sequence[str]) -> Iterator[tuple[str, str]]:
        for day in days:
            try:
                descriptor = self._open(day)
            except OSError:
                continue
            try:
                names = sorted(_folders(descriptor))
            finally:
                os.close(descriptor)
            yield from ((day, domain) for domain in names)

    def _open(self, *parts: str) -> int:
        """A descriptor of a directory below; each step refuses a symbolic link."""
        descriptor = os.dup(self._top)
        for part in parts:
            try:
                below = os.open(part, _DIRECTORY, dir_fd=descriptor)
            finally:
                os.close(descriptor)
            descriptor = below
        return descriptor

    def _rmdir(self, *parts: str) -> None:
        """Remove a directory if it is empty by now."""
        try:
            above = self._open(*parts[:-1])
        except OSError:
            return
        try:
            os.rmdir(parts[-1], dir_fd=above)
        except OSError:
            pass
        finally:
            os.close(above)


def _folders(descriptor: int) -> list[str]:
    with os.scandir(descriptor) as entries:
        return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]


def _unlink(name: str, descriptor: int) -> bool:
    try:
        os.unlink(name, dir_fd=descriptor)
    except OSError:
        return False
    return True


def doubted(before: purge_record.Record, now: float) -> float:
    """Since when the clock is doubted (epoch seconds), 0 when it isn't. Pure.

    It is when more than a day has passed since the last run: it is wrong, or this host was off.
    """
    if before["ran"] and now - before["ran"] > GAP:
        return now
    return before["doubted"] if 0 <= now - before["doubted"] < DOUBT else 0


def purge(
    store: Store,
    keep_days: int,
    free_percent: float,
    now: float,
    *,
    dry_run: bool = False,
    by_age: bool = True,
    waits: Callable[[str], bool] = refused.is_refused,
    day_size: float = math.inf,
) -> Purge:
    """One run: by age, then unfinished files, then for room if there is too little. ``now``: epoch seconds.

    No file that ``waits``, by its name, is removed. Each is looked at again right before it goes, since the
    keeper writes at any time. What they take above ``day_size`` bytes costs no other mail.
    """
    days, aged = [], 0
    for day in purge_record.expired(store.days(), now, keep_days) if by_age else []:
        names = [file.path[3] for file in store.files([day])]
        due = sum(not waits(name) for name in names)
        if names and not due:
            continue
        days.append(day)
        aged += due if dry_run else store.remove_day(day, waits)
    left = [day for day in store.days() if day not in days]
    unfinished = [file for file in store.files(left, ("tmp",)) if by_age and now - file.modified > UNFINISHED]
    early: list[Kept] = []
    enough = True
    room = store.room()
    if room.percent() < free_percent:
        oldest_first: list[Kept] = []
        waiting = 0
        for file in sorted(store.files(left), key=lambda file: (file.path[0], file.path[3])):
            if waits(file.path[3]):
                waiting += file.size
            else:
                oldest_first.append(file)
        room = room._replace(free=room.free + int(max(0, waiting - day_size)))
        early, enough = sacrifice(oldest_first, room, free_percent)
        enough = enough and bool(early)
    if not dry_run:
        store.remove(unfinished)
        store.remove(early, waits)
    return Purge(days, aged, len(unfinished), early, not enough, store.room().percent())


def failures(path: str = COUNTERS) -> int:
    """Messages that couldn't be kept since the counters began; 0 without a counter."""
    try:
        counts = (state.decode(purge_record.read_foreign(path, 1 << 20)) or {}).get("counts")
    except OSError:
        return 0
    value = counts.get(KEEP_FAILED, 0) if isinstance(counts, dict) else 0
    return value if isinstance(value, int) and value >= 0 else 0


def updated(before: purge_record.Record, done: Purge, failed: int, now: float) -> purge_record.Record:
    """The record after a run. Pure."""
    recent = now - before["early"] < 86400
    grown = failed > before["failed"] or 0 < failed < before["failed"]  # fewer: the counters began again
    return {
        "ran": now,
        "full": (before["full"] or now) if done.full else 0,
        "early": now if done.early else before["early"],
        "early_files": len(done.early) + (before["early_files"] if recent else 0),
        "doubted": doubted(before, now),
        "failed": failed,
        "failed_at": now if grown else before["failed_at"],
    }


def report(done: Purge) -> list[str]:
    """Sentences for the operator."""
    sentences = []
    if done.days:
        sentences.append(f"{done.aged} messages of {', '.join(done.days)} removed: their time was over")
    if done.unfinished:
        sentences.append(f"{done.unfinished} files removed that were never finished")
    if done.early:
        sentences.append(
            f"the disk is nearly full: {len(done.early)} messages ({_size(done) >> 20} MiB) removed before their time;"
            " what control had not fetched of them is lost"
        )
    if done.full:
        sentences.append("the disk is nearly full, and not with rejected mail: nothing was removed before its time")
    return sentences


def log(places: state.Places, done: Purge, before: purge_record.Record) -> None:
    """Write removals before their time, and the beginning of a full disk, to the decision log."""
    free: dict[str, state.Json] = {"free_percent": round(done.free_percent, 1)}
    if done.early:
        reason = f"{len(done.early)} messages before their time, the disk is nearly full"
        first, last = (text.clean(file.path[3], 160) for file in (done.early[0], done.early[-1]))
        evidence = {"files": len(done.early), "bytes": _size(done), "first": first, "last": last, **free}
        decisions.record(places, CHECK, "remove", "rejected mail", reason, "done", evidence)
    if done.full and not before["full"]:
        reason = "the disk is nearly full, but removing rejected mail wouldn't help"
        decisions.record(places, CHECK, "refuse", "rejected mail", reason, "failed", free)


def _size(done: Purge) -> int:
    return sum(file.size for file in done.early)


def run(
    places: state.Places,
    root: str,
    keep_days: int,
    free_percent: float,
    *,
    now: float | None = None,
    dry_run: bool = False,
    counters: str = COUNTERS,
    waits: Callable[[str], bool] = refused.is_refused,
    day_size: float = math.inf,
) -> list[str]:
    """The job: purge, store the record, log; returns its actions, in sentences. Raises OSError."""
    moment = time.time() if now is None else now
    before = purge_record.read(places)
    with Store(root) as store:
        doubt = doubted(before, moment)
        done = purge(
            store,
            keep_days,
            free_percent,
            moment,
            dry_run=dry_run,
            by_age=not doubt,
            waits=waits,
            day_size=day_size,
        )
    sentences = [f"nothing goes by its age for a day: {purge_record.DOUBTED}"] if doubt else []
    if not dry_run:
        purge_record.write(places, updated(before, done, failures(counters), moment))
        log(places, done, before)
    return sentences + report(done)
