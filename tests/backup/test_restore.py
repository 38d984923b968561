"""Restoring: the archives chosen, the files that would be replaced, the commands afterwards."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from mf import state
from mf_backup import facts, jobs, record, restore, settings

from tests.backup.conftest import LIST, SETTINGS, archive, context


@pytest.fixture(autouse=True)
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no python3-pymysql here, whatever stand-in the quarantine's tests have put in its place."""
    monkeypatch.setitem(sys.modules, "pymysql", None)


def test_no_job_runs_after_a_restore_that_stopped_half_way(tmp_path: Path, places: state.Places) -> None:
    at = context(tmp_path, places, LIST % archive(7).name)
    jobs.adopt(at)
    with pytest.raises(facts.DatabaseError):  # there is no server
        restore.perform(at, restore.choose(at, ["full", "dump"]))
    again = replace(at, record=record.Record(places))
    for job in settings.JOBS:
        past = jobs.perform(job, again)
        assert (past.kind, "a restore was begun here" in past.error) == ("foreign", True)
    assert not (tmp_path / "wrote").exists()
    jobs.adopt(again)  # the operator accepts it as it is
    assert jobs.perform("verify", again).kind != "foreign"


def test_each_half_of_a_restore_succeeds_for_itself(
    tmp_path: Path, places: state.Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = context(tmp_path, places, LIST % archive(7, "full").name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(restore, "ASIDE", str(tmp_path / "aside"))
    at.record.restoring = {"dump"}  # of a restore before this one
    chosen = restore.choose(at, ["full", "dump"])
    assert list(chosen) == ["full"]  # no dump was ever made: that is no reason to leave the files
    assert restore.perform(at, chosen)["full"].archive == archive(7, "full").name
    assert at.record.restoring == {"dump"}


def test_where_no_database_is_named_none_is_restored(tmp_path: Path, places: state.Places) -> None:
    at = context(tmp_path, places, LIST % archive(7).name)
    assert list(restore.choose(at, ["full", "dump"])) == ["dump"]
    with pytest.raises(jobs.JobError, match="no archive of full or dump"):
        restore.choose(replace(at, settings=replace(SETTINGS, databases=())), ["full", "dump"])


def test_files_that_a_restore_would_replace_are_named(tmp_path: Path, places: state.Places) -> None:
    here, ours = tmp_path / "here", archive(7, "full").name
    script = (LIST % ours).replace(
        "*info*)", f"*NUL*) printf -- '-%s\\0d%s\\0-%s\\0' {str(here)[1:]} tmp no/such ;; *info*)"
    )
    script = script.replace("*list*)", "*list*--json*)")
    at = context(tmp_path, places, script)
    (newest,) = restore.choose(at, ["full"]).values()
    assert restore.overwritten(at, newest) == []
    here.touch()
    assert restore.overwritten(at, newest) == [f"1 files, {here} first"]


def test_commands_after_a_restore_all_run_whether_one_fails_or_not(tmp_path: Path, places: state.Places) -> None:
    assert restore.afterwards(context(tmp_path, places, "")) == [("true", 0), ("false", 1), ("true", 0)]
