"""check-offsite: room, age, deletions, the key and the counter of the repository."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mf import state
from mf_offsite import check, rewind, segment_log

from tests.offsite.conftest import CONFIG, GONE, HOUR, KEY, PUT, entry, made_repository

LIMITS = {
    "quota_bytes": 1000,
    "quota_warning": 75,
    "quota_critical": 90,
    "free_warning": 15,
    "free_critical": 5,
    "quiet": 6 * HOUR,
}


def examine(places: state.Places, folder: str, **changes: Any) -> state.Result:
    diagnosis = check.probe(places, {**LIMITS, "repository": folder, "lock": folder, "deadline": 60, **changes})
    assert callable(diagnosis)
    return diagnosis(False)


@pytest.mark.parametrize(
    ("used", "free", "age", "deleted", "status", "word"),
    [
        (10, 50.0, 60.0, 0, state.OK, ""),
        (750, 50.0, 60.0, 0, state.WARNING, "75% of the quota"),
        (900, 50.0, 60.0, 0, state.CRITICAL, "90% of the quota"),
        (10, 14.0, 60.0, 0, state.WARNING, "space free"),
        (10, 4.0, 60.0, 0, state.CRITICAL, "space free"),
        (0, 50.0, 7 * HOUR, 0, state.WARNING, "nothing was saved"),
        (10, 50.0, 7 * HOUR, 0, state.WARNING, "nothing new for"),
        (10, 50.0, 13 * HOUR, 0, state.CRITICAL, "nothing new for"),
        (10, 50.0, 60.0, 1, state.CRITICAL, "no prune recorded"),
        (10, 50.0, -299.0, 0, state.OK, ""),
        (10, 50.0, -24 * HOUR, 0, state.WARNING, "in the future: was the clock set back?"),
    ],
)
def test_offsite(used: int, free: float, age: float, deleted: int, status: str, word: str) -> None:
    verdict, problems = check.decide(used, free, 90.0, age, deleted, LIMITS)
    assert verdict == status
    assert word in "; ".join(problems)


def test_an_attended_command_that_hangs_hides_no_deletion_for_long(
    places: state.Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(state, "boottime", lambda: clock[0])

    def after(hours: int) -> state.Result:
        clock[0] = 1e6 + hours * HOUR
        result = check.probe(places, {**LIMITS, "repository": str(tmp_path), "lock": str(tmp_path), "deadline": 60})
        assert isinstance(result, state.Result)
        state.write_result(places, result, started=clock[0], generation="g", period=600, slack=60)
        return result

    with places.lock(check.ATTENDED) as held:
        assert held
        results = [after(hours) for hours in (0, 4, 5, 24, 25)]
    assert [result.status for result in results] == [state.OK, state.OK, state.WARNING, state.WARNING, state.CRITICAL]
    assert "under way for 25.0 h, and nothing else is checked" in results[-1].summary


@pytest.mark.parametrize(
    "data",
    [None, b"", b"{", b'{"baseline": 1}', b'{"baseline": true, "scanned": 1, "deleted": 1, "first": 1, "manifest": 1}'],
)
def test_after_a_damaged_record_everything_is_scanned_again(data: bytes | None) -> None:
    assert check.remembered(data) == segment_log.Scan()


def test_the_counts_of_a_run_are_kept_for_the_next(tmp_path: Path, places: state.Places) -> None:
    first = examine(places, made_repository(tmp_path, PUT, GONE))
    assert first.status == state.CRITICAL
    assert first.metrics["deleted"] == 1
    known = check.remembered(state.read_bytes(f"{places.persistent}/offsite.json"))
    assert replace(known, baseline=1).deleted == 1


def test_the_age_off_site_is_that_of_the_highest_segment(tmp_path: Path, places: state.Places) -> None:
    folder = made_repository(tmp_path, PUT)
    first = max(segment_log.segments(folder).values())
    shutil.copy(first, f"{os.path.dirname(first)}/99")
    ahead = time.time() + 86400
    os.utime(first, (ahead, ahead))  # by a clock that was ahead when that was written; then it was set right
    result = examine(places, folder)
    assert "in the future" not in result.summary
    assert 0 <= float(result.metrics["newest_age_seconds"]) < 300


def test_another_key_in_the_repository_is_noticed(tmp_path: Path, places: state.Places) -> None:
    folder = made_repository(tmp_path, PUT)
    assert examine(places, folder).metrics["same_key"] == 1
    kept = Path(places.persistent, check.KEPT_CONFIG)
    assert kept.read_text() == CONFIG
    assert kept.stat().st_mode & 0o777 == 0o600
    Path(folder, "config").write_text(CONFIG.replace("append_only = 0", "append_only = 1"))
    assert examine(places, folder).metrics["same_key"] == 1
    for damage in (CONFIG.replace("def", "xyz"), CONFIG.replace("0123", "9"), "garbage"):
        Path(folder, "config").write_text(damage)
        result = examine(places, folder)
        assert (result.status, result.metrics["same_key"]) == (state.CRITICAL, 0)
        assert "key is another one" in result.summary
    assert kept.read_text() == CONFIG


def test_a_deletion_counts_where_an_abandoned_transaction_had_the_same_numbers(
    tmp_path: Path, places: state.Places
) -> None:
    folder = made_repository(tmp_path, PUT, entry(0, KEY, b"x"), entry(0, KEY, b"y"), entry(0, KEY, b"z"))
    first = examine(places, folder, quota_bytes=1 << 20)
    assert (first.status, first.metrics["deleted"]) == (state.OK, 0)
    known = check.remembered(state.read_bytes(f"{places.persistent}/{check.REMEMBERED}"))
    assert (known.scanned, [segment.number for segment in known.ahead]) == (0, [1, 2])  # 3 may be written to
    for number, body in ((1, entry(1, KEY)), (2, entry(2))):
        path = Path(folder, "data", "0", str(number))
        path.unlink()
        path.write_bytes(segment_log.MAGIC + body)
    Path(folder, "data", "0", "3").unlink()
    second = examine(places, folder, quota_bytes=1 << 20)
    assert (second.status, second.metrics["deleted"]) == (state.CRITICAL, 1)


def test_a_repository_that_vanished_is_no_fresh_one(tmp_path: Path, places: state.Places) -> None:
    folder = made_repository(tmp_path, PUT)
    assert examine(places, folder, lock=str(tmp_path)).status == state.OK
    shutil.rmtree(folder)
    result = examine(places, folder, lock=str(tmp_path))
    assert (result.status, "there is nothing in it" in result.summary) == (state.CRITICAL, True)


def test_a_spent_counter_is_an_alarm_and_a_rewind_gives_it_room(tmp_path: Path, places: state.Places) -> None:
    folder = made_repository(tmp_path, PUT)
    counter = Path(folder, "nonce")

    def assert_spent(spent: bool) -> None:
        result = examine(places, folder)
        assert result.status == (state.CRITICAL if spent else state.OK)
        assert ("the cipher's counter is used up" in result.summary) is spent

    assert_spent(False)
    used = f"{segment_log.NONCE_LIMIT - 1:016x}"
    for text, spent, left in ((used, False, used), ("f" * 16, True, "0080" + "0" * 12), ("x", True, "0080" + "0" * 12)):
        counter.write_text(text)
        assert_spent(spent)
        rewind.rewind(folder, 0, f"after-{text}", CONFIG.encode())
        assert counter.read_text() == left
        assert_spent(False)
