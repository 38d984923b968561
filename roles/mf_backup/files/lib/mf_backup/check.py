"""check-backup: whether each backup job has succeeded recently, and none has failed since.

It reads one small file, /mf/var/state/backup.json, and starts no borg.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from mf import run, state
from mf.text import clean, span

from .record import Past, jobs_of
from .settings import JOBS

NAME = "backup"
PURPOSE = "Check that backups, the repository's check and the restore drill are recent and succeeded."
RULES: run.Rules = {f"{job}_period": (0, 90 * 86400) for job in JOBS}  # seconds; 0: this machine has no such job

LATE = 1.5  # periods
TOO_LATE = 3.0
SKEW = 300.0  # seconds that a success may be in the future before that is a problem
# failures that concern archives made before, not only the newest run
CRITICAL_KINDS = ("corrupt", "hidden", "vanished", "rewound", "mismatch")
ROOM = 64 << 10  # bytes: with less free the next failure couldn't be recorded


def judge(job: str, past: Past, period: float, now: float, since: float) -> tuple[str, str]:
    """The status of one job, and its problems in one line, "" for none. Pure.

    ``since`` (epoch seconds): when this machine's backups were set up, from which a job without a success has its age.
    """
    age = now - (past.succeeded or since)
    status, problems = state.OK, []
    if past.succeeded > now + SKEW:
        status = state.WARNING
        problems.append(f"its last success is {span(past.succeeded - now)} in the future: was the clock set back?")
    elif age > LATE * period:
        status = state.CRITICAL if age > TOO_LATE * period else state.WARNING
        late = f"late: {span(age)} old, due every {span(period)}"
        problems.append(late if past.succeeded else f"never done in {span(age)}")
    if past.failures:
        status = state.worst([status, state.CRITICAL if past.kind in CRITICAL_KINDS else state.WARNING])
        times = "" if past.failures == 1 else f" {past.failures} times"
        problems.append(f"failed{times}: {clean(past.error, 160)}")
    elif past.warning:
        status = state.worst([status, state.WARNING])
        problems.append(f"not everything was saved: {clean(past.warning, 160)}")
    return status, f"{job} {'; '.join(problems)}" if problems else ""


def decide(record: Mapping[str, Any], values: run.Values, now: float, since: float) -> state.Result:
    """The result, from the document that Record writes. Pure."""
    known = jobs_of(record)
    statuses, problems, metrics = [state.OK], [], {}
    for job in JOBS:
        period = values[f"{job}_period"]
        if not period:
            continue
        past = known.get(job, Past())
        status, problem = judge(job, past, period, now, since)
        statuses.append(status)
        problems += [problem] if problem else []
        if past.succeeded:
            metrics[f"{job}_age_seconds"] = max(0.0, round(now - past.succeeded))
        metrics[f"{job}_failures"] = float(past.failures)
        if job == "drill" and job in known:
            metrics["drill_rpo_seconds"] = past.figures.get("rpo_seconds", 0.0)
            metrics["drill_rto_seconds"] = past.figures.get("rto_seconds", 0.0)
        elif "stored_bytes" in past.figures:
            metrics[f"{job}_stored_bytes"] = past.figures["stored_bytes"]
    ages = [f"{job} {span(metrics[f'{job}_age_seconds'])}" for job in JOBS if f"{job}_age_seconds" in metrics]
    summary = "; ".join(problems) or (f"age of {', '.join(ages)}" if ages else "first backups are on their way")
    return state.Result(NAME, state.worst(statuses), summary, metrics)


def probe(places: state.Places, values: run.Values) -> state.Result | run.Diagnosis:
    """Judge the record: UNKNOWN if it is damaged, CRITICAL if the disk is too full to write the next one."""
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
    """Time of setting up this machine's backups: the last change of directories of its first release."""
    try:
        return min(now, os.stat(places.persistent).st_ctime, os.stat("/mf/var/backup").st_ctime)
    except OSError:
        return now


CHECK = run.Check(NAME, probe, RULES, PURPOSE)
