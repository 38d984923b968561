"""MX to control: messages of an MX that aren't in the ledger are fetched by rsync over ssh, then imported.

One process for each MX under a flock of its own that rsync inherits, so a dead or slow MX delays no other, and a lock
ends with the last process that works under it. The key may only read the MX's folder of rejected mail; the MX's end
waits for the MX's own throttle. Every step updates ``state/<mx>.json`` (see ``source``).
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mf import state
from mf.throttle import marker

from . import layout, store
from .importer import Batch, Counts, Importer
from .index import Index
from .remote import EVERYTHING, File, PullError, Remote, recent
from .settings import DAY, Settings
from .source import Source

FETCH = 2000
"""Messages of one rsync; while the host is throttled as many as are imported in a minute."""
FETCH_BYTES = 256 << 20
OVERLAP = 2 * 3600.0
"""Seconds before the last listing that are listed again: an MX's clock may be wrong, a message may arrive late."""
SWEEP = 3600.0
"""Seconds after which all days are listed again, not only the last hours."""
RUN_LIMIT = 900.0
"""Seconds after which a run ends between two batches; the next minute's goes on."""
AHEAD = DAY
"""Seconds that an id may be ahead of this host's clock. A later one stays on its MX, for it would never expire here."""
SIDE_BY_SIDE = 50


def missing(
    remote: Remote, index: Index, filters: Sequence[str], also: frozenset[str] = frozenset()
) -> tuple[list[File], int]:
    """The files of an MX whose ids aren't in the ledger, oldest first, and the number of foreign names.

    ``also`` are ids to fetch although they are in the ledger (repair).
    """
    files: list[File] = []
    foreign = 0
    chunk: dict[str, File] = {}

    def sift() -> None:
        known = index.known(list(chunk)) - also
        files.extend(file for ident, file in chunk.items() if ident not in known)
        chunk.clear()

    for file in remote.listing(filters):
        if file is None or layout.kept_file(file.path) is None:
            foreign += 1
            continue
        chunk[file.name] = file
        if len(chunk) >= 1000:
            sift()
    sift()
    return sorted(files, key=lambda file: file.name), foreign


