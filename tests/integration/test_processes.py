"""check-processes: both paths."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mf import state
from mf_checks import process_evidence, procfs, systemd
from mf_checks import processes as check
from mf_checks.procfs import Stat

from tests.checks.conftest import decisions, diagnosis, verdict


def test_the_diagnosis_counts_all_processes_as_the_fast_path_does(victim: subprocess.Popen[bytes]) -> None:
    processes, scanned = process_evidence.collect(os.getuid() + 4711, {}, "/proc")  # nobody's
    assert processes == []
    assert scanned > 1  # at least this one and its child


def test_without_psutil_nothing_is_judged_and_that_is_said(
    places: state.Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setitem(sys.modules, "psutil", None)
    for module in ("processes_diagnose", "process_evidence"):
        monkeypatch.delitem(sys.modules, f"mf_checks.{module}", raising=False)
    diagnose = check.probe(places, {})
    assert not isinstance(diagnose, state.Result)
    result = diagnose(False)
    assert result.status == state.UNKNOWN
    assert result.summary.startswith("no process was judged: ")
    assert result.summary.endswith("python3-psutil must be installed")


def test_a_main_process_that_is_no_qpsmtpd_is_unknown_each_time(
    places: state.Places, victim: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = systemd.Unit("active", "running", victim.pid)
    monkeypatch.setattr(systemd, "show", lambda _: unit)
    master = Path(places.results + procfs.MASTER)
    master.write_text("1 2 3\n")
    for _ in range(2):
        result = diagnosis(places).result()
        assert result.status == state.UNKNOWN
        assert f", {victim.pid}, isn't /none of user root" in result.summary
        assert not master.exists()
    # who has just ended was no master of another kind
    monkeypatch.setattr(systemd, "show", lambda _: systemd.Unit("active", "running", 2**22 + 1))
    assert diagnosis(places).result().status != state.UNKNOWN


def test_a_burning_session_needs_a_diagnosis() -> None:
    values = {"session_limit": 1800, "session_cpu": 60}
    master = Stat(1000, b"qpsmtpd-forkser", "S", 1, 500, 5)
    for cpu, odd in ((60 * procfs.TICK, False), (60 * procfs.TICK + 1, True)):
        child = Stat(11, b"qpsmtpd", "R", 1000, int(10_000 * procfs.TICK), int(cpu))
        survey = procfs.Survey(2, master, [child], [])
        assert check.odd(survey, (1000, 500, 0), values, {}, 10_100.0, "/proc") == odd


def test_the_cap(places: state.Places) -> None:
    crowd = [subprocess.Popen(["sleep", "1000"]) for _ in range(3)]
    try:
        result = state.Result("processes", state.OK, "")
        summary = diagnosis(places, 2).kill([verdict(process.pid) for process in crowd], result)
        give_up = time.monotonic() + 10
        while sum(process.poll() is None for process in crowd) > 1 and time.monotonic() < give_up:
            time.sleep(0.01)
        assert sorted(process.poll() is None for process in crowd) == [False, False, True]
        assert result.status == state.CRITICAL
        assert result.metrics["killed"] == 2
        assert "kill limit reached (2 per run), 1 left" in summary
    finally:
        for process in crowd:
            process.kill()
            process.wait()


def test_a_dry_run_kills_no_process(places: state.Places, victim: subprocess.Popen[bytes]) -> None:
    result = state.Result("processes", state.OK, "")
    diagnosis(places, dry_run=True).kill([verdict(victim.pid)], result)
    assert result.actions == [f"would kill orphan {victim.pid}"]
    assert victim.poll() is None
    assert decisions(places) == []
