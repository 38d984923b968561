"""The jobs: when one must not write, how failures are counted, and the lock that all of them take."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
from mf import state
from mf_backup import check, command, jobs, record, stream

from tests.backup.conftest import LIST, NOW, SECTION, archive, context


def test_a_rebuilt_machine_does_not_write_over_history(tmp_path: Path, places: state.Places) -> None:
    at = context(tmp_path, places, LIST % archive(7).name)
    past = jobs.perform("dump", at)
    assert past.failures == 1
    assert past.kind == "foreign"
    assert "restore_control.yml" in past.error
    assert not (tmp_path / "wrote").exists()
    # by this restore_control.yml tells it from a machine in use
    assert '"repository": ""' in Path(places.persistent, "backup.json").read_text()


def test_adopting_records_the_list_and_continues_its_numbers(tmp_path: Path, places: state.Places) -> None:
    at = context(tmp_path, places, LIST % archive(7).name)
    change = jobs.adopt(at)
    assert change.unknown == (archive(7).name,)
    assert record.Record(places).next_sequence() == 8
    assert record.Record(places).repository == "r1"


def test_a_repository_that_vanished_is_not_made_anew(tmp_path: Path, places: state.Places) -> None:
    at = context(tmp_path, places, "echo 'Repository /x does not exist.' >&2; exit 2")
    assert jobs.perform("drill", at).kind == "absent"  # it may be the first day
    at.record.add(archive(1))
    assert jobs.perform("dump", at).kind == "vanished"
    at.record.repository = "r1"  # one that knows it notices, too
    past = jobs.perform("dump", at)
    assert (past.kind, "the repository is gone" in past.error) == ("vanished", True)
    assert check.judge("dump", past, 14400, NOW, NOW)[0] == state.CRITICAL


def test_a_recorded_archive_that_is_missing_is_found(tmp_path: Path, places: state.Places) -> None:
    at = context(tmp_path, places, LIST % archive(7).name)
    at.record.add(archive(1))
    with pytest.raises(jobs.JobError, match="1 recorded archives") as caught:
        jobs.listed(at)
    assert caught.value.kind == "vanished"


def test_failures_are_counted_and_forgotten_with_a_success(
    tmp_path: Path, places: state.Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = context(tmp_path, places, LIST % archive(7).name)
    jobs.adopt(at)
    monkeypatch.setattr(jobs, "dump", lambda _: (_ for _ in ()).throw(OSError("disk")))
    assert jobs.perform("dump", at).failures == 1
    assert jobs.perform("dump", at).failures == 2
    monkeypatch.setattr(jobs, "dump", lambda _: ("name", {"rows": 1.0}))
    past = jobs.perform("dump", at)
    assert (past.failures, past.error, past.succeeded) == (0, "", NOW)


def test_the_check_runs_while_a_job_holds_the_repository_lock(places: state.Places) -> None:
    """Else a job of hours makes the check's result stale, and an operator is woken for a backup that is well."""
    with places.lock(jobs.LOCK) as job, places.lock("backup") as check:
        assert job
        assert check


def test_a_job_holds_the_repository_lock_and_a_child_keeps_it(
    places: state.Places, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(jobs, "VAR", str(tmp_path / "var"))
    Path(places.settings).write_text(json.dumps({"generation": "g", "host": "control1", "backup": SECTION}))

    def is_free() -> bool:
        """Whether a command gets the lock; one that needs nothing but it."""
        monkeypatch.setattr("sys.stdin", io.StringIO(""))
        code = command._parser().main(["forget", "--wait", "0.1s"], places)
        _, complaint = capsys.readouterr()
        assert code == 0 or (code, "another job holds the repository lock" in complaint) == (4, True)
        return not code

    lock = places.lock(jobs.LOCK)
    with lock as held:
        assert held
        assert not is_free()
        kept = os.dup(lock.fileno())
    assert not is_free()  # what was started under the lock lives on
    os.close(kept)
    assert is_free()


def test_the_dump_command_reads_one_snapshot() -> None:
    arguments = stream.command("/s", ["a", "b"])
    assert "--single-transaction" in arguments
    assert arguments[-3:] == ["--databases", "a", "b"]
    assert not any("password" in word for word in arguments)
