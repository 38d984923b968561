"""The health of this host: its checks' results, judged for freshness, and the present state. Reads only; never raises.

The monitor runs this on every host each minute, so it makes the JSON object that ``health_record`` describes and
imports nothing dear: dataclasses alone would cost four times all of this.

A check counts as UNKNOWN when it never ran, is past its ``next_due`` (on CLOCK_BOOTTIME: a wall clock that was set
changes nothing), left something unreadable, or comes from a release that is no longer the current one.
"""

from __future__ import annotations

import posix

from . import VERSION, config, maintenance, state, text
from .throttle import marker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

MAX_METRICS = 100  # of a check
_LONGEST = 2 * 86400.0  # seconds; a result that claims to hold longer is not ours
_HAND_OVER = 60.0  # seconds after a release during which a check of the former one may still end


def collect(places: state.Places) -> dict[str, Any]:
    """Return the host's health."""
    now = state.boottime()
    problems: list[tuple[str, str]] = []
    settings: Mapping[str, Any] = {}
    try:
        settings = config.load(places)
    except config.SettingsError as error:
        problems.append((state.UNKNOWN, str(error)))
    generation = str(settings.get("generation", ""))
    checks = {name: judge_file(places, name, generation, now) for name in sorted(settings.get("checks", {}))}
    reading = marker.read(places, now)
    throttle, lost = reading.status(now), reading.lost
    if lost:
        problems.append((state.UNKNOWN, f"the marker of the throttle is lost, it was {lost}; run throttle reconcile"))
    elif not throttle.throttled and "load" in checks:
        checks["load"] = _without_lease(checks["load"])
    for name, check in checks.items():
        if check["status"] != state.OK:
            problems.append((check["status"], f"{name} {check['status']}: {check['summary']}"))
    problems.extend(judge_throttle(throttle, checks["load"]["status"] if "load" in checks else state.OK))
    refusing = throttle.refusing or lost == marker.REFUSING
    load1 = _first_number(f"{places.proc}/loadavg")
    if load1 is None:
        problems.append((state.UNKNOWN, f"{places.proc}/loadavg can't be read"))
    ages = [check["age_seconds"] for check in checks.values() if check["age_seconds"] is not None]
    queue = checks["queue"]["metrics"].get("messages") if "queue" in checks else None
    health: dict[str, Any] = {
        "host": str(settings.get("host") or posix.uname().nodename),
        "type": str(settings.get("type", "")),
        "status": state.worst([status for status, _ in problems]),
        "line": "",
        "load1": load1,
        "uptime_seconds": _first_number(f"{places.proc}/uptime"),
        **throttle.as_json(),
        "maintenance": _maintenance(places, now),
        "oldest_result_seconds": max(ages, default=None),
        "queue": queue if _is(queue, float) else None,
        "accepting": takes_mail(checks["smtp"]) and not refusing if "smtp" in checks else None,
        "problems": [problem for _, problem in sorted(problems, key=lambda entry: -state.SEVERITY[entry[0]])],
        "checks": checks,
        "generation": generation,
        "version": VERSION,
    }
    health["line"] = line(health)
    return health


def judge_file(places: state.Places, name: str, generation: str, now: float) -> dict[str, Any]:
    """One check's entry, from its result file."""
    data, damage = state.read_plain(f"{places.results}/{name}.json")
    if damage:
        return _entry(state.UNKNOWN, f"its result is {damage}")
    if data is None:
        return _entry(state.UNKNOWN, "never ran since the last boot; is cron running?")
    return judge(state.decode(data), generation, now, _released(places))


def judge(
    record: Mapping[str, Any] | None, generation: str, now: float, released: float | None = None
) -> dict[str, Any]:
    """One check's entry, from its stored result (see ``state.write_result``).

    ``now`` is CLOCK_BOOTTIME; ``released`` is when the current release became current, in epoch seconds.
    """
    kinds = (("status", str), ("summary", str), ("started", float), ("finished", float), ("next_due", float))
    if record is None or not all(_is(record.get(key), kind) for key, kind in (*kinds, ("next_due_boottime", float))):
        return _entry(state.UNKNOWN, "its result is not whole")
    # how long ago it finished, without trusting the wall clock in between
    validity = record["next_due"] - record["finished"]
    age = now - (record["next_due_boottime"] - validity)
    if record["status"] not in state.SEVERITY or not 0 <= validity <= _LONGEST or age < -1:
        return _entry(state.UNKNOWN, "its result is not plausible")
    status, summary = record["status"], text.clean(record["summary"], 300)
    overdue = max(0.0, now - record["next_due_boottime"])
    if overdue:
        status, summary = state.UNKNOWN, f"last ran {text.span(age)} ago, then {record['status']}; is cron running?"
    elif record.get("generation") != generation and (released is None or record["started"] > released + _HAND_OVER):
        foreign = text.clean(str(record.get("generation")), 20)
        status, summary = state.UNKNOWN, f"comes from release {foreign}, current is {generation}; deploy again"
    since = record.get("since")
    return {
        "status": status,
        "summary": summary,
        "age_seconds": round(max(0.0, age), 1),
        "since": since if _is(since, float) else None,
        "overdue_seconds": round(overdue, 1),
        "metrics": _metrics(record.get("metrics")),
    }


