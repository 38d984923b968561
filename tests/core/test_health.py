"""Health: freshness, damage, the line, and that it never raises."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mf import config, decisions, health, health_record, maintenance, state
from mf.command import health as command
from mf.throttle import control, firewall

from tests.throttle.conftest import Clock, Host

_refresh = command.refresh
GENERATION = "0123456789ab"
KEYS = [
    "host",
    "type",
    "status",
    "line",
    "load1",
    "uptime_seconds",
    "throttled",
    "refusing",
    "held",
    "leases",
    "maintenance",
    "oldest_result_seconds",
    "queue",
    "accepting",
    "problems",
    "checks",
    "generation",
    "version",
]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    clock = Clock()
    monkeypatch.setattr(state, "boottime", clock.now)
    host = Host(tmp_path, clock)
    monkeypatch.setattr(firewall, "_run", host.kernel.run)
    monkeypatch.setattr(decisions, "JOURNAL", str(tmp_path / "journal"))
    every = {"period": 60, "offset": 0, "deadline": 20}
    host.settings["checks"]["smtp"] = {**every, "port": 25}
    host.settings["checks"]["queue"] = every
    host.save()
    for name in host.settings["checks"]:
        report(host, name)
    host.set_load(0.3)
    return host


def collect(host: Host) -> dict[str, Any]:
    record = health.collect(host.places)
    assert health_record.parse(record).as_json() == record  # what a host writes is what its readers expect
    return record


def report(host: Host, name: str, status: str = state.OK, summary: str = "fine", **metrics: float) -> None:
    if name == "queue":
        metrics = {"messages": 0, **metrics}
    result = state.Result(name, status, summary, metrics)
    state.write_result(host.places, result, generation=GENERATION, started=1.7e9, period=60, slack=35)


def result_of(host: Host, name: str) -> Path:
    return Path(host.places.results) / f"{name}.json"


def test_a_healthy_host(host: Host) -> None:
    host.clock.sleep(34)
    record = collect(host)
    assert list(record) == KEYS
    assert record["line"] == "mx1 OK load 0.3, not throttled, oldest result 34 s, queue 0"
    assert (record["status"], record["problems"], record["accepting"]) == ("OK", [], True)
    assert record["checks"]["smtp"]["age_seconds"] == 34
    json.dumps(record, allow_nan=False)


def test_past_its_due_time_it_is_unknown_however_good_it_was(host: Host) -> None:
    host.clock.sleep(94)
    assert collect(host)["status"] == "OK"
    host.clock.sleep(2)
    record = collect(host)
    assert record["status"] == "UNKNOWN"
    assert record["accepting"] is False
    assert "smtp UNKNOWN: last ran 2 min ago, then OK; is cron running?" in record["problems"]
    assert record["checks"]["smtp"]["overdue_seconds"] == 1


@pytest.mark.parametrize("step", [-86400, 86400])
def test_the_wall_clock_does_not_matter(host: Host, monkeypatch: pytest.MonkeyPatch, step: float) -> None:
    monkeypatch.setattr("time.time", lambda: 1.7e9 + step)
    host.clock.sleep(34)
    assert collect(host)["oldest_result_seconds"] == 34


def test_never_ran(host: Host) -> None:
    result_of(host, "smtp").unlink()
    record = collect(host)
    assert record["status"] == "UNKNOWN"
    assert record["problems"] == ["smtp UNKNOWN: never ran since the last boot; is cron running?"]


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"null", b'{"status": "OK"}', b"\xff" * 100, b"[" * 200000, b'{"a":' * 50000, b"x" * (1 << 20)],
)
def test_garbage(host: Host, data: bytes) -> None:
    result_of(host, "smtp").write_bytes(data)
    record = collect(host)
    assert record["checks"]["smtp"]["status"] == "UNKNOWN"
    assert record["accepting"] is False


def test_anything_but_a_plain_file_is_no_marker(host: Host) -> None:
    path = result_of(host, "smtp")
    path.unlink()
    os.mkfifo(path)
    assert "not a plain file" in collect(host)["problems"][0]


@pytest.mark.parametrize(
    "change",
    [
        {"status": "FINE"},
        {"next_due_boottime": 5e8},
        {"next_due": 1.0},
        {"next_due": 5e14},
        {"finished": None},
        {"finished": "x"},
        {"summary": 7},
        {"next_due_boottime": True},
    ],
)
def test_implausible(host: Host, change: dict[str, Any]) -> None:
    path = result_of(host, "smtp")
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert collect(host)["checks"]["smtp"]["status"] == "UNKNOWN"


records = st.fixed_dictionaries(
    {
        key: st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=9) | st.lists(st.none()) | value
        for key, value in {
            "status": st.sampled_from(["OK", "CRITICAL"]),
            "summary": st.text(),
            "metrics": st.dictionaries(st.text(max_size=5), st.none() | st.floats()),
            "since": st.just(1.7e9),
            "started": st.just(1.7e9),
            "finished": st.just(1.7e9),
            "next_due": st.just(1.7e9 + 95),
            "next_due_boottime": st.just(5090.0),
            "generation": st.just(GENERATION),
        }.items()
    }
)


@settings(max_examples=500)
@given(records)
def test_hostile_results(record: dict[str, Any]) -> None:
    verdict = health.judge(record, GENERATION, 5000.0)
    assert verdict["status"] in state.SEVERITY
    assert verdict["summary"].isprintable()
    assert verdict["summary"].isascii()
    assert all(isinstance(value, (int, float, str)) for value in verdict["metrics"].values())
    assert json.loads(state.encode(verdict)) == json.loads(json.dumps(verdict, allow_nan=False))


def test_another_release(host: Host) -> None:
    host.settings["generation"] = "ffffffffffff"
    host.save()
    assert "comes from release 0123456789ab" in collect(host)["problems"][0]


def test_a_deploy_a_moment_ago_is_no_alarm(host: Host) -> None:
    host.settings["generation"] = "ffffffffffff"
    host.save()
    current = Path(host.places.current)
    current.symlink_to("releases/ffffffffffff")
    # results that were there before the release are good until the next run is due
    assert collect(host)["status"] == "OK"
    # those of an old release that goes on running afterwards are not
    os.utime(current, (1.7e9 - 100, 1.7e9 - 100), follow_symlinks=False)
    assert collect(host)["status"] == "UNKNOWN"


def test_the_worst_comes_first_and_hostile_text_is_tamed(host: Host) -> None:
    report(host, "load", state.WARNING, "warm")
    report(host, "smtp", state.CRITICAL, "down\x1b[2J\nx")
    record = collect(host)
    assert record["status"] == "CRITICAL"
    assert record["problems"] == [r"smtp CRITICAL: down\x1b[2J\nx", "load WARNING: warm"]
    assert record["line"].isprintable()


def test_throttled_by_an_operator(host: Host) -> None:
    control.Control(host.places, host.settings).on("operator", "disk swap", 900)
    record = collect(host)
    assert (record["status"], record["throttled"], record["refusing"], record["accepting"]) == (
        "WARNING",
        True,
        True,
        False,
    )
    assert record["leases"] == [
        {"owner": "operator", "reason": "disk swap", "refuse": True, "held_seconds": 0.0, "left_seconds": 900.0}
    ]
    assert "throttled by operator and refusing mail" in record["line"]
    assert record["problems"] == ["throttled, refusing new mail: operator (disk swap, 15 min left)"]


def test_a_hold_is_critical(host: Host) -> None:
    control.Control(host.places, host.settings).on("deploy", "gate", None)
    record = collect(host)
    assert (record["status"], record["held"]) == ("CRITICAL", True)
    assert "on hold by deploy" in record["line"]
    report(host, "load", state.CRITICAL, "throttled: deploy", leases=1)
    assert len(collect(host)["problems"]) == 1


def test_a_lease_given_back_is_not_held_against_the_host_until_the_next_check(host: Host) -> None:
    report(host, "load", state.CRITICAL, "throttled: deploy", leases=1)
    assert collect(host)["status"] == "OK"
    report(host, "load", state.CRITICAL, "something else", leases=0)
    assert collect(host)["status"] == "CRITICAL"


def test_a_lost_marker_is_no_lease_given_back(host: Host) -> None:
    throttle = control.Control(host.places, host.settings)
    throttle.on("load", "load 9", 300)
    report(host, "load", state.CRITICAL, "throttled: load", leases=1)
    host.marker.unlink()
    record = collect(host)
    assert (record["status"], record["accepting"]) == ("CRITICAL", False)
    assert "the marker of the throttle is lost, it was refusing; run throttle reconcile" in record["problems"]
    throttle.reconcile()
    assert collect(host)["status"] == "OK"


def test_a_lost_marker_is_seen_before_the_next_check(host: Host) -> None:
    control.Control(host.places, host.settings).on("operator", "", 300, refuse=False)
    host.marker.write_bytes(b"{")
    record = collect(host)
    assert (record["status"], record["accepting"]) == ("UNKNOWN", True)


def test_refusal_that_is_not_in_force_is_critical(host: Host) -> None:
    host.kernel.broken = firewall.FirewallError("no nft")
    control.Control(host.places, host.settings).on("operator", "", 900)
    record = collect(host)
    assert (record["status"], record["refusing"], record["accepting"]) == ("CRITICAL", False, True)


def test_maintenance_is_shown_and_no_problem(host: Host) -> None:
    maintenance.on(host.places, "operator", "disk", 3600)
    record = collect(host)
    assert record["status"] == "OK"
    assert record["maintenance"] == {"owner": "operator", "reason": "disk", "left_seconds": 3600.0}
    assert "maintenance by operator for 60 min more" in record["line"]


def test_a_host_without_smtp(host: Host) -> None:
    del host.settings["checks"]["smtp"], host.settings["checks"]["queue"]
    host.save()
    record = collect(host)
    assert (record["accepting"], record["queue"], record["status"]) == (None, None, "OK")
    assert "queue" not in record["line"]


def wreck_nothing(host: Host) -> None:
    for path in sorted(host.root.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def wreck_settings(host: Host) -> None:
    Path(host.places.settings).write_bytes(Path(host.places.settings).read_bytes()[:100])


def wreck_settings_folder(host: Host) -> None:
    Path(host.places.settings).unlink()
    Path(host.places.settings).mkdir()


def wreck_settings_types(host: Host) -> None:
    host.settings["checks"] = ["load"]
    host.save()


def wreck_proc(host: Host) -> None:
    (host.root / "proc/loadavg").unlink()
    (host.root / "proc/uptime").write_text("x")


def wreck_load(host: Host) -> None:
    (host.root / "proc/loadavg").write_text("nan 0.2 0.1 1/100 4242\n")


@pytest.mark.parametrize(
    ("wreck", "expected"),
    [
        (wreck_nothing, "mf.json is missing; deploy again"),
        (wreck_settings, "not a whole JSON object"),
        (wreck_settings_folder, "can't be read"),
        (wreck_settings_types, "checks must be an object"),
        (wreck_proc, "loadavg can't be read"),
        (wreck_load, "loadavg can't be read"),
    ],
)
def test_a_broken_host_is_reported_without_an_exception(host: Host, wreck: Any, expected: str) -> None:
    wreck(host)
    record = collect(host)
    assert list(record) == KEYS
    assert record["status"] == "UNKNOWN"
    assert any(expected in problem for problem in record["problems"])
    assert "UNKNOWN" in record["line"]


def test_command(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([], host.places) == 0
    assert capsys.readouterr().out == "mx1 OK load 0.3, not throttled, oldest result 0 s, queue 0\n"
    assert command.main(["--json"], host.places) == 0
    assert list(json.loads(capsys.readouterr().out)) == KEYS
    report(host, "smtp", state.CRITICAL, "down")
    assert command.main([], host.places) == 2
    assert command.main(["--help"], host.places) == 0
    capsys.readouterr()
    assert command.main(["--surprise"], host.places) == 3
    assert capsys.readouterr().err == "health: unknown argument '--surprise'; see health --help\n"


def test_refresh_runs_the_checks_first(
    host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "run-checks"
    script.write_text(f'#!/bin/sh\necho noise; echo "$@" > {tmp_path}/called; exit 2\n')
    script.chmod(0o755)
    monkeypatch.setattr(command, "refresh", lambda: _refresh(str(script)))
    assert command.main(["--refresh"], host.places) == 0
    assert (tmp_path / "called").read_text() == "--all\n"
    assert "noise" not in capsys.readouterr().out
    _refresh(str(tmp_path / "none"))
    assert "can't be run" in capsys.readouterr().err


def test_settings_error_is_the_same_behind_both_doors(host: Host) -> None:
    wreck_settings(host)
    with pytest.raises(config.SettingsError) as error:
        config.load(host.places)
    assert str(error.value) in collect(host)["problems"]


def takes_mail(status: str, metrics: dict[str, float | str]) -> bool:
    return health.takes_mail({"status": status, "metrics": metrics})


@pytest.mark.parametrize("reason", ["full", "slow"])
def test_a_busy_mx_takes_mail_if_its_slots_are_taken_or_its_filter_is_slow(reason: str) -> None:
    busy: dict[str, float | str] = {"class": "BUSY", reason: 1}
    assert takes_mail(state.WARNING, busy)
    assert takes_mail(state.CRITICAL, busy)
    assert not takes_mail(state.UNKNOWN, busy)


@pytest.mark.parametrize(
    ("status", "kind", "accepting"),
    [
        (state.OK, "OK", True),
        (state.WARNING, "OK", True),  # the certificate ends soon
        (state.WARNING, "BUSY", False),
        (state.CRITICAL, "OK", False),  # STARTTLS is broken
        (state.UNKNOWN, "OK", False),
    ],
)
def test_mail_is_taken_when_the_dialogue_was_good(status: str, kind: str, accepting: bool) -> None:
    assert takes_mail(status, {"class": kind}) is accepting
