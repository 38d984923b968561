"""After a restore, or whenever in doubt: store, index and MXs are held against each other, and what can be mended is.

* A file without a row is indexed again, unless the ledger says that its time was over: then it goes.
* A row without a file gets it again from an MX that still has it; otherwise the row is marked as lost, and shown so.
* Then the whole window of each MX is pulled, as by ``pull --sweep``: what the index forgot comes again, once.
"""

from __future__ import annotations

import os
import time

from mf import text

from . import DuplicateError, envelope, layout, pull, store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable

    from .database import Database
    from .settings import Settings

BATCH = 500


class Outcome:
    """Counts; ``lost`` are rows whose file no MX has, ``lost_before`` those of which an earlier repair said so."""

    __slots__ = ("damaged", "fetched", "found", "indexed", "lost", "lost_before", "lost_ids", "removed")

    def __init__(self) -> None:
        self.indexed = 0
        self.removed = 0
        self.damaged = 0
        self.found = 0  # files of rows that were called lost
        self.fetched = 0
        self.lost = 0
        self.lost_before = 0
        self.lost_ids: list[str] = []

    def as_json(self) -> dict[str, object]:
        """All of it by name."""
        return {name: getattr(self, name) for name in self.__slots__}


def _folders(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except FileNotFoundError:
        return []


def _lists(path: str, wanted: Container[str], shared: Container[str]) -> bool:
    """Whether a listed file is one of those, or has a copy that may be."""
    folder, _, ident = path.rpartition("/")
    return ident in wanted or (ident in shared and folder.endswith(f"/{layout.SHARED}/new"))


class Repair:
    """One repair. ``dry_run`` counts and changes nothing."""

    def __init__(
        self,
        index: Database,
        places: layout.Layout,
        settings: Settings,
        *,
        dry_run: bool = False,
        progress: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.outcome = Outcome()
        self._index = index
        self._layout = places
        self._settings = settings
        self._dry_run = dry_run
        self._progress = progress
        self._clock = clock
        self._missing: dict[str, str] = {}
        self._given_up: set[str] = set()

    def compare(self) -> None:
        """Files against rows, a domain's day at a time. Imports go on meanwhile; what they have in hand is left."""
        seen: set[tuple[str, str]] = set()
        for day in _folders(self._layout.mail):
            self._progress(f"files of {text.clean(day, 12)}")
            for domain in _folders(f"{self._layout.mail}/{day}"):
                if layout.is_domain(domain):
                    seen.add((domain, day))
                    self._one(domain, day)
        for domain in self._index.domains():
            self._progress(f"rows of {domain}")
            for day in self._index.days(domain):
                if (domain, day) not in seen:
                    self._one(domain, day)

    def _one(self, domain: str, day: str) -> None:
        folder = f"{self._layout.mail}/{day}/{domain}"
        there = {name for name in _folders(folder) if layout.is_id(name) and layout.day(name) == day}
        rows = self._index.idents(domain, day)
        strays = sorted(there - rows.keys())
        for start in range(0, len(strays), BATCH):
            self._strays(domain, day, strays[start : start + BATCH])
        back = [ident for ident, lost in rows.items() if lost and ident in there]
        self.outcome.found += len(back)
        if not self._dry_run:
            for ident in back:
                self._index.mark(domain, ident, lost=False)
        cutoff = self._settings.cutoff(domain, self._clock())
        # what is about to expire needs no file any more
        missing = [ident for ident in rows if ident not in there and ident >= cutoff]
        self._missing.update(dict.fromkeys(missing, domain))
        self._given_up.update(ident for ident in missing if rows[ident])

    def _in_hand(self, domain: str, day: str, name: str) -> bool:
        """Whether an importer has linked this file into the store and not finished with it."""
        try:
            if os.lstat(f"{self._layout.mail}/{day}/{domain}/{name}").st_nlink == 1:
                return False
        except FileNotFoundError:
            return True  # expired meanwhile
        waits = (f"{domain}/new/{name}", f"{layout.SHARED}/new/{layout.first_copy(name)}")
        return any(
            os.path.lexists(f"{self._layout.incoming(mx)}/{day}/{one}") for mx in self._layout.stray() for one in waits
        )

    def _strays(self, domain: str, day: str, names: list[str]) -> None:
        folder = f"{self._layout.mail}/{day}/{domain}"
        names = [name for name in names if not self._in_hand(domain, day, name)]
        # asked after the files were looked at: what an importer has let go of has its row by now
        appeared = self._index.idents(domain, day) if names else {}
        names = [name for name in names if name not in appeared]
        over = self._index.over(names)
        cutoff = self._settings.cutoff(domain, self._clock())
        kept: list[envelope.Message] = []
        siblings: list[tuple[str, envelope.Message]] = []
        for name in names:
            path = f"{folder}/{name}"
            if name in over or name < cutoff:
                self.outcome.removed += 1
                if not self._dry_run:
                    store.drop(path)
                continue
            try:
                copies = envelope.copies(path, name)
                kept.append(envelope.one_of(copies, domain, name))
                siblings += [(path, one) for one in copies if one.domain not in (domain, "")]
            except (envelope.DamagedError, OSError):
                # not whole and in no index: half of an import, most likely; the MX has it whole
                self.outcome.damaged += 1
                if not self._dry_run:
                    store.put_aside(path, f"{self._layout.bad}/store/{name}")
                    store.drop(path)
        if kept and not self._dry_run:
            kept = self._again(domain, day, kept)
        self.outcome.indexed += len(kept)
        self._siblings(siblings)

    def _siblings(self, found: list[tuple[str, envelope.Message]]) -> None:
        """Index the copies for other domains of strays, ``(file, copy)``, where neither ledger nor store has them.

        No pull would: an MX isn't asked for a message whose first copy is known.
        """
        known = self._index.known([one.id for _, one in found]) if found else set()
        for path, one in found:
            target = self._layout.path(one.domain, one.id)
            over = one.id < self._settings.cutoff(one.domain, self._clock())
            if one.id in known or over or os.path.lexists(target):
                continue
            if self._dry_run:
                self.outcome.indexed += 1
                continue
            store.keep(path, target)
            store.sync(self._layout.root)
            self.outcome.indexed += len(self._again(one.domain, layout.day(one.id), [one]))

    def _again(self, domain: str, day: str, kept: list[envelope.Message]) -> list[envelope.Message]:
        """Index strays; returns those that weren't indexed by somebody else meanwhile."""
        try:
            self._index.index_again(kept)
        except DuplicateError:
            appeared = self._index.idents(domain, day)
            kept = [one for one in kept if one.id not in appeared]
            if kept:
                self._index.index_again(kept)
        return kept

    def fetch(self, remotes: Iterable[tuple[str, pull.Remote | None]]) -> list[str]:
        """Get missing files from MXs that still have them; what none has is lost. Returns what went wrong, by MX.

        ``remotes`` yields one MX at a time, with its lock held until the next is asked for; None for one that a pull
        holds for too long.
        """
        problems: list[str] = []
        for mx, remote in remotes:
            wanted = dict(self._missing)
            if not wanted:
                break
            self._progress(f"{len(wanted)} files from {mx}")
            if remote is None:
                problems.append(f"{mx}: is being pulled for longer than a minute; run this again")
                continue
            try:
                shared = {layout.first_copy(ident) for ident in wanted}
                names, _ = pull.missing(remote, self._index, pull.EVERYTHING, frozenset(wanted) | shared)
                names = [entry for entry in names if _lists(entry[0], wanted, shared)]
                if self._dry_run:
                    there = {path.rpartition("/")[2] for path, _ in names}
                    for ident in wanted:
                        if ident in there or layout.first_copy(ident) in there:
                            self.outcome.fetched += 1
                            del self._missing[ident]
                    continue
                for start in range(0, len(names), pull.FETCH):
                    remote.fetch([path for path, _ in names[start : start + pull.FETCH]], self._layout.incoming(mx))
                    self._take(mx)
            except (pull.PullError, OSError) as error:
                problems.append(f"{mx}: {error}")
        lost = sorted(self._missing.keys() - self._given_up)
        self.outcome.lost = len(lost)
        self.outcome.lost_ids = lost[:100]
        self.outcome.lost_before = len(self._missing) - len(lost)
        # an MX that can't be asked may have them: only when all were asked is a file called lost
        if not self._dry_run and not problems:
            for ident, domain in self._missing.items():
                self._index.mark(domain, ident, lost=True)
        return problems

    def _take(self, mx: str) -> None:
        """Put fetched files of rows that miss theirs into the store; the importer does the rest."""
        shared = {layout.first_copy(ident) for ident in self._missing}
        for path, domain, ident in layout.waiting(self._layout.incoming(mx)):
            if self._missing.get(ident) != domain and not (domain == layout.SHARED and ident in shared):
                continue
            try:
                copies = envelope.copies(path, ident)
            except (envelope.DamagedError, OSError):
                continue
            for one in copies:
                where = one.domain or domain
                if self._missing.get(one.id) == where:
                    store.keep(path, self._layout.path(where, one.id))
                    self._index.mark(where, one.id, lost=False)
                    del self._missing[one.id]
                    self.outcome.fetched += 1
        store.sync(self._layout.root)
