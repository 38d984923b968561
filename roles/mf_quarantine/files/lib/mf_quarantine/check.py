"""check-quarantine, on control: how far behind the quarantine is, for each MX. It only reads what the puller wrote
down.

``mf_quarantine/pull.py`` writes ``<folder>/<mx>.json`` at each step of its work. This check judges those files by the
clock, so it says the truth also when nobody pulls any more or MariaDB is stopped; the file system itself, for on a
full one the puller can't write that down; and what lies in ``bad``. An MX that has
gone for good, from the network or from the inventory, goes on being shown with what was known to be there, until
``quarantine forget``."""

from __future__ import annotations

import posix
import time

from mf import run, state
from mf.throttle import marker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, NoReturn

NAME = "quarantine"
RULES: run.Rules = {
    "folder": str,
    "mx": str,  # names of the inventory's MXs, separated by blanks
    "lag_warning": (60, 30 * 86400),  # seconds
    "lag_critical": (60, 30 * 86400),
    "silence": (60, 86400),  # seconds since the last attempt after which nobody pulls
    "free_percent": (0, 60),  # of space or inodes; with less nothing is fetched
}
MOST = 40  # MXs with metrics of their own: the most behind
CANARY = "canary-"


class Source:
    """What is known of one MX. Times are epoch seconds; ``listed`` and ``oldest`` may be None."""

    __slots__ = ("ahead", "attempted", "error", "foreign", "listed", "mx", "oldest", "since", "unpulled")

    def __init__(self, mx: str, record: Mapping[str, Any]) -> None:
        self.mx = mx
        self.since = _number(record, "since")
        self.attempted = _number(record, "attempted")
        self.listed = _number(record, "listed")
        self.oldest = _number(record, "oldest")
        self.unpulled = int(_number(record, "unpulled") or 0)
        self.foreign = int(_number(record, "foreign") or 0)
        self.ahead = int(_number(record, "ahead") or 0)
        error = record.get("error")
        self.error = error if isinstance(error, str) else ""

    def lag(self, now: float) -> float:
        """Seconds: everything that the MX kept before that long ago is here. Never smaller than what is known to be
        missing.
        """
        covered = self.listed if self.listed is not None else self.since if self.since is not None else now
        if self.unpulled and self.oldest is not None:
            covered = min(covered, self.oldest)
        return max(0.0, now - covered)


def _number(record: Mapping[str, Any], key: str) -> float | None:
    value = record.get(key)
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def read(folder: str) -> dict[str, Source | None]:
    """What stands in the folder, by MX; None for a file that isn't whole. Raises OSError."""
    found: dict[str, Source | None] = {}
    for name in posix.listdir(folder):
        if not name.endswith(".json") or name.startswith(CANARY):
            continue
        data, _ = marker.read_plain(f"{folder}/{name}")
        record = state.decode(data)
        found[name[:-5]] = None if record is None else Source(name[:-5], record)
    return found


def count_bad(folder: str) -> dict[str, int]:
    """How many messages that can't be imported lie in ``bad``, by MX (``store``: found by a repair)."""
    try:
        return {name: count for name in posix.listdir(folder) if (count := len(posix.listdir(f"{folder}/{name}")))}
    except FileNotFoundError:
        return {}


