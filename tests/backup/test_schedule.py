"""Settings, and which jobs are due."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mf import config
from mf_backup import record, schedule, settings

from tests.backup.conftest import HOUR, NOW, SECTION, SETTINGS


@pytest.mark.parametrize("section", [None, [], {}, {**SECTION, "jobs": 3}, {**SECTION, "newest": 1}])
def test_settings_that_are_not_whole_are_refused_in_one_line(section: object) -> None:
    with pytest.raises(config.SettingsError, match="backup"):
        settings.read({"backup": section})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("control1-dump-00000012-2026-11-25T02:00:01Z", ("dump", 12)),
        ("control1-full-00000003-2026-11-25T02:00:01Z", ("full", 3)),
        ("control1-dump-00000012-2026-11-25T02:00:01Z.checkpoint", None),
        ("control1-dump-00000012-2026-11-25T02:00:01Z x.checkpoint", None),
        ("control1-manual-2026-11-25T02:00:01Z", None),
        ("control11-dump-00000012-2026-11-25T02:00:01Z", None),
        ("x-control1-dump-00000012-2026-11-25T02:00:01Z", None),
        ("", None),
    ],
)
def test_only_our_own_whole_archives_are_ours(name: str, expected: tuple[str, int] | None) -> None:
    assert SETTINGS.parse(name) == expected


DUMP = SETTINGS.jobs["dump"]
SLOT = schedule.slot(NOW, DUMP)


def test_a_slot_is_never_later_than_now_nor_older_than_a_period() -> None:
    assert SLOT <= NOW < SLOT + DUMP.period
    assert schedule.slot(SLOT, DUMP) == SLOT
    assert schedule.slot(SLOT - 1, DUMP) == SLOT - DUMP.period


@pytest.mark.parametrize(
    ("past", "due"),
    [
        (record.Past(), True),
        (record.Past(started=SLOT + 5, succeeded=SLOT + 5), False),
        (record.Past(started=SLOT - 5, succeeded=SLOT - 5), True),
        # the machine was off for a week: made up for, once
        (record.Past(started=NOW - 7 * 86400, succeeded=NOW - 7 * 86400), True),
        # the clock was set back by a year: a success in the future is worth nothing
        (record.Past(started=NOW + 365 * 86400, succeeded=NOW + 365 * 86400), True),
        # after a failure: 5 minutes, 10, 20, an hour at most, whatever the slot
        (record.Past(started=NOW - 299, succeeded=SLOT - 5, failures=1), False),
        (record.Past(started=NOW - 300, succeeded=SLOT - 5, failures=1), True),
        (record.Past(started=NOW - 599, succeeded=SLOT - 5, failures=2), False),
        (record.Past(started=NOW - 3599, succeeded=0, failures=400), False),
        (record.Past(started=NOW - 3600, succeeded=0, failures=400), True),
        # a failure that began "in the future" doesn't hold anything up
        (record.Past(started=NOW + HOUR, succeeded=0, failures=1), True),
    ],
)
def test_due(past: record.Past, due: bool) -> None:
    assert schedule.due(NOW, past, DUMP) is due


def test_each_host_has_a_slot_of_its_own() -> None:
    role = Path(__file__).parents[2] / "roles/mf_backup"
    files = [f"--extra-vars=@{role}/{name}/main.yml" for name in ("defaults", "vars")]
    databases = '--extra-vars={"mf_backup_databases": ["panel"]}'
    program = str(Path(sys.executable).with_name("ansible"))
    done = subprocess.run(
        [
            program,
            "all",
            "--inventory=control1,control2,",
            *files,
            databases,
            "-mdebug",
            "-avar=__mf_backup_job_settings",
        ],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1"},
    )
    first, second = (
        json.loads(line.partition("=>")[2])["__mf_backup_job_settings"] for line in done.stdout.splitlines()
    )
    assert set(first) == set(settings.JOBS)
    for job, values in first.items():
        assert 0 <= values["offset"] < values["period"] == second[job]["period"]
        assert values["offset"] != second[job]["offset"]


def test_the_most_urgent_goes_first_and_a_drill_needs_a_dump() -> None:
    assert schedule.chosen(NOW, {}, SETTINGS.jobs) == ["dump", "full", "verify", "drill"]
    failed = {"dump": record.Past(started=NOW - 1, failures=1)}
    assert schedule.chosen(NOW, failed, SETTINGS.jobs) == ["full", "verify"]
