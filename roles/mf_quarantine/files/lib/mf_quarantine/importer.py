"""From ``incoming`` into store and index, each message once, whatever happens in between.

A batch goes: read and verify each file; link it into the store; sync; index and ledger in one transaction; unlink it
in ``incoming``. Killed before the commit, the next run finds the files in ``incoming`` again and the links already
made. Killed after it, the ledger knows the ids and only the unlinking is left. So nothing is lost or doubled at any
step. A message with a copy for several domains is one file, and a link and a row for each of them, in one transaction.

While the host is throttled (``/run/mf/throttled``) messages go one by one, ``import_throttle_sleep`` seconds apart on
the whole host: whoever's turn it is holds one flock."""

from __future__ import annotations

import contextlib
import os
import time

from mf import decisions, state, text
from mf.throttle import marker

from . import DuplicateError, envelope, layout, store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mf import canary

    from .canaries import Canaries
    from .database import Database
    from .settings import Settings

BATCH = 1000
"""Messages of one transaction while the host isn't throttled."""
BATCH_BYTES = 64 << 20
PATIENCE = 900.0  # seconds to wait for one's turn while throttled, where the caller doesn't say
SETTLE = 0.5  # seconds between two looks at the marker while the pace is kept


class Counts:
    """What an import did. Messages are the index's: a copy for each domain is one, and a file may hold several."""

    __slots__ = ("bad", "canaries", "damaged", "expired", "files", "imported", "known")

    def __init__(self) -> None:
        self.imported = 0
        self.known = 0  # the ledger had them: only unlinked
        self.expired = 0  # older than their domain's retention: noted, not kept
        self.canaries = 0
        self.damaged = 0  # not whole here; will be fetched again
        self.bad = 0  # not whole on the MX either, or not in our format: put aside

        self.files = 0  # of which nothing is missing any more

    def as_json(self) -> dict[str, int]:
        """All counts by name."""
        return {name: getattr(self, name) for name in self.__slots__}


