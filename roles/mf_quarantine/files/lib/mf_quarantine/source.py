"""How far the fetching from an MX is: ``state/<mx>.json``, written at each step of a pull and judged by the check::

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
from typing import Any

from mf import state

CANARY = "canary-"
"""What the names of files begin with that lie beside the records (see ``canaries``)."""


class Source:
    """The record of one MX; keys that are missing or of another type count as unknown."""

    def __init__(self, mx: str, record: Mapping[str, Any]) -> None:
        error = record.get("error")
        self.mx = mx
        self.since = _number(record, "since")
        self.attempted = _number(record, "attempted")
        self.error = error if isinstance(error, str) else ""
        self.listed = _number(record, "listed")
        self.swept = _number(record, "swept")
        self.unpulled = int(_number(record, "unpulled") or 0)
        self.oldest = _number(record, "oldest")
        self.imported = int(_number(record, "imported") or 0)
        self.foreign = int(_number(record, "foreign") or 0)
        self.ahead = int(_number(record, "ahead") or 0)

    def lag(self, now: float) -> float:
        """Seconds: everything that the MX kept before that long ago is here. Never smaller than what is known to be
        missing.
        """
        covered = self.listed if self.listed is not None else self.since if self.since is not None else now
        if self.unpulled and self.oldest is not None:
            covered = min(covered, self.oldest)
        return max(0.0, now - covered)

    def as_json(self) -> dict[str, Any]:
        """The record as it is written."""
        return dict(vars(self))

    def save(self, folder: str, now: float) -> None:
        """Write the record with the time of this attempt; readers never see half of it."""
        self.attempted = now
        state.write_atomic(f"{folder}/{self.mx}.json", json.dumps(self.as_json()).encode() + b"\n", 0o644)


def load(folder: str, mx: str, now: float) -> Source:
    """The record of an MX; a new one when there is none, or none that is whole."""
    source = Source(mx, state.decode(state.read_bytes(f"{folder}/{mx}.json")) or {})
    source.since = source.since or now
    source.attempted = source.attempted or now
    return source


def names(folder: str) -> list[str]:
    """MXs that have a record. Raises OSError."""
    records = (name for name in sorted(os.listdir(folder)) if not name.startswith(CANARY))
    return [name.removesuffix(".json") for name in records if name.endswith(".json")]


def _number(record: Mapping[str, Any], key: str) -> float | None:
    value = record.get(key)
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
