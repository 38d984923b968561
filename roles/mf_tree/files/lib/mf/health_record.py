"""The health of a host as its readers have it: dataclasses, and their one parser.

``health.collect``, ``/mf/bin/health --json`` and the module mf_health answer with a JSON object; the action plugins,
the monitor and mf_report read it with ``decode`` or ``parse``. The object::

    {"host": "mx1", "type": "mx",
     "status": "OK",                  OK WARNING CRITICAL UNKNOWN: the most urgent of checks and live facts
     "line": "mx1 OK load 0.3, not throttled, oldest result 34 s, queue 0",
     "load1": 0.3,                    null when unreadable
     "uptime_seconds": 8123.4,        null when unreadable
     "throttled": false,              any valid lease
     "refusing": false,               new SMTP connections are really refused
     "held": false,                   a lease without an end
     "leases": [{"owner", "reason", "refuse", "held_seconds", "left_seconds" (null: a hold)}],
     "maintenance": null,             or {"owner", "reason", "left_seconds"}
     "oldest_result_seconds": 34.2,   age of the oldest result of an expected check; null without any
     "queue": 0,                      messages waiting behind qpsmtpd; null when unknown or not an MX
     "accepting": true,               SMTP result fresh, its dialogue good or all slots taken, not refusing; null
                                      without SMTP
     "problems": ["smtp CRITICAL: ..."],
     "checks": {"smtp": {"status", "summary", "age_seconds", "since" (epoch s), "overdue_seconds", "metrics"}},
     "generation": "0123456789ab",    of the settings; "" when unreadable
     "version": "0.1.0"}

An answer is hostile until it is parsed: its size and the length of lists are bounded, texts are cut and made printable,
unknown keys are dropped, and whatever has another shape is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

from . import state, text
from .health import MAX_METRICS
from .maintenance import MAX_TTL

MAX_BYTES = 256 * 1024  # of an answer
MAX_CHECKS = 50
MAX_LEASES = 20
MAX_PROBLEMS = 50


class HealthRecordError(Exception):
    """An answer is no health record. The text completes "the answer …", on one line."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease of the throttle; ``left_seconds`` is None for a hold."""

    owner: str
    reason: str
    refuse: bool
    held_seconds: float
    left_seconds: float | None


@dataclass(frozen=True, slots=True)
class Maintenance:
    """Maintenance that is on."""

    owner: str
    reason: str
    left_seconds: float


@dataclass(frozen=True, slots=True)
class Check:
    """The last result of a check; ``since`` in epoch seconds, ``metrics`` flat."""

    status: str
    summary: str
    age_seconds: float | None
    since: float | None
    overdue_seconds: float | None
    metrics: Mapping[str, float | str]

    def metric(self, name: str) -> float | None:
        """A metric that is a number."""
        value = self.metrics.get(name)
        return None if isinstance(value, (str, bool)) else value


@dataclass(frozen=True, slots=True)
class Health:
    """The health of a host; see the module's text for meanings and units."""

    host: str
    type: str
    status: str
    line: str
    load1: float | None
    uptime_seconds: float | None
    throttled: bool
    refusing: bool
    held: bool
    leases: Sequence[Lease]
    maintenance: Maintenance | None
    oldest_result_seconds: float | None
    queue: float | None
    accepting: bool | None
    problems: Sequence[str]
    checks: Mapping[str, Check]
    generation: str
    version: str

    def as_json(self) -> dict[str, Any]:
        """The JSON object described above."""
        return asdict(self)

    def without_check(self, names: Sequence[str] | None) -> str:
        """Error message for checks that the host doesn't have; empty when it has them all.

        A host that reports no check at all is broken; there a check is UNKNOWN.
        """
        missing = sorted(set(names or ()) - set(self.checks))
        if not (missing and self.checks):
            return ""
        return f"{self.host} has no check {', '.join(missing)}; it has {', '.join(sorted(self.checks))}"

    def is_at_least(self, fail_at: str, checks: Sequence[str] | None = None) -> bool:
        """Whether the host is as bad as ``fail_at`` (never warning unknown critical), or worse.

        With ``checks`` only those count; a check that the host doesn't have is UNKNOWN.
        """
        if fail_at == "never":
            return False
        statuses = [self.checks[name].status if name in self.checks else state.UNKNOWN for name in checks or ()]
        return state.SEVERITY[state.worst(statuses or [self.status])] >= state.SEVERITY[fail_at.upper()]


def decode(data: str | bytes) -> Health:
    """The record in an answer of ``health --json``. Raises HealthRecordError."""
    if len(data) > MAX_BYTES:
        raise HealthRecordError("is too long")
    try:
        answer = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise HealthRecordError("is not JSON") from None
    return parse(answer)


