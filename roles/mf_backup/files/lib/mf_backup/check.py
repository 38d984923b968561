"""check-backup: are the last successes of the backup jobs young enough, and did no job fail since?

It reads one small file, /mf/var/state/backup.json, and starts no borg.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from mf import borg, run, state
from mf.text import clean, span

from .settings import JOBS

NAME = "backup"
RULES: run.Rules = {f"{job}_period": (0, 90 * 86400) for job in JOBS}  # seconds; 0: this machine has no such job

LATE = 1.5  # periods
TOO_LATE = 3.0
SKEW = 300.0  # seconds that a success may lie in the future before the clock is doubted
ROOM = 64 << 10  # bytes: with less the next failure couldn't be put on record


def number(past: Mapping[str, Any], name: str) -> float:
    """A number of a job's record; 0 when there is none."""
    value = past.get(name)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else 0.0


def judge(job: str, past: Mapping[str, Any], period: float, now: float, since: float) -> tuple[str, str]:
    """The status of one job, and its problems in one line, "" for none. Pure.

    ``since`` (epoch seconds) is when this machine's backups were set up: a job without a success is late from then on.
    """
    succeeded = number(past, "succeeded")
    failures, kind = number(past, "failures"), str(past.get("kind", ""))
    age = now - (succeeded or since)
    status, problems = state.OK, []
    if succeeded > now + SKEW:
        status = state.WARNING
        problems.append(f"its last success is {span(succeeded - now)} in the future: was the clock set back?")
    elif age > LATE * period:
        status = state.CRITICAL if age > TOO_LATE * period else state.WARNING
        problems.append(
            f"late: {span(age)} old, due every {span(period)}" if succeeded else f"never done in {span(age)}"
        )
    if failures:
        status = state.worst([status, state.CRITICAL if kind in borg.CRITICAL_KINDS else state.WARNING])
        times = "" if failures == 1 else f" {failures:.0f} times"
        problems.append(f"failed{times}: {clean(str(past.get('error', '')), 160)}")
    elif past.get("warning"):
        status = state.worst([status, state.WARNING])
        problems.append(f"not everything was saved: {clean(str(past['warning']), 160)}")
    return status, f"{job} {'; '.join(problems)}" if problems else ""


def decide(record: Mapping[str, Any], values: run.Values, now: float, since: float) -> state.Result:
    """The result. Pure."""
    jobs = record.get("jobs")
    known: Mapping[str, Any] = jobs if isinstance(jobs, dict) else {}
    statuses, problems, metrics = [state.OK], [], {}
    for job in JOBS:
        period = values[f"{job}_period"]
        if not period:
            continue
        past = known.get(job)
        past = past if isinstance(past, dict) else {}
        status, problem = judge(job, past, period, now, since)
        statuses.append(status)
        problems += [problem] if problem else []
        if number(past, "succeeded"):
            metrics[f"{job}_age_seconds"] = max(0.0, round(now - number(past, "succeeded")))
        metrics[f"{job}_failures"] = number(past, "failures")
        figures = past.get("figures")
        if isinstance(figures, dict):
            if job == "drill":
                metrics["drill_rpo_seconds"] = number(figures, "rpo_seconds")
                metrics["drill_rto_seconds"] = number(figures, "rto_seconds")
            elif "stored_bytes" in figures:
                metrics[f"{job}_stored_bytes"] = number(figures, "stored_bytes")
    ages = [f"{job} {span(metrics[f'{job}_age_seconds'])}" for job in JOBS if f"{job}_age_seconds" in metrics]
    summary = "; ".join(problems) or (f"age of {', '.join(ages)}" if ages else "first backups are on their way")
    return state.Result(NAME, state.worst(statuses), summary, metrics)


def look(places: state.Places, values: run.Values) -> state.Result | run.Rest:
    """Judge the record: UNKNOWN when it is damaged, CRITICAL when the disk is too full to write the next one."""
    if not room(places.persistent):
        return state.Result(
            NAME, state.CRITICAL, f"the disk of {places.persistent} is full: no room to put anything on record"
        )
    path = f"{places.persistent}/backup.json"
    data = state.read_bytes(path)
    now = time.time()
    if data is None:
        return decide({}, values, now, _since(places, now))
    record = state.decode(data)
    if record is None:
        return state.Result(NAME, state.UNKNOWN, f"{path} is not whole; /mf/bin/backup adopt writes it anew")
    return decide(record, values, now, _since(places, now))


def room(folder: str) -> bool:
    """Whether root can still write a record in this directory."""
    try:
        usage = os.statvfs(folder)
    except OSError:
        return True  # a missing record is reported by its age
    space = not usage.f_blocks or usage.f_bfree * usage.f_frsize >= ROOM
    return space and (not usage.f_files or usage.f_ffree > 1)


def _since(places: state.Places, now: float) -> float:
    """When this machine's backups were set up: when directories of its first release were last changed."""
    try:
        return min(now, os.stat(places.persistent).st_ctime, os.stat("/mf/var/backup").st_ctime)
    except OSError:
        return now


CHECK = run.Check(NAME, look, RULES)


def main(argv: Sequence[str], **release: object) -> NoReturn:
    """Entry of the launcher /mf/bin/check-backup."""
    run.main(CHECK, argv, **release)  # type: ignore[arg-type]
