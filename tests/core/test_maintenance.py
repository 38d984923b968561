"""Maintenance: expiry, reboot, a deploy that comes in between, hostile markers."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mf import claims, decisions, maintenance, state
from mf.command import maintenance as command

from tests.throttle.conftest import Clock, Host


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    clock = Clock()
    monkeypatch.setattr(state, "boottime", clock.now)
    monkeypatch.setattr("time.time", clock.epoch)
    monkeypatch.setattr(decisions, "JOURNAL", str(tmp_path / "journal"))
    return Host(tmp_path, clock)


def run(host: Host, *arguments: str) -> int:
    try:
        return command.main(list(arguments), host.places)
    except SystemExit as ended:
        return int(str(ended.code))


def test_on_expiry_off(host: Host) -> None:
    assert maintenance.active(host.places) is None
    maintenance.on(host.places, "operator", "disk", 3600)
    assert maintenance.active(host.places) == maintenance.Maintenance("operator", "disk", 5000.0, 8600.0)
    host.clock.sleep(3600)
    assert maintenance.active(host.places) is None
    maintenance.on(host.places, "operator", "disk", 3600)
    assert maintenance.off(host.places)
    assert maintenance.active(host.places) is None
    assert not maintenance.off(host.places)
    assert [entry["action"] for entry in host.decisions()] == ["begin", "begin", "end"]


def test_reboot(host: Host) -> None:
    maintenance.on(host.places, "operator", "disk", 3600)
    host.reboot(seconds=100)
    window = maintenance.active(host.places)
    assert window is not None
    assert window.until == pytest.approx(host.clock.boot + 3500)
    host.reboot(seconds=3600)
    assert maintenance.active(host.places) is None


@pytest.mark.parametrize("step", [-86400, 86400])
def test_clock_step(host: Host, step: float) -> None:
    maintenance.on(host.places, "operator", "", 3600)
    host.clock.epoch_offset += step
    for _ in range(2):
        window = maintenance.active(host.places)
        assert window is not None
        assert window.until == 8600.0
        Path(host.places.maintenance).unlink(missing_ok=True)


def test_clock_set_back_before_a_reboot_does_not_lengthen_it(host: Host) -> None:
    maintenance.on(host.places, "operator", "", 3600)
    host.clock.epoch_offset -= 86400
    host.reboot(seconds=0)
    window = maintenance.active(host.places)
    assert window is not None
    assert window.until == pytest.approx(host.clock.boot + 3600)


def test_a_deploy_in_between_does_not_end_an_operators(host: Host) -> None:
    maintenance.on(host.places, "operator", "disk", 3600)
    marker: dict[str, Any] = {"owner": "deploy", "reason": "release 1", "since": 5000.0, "until": 5900.0}
    Path(host.places.maintenance).write_text(json.dumps(marker))
    assert maintenance.active(host.places) == maintenance.Maintenance(**marker)
    Path(host.places.maintenance).unlink()
    window = maintenance.active(host.places)
    assert window is not None
    assert window.owner == "operator"


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"owner": "a"},
        {"owner": "a", "until": None},
        {"owner": "a", "until": 5e9},
        {"owner": "a", "until": "6000"},
        {"owner": "a", "until": True},
        {"owner": 1, "until": 6000},
        {"owner": "a", "reason": [], "until": 6000},
        {"owner": "a" * 40, "until": 6000},
        {"owner": "a", "until": 4999},
    ],
)
def test_a_marker_that_is_none(host: Host, record: object) -> None:
    Path(host.places.maintenance).write_text(json.dumps(record))
    assert maintenance.active(host.places) is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=120))
def test_hostile_bytes(host: Host, data: bytes) -> None:
    Path(host.places.maintenance).write_bytes(data)
    maintenance.marked(host.places, 5000.0)
    maintenance._from_disk(data, 5000.0, 1.7e9, "")


def test_anything_but_a_plain_file_is_no_marker(host: Host) -> None:
    os.mkfifo(host.places.maintenance)
    assert maintenance.active(host.places) is None
    os.unlink(host.places.maintenance)
    os.symlink("/etc/hostname", host.places.maintenance)
    assert maintenance.active(host.places) is None
    maintenance.on(host.places, "operator", "", 60)
    assert not os.path.islink(host.places.maintenance)


def test_nonsense(host: Host) -> None:
    for owner, reason, ttl in (("Bob", "", 60.0), ("a", "x\ny", 60.0), ("a", "", -5.0), ("load", "", 60.0)):
        with pytest.raises(claims.LeaseError):
            maintenance.on(host.places, owner, reason, ttl)
    assert maintenance.active(host.places) is None


def test_a_full_disk_is_a_warning(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    real = state.write_atomic

    def write(path: str, data: bytes, mode: int = 0o644, *, durable: bool = False) -> None:
        if "/mf/var/" in path:
            raise OSError(28, os.strerror(28))
        real(path, data, mode, durable=durable)

    monkeypatch.setattr(state, "write_atomic", write)
    assert "won't survive a reboot" in maintenance.on(host.places, "operator", "", 60)[0]
    assert maintenance.active(host.places)


def test_command(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(host, "status") == 0
    assert run(host, "on", "--ttl", "10m", "--reason", "x y") == 0
    assert run(host, "status") == 1
    capsys.readouterr()
    assert run(host, "status", "--json") == 1
    assert json.loads(capsys.readouterr().out) == {
        "maintenance": True,
        "owner": "operator",
        "reason": "x y",
        "left_seconds": 600.0,
    }
    assert run(host, "off", "--dry-run") == 0
    assert run(host, "status") == 1
    assert run(host, "off") == 0
    assert run(host, "status") == 0


def test_on_waits_for_an_action_under_way(host: Host) -> None:
    action = host.places.lock(state.ACTION)
    assert action.__enter__()
    alive: list[object] = []

    def finish() -> None:
        while maintenance.active(host.places) is None:
            time.sleep(0.01)
        # from the marker on nobody begins, and who has begun is waited for
        begun.join(0.3)
        alive.append(begun.is_alive())
        action.__exit__()

    begun = threading.Thread(target=maintenance.on, args=(host.places, "operator", "disk", 3600.0))
    begun.start()
    finish()
    begun.join(10)
    assert alive == [True]
    assert not begun.is_alive()


def test_an_action_that_does_not_end_is_reported(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(maintenance, "LOCK_WAIT", 0.1)
    with host.places.lock(state.ACTION):
        assert run(host, "on", "--dry-run") == 0
        assert run(host, "on") == 4
    assert "maintenance is on, but an action or a deploy that began before it" in capsys.readouterr().err
    assert maintenance.active(host.places) is not None
    assert run(host, "on") == 0


def test_without_locks_it_is_on_and_said(host: Host) -> None:
    Path(host.places.locks).write_text("")
    assert "an action may still be under way" in maintenance.on(host.places, "operator", "", 60)[0]
    assert maintenance.active(host.places) is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["on", "--ttl", "-5"], "not a duration"), (["on", "--owner", "B"], "not a name"), ([], "COMMAND")],
)
def test_misuse_is_one_clear_line(
    host: Host, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(host, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