def parse(answer: object) -> Health:
    """The record in a decoded JSON object. A missing number or name is not known. Raises HealthRecordError."""
    record = _object(answer, "the record")
    maintenance = record.get("maintenance")
    return Health(
        host=_text(record, "host", 64, ""),
        type=_text(record, "type", 20, ""),
        status=_status(record),
        line=_text(record, "line", 2000),
        load1=_number(record, "load1"),
        uptime_seconds=_number(record, "uptime_seconds"),
        throttled=_flag(record, "throttled"),
        refusing=_flag(record, "refusing"),
        held=_flag(record, "held"),
        leases=[_lease(_object(lease, "lease")) for lease in _list(record, "leases")[:MAX_LEASES]],
        maintenance=None if maintenance is None else _maintenance(_object(maintenance, "maintenance")),
        oldest_result_seconds=_number(record, "oldest_result_seconds"),
        queue=_number(record, "queue"),
        accepting=None if record.get("accepting") is None else _flag(record, "accepting"),
        problems=[_text({"problem": each}, "problem", 400) for each in _list(record, "problems")[:MAX_PROBLEMS]],
        checks=_checks(_object(record.get("checks"), "checks")),
        generation=_text(record, "generation", 64, ""),
        version=_text(record, "version", 20, ""),
    )


def _lease(lease: Mapping[str, object]) -> Lease:
    return Lease(
        owner=_text(lease, "owner", 32),
        reason=_text(lease, "reason", 120),
        refuse=_flag(lease, "refuse"),
        held_seconds=_needed(lease, "held_seconds"),
        left_seconds=_number(lease, "left_seconds"),
    )


def _maintenance(entry: Mapping[str, object]) -> Maintenance:
    left = min(max(0.0, _needed(entry, "left_seconds")), MAX_TTL)
    return Maintenance(_text(entry, "owner", 32), _text(entry, "reason", 120), left)


def _checks(entries: Mapping[str, object]) -> dict[str, Check]:
    checks = {}
    for name, value in list(entries.items())[:MAX_CHECKS]:
        # one odd name or figure hides nothing else that the host reports
        plain = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in name[:32])
        check = _object(value, plain)
        metrics = _object(check.get("metrics"), "metrics")
        checks[plain] = Check(
            status=_status(check),
            summary=_text(check, "summary", 300),
            age_seconds=_number(check, "age_seconds"),
            since=_number(check, "since"),
            overdue_seconds=_number(check, "overdue_seconds"),
            metrics={
                _clean(key, 64): figure
                for key in list(metrics)[:MAX_METRICS]
                if (figure := _metric(metrics, key)) is not None
            },
        )
    return checks


def _metric(metrics: Mapping[str, object], key: str) -> float | str | None:
    """A figure or a word; None for what is neither."""
    value = metrics[key]
    if isinstance(value, str):
        return _clean(value, 120)
    if isinstance(value, bool):
        return value
    try:
        return _number(metrics, key)
    except HealthRecordError:
        return None


def _object(value: object, what: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise HealthRecordError(f"has no proper {what}")
    return value


def _list(holder: Mapping[str, object], key: str) -> list[object]:
    value = holder.get(key)
    if not isinstance(value, list):
        raise HealthRecordError(f"has no proper {key}")
    return value


def _text(holder: Mapping[str, object], key: str, limit: int, missing: str | None = None) -> str:
    value = holder.get(key, missing)
    if not isinstance(value, str):
        raise HealthRecordError(f"has no proper {text.clean(key, 32)}")
    return _clean(value, limit)


def _clean(value: str, limit: int) -> str:
    """The text itself when it is safe to show already; it may have been cleaned on its host."""
    safe = len(value) <= limit and value.isascii() and value.isprintable()
    return value if safe else text.clean(value, limit)


def _status(holder: Mapping[str, object]) -> str:
    status = holder.get("status")
    if not isinstance(status, str) or status not in state.SEVERITY:
        raise HealthRecordError("has an unknown status")
    return status


def _flag(holder: Mapping[str, object], key: str) -> bool:
    value = holder.get(key)
    if not isinstance(value, bool):
        raise HealthRecordError(f"has no proper {key}")
    return value


def _number(holder: Mapping[str, object], key: str) -> float | None:
    value = holder.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -1e15 < value < 1e15:
        raise HealthRecordError(f"has no proper {text.clean(key, 32)}")
    return value


def _needed(holder: Mapping[str, object], key: str) -> float:
    value = _number(holder, key)
    if value is None:
        raise HealthRecordError(f"has no proper {text.clean(key, 32)}")
    return value


def _refuse_constant(name: str) -> NoReturn:
    """NaN and Infinity are no JSON."""
    raise ValueError(name)
