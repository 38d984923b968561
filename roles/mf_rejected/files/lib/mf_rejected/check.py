"""check-rejected: rejected mail on an MX is kept, and removed by age and nothing else.

It takes no action; it judges the record of the job that removes (``mf_rejected.purge``).
"""

from __future__ import annotations

import posix
import time

from mf import message_id, run, state

from . import purge_record, refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Sequence

NAME = "rejected"
PURPOSE = "Check that rejected mail is removed in time and that there is room for it."
RULES: run.Rules = {
    "root": str,
    "refused": str,
    "keep_days": (1, 60),
    "free_percent": (1, 50),
}

LATE = 3600.0  # seconds since the last purge; it runs every 10 minutes and waits up to 5 for the throttle
REPORTED = 86400.0  # seconds for which a loss is reported
NEAR = 80.0  # percent of a day's limit


def decide(
    record: purge_record.Record,
    days: Sequence[str],
    free: float,
    now: float,
    values: run.Values,
    today: purge_record.Record = purge_record.NO_DAY,
    undecided: Container[str] = (),
) -> tuple[str, list[str]]:
    """The status, and its problems; ``undecided`` are days whose refused mail waits for an operator. Pure."""
    critical, warnings = [], []
    if record["full"] or free < values["free_percent"]:
        critical.append(f"the disk is nearly full ({free:.0f}% free)")
    if now - record["early"] < REPORTED:
        critical.append(f"{record['early_files']:.0f} messages removed before their time for lack of room")
    if today["missed"] and abs(now - today["missed_at"]) < REPORTED:
        plural = "" if today["missed"] == 1 else "s"
        critical.append(f"{today['missed']:.0f} message{plural} not kept, a day takes {_gib(today)} and no more")
    elif share(today) >= NEAR:
        warnings.append(f"today has taken {share(today):.0f}% of the {_gib(today)} that a day may")
    if record["doubted"] and 0 <= now - record["doubted"] < REPORTED:
        warnings.append(f"nothing goes by its age: {purge_record.DOUBTED}")
    if now - record["failed_at"] < REPORTED:
        warnings.append(f"{record['failed']:.0f} messages couldn't be kept")
    if now - record["ran"] > LATE:
        from mf.text import span

        warnings.append("never purged" if not record["ran"] else f"last purged {span(now - record['ran'])} ago")
    late = [day for day in purge_record.expired(days, now, values["keep_days"] + 1) if day not in undecided]
    if late:
        warnings.append(f"mail of {late[0]} is still here")
    if days and days[-1] > time.strftime("%Y-%m-%d", time.gmtime(now + 86400)):
        warnings.append(f"mail is dated {days[-1]}, which goes by age only after that")
    return state.CRITICAL if critical else state.WARNING if warnings else state.OK, critical + warnings


def share(today: purge_record.Record) -> float:
    """Percent of the day's limit that is used."""
    return 100.0 * today["used"] / today["limit"] if today["limit"] else 0.0


def _gib(today: purge_record.Record) -> str:
    return f"{today['limit'] / (1 << 30):.3g} GiB"


def _undecided(folder: str) -> set[str]:
    try:
        return {message_id.day(ident) for ident in refused.noted(folder)}
    except OSError:
        return set()  # check-refused reports it


def probe(places: state.Places, values: run.Values) -> state.Result | run.Diagnosis:
    """Judge the record, the stored days and the free space."""
    record = purge_record.read(places)
    try:
        days = sorted(name for name in posix.listdir(values["root"]) if purge_record.is_day(name))
        free = min(state.free_percent(values["root"]))
        now = time.time()
        today = purge_record.today(values["root"], now)
        late = purge_record.expired(days, now, values["keep_days"] + 1)
    except OSError as error:
        return state.Result(NAME, state.CRITICAL, f"{values['root']} can't be read: {error.strerror}")
    undecided = _undecided(values["refused"]) if late else set()
    status, problems = decide(record, days, free, now, values, today, undecided)
    kept = f"{len(days)} day{'' if len(days) == 1 else 's'} kept"
    result = state.Result(NAME, status, ", ".join([kept, *problems]))
    result.metrics = {
        "days": len(days),
        "free_percent": round(free, 1),
        "purged_seconds": max(0, round(now - record["ran"])) if record["ran"] else 0,
        "removed_early": round(record["early_files"]) if now - record["early"] < REPORTED else 0,
        "not_kept": round(record["failed"]),
        "day_percent": round(share(today), 1),
        "over_limit": round(today["missed"]) if abs(now - today["missed_at"]) < REPORTED else 0,
    }
    return result


CHECK = run.Check(NAME, probe, RULES, PURPOSE)
