"""check-load: thresholds, hysteresis, and what it does to the throttle."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mf import decisions, run, state
from mf.throttle import control, firewall, marker
from mf_checks import load

from tests.throttle.conftest import Clock, Host, count_reads

LIMITS: dict[str, Any] = {"high": 5.0, "low": 4.0, "mark": None}


def play(loads: Sequence[float], **limits: Any) -> list[str]:
    """What the lease asks for after each of these loads."""
    holding, calm, holdings = load.NONE, 0, []
    for load1 in loads:
        holding, calm = load.decide(load1, holding, calm, **{**LIMITS, **limits})
        holdings.append(holding)
    return holdings


def changes(holdings: Sequence[str]) -> int:
    return sum(1 for before, after in zip(["none", *holdings], holdings, strict=False) if before != after)


def test_at_the_limit_it_refuses() -> None:
    assert play([4.99, 5.0]) == ["none", "refuse"]


def test_two_calm_runs_release_and_one_does_not() -> None:
    assert play([9, 3.9, 3.9]) == ["refuse", "refuse", "none"]
    assert play([9, 3.9, 4.0, 3.9, 3.9]) == ["refuse", "refuse", "refuse", "refuse", "none"]


def test_in_between_the_lease_stays() -> None:
    assert play([4.5] * 5) == ["none"] * 5
    assert play([9] + [4.5] * 5) == ["refuse"] * 6


def test_flapping_across_the_limit_changes_once() -> None:
    assert changes(play([4.5, 5.5] * 50)) == 1
    assert changes(play([4.5, 5.5] * 50, mark=4.9)) <= 2


def test_a_lower_threshold_only_marks() -> None:
    assert play([2.9, 3.0, 2.9, 2.9], mark=3.0) == ["none", "mark", "mark", "none"]
    # calm enough to accept mail again, but not yet to stop marking
    assert play([6, 3.5, 3.5, 3.5, 2.0, 2.0], mark=3.0) == ["refuse", "refuse", "mark", "mark", "mark", "none"]


@given(st.lists(st.floats(0, 50), max_size=40), st.none() | st.floats(0.1, 5))
def test_always(loads: list[float], mark: float | None) -> None:
    holdings = play(loads, mark=mark)
    for load1, holding in zip(loads, holdings, strict=True):
        if load1 >= 5:
            assert holding == load.REFUSE
        if mark is None:
            assert holding != load.MARK
    if len(loads) > 3 and all(load1 < min(4, mark or 4) for load1 in loads[-3:]):
        assert holdings[-1] == load.NONE


@pytest.mark.parametrize(
    "text", [b"", b"x", b"1 2", b"nan 1 1 1/2 3", b"-1 1 1 1/2 3", b"1e400 1 1 1/2 3", b"\x00" * 50]
)
def test_no_load_in_it(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"load averages|could not convert"):
        load.parse(text)


def test_a_loadavg() -> None:
    assert load.parse(b"0.20 0.18 0.12 1/80 11206\n") == (0.2, 0.18, 0.12)


# --- on a host


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    clock = Clock()
    monkeypatch.setattr(state, "boottime", clock.now)
    host = Host(tmp_path, clock)
    monkeypatch.setattr(firewall, "_run", host.kernel.run)
    monkeypatch.setattr(decisions, "JOURNAL", str(tmp_path / "journal"))
    return host


def check(host: Host, load1: float, *, dry_run: bool = False, **values: Any) -> state.Result:
    """One run at this load, two minutes after the former."""
    host.set_load(load1)
    host.clock.sleep(120)
    settings = {**host.settings["checks"]["load"], **values}
    result = load.probe(host.places, settings)
    if not isinstance(result, state.Result):
        result = result(dry_run)
    if not dry_run:
        state.write_result(host.places, result, generation="0123456789ab", started=time.time(), period=120, slack=35)
    return result


def test_a_healthy_run_takes_the_fast_path(host: Host) -> None:
    check(host, 0.1)
    assert isinstance(load.probe(host.places, host.settings["checks"]["load"]), state.Result)


def waiting(path: Path) -> None:
    """A pipe without a writer, in a file's place."""
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    "disturb",
    [
        lambda host: host.set_load(5.0),
        lambda host: host.marker.write_text("x"),
        lambda host: host.marker.symlink_to("/nonexistent"),
        lambda host: host.disk.write_text("{}"),
        lambda host: (host.root / "run/mf/reconciled").unlink(),
        lambda host: host.clock.sleep(load.RECONCILE_EVERY),
        lambda host: host.clock.sleep(-1),
        lambda host: (host.root / "run/mf/reconciled").write_bytes(b""),
        # it is not waited for
        lambda host: waiting(host.root / "run/mf/reconciled"),
        lambda host: (host.root / "run/mf/reconciled").write_text(f"nothing {host.clock.boot:.0f}"),
        lambda host: (host.root / "run/mf/reconciled").write_text(f"throttled {host.clock.boot:.3f}\n"),
    ],
)
def test_anything_unusual_takes_the_slow_path(host: Host, disturb: Callable[[Host], object]) -> None:
    check(host, 0.1)
    disturb(host)
    assert not isinstance(load.probe(host.places, host.settings["checks"]["load"]), state.Result)


