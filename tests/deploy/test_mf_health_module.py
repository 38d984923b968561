"""mf_health: the module on a host in a directory, the action plugin's view of an answer, and that both say the same."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mf import health_record
from mf import state as core_state

from action_plugins import mf_health as plugin
from library import mf_health
from tests.throttle.conftest import Clock, Host

KEYS = [field.name for field in dataclasses.fields(health_record.Health)]
Health = Callable[..., dict[str, Any]]
# the package as Ansible's modules see it
package, state, command = (
    importlib.import_module(f"ansible.module_utils.mf.{name}") for name in ("health", "state", "command.health")
)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    clock = Clock()
    host = Host(tmp_path, clock)
    monkeypatch.setattr(state, "boottime", clock.now)
    monkeypatch.setattr(state, "Places", lambda: host.places)
    monkeypatch.setattr(package.maintenance, "active", lambda *_: None)
    host.settings["checks"]["smtp"] = {"period": 60, "offset": 0, "deadline": 20, "port": 25}
    host.save()
    for name in host.settings["checks"]:
        report(host, name)
    return host


def report(host: Host, name: str, status: str = "OK") -> None:
    result = state.Result(name, status, "as it is", {"count": 1})
    state.write_result(host.places, result, generation="0123456789ab", started=1.7e9, period=60, slack=35)


@pytest.fixture
def health(host: Host, run_module: Callable[..., dict[str, Any]]) -> Health:
    return lambda **options: run_module(mf_health, **options)


def answer(host: Host) -> str:
    """What the host's own /mf/bin/health --json prints."""
    return json.dumps(package.collect(host.places))


def check(**changed: Any) -> dict[str, Any]:
    return {"status": "OK", "summary": "fine", "metrics": {}, **changed}


def record(**changed: Any) -> health_record.Health:
    base = {"status": "OK", "line": "mx1 OK", "throttled": False, "refusing": False, "held": False}
    return health_record.parse({**base, "leases": [], "problems": [], "checks": {}, **changed})


# --- the module


def test_one_line_and_a_status(health: Health) -> None:
    result = health()
    result.pop("invocation", None)
    assert result == {
        "changed": False,
        "door": "module",
        "exit_code": 0,
        "msg": "mx1 OK load 0.1, not throttled, oldest result 0 s",
        "status": "OK",
    }


def test_unhealthy_is_data_unless_asked(host: Host, health: Health) -> None:
    report(host, "smtp", "CRITICAL")
    assert health()["exit_code"] == 0
    assert health()["status"] == "CRITICAL"
    failed = health(fail_at="critical")
    assert failed["failed"]
    assert "smtp CRITICAL: as it is" in failed["msg"]


@pytest.mark.parametrize(
    ("status", "fails_at"),
    [
        ("OK", set()),
        ("WARNING", {"warning"}),
        ("UNKNOWN", {"warning", "unknown"}),
        ("CRITICAL", {"warning", "unknown", "critical"}),
    ],
)
@pytest.mark.parametrize("fail_at", ["never", "warning", "unknown", "critical"])
def test_how_bad_is_too_bad(status: str, fails_at: set[str], fail_at: str) -> None:
    checks = {"smtp": check(status=status), "load": check(status="CRITICAL")}
    health = record(status="CRITICAL", checks=checks)
    assert health.is_at_least(fail_at, ["smtp"]) is (fail_at in fails_at)
    assert record(status=status, checks=checks).is_at_least(fail_at) is (fail_at in fails_at)
    assert health.is_at_least(fail_at, ["queue"]) is (fail_at in {"warning", "unknown"}), "UNKNOWN when missing"


def test_a_broken_command_is_a_problem(health: Health) -> None:
    result = health(broken="/mf/bin/health can't be run", details=True)
    assert result["status"] == "UNKNOWN"
    assert result["problems"] == ["/mf/bin/health can't be run; deploy again with playbooks/site.yml"]
    assert result["msg"].endswith(": /mf/bin/health can't be run; deploy again with playbooks/site.yml")


def test_without_a_tree_that_is_said_once(host: Host, health: Health) -> None:
    Path(host.places.settings).unlink()
    result = health(broken="/mf/bin/health can't be run", details=True)
    assert result["status"] == "UNKNOWN"
    assert len(result["problems"]) == 1
    assert "mf.json is missing; deploy again with playbooks/site.yml" in result["problems"][0]


