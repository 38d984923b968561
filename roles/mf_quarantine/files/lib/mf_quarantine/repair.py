"""After a restore, or whenever in doubt: compare store, index and MXs with each other, and repair the differences.

* A file without a row is indexed again; it is removed if it has expired by the ledger.
* A row without a file gets it again from an MX that still has it; otherwise the row is marked as lost.
* Then all days of each MX are pulled, as by ``pull --sweep``: messages that the index lost are imported again, once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field

from mf import message_id, text

from . import DuplicateError, envelope, layout, pull, store
from .index import Index
from .remote import EVERYTHING, File, PullError, Remote
from .settings import Settings

BATCH = 500


@dataclass
class Outcome:
    """Counts of files and rows."""

    damaged: int = 0
    fetched: int = 0
    found: int = 0  # files of rows that were marked as lost
    indexed: int = 0
    lost: int = 0  # rows whose file no MX has
    lost_before: int = 0  # rows that an earlier repair has marked as lost
    lost_ids: list[str] = field(default_factory=list)
    removed: int = 0


def _has(file: File, wanted: Container[str], shared: Container[str]) -> bool:
    """Whether a listed file is wanted, or may have a copy that is."""
    return file.name in wanted or (file.name in shared and file.path.endswith(f"/{layout.SHARED}/new/{file.name}"))


@dataclass
class Repair:
    """One repair. ``dry_run`` counts and changes nothing."""

    index: Index
    places: layout.Layout
    settings: Settings
    dry_run: bool = False
    progress: Callable[[str], None] = lambda _: None
    clock: Callable[[], float] = time.time
    outcome: Outcome = field(default_factory=Outcome)

    def __post_init__(self) -> None:
        self._missing: dict[str, str] = {}
        self._given_up: set[str] = set()

    def compare(self) -> None:
        """Compare files with rows, a domain's day at a time. Imports go on meanwhile; their files are left alone."""
        seen: set[tuple[str, str]] = set()
        for day in layout.names(self.places.mail):
            self.progress(f"files of {text.clean(day, 12)}")
            for domain in layout.names(f"{self.places.mail}/{day}"):
                if layout.is_domain(domain):
                    seen.add((domain, day))
                    self._compare_day(domain, day)
        for domain in self.index.domains():
            self.progress(f"rows of {domain}")
            for day in self.index.days(domain):
                if (domain, day) not in seen:
                    self._compare_day(domain, day)

    def _compare_day(self, domain: str, day: str) -> None:
        folder = f"{self.places.mail}/{day}/{domain}"
        there = {name for name in layout.names(folder) if layout.is_id(name) and message_id.day(name) == day}
        rows = self.index.idents(domain, day)
        strays = sorted(there - rows.keys())
        for start in range(0, len(strays), BATCH):
            self._strays(domain, day, strays[start : start + BATCH])
        found = [ident for ident, lost in rows.items() if lost and ident in there]
        self.outcome.found += len(found)
        if not self.dry_run:
            for ident in found:
                self.index.mark(domain, ident, lost=False)
        cutoff = self.settings.cutoff(domain, self.clock())
        # a message that expires anyway needs no file any more
        missing = [ident for ident in rows if ident not in there and ident >= cutoff]
        self._missing.update(dict.fromkeys(missing, domain))
        self._given_up.update(ident for ident in missing if rows[ident])

    def _in_hand(self, domain: str, day: str, name: str) -> bool:
        """Whether an importer has linked this file into the store and not yet removed it from ``incoming``."""
        try:
            if os.lstat(f"{self.places.mail}/{day}/{domain}/{name}").st_nlink == 1:
                return False
        except FileNotFoundError:
            return True  # expired meanwhile
        paths = (f"{day}/{domain}/new/{name}", f"{day}/{layout.SHARED}/new/{layout.first_copy(name)}")
        folders = list(map(self.places.incoming, self.places.stray()))
        return any(os.path.lexists(f"{folder}/{path}") for folder in folders for path in paths)

    def _strays(self, domain: str, day: str, names: list[str]) -> None:
        folder = f"{self.places.mail}/{day}/{domain}"
        names = [name for name in names if not self._in_hand(domain, day, name)]
        # asked after the files were checked: what an importer has finished has its row by now
        appeared = self.index.idents(domain, day) if names else {}
        names = [name for name in names if name not in appeared]
        over = self.index.over(names)
        cutoff = self.settings.cutoff(domain, self.clock())
        kept: list[envelope.Message] = []
        siblings: list[tuple[str, envelope.Message]] = []
        for name in names:
            path = f"{folder}/{name}"
            if name in over or name < cutoff:
                self.outcome.removed += 1
                if not self.dry_run:
                    store.drop(path)
                continue
            try:
                copies = envelope.copies(path, name)
                kept.append(envelope.select(copies, domain, name))
                siblings += [(path, copy) for copy in copies if copy.domain not in (domain, "")]
            except (envelope.DamagedError, OSError):
                # damaged and without a row: half of an import, most likely; the MX has it whole
                self.outcome.damaged += 1
                if not self.dry_run:
                    store.put_aside(path, f"{self.places.bad}/store/{name}")
                    store.drop(path)
        if kept and not self.dry_run:
            kept = self._index_again(domain, day, kept)
        self.outcome.indexed += len(kept)
        self._siblings(siblings)

    def _siblings(self, siblings: list[tuple[str, envelope.Message]]) -> None:
        """Index the copies for other domains of strays, ``(file, copy)``, where neither ledger nor store has them.

        No pull would: a message whose first copy is in the ledger isn't fetched.
        """
        known = self.index.known([copy.id for _, copy in siblings]) if siblings else set()
        for path, copy in siblings:
            target = self.places.path(copy.domain, copy.id)
            over = copy.id < self.settings.cutoff(copy.domain, self.clock())
            if copy.id in known or over or os.path.lexists(target):
                continue
            if self.dry_run:
                self.outcome.indexed += 1
                continue
            store.keep(path, target)
            store.sync(self.places.root)
            self.outcome.indexed += len(self._index_again(copy.domain, message_id.day(copy.id), [copy]))

    def _index_again(self, domain: str, day: str, kept: list[envelope.Message]) -> list[envelope.Message]:
        """Index strays; returns those that no other process has indexed meanwhile."""
        try:
            self.index.index_again(kept)
        except DuplicateError:
            appeared = self.index.idents(domain, day)
            kept = [message for message in kept if message.id not in appeared]
            if kept:
                self.index.index_again(kept)
        return kept

    def fetch(self, remotes: Iterable[tuple[str, Remote | None]]) -> list[str]:
        """Fetch missing files from MXs that still have them; what none has is lost. Returns the problems, by MX.

        ``remotes`` yields one MX at a time, with its lock held until the next; None where a pull holds it for too long.
        """
        problems: list[str] = []
        for mx, remote in remotes:
            if not self._missing:
                break
            self.progress(f"{len(self._missing)} files from {mx}")
            if remote is None:
                problems.append(f"{mx}: is being pulled for longer than a minute; run this again")
                continue
            try:
                self._fetch_from(mx, remote)
            except (PullError, OSError) as error:
                problems.append(f"{mx}: {error}")
        lost = sorted(self._missing.keys() - self._given_up)
        self.outcome.lost = len(lost)
        self.outcome.lost_ids = lost[:100]
        self.outcome.lost_before = len(self._missing) - len(lost)
        # an MX that can't be asked may have them: mark files as lost only when all MXs were asked
        if not self.dry_run and not problems:
            for ident, domain in self._missing.items():
                self.index.mark(domain, ident, lost=True)
        return problems

    def _fetch_from(self, mx: str, remote: Remote) -> None:
        wanted = frozenset(self._missing)
        shared = frozenset(map(layout.first_copy, wanted))
        files, _ = pull.missing(remote, self.index, EVERYTHING, wanted | shared)
        files = [file for file in files if _has(file, wanted, shared)]
        if self.dry_run:
            there = {file.name for file in files}
            for ident in wanted:
                if ident in there or layout.first_copy(ident) in there:
                    self.outcome.fetched += 1
                    del self._missing[ident]
            return
        for start in range(0, len(files), pull.FETCH):
            remote.fetch([file.path for file in files[start : start + pull.FETCH]], self.places.incoming(mx))
            self._take(mx)

    def _take(self, mx: str) -> None:
        """Link fetched files into the store for rows without a file; the importer does the rest."""
        shared = {layout.first_copy(ident) for ident in self._missing}
        for path, domain, ident in layout.waiting(self.places.incoming(mx)):
            if self._missing.get(ident) != domain and not (domain == layout.SHARED and ident in shared):
                continue
            try:
                copies = envelope.copies(path, ident)
            except (envelope.DamagedError, OSError):
                continue
            for copy in copies:
                owner = copy.domain or domain
                if self._missing.get(copy.id) == owner:
                    store.keep(path, self.places.path(owner, copy.id))
                    self.index.mark(owner, copy.id, lost=False)
                    del self._missing[copy.id]
                    self.outcome.fetched += 1
        store.sync(self.places.root)
