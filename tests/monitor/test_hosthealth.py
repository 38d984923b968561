"""Health of hosts, read through ssh: checked and cleaned."""

from __future__ import annotations

import json

import pytest
from mf_monitor import settings
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


def test_the_ssh_command_uses_nothing_but_its_options() -> None:
    access = settings.HealthAccess("mf-health", "/key", "/known", "/run/x")
    message = hosthealth.command(access, samples.settings().hosts[1], keep=True, limit=10)
    assert message[:3] == ["/usr/bin/ssh", "-F", "none"]
    assert {"StrictHostKeyChecking=yes", "KexAlgorithms=^curve25519-sha256"} <= set(message)
    assert message[-3:] == ["--", "mf-health@192.0.2.11", "health"]
