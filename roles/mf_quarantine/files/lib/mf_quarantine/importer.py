"""From ``incoming`` into store and index, each message once, whatever happens in between.

The steps of a batch: read and verify each file; link it into the store; sync; index and ledger in one transaction;
unlink it in ``incoming``. After a kill before the commit, the next run finds the files in ``incoming`` again and the
links already made. After a kill behind it, the ids are in the ledger and only the unlinking is left. So nothing is lost
or doubled at any step. A message with copies for several domains is one file, with a link and a row for each of them,
in one transaction.

While the host is throttled (``/run/mf/throttled``) messages are imported one by one, ``import_throttle_sleep`` seconds
apart on the whole host, under one flock."""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from mf import canary, decisions, state, text
from mf.throttle import marker

from . import DuplicateError, envelope, layout, store
from .canaries import Canaries
from .index import Index
from .settings import Settings

BATCH = 1000
"""Messages of one transaction while the host isn't throttled."""
BATCH_BYTES = 64 << 20
PATIENCE = 900.0  # seconds to wait for the pace's lock while throttled, by default
SETTLE = 0.5  # seconds between two reads of the marker during a pause


@dataclass
class Batch:
    """One transaction: the plan for some files, and once it is yielded, the outcome."""

    kept: list[envelope.Message] = field(default_factory=list)
    others: list[tuple[str, str, str]] = field(default_factory=list)
    """Entries for the ledger alone: ``(id, domain, state)``; the states are expired, canary and bad."""
    canaries: list[tuple[canary.Tag, envelope.Message]] = field(default_factory=list)
    known: int = 0
    """Copies that were in the ledger already."""
    damaged: int = 0
    """Files that are damaged here, and will be fetched again."""
    done: list[str] = field(default_factory=list)
    """Paths in ``incoming`` to remove once the transaction is committed."""

    @property
    def files(self) -> int:
        """Files that are dealt with and won't be fetched again."""
        return len(self.done) - self.damaged


@dataclass
class Counts:
    """Counts of an import. A message is one domain's copy, so a file may hold several."""

    bad: int = 0  # damaged on the MX as well, or not in our format: put aside
    canaries: int = 0
    damaged: int = 0  # damaged here; will be fetched again
    expired: int = 0  # older than their domain's retention: in the ledger, not kept
    files: int = 0  # see Batch.files
    imported: int = 0
    known: int = 0  # in the ledger already: only unlinked

    def add(self, batch: Batch) -> None:
        """Count a transaction that was committed."""
        states = Counter(state for _, _, state in batch.others)
        self.bad += states["bad"]
        self.canaries += states["canary"]
        self.expired += states["expired"]
        self.damaged += batch.damaged
        self.files += batch.files
        self.imported += len(batch.kept)
        self.known += batch.known


