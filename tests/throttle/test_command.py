"""The command throttle: exit codes, refusals of misuse, wait and run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from mf import state
from mf.command import throttle as command
from mf.throttle import marker

from tests.throttle.conftest import DOWN, Host, controller, count_reads, failing, sound, status


def run(host: Host, *arguments: str) -> int:
    try:
        return command.main(list(arguments), host.places)
    except SystemExit as ended:
        return int(str(ended.code))


def test_command_on_status_off(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(host, "status") == 0
    assert run(host, "on", "--ttl", "2h", "--reason", "disk swap") == 0
    assert run(host, "status") == 2
    capsys.readouterr()
    assert run(host, "status", "--json") == 2
    assert json.loads(capsys.readouterr().out)["leases"][0]["left_seconds"] == 7200
    assert run(host, "on", "--mark-only") == 0
    assert run(host, "status") == 1
    assert run(host, "off") == 0
    assert run(host, "status") == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["on"],
        ["on", "--hold"],
        ["on", "--mark-only"],
        ["off"],
        ["status"],
        ["reconcile"],
        ["restore"],
        ["remove"],
    ],
)
@pytest.mark.parametrize("present", [False, True])
def test_a_command_reads_the_marker_once(
    host: Host, arguments: list[str], present: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if present:
        controller(host).on("operator", "", 900)
    reads = count_reads(host, monkeypatch)
    run(host, *arguments)
    assert len(reads) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["on", "--ttl", "-5"], "not a duration"),
        (["on", "--ttl", "abc"], "'abc' is not a duration; use for example 90s, 15m, 2h or 1d"),
        (["on", "--ttl", "8d"], "from 1 s to 7 d"),
        (["on", "--owner", "Bob"], "owner 'Bob' is not a name"),
        (["on", "--owner", "load"], "belongs to check-load"),
        (["on", "--reason", "a\nb"], "one line"),
        (["on", "--surprise"], "unrecognized arguments"),
        (["wait"], "--max"),
        ([], "COMMAND"),
        (["run"], "throttle run -- CMD"),
    ],
)
def test_misuse_is_one_clear_line(
    host: Host, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(host, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_broken_settings_are_one_line(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    Path(host.places.settings).write_text('{"generation": "01234')
    assert run(host, "on") == 1
    error = capsys.readouterr().err
    assert "not a whole JSON object" in error
    assert error.count("\n") == 1


def test_off_of_a_lease_without_holder(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    run(host, "on")
    assert run(host, "off", "--owner", "bob") == 0
    assert "bob holds no lease here; held by: operator" in capsys.readouterr().out


def test_exit_code_when_refusal_is_not_in_force(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.kernel.broken = DOWN
    assert run(host, "on") == 1
    assert "nft" in capsys.readouterr().err


def test_a_damaged_lease_on_disk_is_reported_and_the_others_are_put_back(host: Host) -> None:
    controller(host).on("a", "", 900)
    controller(host).on("b", "", 900)
    kept = json.loads(host.disk.read_text())
    kept["leases"][0]["refuse"] = "yes"
    host.disk.write_text(json.dumps(kept))
    host.reboot()
    outcome = controller(host).reconcile()
    assert outcome.warnings == ["a lease on disk was left out: refuse must be true or false"]
    assert [lease.owner for lease in status(host).leases] == ["b"]
    sound(host)


def test_status_reports_a_lost_marker(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    controller(host).on("operator", "", 60)
    host.marker.unlink()
    assert run(host, "status") == 2
    assert "the marker is lost, the host was refusing" in capsys.readouterr().err
    assert run(host, "reconcile") == 0
    assert "was lost: put back the leases of operator" in capsys.readouterr().err
    assert run(host, "off") == 0
    assert run(host, "status") == 0


def test_without_room_for_its_stamp_every_run_compares(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    controller(host).reconcile()
    failing(monkeypatch, "/run/mf/reconciled", 28)
    assert "reconciled can't be written" in controller(host).on("operator", "", 60).warnings[0]
    assert not Path(marker.stamp(host.places)).exists()


def test_wait_ends_with_the_lease(host: Host) -> None:
    controller(host).on("backup", "", 60, refuse=False)
    start = host.clock.boot
    assert not command.wait(host.places, 600, sleep=host.clock.sleep, clock=host.clock.now).throttled
    assert 60 <= host.clock.boot - start <= 60 + command.POLL


def test_wait_gives_up(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    controller(host).on("deploy", "gate", None)
    start = host.clock.boot
    assert command.wait(host.places, 600, sleep=host.clock.sleep, clock=host.clock.now).throttled
    assert host.clock.boot - start == 600


def test_wait_without_throttle_does_not_sleep(host: Host) -> None:
    command.wait(host.places, 600, sleep=lambda _: pytest.fail("nothing to wait for"), clock=host.clock.now)


def test_run_takes_the_command_as_it_is(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []

    def execute(file: str, arguments: list[str]) -> None:
        started.append(arguments)
        raise FileNotFoundError

    monkeypatch.setattr(os, "execvp", execute)
    assert run(host, "run", "--max", "1s", "--", "rsync", "--max", "-a") == 127
    assert started == [["rsync", "--max", "-a"]]


def test_run_reports_that_it_ran_throttled(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    controller(host).on("deploy", "gate", None)
    monkeypatch.setattr(command, "wait", lambda places, *_, **__: marker.current(places))
    monkeypatch.setattr(os, "execvp", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    assert run(host, "run", "--", "x") == 126
    assert "Running all the same after 10 min" in capsys.readouterr().err


def test_interrupted_waiting_prints_no_traceback(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    controller(host).on("deploy", "gate", None)

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command.wait, "__kwdefaults__", {**(command.wait.__kwdefaults__ or {}), "sleep": interrupt})
    assert run(host, "wait", "--max", "10m") == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_marker_that_cannot_be_written_is_a_failure_though_mail_is_refused(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = state.write_atomic

    def full(path: str, *arguments: Any, **options: Any) -> None:
        if path == host.places.marker:
            raise OSError(28, "No space left on device")
        real(path, *arguments, **options)

    monkeypatch.setattr(state, "write_atomic", full)
    assert command.main(["on", "--force"], host.places) == 1
    assert host.kernel.refused == [25]
    assert "; jobs don't see the change" in capsys.readouterr().err
    monkeypatch.undo()