@pytest.mark.parametrize(("load1", "expected"), [(0.1, 0), (3.0, 2), (9.0, 2)])
def test_the_marker_is_read_before_the_decision_and_under_the_lock(
    host: Host, load1: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.settings["fleet"]["min_accepting"] = 1
    host.save()
    check(host, 0.1)
    if expected:
        check(host, 9.0)
    reads = count_reads(host, monkeypatch)
    check(host, load1)
    assert len(reads) == expected


def test_overload_and_back(host: Host) -> None:
    assert check(host, 0.3).status == state.OK
    result = check(host, 9)
    assert result.status == state.WARNING
    assert "throttled, refusing new mail: load (load 9, limit 5, 5 min left)" in result.summary
    assert result.actions
    for _ in range(10):
        assert check(host, 4.5).status == state.WARNING
        assert host.kernel.refused == [25]
    assert check(host, 1).status == state.WARNING
    assert check(host, 1).status == state.OK
    assert not host.marker.exists()
    assert host.kernel.refused == []
    assert [entry["action"] for entry in host.decisions()] == ["throttle", "release"]


def test_flapping_on_a_host_changes_once(host: Host) -> None:
    for load1 in [4.5, 5.5] * 20:
        check(host, load1)
    assert len(host.decisions()) == 1


def test_when_runs_stop_mail_flows_again(host: Host) -> None:
    check(host, 9)
    host.clock.sleep(300)
    assert host.kernel.refused == []
    assert not marker.current(host.places).throttled


def test_one_missed_run_does_not_end_it(host: Host) -> None:
    check(host, 9)
    host.clock.sleep(120)
    assert host.kernel.refused == [25]
    check(host, 9)
    assert host.kernel.refused == [25]


def test_a_hold_is_critical(host: Host) -> None:
    control.Control(host.places, host.settings).on("deploy", "gate", None)
    assert check(host, 0.1).status == state.CRITICAL
    assert check(host, 0.1).status == state.CRITICAL


def test_a_failed_refusal_is_critical_and_marked(host: Host) -> None:
    host.kernel.broken = firewall.FirewallError("nft is missing")
    result = check(host, 9)
    assert result.status == state.CRITICAL
    assert "nft is missing" in result.summary
    assert marker.current(host.places).throttled
    host.kernel.broken = None
    assert check(host, 9).status == state.WARNING


def test_over_budget_is_a_warning(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.settings["fleet"] = {"min_accepting": 1, "peers": []}
    host.save()
    result = check(host, 9)
    assert result.status == state.WARNING
    assert "over budget: 0 of 0 peers accept mail; 1 must" in result.summary
    assert marker.current(host.places).throttled
    assert host.kernel.refused == []
    check(host, 1)
    assert check(host, 1).status == state.OK


def test_a_host_without_smtp_marks_only(host: Host) -> None:
    host.settings["throttle"]["ports"] = []
    host.save()
    host.kernel.broken = firewall.FirewallError("no business here")
    assert check(host, 9).status == state.WARNING
    assert marker.current(host.places).throttled
    check(host, 1)
    assert check(host, 1).status == state.OK


def test_waiting_for_other_commands_ends_well_before_the_deadline(host: Host) -> None:
    before = time.monotonic()
    with host.places.lock(control.LOCK):
        result = check(host, 9, deadline=2)
    assert time.monotonic() - before < 1.9
    assert result.status == state.CRITICAL
    assert "at work for 0.5 s; try again" in result.summary


def test_a_loads_lost_marker_ends_the_refusal_and_is_said(host: Host) -> None:
    check(host, 9)
    host.marker.unlink()
    result = check(host, 4.5)
    assert result.status == state.WARNING
    assert "throttled was lost: accept new connections again" in result.summary
    assert host.kernel.refused == []
    assert check(host, 4.5).status == state.OK


def test_a_lost_marker_while_nft_fails_is_critical_and_tried_again(host: Host) -> None:
    check(host, 9)
    host.marker.unlink()
    host.kernel.broken = firewall.FirewallError("nft is missing")
    for _ in range(2):
        result = check(host, 1)
        assert result.status == state.CRITICAL
        assert "STILL refusing" in result.summary
    host.kernel.broken = None
    assert check(host, 1).status == state.OK
    assert host.kernel.refused == []


def test_a_hold_whose_marker_and_file_are_lost_is_ended_by_the_next_run(host: Host) -> None:
    control.Control(host.places, host.settings).on("deploy", "gate", None)
    host.marker.unlink()
    host.disk.unlink()
    assert check(host, 0.1).status == state.WARNING
    assert host.kernel.refused == []
    assert check(host, 0.1).status == state.OK
    assert isinstance(load.probe(host.places, host.settings["checks"]["load"]), state.Result)


def test_a_hold_whose_marker_is_lost_is_put_back_by_the_next_run(host: Host) -> None:
    control.Control(host.places, host.settings).on("deploy", "gate", None)
    host.marker.unlink()
    result = check(host, 0.1)
    assert result.status == state.CRITICAL
    assert "was lost: put back the leases of deploy" in result.summary
    assert marker.current(host.places).held


def test_per_core(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posix.cpu_count", lambda: 8)
    assert check(host, 39, per_core=True).status == state.OK
    assert check(host, 40, per_core=True).status == state.WARNING


def test_a_marking_threshold_on_a_host(host: Host) -> None:
    assert check(host, 3.2, mark=3.0).status == state.WARNING
    assert marker.current(host.places).throttled
    assert host.kernel.refused == []


def test_an_operators_lease_ends_in_its_own_time(host: Host) -> None:
    control.Control(host.places, host.settings).on("operator", "", 200)
    assert check(host, 0.1).status == state.WARNING
    assert check(host, 0.1).status == state.OK
    assert not host.marker.exists()
    assert not host.disk.exists()


def test_no_loadavg_touches_no_lease(host: Host) -> None:
    check(host, 9)
    (host.root / "proc/loadavg").write_bytes(b"")
    result = load.probe(host.places, host.settings["checks"]["load"])
    assert isinstance(result, state.Result)
    assert result.status == state.UNKNOWN
    assert marker.current(host.places).throttled


def test_dry_run(host: Host) -> None:
    result = check(host, 9, dry_run=True)
    assert result.actions == ["load takes a lease that refuses mail", "refuse new connections to port 25 for 5 min"]
    assert not host.marker.exists()


def test_broken_settings_take_no_action(host: Host) -> None:
    (host.root / "mf/etc/mf.json").write_text("{")
    assert check(host, 9).status == state.UNKNOWN
    assert not host.marker.exists()


def test_settings_are_verified_before_the_probe() -> None:
    assert (
        run.wrong_setting({"high": "high", "low": 4.0}, load.RULES)
        == "high must be a number from 0.1 to 10000, not 'high'"
    )