@dataclass
class Importer:
    """Imports for one MX (``mx``), whose lock the caller holds.

    ``canaries`` verifies the fleet's own; without it every message is ordinary mail.
    """

    index: Index
    places: layout.Layout
    settings: Settings
    mx: str
    host: state.Places = field(default_factory=state.Places)
    canaries: Canaries | None = None
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        # put aside as damaged, by this run or an earlier one: removed when it is fetched again, whole
        self._aside = set(layout.names(f"{self.places.bad}/{self.mx}"))

    def throttled(self) -> bool:
        """Whether the host's marker is on now."""
        return marker.current(self.host).throttled

    def run(self, *, fresh: bool, patience: Callable[[], float] = lambda: PATIENCE) -> Iterator[Batch]:
        """Import ``incoming``; yields each transaction once it is committed and its files are removed.

        ``fresh``: the files have just been fetched, so one that is damaged is so on the MX, too. ``patience``: seconds
        to wait for the pace's lock while throttled; then the run ends. Raises DatabaseError, OSError.
        """
        for files in self._portions(layout.waiting(self.places.incoming(self.mx))):
            if len(files) > 1 or not self.throttled():
                yield from self.batches(files, fresh=fresh)
                continue
            with self.places.lock("pace", wait=patience()) as held:
                if not held:
                    return
                started = state.boottime()
                batches = list(self.batches(files, fresh=fresh))
                self._pause(started + self.settings.import_throttle_sleep)
            yield from batches

    def _portions(self, files: Iterable[layout.Waiting]) -> Iterator[list[layout.Waiting]]:
        """The files of each transaction; one at a time while the host is throttled."""
        portion: list[layout.Waiting] = []
        room = BATCH_BYTES
        throttled = self.throttled()
        for file in files:
            portion.append(file)
            with contextlib.suppress(FileNotFoundError):
                room -= os.stat(file.path).st_size
            if throttled or len(portion) >= BATCH or room <= 0:
                yield portion
                portion, room, throttled = [], BATCH_BYTES, self.throttled()
        if portion:
            yield portion

    def _pause(self, end: float) -> None:
        """Wait until a moment (boot time), or until the throttle ends."""
        while self.throttled() and (left := end - state.boottime()) > 0:
            self.sleep(min(SETTLE, left))

    def batches(self, files: list[layout.Waiting], *, fresh: bool) -> Iterator[Batch]:
        """Import some files in one transaction, or in several if they have very many copies.

        If it raises, the open transaction is undone.
        """
        while files:
            batch = Batch()
            known = self.index.known([file.ident for file in files])
            count = 0
            for file in files:
                if len(batch.kept) + len(batch.others) >= BATCH:
                    break
                self._sort_file(file, batch, known, fresh=fresh)
                count += 1
            files = files[count:]
            if batch.kept or batch.others:
                store.sync(self.places.root)
                self._commit(batch)
            self._clear_up(batch)
            yield batch

    def _sort_file(self, file: layout.Waiting, batch: Batch, known: set[str], *, fresh: bool) -> None:
        """Add a file's messages to the batch, and link those that are kept into the store."""
        if file.ident in known:
            batch.known += 1
        else:
            try:
                copies = self._copies(file, known)
            except FileNotFoundError:
                return
            except (envelope.DamagedError, IsADirectoryError) as error:
                self._put_aside(file, str(error), batch, fresh=fresh)
                copies = []
            for message in copies:
                self._sort_copy(file.path, message, batch, known)
        batch.done.append(file.path)

    def _sort_copy(self, path: str, message: envelope.Message, batch: Batch, known: set[str]) -> None:
        if message.id in known:
            batch.known += 1
            return
        known.add(message.id)
        tag = self.canaries.recognise(message) if self.canaries is not None else None
        if tag is not None:
            batch.canaries.append((tag, message))
            batch.others.append((message.id, message.domain, "canary"))
        elif message.id < self.settings.cutoff(message.domain, self.clock()):
            batch.others.append((message.id, message.domain, "expired"))
        else:
            store.keep(path, self.places.path(message.domain, message.id))
            batch.kept.append(message)

    def _copies(self, file: layout.Waiting, known: set[str]) -> list[envelope.Message]:
        """The messages in a file, one for each domain that has a copy. Those in the ledger are added to ``known``: a
        repair may have indexed some from the store.
        """
        if file.domain != layout.SHARED:
            return [envelope.read(*file)]
        copies = envelope.copies(file.path, file.ident)
        if not copies[0].domain:
            raise envelope.DamagedError("its envelope names no copies")
        known |= self.index.known([message.id for message in copies])
        return copies

    def _put_aside(self, file: layout.Waiting, reason: str, batch: Batch, *, fresh: bool) -> None:
        target = f"{self.places.bad}/{self.mx}/{file.ident}"
        store.put_aside(file.path, target)
        if fresh:
            batch.others.append((file.ident, file.domain, "bad"))
            problem, end = "can't be imported", ""
        else:
            # from before a crash or a power cut: the MX has it whole, if it still exists
            batch.damaged += 1
            self._aside.add(file.ident)
            problem, end = "is damaged", " until the MX gives it again"
        decisions.journal(
            f"quarantine: {file.ident} from {self.mx} {problem}: {text.clean(reason)}; put aside as {target}{end}",
            {"PRIORITY": "4"},
        )

    def _commit(self, batch: Batch) -> None:
        """Add the batch to the index, without messages that a repair has added since the ledger was asked."""
        try:
            self.index.add(batch.kept, batch.others)
        except DuplicateError:
            idents = [message.id for message in batch.kept] + [ident for ident, _, _ in batch.others]
            known = self.index.known(idents)
            batch.kept = [message for message in batch.kept if message.id not in known]
            batch.others = [entry for entry in batch.others if entry[0] not in known]
            batch.known += len(known)
            self.index.add(batch.kept, batch.others)

    def _clear_up(self, batch: Batch) -> None:
        """Record canaries and remove the transaction's files from ``incoming``."""
        if self.canaries is not None:
            for tag, message in batch.canaries:
                self.canaries.note(tag, message, self.clock())
        for path in batch.done:
            store.drop(path)
        for message in batch.kept:
            if message.id in self._aside:
                store.discard(f"{self.places.bad}/{self.mx}/{message.id}")
        store.prune({os.path.dirname(path) for path in batch.done})
