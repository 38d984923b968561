"""Health of hosts, read through ssh: checked, cleaned, and made results."""

from __future__ import annotations

import json
from typing import Any

import pytest
from mf import health_record
from mf_monitor import settings
from mf_monitor.judging.states import DOWN, UP, WARNING
from mf_monitor.probing import hosthealth

from tests.monitor import samples

WHOLE = (
    b'{"status": "OK", "throttled": false, "refusing": false, "leases": [], "problems": [], "checks": {}, '
    b'"held": false, "line": "", "maintenance": null}'
)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"[" * 100000,
        b'{"status": "OK"}',
        WHOLE.replace(b'"OK"', b'"FINE"'),
        WHOLE.replace(b'"checks": {}', b'"checks": {"x": 1}'),
        WHOLE.replace(b"null", b"1"),
        WHOLE.replace(b"{", b'{"queue": 1e300, ', 1),
        WHOLE.replace(b"{", b'{"queue": true, ', 1),
        WHOLE + b" " * 300_000,
    ],
)
def test_health_that_is_none_is_refused(data: bytes) -> None:
    assert hosthealth.parse(data) is None


def test_health_that_is_whole_is_taken() -> None:
    assert hosthealth.parse(WHOLE) is not None


def test_health_is_cleaned() -> None:

    record = samples.health_record("mx1", "mx", 0.0, problems=["\x1b[2J<b>"])
    record["checks"]["load"]["summary"] = "\x1b]0;title\x07" + "x" * 10000
    record["unexpected"] = {"deep": [1] * 1000}
    parsed = hosthealth.parse(json.dumps(record).encode())
    assert parsed is not None
    assert "\x1b" not in json.dumps(parsed.as_json()).encode().decode("unicode_escape")
    assert "unexpected" not in parsed.as_json()


def reading(record: dict[str, Any] | None) -> hosthealth.Reading:
    health = None if record is None else health_record.parse(record)
    return hosthealth.Reading("control1", 99.0, 100.0, health, "no")


def test_vital_checks_are_subjects_of_their_own_and_bad_when_they_are_not_known() -> None:
    record = samples.health_record("control1", "control", 0.0)
    record["checks"]["backup"]["status"] = "UNKNOWN"
    by_subject = {result.subject: result.state for result in hosthealth.results(reading(record), ("backup",), ())}
    assert by_subject == {"control1/check-backup": DOWN, "control1/health": WARNING}
    (unread,) = hosthealth.results(reading(None), ("backup",), ("backup",))
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
    by_subject = {result.subject: result.state for result in hosthealth.results(reading(record), ("canary",), ())}
    assert by_subject["control1/check-canary"] == state


def test_a_host_that_does_not_know_its_checks_is_not_well() -> None:
    record = samples.health_record("control1", "control", 0.0)
    lost = {**record, "checks": {}, "status": "UNKNOWN", "problems": ["/mf/etc/mf.json is damaged"]}
    results = {result.subject: result for result in hosthealth.results(reading(lost), ("backup",), ("backup",))}
    assert {name: result.state for name, result in results.items()} == {
        "control1/check-backup": DOWN,
        "control1/health": WARNING,
    }
    assert all("mf.json is damaged" in result.message for result in results.values())
    del record["checks"]["backup"]
    results = {result.subject: result for result in hosthealth.results(reading(record), ("backup",), ("backup",))}
    assert {name: result.state for name, result in results.items()} == {
        "control1/check-backup": WARNING,
        "control1/health": UP,
    }
    wrong = {**record, "status": "CRITICAL", "throttled": True, "problems": ["throttled, but NOT refusing new mail"]}
    assert hosthealth.results(reading(wrong), (), ())[-1].state == DOWN
    plain = {**record, "status": "WARNING", "throttled": True, "problems": ["throttled, accepting mail"]}
    assert hosthealth.results(reading(plain), (), ())[-1].state == UP


def test_the_ssh_command_uses_nothing_but_its_options() -> None:
    access = settings.HealthAccess("mf-health", "/key", "/known", "/run/x")
    message = hosthealth.command(access, samples.settings().hosts[1], keep=True, limit=10)
    assert message[:3] == ["/usr/bin/ssh", "-F", "none"]
    assert {"StrictHostKeyChecking=yes", "KexAlgorithms=^curve25519-sha256"} <= set(message)
    assert message[-3:] == ["--", "mf-health@192.0.2.11", "health"]