def decide(
    found: Mapping[str, Source | None],
    expected: Sequence[str],
    now: float,
    values: run.Values,
    released: float | None = None,
    free: float = 100.0,
    bad: Mapping[str, int] | None = None,
) -> state.Result:
    """The result. Pure. ``released``: when the current release came (epoch seconds), and perhaps a new MX with it.
    ``free``: percent of the quarantine's file system; below 0 nothing can be written there at all. ``bad``: how many
    messages were put aside, by MX.
    """
    from mf.text import clean, span

    problems: list[tuple[str, str]] = []
    if free < values["free_percent"] or free <= 0:
        little = f"{free:.1f}% of space or inodes is left there" if free >= 0 else "it is mounted read-only"
        problems.append((state.WARNING, f"nothing is fetched into {values['folder']}: {little}"))
    lags: list[tuple[float, Source]] = []
    newest = 0.0
    for mx in sorted({*expected, *found}):
        name = clean(mx, 64)
        source = found.get(mx)
        if mx not in found and released is not None and now - released < values["silence"]:
            continue
        if source is None:
            said = "its state is not whole" if mx in found else "nothing was ever fetched from it"
            problems.append((state.WARNING, f"{name}: {said}"))
            continue
        newest = max(newest, source.attempted or 0.0)
        if mx not in expected:
            # everything was fetched before it left: nothing to say
            if source.unpulled or source.error:
                left = [f"{source.unpulled} messages were known there and not fetched"] if source.unpulled else []
                left += [clean(source.error, 160)] if source.error else []
                problems.append((state.WARNING, f"{name} has left the inventory: {'; '.join(left)}"))
                lags.append((source.lag(now), source))
            continue
        lag = source.lag(now)
        lags.append((lag, source))
        if lag >= values["lag_warning"]:
            status = state.CRITICAL if lag >= values["lag_critical"] else state.WARNING
            behind = f"{name} is {span(lag)} behind, {source.unpulled} messages known there and not fetched"
            problems.append((status, behind + (f" ({clean(source.error, 160)})" if source.error else "")))
        elif source.error:
            known = f"; {source.unpulled} messages known there and not fetched" if source.unpulled else ""
            problems.append((state.WARNING, f"{name}: {clean(source.error, 160)}{known}"))
        if source.ahead:
            said = f"{source.ahead} messages there are dated more than a day ahead and aren't fetched"
            problems.append((state.WARNING, f"{name}: {said}; is its clock right, and this one's?"))
    silence = now - newest
    if lags and silence >= values["silence"]:
        problems.append((state.WARNING, f"nobody has pulled for {span(silence)}; is cron running?"))
    for mx, count in sorted((bad or {}).items()):
        said = f"{count} messages can't be imported and lie in {_bad(values['folder'])}/{clean(mx, 64)}"
        problems.append((state.WARNING, said))
    problems.sort(key=lambda one: -state.SEVERITY[one[0]])
    lags.sort(key=lambda one: (-one[0], one[1].mx))
    unpulled = sum(source.unpulled for _, source in lags)
    words = [problem for _, problem in problems[:5]]
    if len(problems) > 5:
        words.append(f"and {len(problems) - 5} more")
    if not words:
        words = [
            f"{len(lags)} MXs, {unpulled} messages to fetch, most behind {span(lags[0][0])}"
            if lags
            else "nothing fetched yet"
            if expected
            else "no MX to fetch from"
        ]
    result = state.Result(NAME, state.worst([status for status, _ in problems]), "; ".join(words))
    result.metrics = {
        "unpulled": unpulled,
        "lag_seconds": round(lags[0][0]) if lags else 0,
        "foreign": sum(source.foreign for _, source in lags),
        "bad": sum((bad or {}).values()),
    }
    for lag, source in lags[:MOST]:
        name = clean(source.mx, 64)
        result.metrics[f"{name}_unpulled"] = source.unpulled
        result.metrics[f"{name}_lag_seconds"] = round(lag)
    return result


def room(folder: str) -> float:
    """Percent that is free of a folder's file system, of the scarcer of bytes and inodes; -1 if it is read-only."""
    figures = posix.statvfs(folder)
    if figures.f_flag & posix.ST_RDONLY:
        return -1.0
    space = 100.0 * figures.f_bavail / figures.f_blocks if figures.f_blocks else 100.0
    return min(space, 100.0 * figures.f_favail / figures.f_files) if figures.f_files else space


def _bad(folder: str) -> str:
    return folder.rpartition("/")[0] + "/bad"


def look(places: state.Places, values: run.Values) -> state.Result:
    """Read the folder, judge it."""
    try:
        found = read(values["folder"])
        free = room(values["folder"])
    except FileNotFoundError:
        found, free = {}, 100.0
    try:
        released: float | None = posix.lstat(places.current).st_mtime
    except OSError:
        released = None
    return decide(found, values["mx"].split(), time.time(), values, released, free, count_bad(_bad(values["folder"])))


CHECK = run.Check(NAME, look, RULES)


def main(argv: Sequence[str], **release: object) -> NoReturn:
    """Entry of the launcher /mf/bin/check-quarantine."""
    run.main(CHECK, argv, **release)  # type: ignore[arg-type]
