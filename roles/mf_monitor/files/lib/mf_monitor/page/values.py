"""Numbers, moments and texts as the page shows them. Pure.

Text from outside keeps its printable letters, everything else becomes an escape, and it is cut; the templates escape it
for HTML besides.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from typing import NamedTuple

from mf.text import span

from .model import Day

# state of a host or service -> its label. The icon of that name differs in shape, not only in colour.
LABELS = {
    "up": "Up",
    "warning": "Warning",
    "throttled": "Throttled",
    "maintenance": "Maintenance",
    "down": "Down",
    "unknown": "Not known",
}
CHECKS = {"OK": "up", "WARNING": "warning", "CRITICAL": "down", "UNKNOWN": "unknown"}  # status of a check -> icon


class When(NamedTuple):
    """A moment: ``iso`` for machines, ``clock`` for readers (UTC), ``epoch`` in seconds for the script."""

    iso: str
    clock: str
    epoch: int


def show(text: object, limit: int = 300) -> str:
    """Printable text of at most ``limit`` characters; control, bidirectional and invisible letters become escapes."""
    source = str(text)[: 4 * limit]
    if source.isprintable() and len(source) <= limit:
        return source
    shown = "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape", "surrogatepass").decode()
        for letter in source
    )
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def milliseconds(value: float | None) -> str:
    """Milliseconds as ``42 ms`` or ``1.3 s``; a dash when not known."""
    if value is None:
        return "–"
    if value < 999.5:
        return f"{value:.0f} ms"
    return f"{value / 1000:.1f} s" if value < 99950 else span(value / 1000)


def short(value: float | None) -> str:
    """Seconds as ``45 s``, ``12 min``, ``3.5 h``; a dash when not known."""
    return "–" if value is None else span(max(0.0, value))


def when(moment: float | None, now: float) -> When | None:
    """A moment, with its date unless that is today's; None when not known."""
    if moment is None or not 0 <= moment < 32503680000:
        return None
    parts, today = time.gmtime(moment), time.gmtime(now)
    same = parts[:3] == today[:3]
    clock = time.strftime("%H:%M:%S" if same else "%d %b %H:%M", parts).lstrip("0" if not same else "")
    return When(time.strftime("%Y-%m-%dT%H:%M:%SZ", parts), clock, int(moment))


def uptime(days: Iterable[Day | None]) -> str:
    """Share of the measured time that wasn't down, never rounded up to 100 %: throttled time isn't down; maintenance
    is neither."""
    known = bad = 0.0
    for day in days:
        if day is not None and day.up is not None:
            known += day.up_seconds + day.warning_seconds + day.throttled_seconds + day.down_seconds
            bad += day.down_seconds
    if not known > 0:
        return "–"
    if not bad:
        return "100 %"
    share = max(0.0, 100 - 100 * bad / known)
    return f"{min(int(share * 1000) / 1000, 99.999):.3f} %" if share >= 99.9 else f"{int(share * 100) / 100:.2f} %"


def slug(name: str) -> str:
    """A name as part of an anchor."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name)


def plural(count: int, singular: str, several: str) -> str:
    """A count with its noun."""
    return f"{count} {singular if count == 1 else several}"