def takes_mail(smtp: Mapping[str, Any]) -> bool:
    """Return whether mail is accepted, by the SMTP check. A certificate that ends soon is only a warning; a service
    that has given all slots to senders, and works, takes mail, and so does one with a slow filter."""
    status, metrics = smtp["status"], smtp["metrics"]
    warned = status == state.WARNING and metrics.get("class") == state.OK
    works = 1 in (metrics.get("full"), metrics.get("slow"))
    return bool(status == state.OK or warned or (works and status in (state.WARNING, state.CRITICAL)))


def judge_throttle(throttle: marker.Status, reported: str) -> list[tuple[str, str]]:
    """Return the throttle's problem, unless ``reported``, the status of check-load, is as grave."""
    status = state.OK
    if throttle.held or throttle.wrong:
        status = state.CRITICAL
    elif throttle.throttled:
        status = state.WARNING
    return [(status, throttle.describe())] if state.SEVERITY[status] > state.SEVERITY[reported] else []


def line(health: Mapping[str, Any]) -> str:
    """Return one line for operators; problems come last."""
    load1, oldest, active = health["load1"], health["oldest_result_seconds"], health["maintenance"]
    parts = ["load unknown" if load1 is None else f"load {load1:g}"]
    if not health["throttled"]:
        parts.append("not throttled")
    else:
        owners = ", ".join(lease["owner"] for lease in health["leases"])
        mode = "refusing mail" if health["refusing"] else "accepting mail"
        parts.append(f"{'on hold' if health['held'] else 'throttled'} by {owners} and {mode}")
    if active:
        parts.append(f"maintenance by {text.clean(active['owner'], 32)} for {text.span(active['left_seconds'])} more")
    parts.append("no results" if oldest is None else f"oldest result {text.span(oldest)}")
    if health["queue"] is not None:
        parts.append(f"queue {health['queue']:g}")
    shown = f"{text.clean(health['host'], 64)} {health['status']} " + ", ".join(parts)
    return shown + (": " + "; ".join(health["problems"]) if health["problems"] else "")


def _entry(status: str, summary: str) -> dict[str, Any]:
    return {
        "status": status,
        "summary": summary,
        "age_seconds": None,
        "since": None,
        "overdue_seconds": None,
        "metrics": {},
    }


def _without_lease(check: dict[str, Any]) -> dict[str, Any]:
    """Return the load check's entry when no lease is left: its result about leases is over, live facts are newer."""
    if check["status"] in (state.WARNING, state.CRITICAL) and check["metrics"].get("leases"):
        return {**check, "status": state.OK, "summary": "was throttled; the lease has been given back since"}
    return check


def _maintenance(places: state.Places, now: float) -> dict[str, Any] | None:
    active = maintenance.active(places, now)
    if active is None:
        return None
    return {"owner": active.owner, "reason": active.reason, "left_seconds": round(active.until - now, 1)}


def _metrics(stored: object) -> dict[str, float | str]:
    """Return the finite numbers and short texts of a result's metrics; nothing nested."""
    pairs = list(stored.items())[:MAX_METRICS] if isinstance(stored, dict) else []
    return {
        text.clean(str(name), 64): text.clean(value, 120) if isinstance(value, str) else value
        for name, value in pairs
        if isinstance(value, str) or _is(value, float)
    }


def _is(value: object, kind: type) -> bool:
    """``float`` stands for any finite number that isn't a boolean."""
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and -1e15 < value < 1e15
    return isinstance(value, kind)


def _first_number(path: str) -> float | None:
    try:
        number = float((state.read_bytes(path, 128) or b"").split(None, 1)[0])
    except (OSError, ValueError, IndexError):
        return None
    return number if _is(number, float) else None


def _released(places: state.Places) -> float | None:
    """Return the time when the current release became current (epoch seconds): that of the link itself."""
    try:
        return posix.lstat(places.current).st_mtime
    except OSError:
        return None