class Importer:
    """Imports for one MX (``mx``), whose lock the caller holds.

    ``canaries`` recognises the fleet's own; without it every message is ordinary mail.
    """

    def __init__(
        self,
        index: Database,
        places: layout.Layout,
        settings: Settings,
        mx: str,
        *,
        host: state.Places | None = None,
        canaries: Canaries | None = None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.counts = Counts()
        self._index = index
        self._layout = places
        self._settings = settings
        self._mx = mx
        self._host = host or state.Places()
        self._canaries = canaries
        self._clock = clock
        self._sleep = sleep
        # put aside as damaged, by this run or an earlier one: goes when the MX gives it again, whole
        try:
            self._aside = set(os.listdir(f"{places.bad}/{mx}"))
        except FileNotFoundError:
            self._aside = set()

    def throttled(self) -> bool:
        """Whether the host's marker is on now."""
        return marker.current(self._host).throttled

    def run(
        self,
        *,
        fresh: bool,
        tick: Callable[[], bool] = lambda: True,
        patience: Callable[[], float] = lambda: PATIENCE,
    ) -> None:
        """Import all that waits. ``tick`` is called between batches and ends the run when it says False.

        ``fresh``: the files have just come from the MX, so what is damaged is so there, too. ``patience``: for how
        many seconds to wait for one's turn while throttled; then the run ends. Raises DatabaseError, OSError."""
        files = layout.waiting(self._layout.incoming(self._mx))
        for batch in self._batches(files):
            if len(batch) > 1 or not self.throttled():
                self.batch(batch, fresh=fresh)
            elif not self._in_turn(batch, fresh=fresh, patience=patience()):
                return
            if not tick():
                return

    def _batches(self, files: Iterable[tuple[str, str, str]]) -> Iterator[list[tuple[str, str, str]]]:
        batch: list[tuple[str, str, str]] = []
        room = BATCH_BYTES
        throttled = self.throttled()
        for entry in files:
            batch.append(entry)
            with contextlib.suppress(FileNotFoundError):
                room -= os.stat(entry[0]).st_size
            if throttled or len(batch) >= BATCH or room <= 0:
                yield batch
                batch, room, throttled = [], BATCH_BYTES, self.throttled()
        if batch:
            yield batch

    def _in_turn(self, batch: list[tuple[str, str, str]], *, fresh: bool, patience: float) -> bool:
        """One message, then the pause, while nobody else on this host imports; cut short when the throttle ends.

        False, and nothing done, when the turn doesn't come in time.
        """
        with self._layout.lock("pace", wait=patience) as held:
            if not held:
                return False
            began = state.boottime()
            self.batch(batch, fresh=fresh)
            while self.throttled() and (left := began + self._settings.import_throttle_sleep - state.boottime()) > 0:
                self._sleep(min(SETTLE, left))
        return True

    def batch(self, files: list[tuple[str, str, str]], *, fresh: bool) -> None:
        """Import some files ``(path, domain, id)``, in one transaction, or in several if they have very many copies."""
        left = files
        while left:
            left = self._some(left, fresh=fresh)

    def _some(self, files: list[tuple[str, str, str]], *, fresh: bool) -> list[tuple[str, str, str]]:
        """Import the first of some files, all or, when it raises, none as far as index and ledger know; returns the
        rest.
        """
        now = self._clock()
        known = self._index.known([ident for _, _, ident in files])
        kept: list[envelope.Message] = []
        others: list[tuple[str, str, str]] = []
        seen: list[tuple[canary.Tag, envelope.Message]] = []
        done: list[str] = []
        damaged = 0
        cutoffs: dict[str, str] = {}
        rest: list[tuple[str, str, str]] = []
        for number, (path, domain, ident) in enumerate(files):
            if len(kept) + len(others) >= BATCH:
                rest = files[number:]
                break
            if ident in known:
                self.counts.known += 1
                done.append(path)
                continue
            try:
                copies = self._copies(path, domain, ident, known)
            except FileNotFoundError:
                continue
            except (envelope.DamagedError, IsADirectoryError) as error:
                damaged += not fresh
                self._damaged(path, domain, ident, str(error), fresh, others)
                done.append(path)
                continue
            for message in copies:
                if message.id in known:
                    self.counts.known += 1
                    continue
                known.add(message.id)
                tag = self._canaries.recognise(message) if self._canaries is not None else None
                entry = (message.id, message.domain)
                before = cutoffs.get(message.domain) or self._settings.cutoff(message.domain, now)
                cutoffs[message.domain] = before
                if tag is not None:
                    seen.append((tag, message))
                    others.append((*entry, "canary"))
                elif message.id < before:
                    others.append((*entry, "expired"))
                else:
                    store.keep(path, self._layout.path(message.domain, message.id))
                    kept.append(message)
            done.append(path)
        if kept or others:
            store.sync(self._layout.root)
            self._add(kept, others)
        if self._canaries is not None:
            for tag, message in seen:
                self._canaries.note(tag, message, self._clock())
        for path in done:
            store.drop(path)
        for message in kept:
            if message.id in self._aside:
                store.discard(f"{self._layout.bad}/{self._mx}/{message.id}")
        store.prune({os.path.dirname(path) for path in done})
        self.counts.imported += len(kept)
        self.counts.canaries += len(seen)
        self.counts.expired += sum(1 for entry in others if entry[2] == "expired")
        self.counts.files += len(done) - damaged
        return rest

    def _copies(self, path: str, domain: str, ident: str, known: set[str]) -> list[envelope.Message]:
        """The messages in a file: one, or one for each domain that has a copy. What the ledger knows of them goes into
        ``known``: a repair may have found some in the store.
        """
        if domain != layout.SHARED:
            return [envelope.read(path, domain, ident)]
        found = envelope.copies(path, ident)
        if not found[0].domain:
            raise envelope.DamagedError("its envelope names no copies")
        known |= self._index.known([one.id for one in found])
        return found

    def _add(self, kept: list[envelope.Message], others: list[tuple[str, str, str]]) -> None:
        """Into the index, without what a repair has put there since it was looked up."""
        try:
            self._index.add(kept, others)
        except DuplicateError:
            known = self._index.known([*(one.id for one in kept), *(ident for ident, _, _ in others)])
            kept[:] = [one for one in kept if one.id not in known]
            others[:] = [entry for entry in others if entry[0] not in known]
            self.counts.known += len(known)
            self._index.add(kept, others)

    def _damaged(
        self, path: str, domain: str, ident: str, why: str, fresh: bool, others: list[tuple[str, str, str]]
    ) -> None:
        target = f"{self._layout.bad}/{self._mx}/{ident}"
        store.put_aside(path, target)
        if not fresh:
            # left from before a crash or a power cut: the MX has it whole, if it is still there
            self.counts.damaged += 1
            self._aside.add(ident)
            decisions.journal(
                f"quarantine: {ident} from {self._mx} is damaged: {text.clean(why)}; put aside as {target} until the MX"
                " gives it again",
                {"PRIORITY": "4"},
            )
            return
        others.append((ident, domain, "bad"))
        self.counts.bad += 1
        decisions.journal(
            f"quarantine: {ident} from {self._mx} can't be imported: {text.clean(why)}; put aside as {target}",
            {"PRIORITY": "4"},
        )
