"""The progress of the pull from an MX: ``state/<mx>.json``, written at each step of a pull, judged by the check::

    {"mx", "since": first attempt, "attempted", "error": "" or one line, "listed": last complete listing or null,
     "swept": last listing of all days or null, "unpulled": known and not imported yet, there or fetched already,
     "oldest": the oldest of those or null, "imported": in all, "foreign": names that aren't ours, in the last listing,
     "ahead": dated more than a day ahead and left there, in the last listing of all days}

Times are epoch seconds. An MX's lag is the age of ``oldest``, or of ``listed`` when nothing is missing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mf import state

CANARY = "canary-"
"""Prefix of the canaries' records, which lie beside these (see ``canaries``)."""


@dataclass
class Source:
    """The record of one MX, its keys in the order of the file."""

    mx: str
    since: float | None = None
    attempted: float | None = None
    error: str = ""
    listed: float | None = None
    swept: float | None = None
    unpulled: int = 0
    oldest: float | None = None
    imported: int = 0
    foreign: int = 0
    ahead: int = 0

    @classmethod
    def parse(cls, mx: str, record: Mapping[str, Any]) -> Source:
        """The record of an MX from its file's content; a key that is missing or of another type is unknown or 0."""
        kinds = {key: (str,) if isinstance(value, str) else (int, float) for key, value in vars(cls(mx)).items()}
        return cls(**{key: value for key, value in record.items() if type(value) in kinds.get(key, ())} | {"mx": mx})

    def lag(self, now: float) -> float:
        """Return seconds: all that the MX kept earlier than that is here. Not less than the age of what is missing."""
        covered = self.listed if self.listed is not None else self.since if self.since is not None else now
        if self.unpulled and self.oldest is not None:
            covered = min(covered, self.oldest)
        return max(0.0, now - covered)

    def save(self, folder: str, now: float) -> None:
        """Write the record with the time of this attempt, atomically."""
        self.attempted = now
        state.write_atomic(f"{folder}/{self.mx}.json", json.dumps(vars(self)).encode() + b"\n", 0o644)


def load(folder: str, mx: str, now: float) -> Source:
    """Read the record of an MX; it is new when the file is missing or damaged."""
    source = Source.parse(mx, state.decode(state.read_bytes(f"{folder}/{mx}.json")) or {})
    source.since = source.since or now
    source.attempted = source.attempted or now
    return source


def names(folder: str) -> list[str]:
    """MXs that have a record. Raises OSError."""
    records = (name for name in sorted(os.listdir(folder)) if not name.startswith(CANARY))
    return [name.removesuffix(".json") for name in records if name.endswith(".json")]
