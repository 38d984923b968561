"""The end of a message: its domain's retention is over.

First the files of a small batch go, then their rows, in one short transaction. Killed in between, the next run finds
the rows again, no files, and finishes. A batch locks the rows it deletes and nothing else, so readers and imports
never wait."""

from __future__ import annotations

import glob
import os
import time

from . import QuarantineError, layout, store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .database import Database
    from .settings import Settings

BATCH = 500
AHEAD = 3 * 86400.0
"""Seconds by which the clock may be beyond the newest id: each MX's canary makes one every few minutes."""
BAD_DAYS = 30
"""Days that what couldn't be imported lies in ``bad``."""


class ClockError(QuarantineError):
    """What this host's clock says can't be, by what the MXs' clocks said."""


class Outcome:
    """``messages`` and ``bytes`` (as the senders sent them) expired, ids ``forgotten`` by the ledger, whether it is
    ``finished``.
    """

    __slots__ = ("bad", "bytes", "finished", "forgotten", "messages")

    def __init__(self) -> None:
        self.messages = 0
        self.bytes = 0
        self.forgotten = 0
        self.bad = 0
        self.finished = False

    def as_json(self) -> dict[str, int | bool]:
        """All of it by name."""
        return {name: getattr(self, name) for name in self.__slots__}


def run(
    index: Database,
    places: layout.Layout,
    settings: Settings,
    *,
    dry_run: bool = False,
    pause: Callable[[], bool] = lambda: True,
    clock: Callable[[], float] = time.time,
    trust_clock: bool = False,
) -> Outcome:
    """Let go of everything whose time is over. ``pause`` is called between batches and ends the run when it says
    False.

    Raises ClockError when this host's clock is days beyond the newest id, unless ``trust_clock``: a clock that is ahead
    by the retention would remove everything at once.
    """
    outcome = Outcome()
    now = clock()
    newest = index.newest()
    if newest and not trust_clock and now - layout.received(newest) > AHEAD:
        days = (now - layout.received(newest)) / 86400
        raise ClockError(
            f"the clock is {days:.1f} days beyond the newest message, so nothing expires;"
            " put the clock right, or, if it is right, say: quarantine expire --trust-clock"
        )
    for domain in index.domains():
        before = settings.cutoff(domain, now)
        if dry_run:
            count, size = index.amount(domain, before)
            outcome.messages += count
            outcome.bytes += size
            continue
        while gone := index.older(domain, before, BATCH):
            paths = [places.path(domain, ident) for ident, _, _ in gone]
            for path in paths:
                store.drop(path)
            index.forget(domain, gone)
            store.prune({os.path.dirname(path) for path in paths})
            outcome.messages += len(gone)
            outcome.bytes += sum(size for _, _, size in gone)
            if not pause():
                return outcome
    if dry_run:
        outcome.finished = True
        return outcome
    outcome.bad = _bad(places, layout.bound(now - BAD_DAYS * 86400.0))
    while forgotten := index.trim_ledger(settings.ledger_cutoff(now), BATCH):
        outcome.forgotten += forgotten
        if not pause():
            return outcome
    while index.trim_sums(layout.day(settings.ledger_cutoff(now)), BATCH) and pause():
        pass
    outcome.finished = True
    return outcome


def _bad(places: layout.Layout, before: str) -> int:
    removed = 0
    for path in glob.glob("*/*", root_dir=places.bad):
        if path.rpartition("/")[2] < before:
            removed += store.discard(f"{places.bad}/{path}")
    return removed