@dataclass
class Puller:
    """One run for one MX, whose lock is held. ``counts``: its imports so far."""

    index: Index
    places: layout.Layout
    settings: Settings
    importer: Importer
    source: Source
    host: state.Places
    clock: Callable[[], float] = time.time
    limit: float = RUN_LIMIT
    counts: Counts = field(default_factory=Counts)

    def __post_init__(self) -> None:
        self._end = state.boottime() + self.limit

    def run(self, remote: Remote, *, sweep: bool = False) -> None:
        """Import ``incoming``, list the MX, fetch and import what is missing. Raises QuarantineError, OSError.

        Mail that is rejected meanwhile is left to the next run, within a minute: so a run ends however fast the MX
        rejects.
        """
        store.sweep_temporary(self.places.incoming(self.source.mx))
        if not self._import(fresh=False):
            return
        files = self._list(remote, sweep=sweep)
        listed = [file.name for file in files]
        if not self._fetch(remote, files):
            return
        left = set(listed) - self.index.known(listed)
        # purged there meanwhile, or unreadable: list again to find out
        if left and (count := sum(file.name in left for file in self._list(remote, sweep=sweep))):
            raise PullError(f"{count} messages are listed and can't be fetched; may mf-pull read them on the MX?")

    def finish(self) -> None:
        """Import what was fetched from an MX that has left the inventory: it is neither asked again nor listed."""
        self._import(fresh=False)
        self.source.unpulled = max(0, self.source.unpulled - self.counts.damaged)
        if not self.source.unpulled:
            self.source.oldest = None

    def _list(self, remote: Remote, *, sweep: bool) -> list[File]:
        """List what is missing, and record it."""
        source = self.source
        started = self.clock()
        # files still missing may be older than the hours of the last listing
        start = min(source.listed or 0.0, source.oldest or started, started) - OVERLAP
        # a clock that was ahead may have recorded a time in the future
        full = sweep or not 0 <= started - (source.swept or 0.0) < SWEEP or started - start > DAY
        files, source.foreign = missing(remote, self.index, EVERYTHING if full else recent(start, started))
        source.listed = started
        source.error = ""
        limit = layout.bound(started + AHEAD)
        # an MX keeps refused mail until an operator decides, perhaps for longer than the ledger remembers it
        oldest = self.settings.ledger_cutoff(started)
        files = [file for file in files if file.name >= oldest]
        due = [file for file in files if file.name < limit]
        if full:
            source.swept = started
            source.ahead = len(files) - len(due)
        self._note_missing(due)
        return due

    def _fetch(self, remote: Remote, files: list[File]) -> bool:
        """Fetch and import missing files, a portion at a time; False when time is up."""
        while files:
            if layout.free_percent(self.places.root) < self.settings.free_percent:
                raise PullError(
                    f"less than {self.settings.free_percent:g}% of space or inodes is free at {self.places.root}; "
                    "nothing is fetched until there is more (the MXs keep it for some days)"
                )
            portion = self._portion(files)
            remote.fetch([file.path for file in portion], self.places.incoming(self.source.mx))
            del files[: len(portion)]
            in_time = self._import(fresh=True)
            self._note_missing(files)
            if not in_time:
                return False
        return True

    def _portion(self, files: list[File]) -> list[File]:
        most = FETCH
        if marker.current(self.host).throttled:
            most = max(1, int(60 / max(self.settings.import_throttle_sleep, 0.03)))
        room = FETCH_BYTES
        portion: list[File] = []
        for file in files[:most]:
            room -= file.size
            if portion and room < 0:
                break
            portion.append(file)
        return portion

    def _import(self, *, fresh: bool) -> bool:
        """Import ``incoming``; False when time is up."""
        for batch in self.importer.run(fresh=fresh, patience=self._time_left):
            self._count(batch)
            if not self._time_left():
                break
        return self._time_left() > 0

    def _count(self, batch: Batch) -> None:
        """Add a committed batch to the counts and to the record: the one place that counts."""
        self.counts.add(batch)
        self.source.imported += len(batch.kept)
        self.source.unpulled = max(0, self.source.unpulled - batch.files)
        self.source.save(self.places.state, self.clock())

    def _time_left(self) -> float:
        return max(0.0, self._end - state.boottime())

    def _note_missing(self, files: list[File]) -> None:
        """Record what is missing: these files, and those fetched and not imported."""
        fetched = [ident for _, _, ident in layout.waiting(self.places.incoming(self.source.mx))]
        self.source.unpulled = len(files) + len(fetched)
        oldest = min([file.name for file in files[:1]] + fetched, default=None)
        self.source.oldest = layout.received(oldest) if oldest else None
        self.source.save(self.places.state, self.clock())


def side_by_side(names: Sequence[str], work: Callable[[str], int]) -> dict[str, int]:
    """Run ``work`` for each name in a process of its own, at most SIDE_BY_SIDE at once; returns the exit codes."""
    waiting = list(names)
    running: dict[int, str] = {}
    codes: dict[str, int] = {}
    try:
        while waiting or running:
            while waiting and len(running) < SIDE_BY_SIDE:
                name = waiting.pop(0)
                sys.stdout.flush()
                sys.stderr.flush()
                child = os.fork()
                if child == 0:
                    code = 1
                    try:
                        code = work(name)
                    except BaseException:  # noqa: BLE001  (the child must not go on as its parent)
                        traceback.print_exc()
                    finally:
                        sys.stdout.flush()
                        sys.stderr.flush()
                        os._exit(code)
                running[child] = name
            child, status = os.wait()
            if child in running:
                codes[running.pop(child)] = os.waitstatus_to_exitcode(status)
    except BaseException:
        for child in running:
            os.kill(child, signal.SIGTERM)
        raise
    return codes