def test_refresh_runs_the_checks_but_not_in_check_mode(health: Health, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    monkeypatch.setattr(command, "refresh", lambda: ran.append("checks"))
    health(refresh=True, check=True)
    assert ran == []
    health(refresh=True)
    assert ran == ["checks"]


def test_bad_parameters_are_one_clear_line(health: Health) -> None:
    assert health(fail_at="bad")["msg"].startswith("value of fail_at must be one of: never, warning, unknown, critical")


def test_checks_are_those_that_the_host_reports(host: Host, health: Health) -> None:
    host.settings["checks"]["quarantine"] = {"period": 300, "offset": 0, "deadline": 20}
    host.save()
    report(host, "quarantine", "CRITICAL")
    assert "failed" not in health(checks=["load"], fail_at="critical")
    assert health(checks=["quarantine"], fail_at="critical")["failed"]
    for fail_at in ("never", "critical"):
        refused = health(checks=["disk", "load"], fail_at=fail_at)
        assert refused["failed"]
        assert refused["msg"] == "mx1 has no check disk; it has load, quarantine, smtp"
    Path(host.places.settings).unlink()
    assert "failed" not in health(checks=["disk"])
    assert health(checks=["disk"], fail_at="unknown")["failed"]


# --- the action plugin


@pytest.mark.parametrize("status", ["OK", "WARNING", "CRITICAL", "UNKNOWN"])
def test_both_doors_say_the_same(host: Host, health: Health, status: str) -> None:
    report(host, "smtp", status)
    fast = plugin.understand(answer(host), core_state.EXIT_CODES[status]).as_json()
    slow = health(details=True)
    for key in ("changed", "door", "exit_code", "invocation"):
        slow.pop(key, None)
    fast["msg"] = fast.pop("line")
    assert fast == slow


def test_options_are_the_same_at_both_doors() -> None:
    assert {key: value for key, value in mf_health.ARGUMENTS.items() if key != "broken"} == plugin.ARGUMENTS


def test_unknown_keys_do_not_pass(host: Host) -> None:
    extended_health = {
        **json.loads(answer(host)),
        "ansible_facts": {"x": 1},
        "failed": True,
        "_ansible_verbose_always": True,
    }
    assert set(plugin.understand(json.dumps(extended_health), 0).as_json()) == set(json.loads(answer(host)))


@pytest.mark.parametrize("code", [126, 127])
def test_a_command_that_is_not_there(code: int) -> None:
    with pytest.raises(plugin.NotUnderstoodError, match="can't be run"):
        plugin.understand("sh: 1: /mf/bin/health: not found", code)


@pytest.mark.parametrize(
    "garbled",
    [
        "",
        "null",
        "[]",
        "{}",
        "7",
        "{",
        "[" * 100_000,
        "x" * 300_000,
        'Warning: something\n{"status": "OK"}',
        '{"status": "OK", "line": "mx1 OK"}',
    ],
    ids=lambda text: text[:12],
)
def test_what_is_no_answer(garbled: str) -> None:
    with pytest.raises(plugin.NotUnderstoodError):
        plugin.understand(garbled, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"status": "FINE"},
        {"status": "WARNING"},  # but exit code 0
        {"status": None},
        {"line": 1},
        {"load1": True},
        {"load1": float("nan")},
        {"throttled": 0},
        {"problems": [1]},
        {"checks": {"smtp": {"status": "OK"}}},
        {"checks": {"{{ lookup('pipe', 'id') }}": {}}},
        {"leases": ["operator"]},
        {"maintenance": {"owner": "x"}},
    ],
    ids=str,
)
def test_an_answer_of_another_shape(host: Host, change: dict[str, Any]) -> None:
    with pytest.raises(plugin.NotUnderstoodError):
        plugin.understand(json.dumps({**json.loads(answer(host)), **change}), 0)


def test_hostile_text_is_cut_and_made_printable(host: Host) -> None:
    lease = {"owner": "o" * 500, "reason": "\u202e", "refuse": True, "held_seconds": 1, "left_seconds": None}
    hostile: dict[str, Any] = {
        "line": "mx1 OK\x1b[2J\nmx2 OK",
        "problems": ["\x07" + "x" * 500] * 200,
        "leases": [lease] * 100,
        "checks": {"smtp": check(summary="\r\n" + "x" * 5000, metrics={"a\nb": "\x1b"})},
    }
    health = plugin.understand(json.dumps({**json.loads(answer(host)), **hostile}), 0)
    assert health.line == r"mx1 OK\x1b[2J\nmx2 OK"
    assert len(health.problems) <= 50
    assert len(health.leases) <= 20
    assert health.checks["smtp"].metrics == {r"a\nb": r"\x1b"}
    texts = [*health.problems, health.checks["smtp"].summary, health.leases[0].owner, health.leases[0].reason]
    assert all(text.isprintable() and text.isascii() and len(text) <= 400 for text in texts)


def test_what_is_clean_stays_as_it_is() -> None:
    health = record(problems=[r"smtp CRITICAL: down\x1b[2J\nx"], checks={"smtp": check(summary=r"a\nb")})
    assert health_record.parse(health.as_json()) == health
    assert health.problems == [r"smtp CRITICAL: down\x1b[2J\nx"]


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(KEYS), json_values), st.integers(0, 255))
def test_malformed_health_of_a_host_does_not_crash_it(changes: dict[str, Any], code: int) -> None:
    with contextlib.suppress(plugin.NotUnderstoodError):
        plugin.understand(json.dumps({**record().as_json(), **changes}), code)


def test_a_refreshed_result_is_newer_than_the_request() -> None:
    ages = record(checks={"smtp": check(age_seconds=4.0), "load": check(age_seconds=None)})
    assert plugin.is_fresh(ages, 3.5)
    assert not plugin.is_fresh(ages, 2.5)


def test_both_doors_refuse_a_check_that_the_host_lacks(host: Host, health: Health) -> None:
    task = MagicMock(args={"checks": ["disk"], "details": True}, async_val=0, check_mode=False)
    action = plugin.ActionModule(task, MagicMock(), MagicMock(), MagicMock(), MagicMock(), MagicMock())
    command = {"stdout": answer(host), "rc": 0}
    with patch.object(plugin.ActionModule, "_low_level_execute_command", return_value=command):
        fast = action.run(task_vars={})
    slow = health(checks=["disk"], details=True)
    assert (
        (fast["failed"], fast["msg"])
        == (slow["failed"], slow["msg"])
        == (True, "mx1 has no check disk; it has load, smtp")
    )


def test_one_odd_check_or_figure_hides_nothing_else() -> None:
    check = {"status": "OK", "summary": "fine", "age_seconds": 1, "since": None, "overdue_seconds": None}
    metrics = {"load1": 0.5, "huge": 1e300, "nested": [], "word": "ok"}
    health = record(checks={"my-check/x": {**check, "metrics": metrics}, "load": {**check, "metrics": {}}})
    assert list(health.checks) == ["my_check_x", "load"]
    assert health.checks["my_check_x"].metrics == {"load1": 0.5, "word": "ok"}
