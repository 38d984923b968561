"""check-quarantine, on control: how far behind the quarantine is, for each MX. It reads only the records of pulls.

A pull writes ``<folder>/<mx>.json`` at each step of its work (see ``source``). This check judges those files by the
clock, so its result is true also when no pull runs any more or MariaDB is stopped. It also judges the file system, for
on a full one no pull can record that, and counts what lies in ``bad``. An MX that is gone for good, from the network or
from the inventory, is reported with the messages last listed there, until ``quarantine forget``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence

from mf import run, state
from mf.text import clean, span

from . import layout, source

NAME = "quarantine"
PURPOSE = "Compare the mail that the MXs hold with the mail that was fetched, imported and indexed."
RULES: run.Rules = {
    "folder": str,
    "mx": str,  # names of the inventory's MXs, separated by blanks
    "lag_warning": (60, 30 * 86400),  # seconds
    "lag_critical": (60, 30 * 86400),
    "silence": (60, 86400),  # seconds since the last attempt of any pull
    "free_percent": (0, 60),  # of space or inodes; with less nothing is fetched
}
MOST = 40  # MXs with metrics of their own: the most behind


def read(folder: str) -> dict[str, source.Source | None]:
    """The records in the folder, by MX; None for a damaged file. Raises OSError."""
    records: dict[str, source.Source | None] = {}
    for mx in source.names(folder):
        data, _ = state.read_plain(f"{folder}/{mx}.json")
        record = state.decode(data)
        records[mx] = None if record is None else source.Source.parse(mx, record)
    return records


def count_bad(folder: str) -> dict[str, int]:
    """Number of messages in ``bad``, which can't be imported, by MX (``store``: found by a repair)."""
    return {name: count for name in layout.names(folder) if (count := len(layout.names(f"{folder}/{name}")))}


def decide(
    records: Mapping[str, source.Source | None],
    expected: Sequence[str],
    now: float,
    values: run.Values,
    released: float | None = None,
    free: float = 100.0,
    bad: Mapping[str, int] | None = None,
) -> state.Result:
    """The result. Pure. ``released``: when the current release was deployed (epoch seconds), perhaps with a new MX.
    ``free``: percent of the quarantine's file system, below 0 if it is read-only. ``bad``: how many messages were put
    aside, by MX.
    """
    bad = bad or {}
    problems: list[tuple[str, str]] = []
    lags: list[tuple[float, source.Source]] = []
    if free < values["free_percent"] or free <= 0:
        little = f"{free:.1f}% of space or inodes is left there" if free >= 0 else "it is mounted read-only"
        problems.append((state.WARNING, f"nothing is fetched into {values['folder']}: {little}"))
    for mx in sorted({*expected, *records}):
        record = records.get(mx)
        if record is not None:
            problems += _problems(record, record.lag(now), values, expected=mx in expected)
            if mx in expected or record.unpulled or record.error:
                lags.append((record.lag(now), record))
        elif mx in records:
            problems.append((state.WARNING, f"{clean(mx, 64)}: its state is not whole"))
        elif released is None or now - released >= values["silence"]:
            problems.append((state.WARNING, f"{clean(mx, 64)}: nothing was ever fetched from it"))
    silence = now - max((record.attempted or 0.0 for record in records.values() if record), default=0.0)
    if lags and silence >= values["silence"]:
        problems.append((state.WARNING, f"no pull for {span(silence)}; is cron running?"))
    for mx, count in sorted(bad.items()):
        where = f"{_bad(values['folder'])}/{clean(mx, 64)}"
        problems.append((state.WARNING, f"{count} messages can't be imported and lie in {where}"))
    problems.sort(key=lambda problem: -state.SEVERITY[problem[0]])
    lags.sort(key=lambda entry: (-entry[0], entry[1].mx))
    unpulled = sum(record.unpulled for _, record in lags)
    messages = [message for _, message in problems[:5]]
    if len(problems) > 5:
        messages.append(f"and {len(problems) - 5} more")
    if not problems and lags:
        messages = [f"{len(lags)} MXs, {unpulled} messages to fetch, most behind {span(lags[0][0])}"]
    elif not problems:
        messages = ["nothing fetched yet" if expected else "no MX to fetch from"]
    result = state.Result(NAME, state.worst([status for status, _ in problems]), "; ".join(messages))
    result.metrics = {
        "unpulled": unpulled,
        "lag_seconds": round(lags[0][0]) if lags else 0,
        "foreign": sum(record.foreign for _, record in lags),
        "bad": sum(bad.values()),
    }
    for lag, record in lags[:MOST]:
        name = clean(record.mx, 64)
        result.metrics[f"{name}_unpulled"] = record.unpulled
        result.metrics[f"{name}_lag_seconds"] = round(lag)
    return result


def _problems(record: source.Source, lag: float, values: run.Values, *, expected: bool) -> list[tuple[str, str]]:
    """Problems of one MX, each with its status."""
    name, error = clean(record.mx, 64), clean(record.error, 160)
    if not expected:
        # unless everything was fetched before it left
        left = [f"{record.unpulled} messages were known there and not fetched"] if record.unpulled else []
        left += [error] if error else []
        return [(state.WARNING, f"{name} has left the inventory: {'; '.join(left)}")] if left else []
    problems: list[tuple[str, str]] = []
    if lag >= values["lag_warning"]:
        status = state.CRITICAL if lag >= values["lag_critical"] else state.WARNING
        behind = f"{name} is {span(lag)} behind, {record.unpulled} messages known there and not fetched"
        problems.append((status, behind + (f" ({error})" if error else "")))
    elif error:
        known = f"; {record.unpulled} messages known there and not fetched" if record.unpulled else ""
        problems.append((state.WARNING, f"{name}: {error}{known}"))
    if record.ahead:
        ahead = f"{record.ahead} messages there are dated more than a day ahead and aren't fetched"
        problems.append((state.WARNING, f"{name}: {ahead}; is its clock right, and this one's?"))
    return problems


def _bad(folder: str) -> str:
    return folder.rpartition("/")[0] + "/bad"


def probe(places: state.Places, values: run.Values) -> state.Result:
    """Read and judge the records, the file system and ``bad``."""
    try:
        records = read(values["folder"])
        free = layout.free_percent(values["folder"])
    except FileNotFoundError:
        records, free = {}, 100.0
    try:
        released: float | None = os.lstat(places.current).st_mtime
    except OSError:
        released = None
    return decide(records, values["mx"].split(), time.time(), values, released, free, count_bad(_bad(values["folder"])))


CHECK = run.Check(NAME, probe, RULES, PURPOSE)
