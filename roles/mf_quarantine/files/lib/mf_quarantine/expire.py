"""Expiry: remove messages whose domain's retention is over.

First the files of a small batch are removed, then their rows, in one short transaction. After a kill in between, the
next run finds rows without files, and finishes. A batch locks the rows it deletes and nothing else, so readers and
imports never wait."""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from mf import message_id

from . import QuarantineError, layout, store
from .index import Index
from .settings import Settings

BATCH = 500
AHEAD = 3 * 86400.0
"""Seconds by which the clock may be ahead of the newest id: each MX's canary makes one every few minutes."""
BAD_DAYS = 30
"""Days that a message that can't be imported is kept in ``bad``."""


class ClockError(QuarantineError):
    """This host's clock is days ahead of the MXs' clocks."""


@dataclass
class Outcome:
    """``bytes``: as sent, of truncated messages, too."""

    bad: int = 0  # files removed from ``bad``
    bytes: int = 0
    finished: bool = False
    forgotten: int = 0  # ids removed from the ledger
    messages: int = 0


def run(
    index: Index,
    places: layout.Layout,
    settings: Settings,
    *,
    dry_run: bool = False,
    pause: Callable[[], bool] = lambda: True,
    clock: Callable[[], float] = time.time,
    trust_clock: bool = False,
) -> Outcome:
    """Remove all that has expired. ``pause`` is called between batches and ends the run when it returns False.

    Raises ClockError when this host's clock is days ahead of the newest id, unless ``trust_clock``: a clock that is
    ahead by the retention would remove everything at once.
    """
    outcome = Outcome()
    now = clock()
    newest = index.newest()
    if newest and not trust_clock and now - layout.received(newest) > AHEAD:
        days = (now - layout.received(newest)) / 86400
        raise ClockError(
            f"the clock is {days:.1f} days beyond the newest message, so nothing expires;"
            " put the clock right, or, if it is right, run: quarantine expire --trust-clock"
        )
    for domain in index.domains():
        before = settings.cutoff(domain, now)
        if dry_run:
            count, size = index.amount(domain, before)
            outcome.messages += count
            outcome.bytes += size
            continue
        while expired := index.older(domain, before, BATCH):
            paths = [places.path(domain, ident) for ident, _, _ in expired]
            for path in paths:
                store.drop(path)
            index.forget(domain, expired)
            store.prune({os.path.dirname(path) for path in paths})
            outcome.messages += len(expired)
            outcome.bytes += sum(size for _, _, size in expired)
            if not pause():
                return outcome
    if dry_run:
        outcome.finished = True
        return outcome
    outcome.bad = _remove_bad(places, layout.bound(now - BAD_DAYS * 86400.0))
    while forgotten := index.trim_ledger(settings.ledger_cutoff(now), BATCH):
        outcome.forgotten += forgotten
        if not pause():
            return outcome
    while index.trim_sums(message_id.day(settings.ledger_cutoff(now)), BATCH) and pause():
        pass
    outcome.finished = True
    return outcome


def _remove_bad(places: layout.Layout, before: str) -> int:
    removed = 0
    for path in glob.glob("*/*", root_dir=places.bad):
        if path.rpartition("/")[2] < before:
            removed += store.discard(f"{places.bad}/{path}")
    return removed
