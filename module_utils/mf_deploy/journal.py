"""The record of a host's releases: the order in which they were current, and their files outside of the tree.

Kept in /mf/releases/journal.json. The link /mf/current is the truth; the journal is written after it and set right by
it, so a journal that is one step behind (interrupted) does no harm.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import NamedTuple

from . import host, manifest
from .layout import Layout

KEEP = 3
GRACE = 120.0
"""Seconds a release stays after it stopped being current: a job that started from it must find all of it."""


class Journal(NamedTuple):
    """``history``: generations in the order they became current, the last one current now. ``files``: host files that
    are ours. ``folders``: directories that were made for them. ``pending``: a change of host files and services was
    begun and not seen to its end."""

    history: list[str]
    files: list[str]
    folders: list[str]
    pending: bool

    @property
    def previous(self) -> str | None:
        """The generation to go back to."""
        return self.history[-2] if len(self.history) > 1 else None


def read(layout: Layout) -> Journal:
    """The journal; a lost or damaged one is made again from the releases on disk."""
    current = layout.generation()
    try:
        with open(layout.journal, encoding="utf-8") as file:
            data = json.load(file)
        journal = Journal(
            [str(name) for name in data["history"]],
            [str(name) for name in data["files"]],
            [str(name) for name in data["folders"]],
            bool(data["pending"]),
        )
    except FileNotFoundError:
        journal = Journal([], _all_files(layout), [], False)
    except (OSError, ValueError, KeyError, TypeError):
        journal = Journal([], _all_files(layout), [], True)
    present = set(layout.generations())
    return journal._replace(history=[name for name in settled(journal.history, current) if name in present])


def _all_files(layout: Layout) -> list[str]:
    return sorted({file.path for known in manifest.all_stored(layout) for file in known.outside})


def settled(history: list[str], current: str | None) -> list[str]:
    """A history that ends with what is really current."""
    if current is None:
        return []
    if current in history:
        return history[: history.index(current) + 1]
    return [*history, current]


def deployed(history: list[str], generation: str) -> list[str]:
    """Return the history after a deployment: the release that was current before is the one to go back to."""
    return [*(name for name in history if name != generation), generation][-KEEP:]


def write(layout: Layout, journal: Journal) -> None:
    """Store the journal; it is on disk when this returns."""
    text = json.dumps(journal._asdict(), indent=1) + "\n"
    host.replace(layout.journal, text.encode(), 0o644, (-1, -1))
    host.sync(layout.releases)


def left(layout: Layout, generation: str | None) -> None:
    """Note (as the time of its directory) that a release has just stopped being current."""
    if generation is not None:
        os.utime(layout.release(generation))


def prune(layout: Layout, keep: Iterable[str], now: float) -> list[str]:
    """Remove releases that are not kept, and leftovers of interrupted runs. Return the former. ``now``: epoch."""
    kept = set(keep)
    removed = [
        name
        for name in layout.generations()
        if name not in kept and not 0 <= now - os.stat(layout.release(name)).st_mtime < GRACE
    ]
    for name in [*removed, *leftovers(layout)]:
        # renamed first: a removal that is interrupted must not leave half a release under a release's name
        trash = f"{layout.releases}/.staging-trash"
        host.discard(trash)
        os.rename(f"{layout.releases}/{name}", trash)
        host.discard(trash)
    return removed


def leftovers(layout: Layout) -> list[str]:
    """Directories of releases that were never completed."""
    try:
        return [name for name in os.listdir(layout.releases) if name.startswith(".staging-")]
    except FileNotFoundError:
        return []
