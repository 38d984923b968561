"""The record of jobs and archives on control, and the facts of each dump."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from mf import state
from mf_backup import facts, record

from tests.backup.conftest import NOW, archive


def test_the_record_survives_and_a_torn_line_is_left_out(places: state.Places) -> None:
    kept = record.Record(places)
    assert not kept.adopted
    kept.repository = "id"
    kept.past("dump").succeeded = NOW
    kept.past("dump").figures = {"rows": 3}
    kept.past("full").warning = "/srv/panel/file: Input/output error"
    kept.save()
    kept.add(archive(1))
    kept.add(archive(2, "full"))
    with open(f"{places.persistent}/backup-archives.jsonl", "a") as ledger:
        ledger.write('{"name": "control1-dump-0000')
    again = record.Record(places)
    assert again.adopted
    assert again.past("dump").succeeded == NOW
    assert again.jobs == kept.jobs
    assert again.next_sequence() == 3
    assert again.newest("dump") == archive(1)
    assert len(again.archives) == 2


@pytest.mark.parametrize("values", ["null", "[]", '{"failures": 1e999}', '{"seconds": null}', '{"figures": 1}'])
def test_damaged_values_count_as_absent(places: state.Places, values: str) -> None:
    Path(f"{places.persistent}/backup.json").write_text(f'{{"number": null, "jobs": {{"dump": {values}}}}}')
    kept = record.Record(places)
    assert kept.next_sequence() == 1
    assert kept.past("dump") == record.Past()


def test_a_number_is_given_once_whatever_becomes_of_its_archive(places: state.Places) -> None:
    kept = record.Record(places)
    kept.add(archive(4))
    assert kept.take_sequence() == 5
    # killed before the archive was put on record
    assert record.Record(places).take_sequence() == 6


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"jobs": 1}', '{"jobs": {"dump": 3}}', '{"jobs": {"dump": {"failures": "x"}}}']
)
def test_a_broken_record_is_no_record(places: state.Places, text: str) -> None:
    Path(places.persistent, "backup.json").write_text(text)
    loaded = record.Record(places)
    assert not loaded.adopted
    assert loaded.past("dump").failures == 0


def test_pruned_archives_and_their_facts_leave_the_record(places: state.Places) -> None:
    known = record.Record(places)
    for number in (1, 2, 3):
        known.add(archive(number))
        state.make_folder(os.path.dirname(known.facts_path("x")))
        state.write_atomic(known.facts_path(archive(number).name), b'{"databases": {}}')
    assert known.forget([archive(1).name, "never heard of"]) == 1
    assert known.forget([archive(1).name]) == 0
    again = record.Record(places)
    assert sorted(again.archives) == [archive(2).name, archive(3).name]
    assert again.facts(archive(1).name) is None
    assert again.facts(archive(2).name) == {"databases": {}}


def table(rows: int = 3, total: str = "12", newest: str = "") -> facts.Table:
    return {"rows": rows, "sum": total, "newest": newest}


def test_facts_are_found_at_the_end_of_a_dump_only() -> None:
    taken: facts.Facts = {"version": 1, "taken": NOW, "databases": {"a": {"t": table()}}}
    assert facts.parse(b"-- Dump completed\n" + facts.line(taken)) == taken
    assert facts.rows(taken) == 3
    assert facts.parse(b"-- Dump completed\n") is None
    assert facts.parse(b"\n" + facts.line(taken)[:-2]) is None
    assert facts.parse(b"INSERT '" + facts.line(taken)) is None
    assert facts.parse(b"\n" + facts.MARK + b"[]\n") is None


@pytest.mark.parametrize(
    ("now", "says"),
    [
        ({"t": table(), "u": table(0, "0")}, []),
        ({"t": table(2), "u": table(0, "0")}, ["a.t has 2 rows, not 3"]),
        ({"t": table(3, "13"), "u": table(0, "0")}, ["a.t has another checksum"]),
        ({"t": table(3, "12", "2026"), "u": table(0, "0")}, ["a.t: its newest row is of 2026, not "]),
        ({"u": table(0, "0")}, ["a.t is missing"]),
        ({"t": table(), "u": table(0, "0"), "v": table()}, ["a.v is new"]),
    ],
)
def test_differences(now: dict[str, Any], says: list[str]) -> None:
    recorded: facts.Facts = {"databases": {"a": {"t": table(), "u": table(0, "0")}}}
    assert facts.differences(recorded, {"databases": {"a": now}}) == says


def test_a_missing_database_is_a_difference() -> None:
    assert facts.differences({"databases": {"a": {}}}, {"databases": {}}) == ["a is missing"]
    assert facts.differences({"databases": {"a": {}}}, {"databases": {"a": {}}}) == []


def test_restored_databases_are_compared_with_the_record_kept_apart() -> None:
    was: facts.Facts = {"databases": {"panel": {"customer": table(3)}}}
    less: facts.Facts = {"databases": {"panel": {"customer": table(2)}}}
    assert facts.mismatches(None, was, was) == facts.mismatches(was, was, was) == []
    assert facts.mismatches(None, less, less) == []  # a rebuilt machine can't know better
    assert facts.mismatches(was, less, less) == ["panel.customer has 2 rows, not 3"]
    itself = "the dump's own record differs from the record kept here when it was made"
    assert facts.mismatches(was, less, was) == [itself]


def test_identifiers_are_quoted() -> None:
    assert facts.quoted("a`b") == "`a``b`"
