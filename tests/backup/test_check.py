"""check-backup: ages, failures, a damaged record, a full disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from mf import state
from mf_backup import check, record

from tests.backup.conftest import HOUR, NOW

VALUES = {"dump_period": 4 * HOUR, "full_period": 24 * HOUR, "verify_period": 7 * 86400, "drill_period": 7 * 86400}
WELL = {"started": NOW - 600, "succeeded": NOW - 600, "failures": 0}


def judged(**jobs_: Any) -> state.Result:
    known = {**dict.fromkeys(("dump", "full", "verify", "drill"), WELL), **jobs_}
    return check.decide({"jobs": known}, VALUES, NOW, NOW - 86400)


def test_all_young_is_ok_and_has_the_ages() -> None:
    result = judged(drill={**WELL, "figures": {"rpo_seconds": 9.0, "rto_seconds": 3.0}})
    assert result.status == state.OK
    assert result.metrics["dump_age_seconds"] == result.metrics["full_age_seconds"] == 600
    assert result.metrics["drill_age_seconds"] == 600
    assert (result.metrics["drill_rpo_seconds"], result.metrics["drill_rto_seconds"]) == (9.0, 3.0)


@pytest.mark.parametrize(
    ("past", "status", "text"),
    [
        ({"succeeded": NOW - 6 * HOUR}, state.OK, "age of"),
        ({"succeeded": NOW - 6 * HOUR - 1}, state.WARNING, "dump late"),
        ({"succeeded": NOW - 12 * HOUR - 1}, state.CRITICAL, "dump late"),
        ({}, state.CRITICAL, "dump never done in"),
        ({"succeeded": NOW - 60, "failures": 1, "kind": "unreachable", "error": "x"}, state.WARNING, "dump failed: x"),
        ({"succeeded": NOW - 60, "failures": 3, "kind": "corrupt", "error": "x"}, state.CRITICAL, "failed 3 times: x"),
        ({"succeeded": NOW + 86400}, state.WARNING, "in the future"),
        ({"succeeded": "soon", "failures": True}, state.CRITICAL, "never done"),
        ("nonsense", state.CRITICAL, "never done"),
    ],
)
def test_late_failed_and_doubtful(past: Any, status: str, text: str) -> None:
    result = judged(dump=past)
    assert result.status == status
    assert text in result.summary


def test_a_fresh_machine_has_time_for_its_first_backups() -> None:
    assert check.decide({}, VALUES, NOW, NOW - 60).status == state.OK
    assert check.decide({}, VALUES, NOW, NOW - 7 * HOUR).status == state.WARNING


def test_jobs_that_a_machine_does_not_have_are_not_judged() -> None:
    values = {**VALUES, "dump_period": 0, "drill_period": 0}
    assert check.decide({"jobs": {"full": WELL, "verify": WELL}}, values, NOW, 0.0).status == state.OK


def test_the_check_reads_the_record_and_reports_a_damaged_one(places: state.Places) -> None:
    kept = record.Record(places)
    kept.past("dump").succeeded = kept.past("full").succeeded = 9e9
    kept.save()
    result = check.probe(places, VALUES)
    assert isinstance(result, state.Result)
    assert "in the future" in result.summary
    Path(places.persistent, "backup.json").write_text("{")
    result = check.probe(places, VALUES)
    assert isinstance(result, state.Result)
    assert result.status == state.UNKNOWN


def test_the_check_reports_a_full_disk_as_no_failure_can_be_recorded(
    places: state.Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    record.Record(places).save()
    real = os.statvfs(places.persistent)
    figures = list(real)
    figures[3] = check.ROOM // real.f_frsize - 1  # f_bfree: what root may still use
    monkeypatch.setattr("os.statvfs", lambda _: os.statvfs_result(figures))
    result = check.probe(places, VALUES)
    assert isinstance(result, state.Result)
    assert (result.status, "no room to put anything on record" in result.summary) == (state.CRITICAL, True)
    figures[3] += 2
    result = check.probe(places, VALUES)
    assert isinstance(result, state.Result)
    assert "no room" not in result.summary
