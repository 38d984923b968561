"""A reading of a host's health, as results of its checks and of its health."""

from __future__ import annotations

from typing import Any

import pytest
from mf import health_record
from mf_monitor.judging import health
from mf_monitor.judging.states import DOWN, UP, WARNING

from tests.monitor import samples


def reading(record: dict[str, Any] | None) -> health.Reading:
    parsed = None if record is None else health_record.parse(record)
    return health.Reading("control1", 99.0, 100.0, parsed, "no")


def test_vital_checks_are_subjects_of_their_own_and_bad_when_they_are_not_known() -> None:
    record = samples.health_record("control1", "control", 0.0)
    record["checks"]["backup"]["status"] = "UNKNOWN"
    by_subject = {result.subject: result.state for result in health.results(reading(record), ("backup",), ())}
    assert by_subject == {"control1/check-backup": DOWN, "control1/health": WARNING}
    (unread,) = health.results(reading(None), ("backup",), ("backup",))
    assert (unread.subject, unread.state, unread.reason) == ("control1/health", WARNING, "unread")


@pytest.mark.parametrize(
    ("status", "metrics", "state"),
    [
        ("CRITICAL", {"mx": 3, "overdue": 3}, DOWN),
        ("CRITICAL", {"mx": 3, "overdue": 2}, WARNING),
        ("CRITICAL", {"mx": 0, "overdue": 0}, WARNING),
        ("CRITICAL", {"mx": "3", "overdue": True}, WARNING),
        ("CRITICAL", {"mx": 3, "overdue": 0, "delivered": 1}, DOWN),
        ("UNKNOWN", {}, DOWN),
        ("WARNING", {"mx": 3, "overdue": 0}, WARNING),
        ("OK", {"mx": 3, "overdue": 0}, UP),
    ],
)
def test_canaries_are_urgent_when_all_of_them_are_overdue(status: str, metrics: dict[str, Any], state: str) -> None:
    record = samples.health_record("control1", "control", 0.0)
    record["checks"]["canary"] = {**record["checks"]["backup"], "status": status, "metrics": metrics}
    by_subject = {result.subject: result.state for result in health.results(reading(record), ("canary",), ())}
    assert by_subject["control1/check-canary"] == state


def test_a_host_that_does_not_know_its_checks_is_not_well() -> None:
    record = samples.health_record("control1", "control", 0.0)
    lost = {**record, "checks": {}, "status": "UNKNOWN", "problems": ["/mf/etc/mf.json is damaged"]}
    results = {result.subject: result for result in health.results(reading(lost), ("backup",), ("backup",))}
    assert {name: result.state for name, result in results.items()} == {
        "control1/check-backup": DOWN,
        "control1/health": WARNING,
    }
    assert all("mf.json is damaged" in result.message for result in results.values())
    del record["checks"]["backup"]
    results = {result.subject: result for result in health.results(reading(record), ("backup",), ("backup",))}
    assert {name: result.state for name, result in results.items()} == {
        "control1/check-backup": WARNING,
        "control1/health": UP,
    }
    wrong = {**record, "status": "CRITICAL", "throttled": True, "problems": ["throttled, but NOT refusing new mail"]}
    assert health.results(reading(wrong), (), ())[-1].state == DOWN
    plain = {**record, "status": "WARNING", "throttled": True, "problems": ["throttled, accepting mail"]}
    assert health.results(reading(plain), (), ())[-1].state == UP
