"""Backups without Borg and without a database: what is due, what is remembered, what is compared, what is said."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import struct
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

import pytest
from mf import borg, config, state
from mf_backup import check, facts, jobs, record, repository, restore, schedule, settings
from mf_offsite import check as offsite
from mf_offsite import command as offsite_cli
from mf_offsite import lists, prune, rewind, segment_log

NOW = 1_795_000_000.0
HOUR = 3600.0
SECTION: dict[str, Any] = {
    "prefix": "control1",
    "repository": "ssh://mf-offsite@192.0.2.22:22/mf/var/offsite/repository",
    "path": "/mf/var/offsite/repository",
    "databases": ["panel"],
    "socket": "/run/none.sock",
    "newest": {"panel.customer": "seen"},
    "restore_paths": ["/srv/panel"],
    "after_restore": ["true", "false", "true"],
    "throttle_wait": 60,
    "jobs": {
        "dump": {"period": 14400, "offset": 77},
        "full": {"period": 86400, "offset": 5000},
        "verify": {"period": 604800, "offset": 0},
        "drill": {"period": 604800, "offset": 9},
    },
}
SETTINGS = settings.read({"backup": SECTION})


@pytest.fixture
def places(tmp_path: Path) -> state.Places:
    found = state.Places(str(tmp_path))
    for folder in (found.persistent, found.locks, os.path.dirname(found.decisions)):
        os.makedirs(folder)
    return found


def archive(sequence: int, job: str = "dump", ident: str = "") -> borg.Archive:
    name = SETTINGS.archive(job, sequence, "2026-11-25T02:00:01Z")
    return borg.Archive(name, ident or f"{sequence:064d}", job, sequence, NOW)


# --- settings


@pytest.mark.parametrize("section", [None, [], {}, {**SECTION, "jobs": 3}, {**SECTION, "newest": 1}])
def test_settings_that_are_not_whole_are_refused_in_one_line(section: object) -> None:
    with pytest.raises(config.SettingsError, match="backup"):
        settings.read({"backup": section})


@pytest.mark.parametrize(
    ("name", "found"),
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
def test_only_our_own_whole_archives_are_ours(name: str, found: tuple[str, int] | None) -> None:
    assert SETTINGS.parse(name) == found


# --- when


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


# --- what is remembered


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
    found = record.Record(places)
    assert not found.adopted
    assert found.past("dump").failures == 0


def test_lists_are_compared_by_name_and_id() -> None:
    recorded = {one.name: one for one in (archive(1), archive(2), archive(3))}
    found = {one.name: one for one in (archive(2, ident="other"), archive(3), archive(4))}
    difference = borg.compare(recorded, found)
    assert difference.missing == (archive(1).name,)
    assert difference.unknown == (archive(4).name,)
    assert difference.changed == (archive(2).name,)
    assert not difference.same
    assert borg.compare(recorded, recorded | {archive(9).name: archive(9)}).same


# --- facts


def table(rows: int = 3, total: str = "12", newest: str = "") -> dict[str, Any]:
    return {"rows": rows, "sum": total, "newest": newest}


def test_facts_are_found_at_the_end_of_a_dump_only() -> None:
    found: facts.Facts = {"version": 1, "taken": NOW, "databases": {"a": {"t": table()}}}
    assert facts.parse(b"-- Dump completed\n" + facts.line(found)) == found
    assert facts.rows(found) == 3
    assert facts.parse(b"-- Dump completed\n") is None
    assert facts.parse(b"\n" + facts.line(found)[:-2]) is None
    assert facts.parse(b"INSERT '" + facts.line(found)) is None
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


def test_a_database_that_is_missing_is_said() -> None:
    assert facts.differences({"databases": {"a": {}}}, {"databases": {}}) == ["a is missing"]
    assert facts.differences({"databases": {"a": {}}}, {"databases": {"a": {}}}) == []


def test_what_came_back_is_held_against_the_record_kept_apart() -> None:
    was, less = ({"databases": {"panel": {"customer": table(rows)}}} for rows in (3, 2))
    assert facts.held(None, was, was) == facts.held(was, was, was) == []
    assert facts.held(None, less, less) == []  # a rebuilt machine can't know better
    assert facts.held(was, less, less) == ["panel.customer has 2 rows, not 3"]  # the repository's copy fits itself
    assert facts.held(was, less, was) == ["what the dump says of itself isn't what was recorded here when it was made"]


def test_identifiers_are_quoted() -> None:
    assert facts.quoted("a`b") == "`a``b`"


# --- Borg


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("Host key verification failed.", "host_key"),
        ("mf-offsite@192.0.2.22: Permission denied (publickey).", "key"),
        (
            "passphrase supplied in BORG_PASSPHRASE, by BORG_PASSCOMMAND or via BORG_PASSPHRASE_FD is incorrect.",
            "passphrase",
        ),
        ("Failed to create/acquire the lock /x/lock.exclusive (timeout).", "lock"),
        ("Repository /x does not exist.", "absent"),
        ("ssh: connect to host 192.0.2.22 port 22: Connection refused", "unreachable"),
        ("Connection closed by remote host. Is borg working on the server?", "cut"),
        ("OSError: [Errno 28] No space left on device", "full"),
        (
            "The storage quota (1.00 MB) has been exceeded (1.10 MB). Try deleting some archives. StorageQuotaExceeded",
            "quota",
        ),
        ("Data integrity error: Segment entry checksum mismatch", "corrupt"),
        ("3 orphaned objects found!", "hidden"),
        ("ensure_reservation\n    assert reservation_end < MAX_REPRESENTABLE_NONCE\nAssertionError", "counter"),
        ("Command '/mf/bin/backup' exited with status 1", "dump"),
        ('  File "/usr/lib/python3/dist-packages/borg/remote.py", line 240, in serve', "offsite"),
        ("something new", "failed"),
    ],
)
def test_failures_are_told_apart(message: str, kind: str) -> None:
    found = borg.explain(["noise", message, "CRITICAL Need some help? https://torsion.org/borgmatic/#issues"], 2)
    assert found.kind == kind
    assert "\n" not in str(found)
    assert kind != "failed" or str(found).endswith(message)


def test_what_borg_says_is_made_safe() -> None:
    assert "\x1b" not in str(borg.explain(["\x1b[2Jevil"], 2))
    assert "killed by signal 9" in str(borg.explain([], -9))


def test_the_environment_has_no_secret_and_trusts_one_host_key() -> None:
    env = repository.environment(SETTINGS)
    assert "BORG_PASSPHRASE" not in env
    assert env["BORG_PASSCOMMAND"] == "cat /mf/etc/backup/passphrase"
    assert "StrictHostKeyChecking=yes" in env["BORG_RSH"]
    assert "UserKnownHostsFile=/mf/etc/backup/known_hosts" in env["BORG_RSH"]


def fake(tmp_path: Path, places: state.Places, script: str, turn: int | None = None) -> repository.Borg:
    etc = tmp_path / "etc"
    etc.mkdir()
    for name in ("passphrase", "ssh.key", "known_hosts"):
        (etc / name).write_text("x")
    program = tmp_path / "borg"
    program.write_text(f"#!/bin/sh\ncd {tmp_path}\n{script}\n")
    program.chmod(0o755)
    return repository.Borg(
        SETTINGS, places, etc=str(etc), base=str(tmp_path / "base"), turn=turn, program=[str(program)]
    )


HELD = '{"type": "log_message", "levelname": "ERROR", "message": "Failed to create/acquire the lock", "msgid": ""}'
LOCKED = f"""
case "$*" in
  *break-lock*) touch broken; exit 0 ;;
esac
[ -e broken ] && echo '{{"archives": []}}' && exit 0
echo '{HELD}' >&2
exit 2
"""


def test_a_stale_lock_is_broken_once_and_recorded(tmp_path: Path, places: state.Places) -> None:
    with jobs.Turn(places) as turn:
        assert turn is not None
        one = fake(tmp_path, places, LOCKED, turn.descriptor)
        assert one.archives() == {}
    (line,) = Path(places.decisions).read_text().splitlines()
    assert json.loads(line)["action"] == "break-lock"


def test_without_the_turn_no_lock_is_broken(tmp_path: Path, places: state.Places) -> None:
    with pytest.raises(borg.BorgError) as caught:
        fake(tmp_path, places, LOCKED).archives()
    assert caught.value.kind == "lock"
    assert not (tmp_path / "broken").exists()


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("mf-offsite@192.0.2.22: Permission denied (publickey).", "key"),
        ("Host key verification failed.", "host_key"),
        ("borg serve ended", "cut"),
    ],
)
def test_ssh_says_why_a_connection_ended_when_borg_did_not(
    tmp_path: Path, places: state.Places, said: str, kind: str
) -> None:
    closed = json.dumps({"type": "log_message", "levelname": "ERROR", "message": "Connection closed by remote host."})
    one = fake(tmp_path, places, f"echo '{closed}' >&2; exit 2")
    ssh = tmp_path / "ssh"
    ssh.write_text(f'#!/bin/sh\n[ "$1" = ssh://mf-offsite@192.0.2.22:22 ] && echo "{said}" >&2\nexit 255\n')
    ssh.chmod(0o755)
    one.env["BORG_RSH"] = str(ssh)
    with pytest.raises(borg.BorgError) as caught:
        one.archives()
    assert caught.value.kind == kind


def test_a_stale_lock_is_no_matter_for_borgmatic_either(tmp_path: Path, places: state.Places) -> None:
    with jobs.Turn(places) as turn:
        assert turn is not None
        one = fake(tmp_path, places, LOCKED, turn.descriptor)
        assert one.run_other([str(tmp_path / "borg"), "create"], 60).out == '{"archives": []}\n'
    assert (tmp_path / "broken").exists()


@pytest.mark.parametrize(
    ("status", "said", "kind"), [(1, "Remote: Finished full repository check, errors found.", "corrupt")]
)
def test_borgmatic_says_1_for_every_failure_and_borg_for_a_warning(
    tmp_path: Path, places: state.Places, status: int, said: str, kind: str
) -> None:
    one = fake(tmp_path, places, f"echo '{said}' >&2; echo done; exit {status}")
    with pytest.raises(borg.BorgError) as caught:
        one.run_other([str(tmp_path / "borg"), "check"], 60)
    assert caught.value.kind == kind
    assert one.run("list").out == "done\n"


def test_a_reader_that_has_had_enough_ends_the_command(tmp_path: Path, places: state.Places) -> None:
    one = fake(tmp_path, places, "exec cat /dev/zero")
    began = time.monotonic()

    def impatient(stream: IO[bytes]) -> None:
        stream.read(10)

    assert one.run("extract", limit=60, sink=impatient).messages == []
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("name", "kind"), [("passphrase", "passphrase"), ("ssh.key", "key"), ("known_hosts", "host_key")]
)
def test_what_deployment_brings_is_missing(tmp_path: Path, places: state.Places, name: str, kind: str) -> None:
    one = fake(tmp_path, places, "touch ran")
    (tmp_path / "etc" / name).unlink()
    with pytest.raises(borg.BorgError, match="deploy control again") as caught:
        one.run("list")
    assert caught.value.kind == kind
    assert not (tmp_path / "ran").exists()


def test_times_of_borg_are_utc() -> None:
    assert borg.epoch("2026-11-25T02:09:41.000000") == 1795572581.0


# --- jobs


def context(tmp_path: Path, places: state.Places, script: str) -> jobs.Context:
    return jobs.Context(SETTINGS, places, record.Record(places), fake(tmp_path, places, script), lambda: NOW)


LIST = """
case "$*" in
  *list*) echo '{"archives": [{"name": "%s", "id": "aa", "time": "2026-11-25T02:00:01.000000"}]}' ;;
  *info*) echo '{"repository": {"id": "r1"}}' ;;
  *) touch wrote ;;
esac
"""


def test_a_rebuilt_machine_does_not_write_over_history(tmp_path: Path, places: state.Places) -> None:
    at = context(tmp_path, places, LIST % archive(7).name)
    past = jobs.perform("dump", at)
    assert past.failures == 1
    assert past.kind == "foreign"
    assert "restore_control.yml" in past.error
    assert not (tmp_path / "wrote").exists()
    # by this restore_control.yml tells it from a machine in use
    assert '"repository": ""' in Path(places.persistent, "backup.json").read_text()


def test_nothing_is_saved_from_a_restore_that_stopped_half_way(tmp_path: Path, places: state.Places) -> None:
    at = context(tmp_path, places, LIST % archive(7).name)
    jobs.adopt(at)
    with pytest.raises(facts.DatabaseError):  # there is no server
        restore.perform(at, restore.choose(at, ["full", "dump"]))
    again = replace(at, record=record.Record(places))
    for job in settings.JOBS:
        past = jobs.perform(job, again)
        assert (past.kind, "a restore was begun here" in past.error) == ("foreign", True)
    assert not (tmp_path / "wrote").exists()
    jobs.adopt(again)  # a person leaves it at that
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


def test_adopting_learns_the_list_and_goes_on_counting(tmp_path: Path, places: state.Places) -> None:
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
    assert check.judge("dump", asdict(past), 14400, NOW, NOW)[0] == state.CRITICAL


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


def test_the_check_looks_while_a_job_has_the_turn(tmp_path: Path) -> None:
    """Else a job of hours makes the check's result stale, and somebody is woken for a backup that is well."""
    places = state.Places(str(tmp_path))
    with jobs.Turn(places) as turn:
        assert turn is not None
        with state.Lock(places, "backup") as check:
            assert check


def test_one_turn_at_a_time_and_a_child_keeps_it(places: state.Places) -> None:
    with jobs.Turn(places) as turn:
        assert turn is not None
        with jobs.Turn(places) as second:
            assert second is None
        kept = os.dup(turn.descriptor)
    with jobs.Turn(places) as third:
        assert third is None  # what was started under the turn lives on
    os.close(kept)
    with jobs.Turn(places) as fourth:
        assert fourth is not None


def test_files_that_a_restore_would_replace_are_named(tmp_path: Path, places: state.Places) -> None:
    here, ours = tmp_path / "here", archive(7, "full").name
    script = (LIST % ours).replace(
        "*info*)", f"*NUL*) printf -- '-%s\\0d%s\\0-%s\\0' {str(here)[1:]} tmp no/such ;; *info*)"
    )
    script = script.replace("*list*)", "*list*--json*)")
    at = context(tmp_path, places, script)
    (one,) = restore.choose(at, ["full"]).values()
    assert restore.overwritten(at, one) == []
    here.touch()
    assert restore.overwritten(at, one) == [f"1 files, {here} first"]


def test_commands_after_a_restore_all_run_whatever_one_says(tmp_path: Path, places: state.Places) -> None:
    assert restore.afterwards(context(tmp_path, places, "")) == [("true", 0), ("false", 1), ("true", 0)]


# --- the attended prune

KEEP = {"dump": {"within": "7d", "daily": 31}, "full": {"daily": 14}}


def order(**changes: Any) -> prune.Order:
    lines = "".join(json.dumps(asdict(archive(number))) + "\n" for number in (1, 2, 3))
    given = {"passphrase": "secret words", "prefix": "control1", "keep": KEEP, "record": lines, **changes}
    return prune.read(json.dumps(given).encode())


def plan(*found: borg.Archive, going: tuple[str, ...] = (), recorded: tuple[int, ...] = (1, 2, 3)) -> prune.Plan:
    there = {one.name: one for one in found}
    known = {one.name: one for one in map(archive, recorded)}
    return prune.Plan(there, borg.compare(known, there), prune.doubts(there, NOW, prune.Left()), going)


def test_prune_takes_ids_from_borg_and_refuses_unknown_rules() -> None:
    lines = [
        f"Keeping archive (rule: daily #1):  a  x [{'1' * 64}]",
        f"Would prune:    {archive(1).name}  Wed, 2026 [{'2' * 64}]",
        # what borg's list hides, named so that its first word is a true archive
        f"Would prune:    {archive(3).name} [{'3' * 64}] x.checkpoint  Wed, 2026 [{'4' * 64}]",
        "",
    ]
    assert prune.pruned(lines) == ["2" * 64, "4" * 64]
    assert prune.arguments({"daily": "3", "within": "7d"}) == ["--keep-within=7d", "--keep-daily=3"]
    for rules in ({"hourlyy": "1"}, {}):
        with pytest.raises(prune.PruneError, match="mf_backup_keep"):
            prune.arguments(rules)


def test_an_order_is_read_whole_or_refused_and_never_shows_its_passphrase() -> None:
    found = order(approved=["a"])
    assert found.approved == frozenset({"a"})
    assert [one.sequence for one in found.recorded.values()] == [1, 2, 3]
    assert "secret words" not in repr(found)
    for wrong in (b"", b"[]", b'{"passphrase": "secret words"}', b'{"record": "{}", "passphrase": "secret words"'):
        with pytest.raises(prune.PruneError) as caught:
            prune.read(wrong)
        assert "secret" not in str(caught.value)
    with pytest.raises(prune.PruneError):
        order(keep={"dump": KEEP["dump"], "full": {}})


def test_a_prune_refuses_what_control_did_not_record_so() -> None:
    prune.refuse(plan(archive(1), archive(2), archive(3), archive(4)), order())  # a new one is no harm
    with pytest.raises(prune.PruneError, match=r"1 archives are missing.*00000002"):
        prune.refuse(plan(archive(1), archive(3)), order())
    with pytest.raises(prune.PruneError, match=r"others than control recorded.*00000003"):
        prune.refuse(plan(archive(1), archive(2), archive(3, ident="f" * 64)), order())


def test_only_what_was_seen_goes() -> None:
    all_three = (archive(1), archive(2), archive(3))
    first, second = archive(1).name, archive(2).name
    prune.refuse(plan(*all_three, going=(first,)), order(approved=[first, second]))
    with pytest.raises(prune.PruneError, match=r"1 archives more.*00000002"):
        prune.refuse(plan(*all_three, going=(first, second)), order(approved=[first]))


def test_names_that_pass_for_ours_are_doubted() -> None:
    mine = archive(1).name
    well = [mine, f"{mine}.checkpoint", f"{mine}.checkpoint.1", "control1-manual", "control11-dump-x", "other"]
    assert prune.foreign("control1", well) == []
    bad = [f"{mine} x.checkpoint", "control1-dump-evil", f"{mine}.part"]
    assert len(prune.foreign("control1", [*well, *bad])) == len(bad)


@pytest.mark.parametrize(
    ("times", "word"),
    [
        ((-3, -2, -1), ""),
        ((-3, -2, 0.5), ""),  # within the hour: a clock that isn't quite right
        ((-3, -2, 30), "of the future"),
        ((-300, -5, -20), "after one with a higher number"),  # a made-up one, or the one before it was
    ],
)
def test_archives_with_made_up_times_are_doubted(times: tuple[float, ...], word: str) -> None:
    found = [replace(archive(number), time=NOW + hours * HOUR) for number, hours in enumerate(times, 1)]
    seen = plan(*found)
    assert bool(seen.doubtful) == bool(word)
    if word:
        with pytest.raises(prune.PruneError, match=word):
            prune.refuse(seen, order())


def test_archives_with_numbers_that_cannot_be_are_doubted(tmp_path: Path) -> None:
    """Somebody fills a gap that a prune left, to be the last of a day and push out the true one."""
    found = {one.name: one for one in (archive(1), archive(4), archive(5))}
    path = str(tmp_path / "left.json")
    prune.Left.of(found.values()).save(path)
    left = prune.Left.load(path)
    assert prune.doubts(found, NOW, left) == []
    assert prune.doubts({**found, archive(6).name: archive(6)}, NOW, left) == []
    (said,) = prune.doubts({**found, archive(3).name: archive(3)}, NOW, left)
    assert "00000003" in said
    assert "wasn't there at the last prune" in said
    twin = replace(archive(5), name=f"{archive(5).name}0")
    (said,) = prune.doubts({**found, twin.name: twin}, NOW, left)
    assert "there twice" in said
    (tmp_path / "left.json").write_text('{"highest": 3')
    with pytest.raises(prune.PruneError, match="not whole"):
        prune.Left.load(path)


def test_an_archive_that_was_ever_listed_is_listed_or_was_deleted(tmp_path: Path) -> None:
    def listed(**archives: str) -> dict[bytes, dict[bytes, bytes]]:
        return {k.encode(): {b"id": v[:1].encode() * 32, b"time": v[1:].encode()} for k, v in archives.items()}

    before, now = listed(a="A1", b="B2", c="C3", d="D4"), listed(b="X2", c="C9", d="D4", e="E5")
    gone = lists.unlisted([(0, listed()), (3, before), (5, before), (5, now)])
    # not there, another, of another time
    assert gone == [(b"a", b"A" * 32, 5), (b"b", b"B" * 32, 5), (b"c", b"C" * 32, 5)]
    assert lists.unlisted([(3, before), (5, before)]) == lists.unlisted([]) == []

    names = [("a", b"A"), ("b", b"B"), ("c.checkpoint", b"C"), ("d.checkpoint.evil", b"D")]
    found = [(name, (ident * 32).hex(), 1) for name, ident in names]
    where = made_repository(tmp_path, entry(2), entry(1, b"A" * 32), entry(2), entry(1, b"B" * 32))
    lines = [f"transaction {number}, UTC time 2026-11-25T02:00:00.1\n" for number in (0, 2)]
    Path(where, "transactions").write_text("".join(lines))
    said = prune.hidden(found, where)
    assert [word.split()[0] for word in said] == ["b", "d.checkpoint.evil"]  # b's has no commit
    assert said[0].endswith("up to transaction 2")


def test_lists_of_archives_are_those_since_history_began_and_the_one_before(tmp_path: Path) -> None:
    def listing(*bodies: bytes) -> bytes:
        return b"".join(entry(1, segment_log.MANIFEST) + entry(0, segment_log.MANIFEST, body) for body in bodies)

    end = entry(2)
    where = made_repository(tmp_path, listing(b"old"), listing(b"old", b"left"), end, PUT[:91], listing(b"1", b"2"))
    log = Path(where, "transactions")
    log.write_text("transaction 2, UTC time 2026-11-25T02:00:09.123\n")
    assert list(segment_log.lists(where)) == [(1, b"left")]  # the others have no commit
    Path(where, "data", "0", "5").write_bytes(segment_log.MAGIC + listing(b"3") + end)
    assert list(segment_log.lists(where)) == [(1, b"left"), (4, b"1"), (4, b"2"), (5, b"3")]
    log.unlink()
    assert [data for _, data in segment_log.lists(where)] == [b"old", b"old", b"left", b"1", b"2", b"3"]


def test_people_see_what_becomes_of_each_archive() -> None:
    seen = plan(archive(1), archive(2, ident="e" * 64), archive(4), going=(archive(1).name,))
    ends = [line.partition("Z  ")[2] for line in seen.lines()]
    assert ends[:4] == [
        "goes",
        "ANOTHER one than control recorded",
        "MISSING here, and on control's record",
        "NOT on control's record",
    ]
    assert seen.lines()[-1] == "1 of 3 archives go"


def test_no_prune_while_somebody_else_deleted(tmp_path: Path) -> None:
    clean = made_repository(tmp_path / "one", entry(0, b"a" * 32), entry(2))
    prune.untouched(clean, segment_log.Scan(), same_key=True)
    with pytest.raises(prune.PruneError, match="key is another one"):
        prune.untouched(clean, segment_log.Scan(), same_key=False)
    touched = made_repository(tmp_path / "two", entry(0, b"a" * 32) + entry(2), entry(1, b"a" * 32) + entry(2))
    # counted afresh, whatever a look may have passed over
    for known in (segment_log.Scan(), segment_log.Scan(scanned=1), segment_log.Scan(baseline=0, scanned=1)):
        with pytest.raises(prune.PruneError, match="1 objects were deleted"):
            prune.untouched(touched, known, same_key=True)
    prune.untouched(touched, segment_log.Scan(baseline=1), same_key=True)


def test_after_a_prune_history_begins_anew(tmp_path: Path) -> None:
    where = made_repository(tmp_path, entry(0, b"a" * 32) + entry(2), entry(2))
    last = prune.begin_anew(where)
    assert [one.segment for one in segment_log.transactions(where)] == [last] == [max(segment_log.segments(where))]


def test_what_a_prune_left_deletes_nothing_in_the_history(
    tmp_path: Path, places: state.Places, capsys: pytest.CaptureFixture[str]
) -> None:
    where = made_repository(tmp_path / "kept", PUT, GONE)
    os.makedirs(places.etc)
    settled = {"generation": "g", "host": "offsite1", "checks": {}, "offsite": {"repository": where, "lock": "none"}}
    Path(places.settings).write_text(json.dumps(settled))

    def rows() -> list[int]:
        assert offsite_cli.main(["history", "--json"], places) == 0
        return [row["deleted"] for row in json.loads(capsys.readouterr().out)["transactions"]]

    assert rows() == [0, 1]
    prune.begin_anew(where)
    assert rows() == [0]
    (Path(where) / "data" / "0" / "2").write_bytes(segment_log.MAGIC + GONE)
    with (Path(where) / "transactions").open("a") as log:
        log.write("transaction 2, UTC time 2026-11-25T02:00:09.123\n")
    assert rows() == [0, 1]


def test_control_forgets_what_was_pruned_and_its_facts(places: state.Places) -> None:
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


# --- check-backup

VALUES = {"dump_period": 4 * HOUR, "full_period": 24 * HOUR, "verify_period": 7 * 86400, "drill_period": 7 * 86400}
WELL = {"started": NOW - 600, "succeeded": NOW - 600, "failures": 0}


def judged(**jobs_: Any) -> state.Result:
    known = {**dict.fromkeys(("dump", "full", "verify", "drill"), WELL), **jobs_}
    return check.decide({"jobs": known}, VALUES, NOW, NOW - 86400)


def test_all_young_is_ok_and_has_the_ages() -> None:
    found = judged(drill={**WELL, "figures": {"rpo_seconds": 9.0, "rto_seconds": 3.0}})
    assert found.status == state.OK
    assert found.metrics["dump_age_seconds"] == found.metrics["full_age_seconds"] == 600
    assert found.metrics["drill_age_seconds"] == 600
    assert (found.metrics["drill_rpo_seconds"], found.metrics["drill_rto_seconds"]) == (9.0, 3.0)


@pytest.mark.parametrize(
    ("past", "status", "word"),
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
def test_late_failed_and_doubtful(past: Any, status: str, word: str) -> None:
    found = judged(dump=past)
    assert found.status == status
    assert word in found.summary


def test_a_fresh_machine_has_time_for_its_first_backups() -> None:
    assert check.decide({}, VALUES, NOW, NOW - 60).status == state.OK
    assert check.decide({}, VALUES, NOW, NOW - 7 * HOUR).status == state.WARNING


def test_jobs_that_a_machine_does_not_have_are_not_judged() -> None:
    values = {**VALUES, "dump_period": 0, "drill_period": 0}
    assert check.decide({"jobs": {"full": WELL, "verify": WELL}}, values, NOW, 0.0).status == state.OK


def test_the_check_reads_the_record_and_says_when_it_is_torn(places: state.Places) -> None:
    kept = record.Record(places)
    kept.past("dump").succeeded = kept.past("full").succeeded = 9e9
    kept.save()
    found = check.look(places, VALUES)
    assert isinstance(found, state.Result)
    assert "in the future" in found.summary
    Path(places.persistent, "backup.json").write_text("{")
    found = check.look(places, VALUES)
    assert isinstance(found, state.Result)
    assert found.status == state.UNKNOWN


def test_a_full_disk_is_said_by_the_check_as_no_failure_can_be_recorded(
    places: state.Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    record.Record(places).save()
    real = os.statvfs(places.persistent)
    figures = list(real)
    figures[3] = check.ROOM // real.f_frsize - 1  # f_bfree: what root may still use
    monkeypatch.setattr("posix.statvfs", lambda _: os.statvfs_result(figures))
    found = check.look(places, VALUES)
    assert isinstance(found, state.Result)
    assert (found.status, "no room to put anything on record" in found.summary) == (state.CRITICAL, True)
    figures[3] += 2
    found = check.look(places, VALUES)
    assert isinstance(found, state.Result)
    assert "no room" not in found.summary


def test_the_check_knows_what_is_grave() -> None:
    assert check.GRAVE == borg.CRITICAL_KINDS
    assert check.JOBS == settings.JOBS


# --- the log of a repository


def entry(tag: int, key: bytes = b"", data: bytes = b"") -> bytes:
    body = struct.pack("<B", tag) + key + data
    return struct.pack("<II", 0, 8 + len(body)) + body


KEY = b"k" * 32
CONFIG = "[repository]\nversion = 1\nappend_only = 0\nid = 0123\nkey = abc\n\tdef\n"


def made_repository(root: Path, *segments: bytes) -> str:
    folder = root / "repository"
    (folder / "data" / "0").mkdir(parents=True)
    for number, body in enumerate(segments):
        (folder / "data" / "0" / str(number)).write_bytes(segment_log.MAGIC + body)
    lines = [f"transaction {number}, UTC time 2026-11-25T02:00:0{number}.123\n" for number in range(len(segments))]
    (folder / "transactions").write_text("".join(lines))
    (folder / "config").write_text(CONFIG)
    (folder / "index.2").write_text("index")
    return str(folder)


PUT = entry(0, KEY, b"x" * 50) + entry(1, segment_log.MANIFEST) + entry(0, segment_log.MANIFEST, b"m") + entry(2)
GONE = entry(1, KEY) + entry(1, segment_log.MANIFEST) + entry(0, segment_log.MANIFEST, b"m") + entry(2)


def test_a_new_manifest_is_no_deletion_and_a_deletion_is_one(tmp_path: Path) -> None:
    folder = made_repository(tmp_path, PUT, PUT, GONE)
    found = segment_log.scan(folder, segment_log.Scan())
    assert (found.scanned, found.deleted, found.first) == (2, 1, 2)
    assert segment_log.scan(folder, found) == found
    assert segment_log.scan(folder, segment_log.Scan(baseline=2, scanned=2)).deleted == 0
    assert segment_log.size(folder) == sum(os.stat(f"{folder}/data/0/{n}").st_size for n in range(3))


def manifest(size: int) -> bytes:
    return entry(1, segment_log.MANIFEST) + entry(0, segment_log.MANIFEST, b"m" * size) + entry(2)


def test_a_list_of_archives_that_becomes_shorter_is_a_deletion(tmp_path: Path) -> None:
    folder = made_repository(tmp_path, manifest(300), manifest(400), manifest(390), PUT)
    assert segment_log.scan(folder, segment_log.Scan()).deleted == 1  # PUT's is of one byte
    shorter = made_repository(tmp_path / "other", manifest(300), manifest(400), manifest(360))
    found = segment_log.scan(shorter, segment_log.Scan())
    assert (found.deleted, found.first, found.manifest) == (1, 2, 360 + 41)
    grown = made_repository(tmp_path / "third", manifest(300), manifest(400), manifest(399), manifest(460))
    assert segment_log.scan(grown, segment_log.Scan()).deleted == 0


def test_the_first_list_after_a_prune_is_packed_otherwise(tmp_path: Path, places: state.Places) -> None:
    folder = made_repository(tmp_path, manifest(400), GONE, manifest(390))
    offsite_cli._forget(places, folder)
    known = offsite.remembered(state.read_bytes(f"{places.persistent}/{offsite.REMEMBERED}"))
    segment = made_repository(tmp_path / "more", manifest(340), manifest(380), manifest(300))
    for number, name in segment_log.segments(segment).items():
        shutil.copy(name, f"{folder}/data/0/{number + 10}")
    found = segment_log.scan(folder, known)
    assert (found.deleted, found.first) == (1, 12)  # the last one alone has lost an archive


def test_another_key_in_the_repository_is_noticed(tmp_path: Path, places: state.Places) -> None:
    folder = made_repository(tmp_path, PUT)
    values = {**LIMITS, "repository": folder, "lock": folder, "deadline": 60}

    def looked() -> state.Result:
        look = offsite.look(places, values)
        assert callable(look)
        return look(False)

    assert looked().metrics["same_key"] == 1
    kept = Path(places.persistent, offsite.KEPT_CONFIG)
    assert kept.read_text() == CONFIG
    assert kept.stat().st_mode & 0o777 == 0o600
    Path(folder, "config").write_text(CONFIG.replace("append_only = 0", "append_only = 1"))
    assert looked().metrics["same_key"] == 1
    for damage in (CONFIG.replace("def", "xyz"), CONFIG.replace("0123", "9"), "garbage"):
        Path(folder, "config").write_text(damage)
        found = looked()
        assert (found.status, found.metrics["same_key"]) == (state.CRITICAL, 0)
        assert "key is another one" in found.summary
    assert kept.read_text() == CONFIG


def test_a_scan_goes_on_where_it_stopped(tmp_path: Path) -> None:
    folder = made_repository(tmp_path, PUT, PUT, GONE)
    turns = iter([True, False])
    found = segment_log.scan(folder, segment_log.Scan(), lambda: next(turns))
    assert found.scanned == 0
    assert segment_log.scan(folder, found).deleted == 1


def test_a_deletion_counts_where_an_abandoned_transaction_had_the_same_numbers(
    tmp_path: Path, places: state.Places
) -> None:
    folder = made_repository(tmp_path, PUT, entry(0, KEY, b"x"), entry(0, KEY, b"y"), entry(0, KEY, b"z"))
    values = {**LIMITS, "quota_bytes": 1 << 20, "repository": folder, "lock": folder, "deadline": 60}

    def looked() -> tuple[str, int]:
        look = offsite.look(places, values)
        assert callable(look)
        found = look(False)
        return found.status, int(found.metrics["deleted"])

    assert looked() == (state.OK, 0)
    known = offsite.remembered(state.read_bytes(f"{places.persistent}/{offsite.REMEMBERED}"))
    assert (known.scanned, [one.number for one in known.ahead]) == (0, [1, 2])  # 3 may be written to
    for number, body in ((1, entry(1, KEY)), (2, entry(2))):
        path = Path(folder, "data", "0", str(number))
        path.unlink()
        path.write_bytes(segment_log.MAGIC + body)
    Path(folder, "data", "0", "3").unlink()
    assert looked() == (state.CRITICAL, 1)


def test_an_open_transaction_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much it holds: a look never starts again where the last one's time was up."""
    folder = made_repository(tmp_path, PUT, *[entry(1, KEY)] * 4)
    read: list[int] = []
    real = segment_log.read

    def watched(number: int, path: str) -> segment_log.Segment:
        read.append(number)
        return real(number, path)

    monkeypatch.setattr(segment_log, "read", watched)
    found = segment_log.scan(folder, segment_log.Scan())
    turns = iter([True, True, False])
    found = segment_log.scan(folder, found, lambda: next(turns))
    assert (read, found.deleted) == ([0, 1, 2, 3, 4], 0)
    Path(folder, "data", "0", "5").write_bytes(segment_log.MAGIC + entry(2))
    found = segment_log.scan(folder, found)
    assert (read[5:], found.deleted, found.first, found.scanned, found.ahead) == ([3, 4, 5], 4, 1, 5, ())


def test_a_repository_that_vanished_is_no_fresh_one(tmp_path: Path, places: state.Places) -> None:
    folder = made_repository(tmp_path, PUT)
    look = offsite.look(places, {**LIMITS, "repository": folder, "lock": str(tmp_path), "deadline": 60})
    assert callable(look)
    assert look(False).status == state.OK
    shutil.rmtree(folder)
    found = look(False)
    assert (found.status, "there is nothing in it" in found.summary) == (state.CRITICAL, True)


def test_after_a_rewind_what_was_remembered_counts_no_longer(tmp_path: Path) -> None:
    folder = made_repository(tmp_path, PUT)
    assert segment_log.scan(folder, segment_log.Scan(scanned=9, deleted=5, first=3)).deleted == 0


@pytest.mark.parametrize("body", [b"short", struct.pack("<IIB", 0, 0, 0), struct.pack("<IIB", 0, 1 << 31, 2), entry(7)])
def test_a_hostile_segment_ends_the_reading(tmp_path: Path, body: bytes) -> None:
    folder = made_repository(tmp_path, PUT + body)
    one = segment_log.read(0, f"{folder}/data/0/0")
    assert not one.whole
    assert one.written == 1


def test_links_are_not_followed(tmp_path: Path) -> None:
    folder = made_repository(tmp_path, PUT)
    os.symlink("/etc/passwd", f"{folder}/data/0/7")
    assert list(segment_log.segments(folder)) == [0]
    with pytest.raises(segment_log.LogError):
        segment_log.read(7, f"{folder}/data/0/7")
    with pytest.raises(segment_log.LogError, match="no repository"):
        segment_log.segments(str(tmp_path))


def test_rewinding_leaves_out_what_came_later_and_loses_nothing(tmp_path: Path) -> None:
    folder = made_repository(tmp_path, PUT, PUT, GONE)
    Path(folder, "config").write_text("what an intruder left")
    kept = rewind.rewind(folder, 1, "now", CONFIG.encode())
    assert list(segment_log.segments(folder)) == [0, 1]
    assert list(segment_log.segments(kept)) == [0, 1, 2]
    assert [one.segment for one in segment_log.transactions(folder)] == [0, 1]
    assert Path(folder, "config").read_text() == CONFIG
    assert not Path(folder, "index.2").exists()
    with pytest.raises(rewind.RewindError, match="no transaction 9"):
        rewind.rewind(folder, 9, "later", CONFIG.encode())


def test_a_spent_counter_is_an_alarm_and_a_rewind_gives_it_room(tmp_path: Path, places: state.Places) -> None:
    folder = made_repository(tmp_path, PUT)
    values = {**LIMITS, "repository": folder, "lock": folder, "deadline": 60}
    counter = Path(folder, "nonce")

    def looked() -> tuple[str, bool]:
        look = offsite.look(places, values)
        assert callable(look)
        found = look(False)
        return found.status, "spent the cipher's counter" in found.summary

    assert looked() == (state.OK, False)
    used = f"{segment_log.NONCE_LIMIT - 1:016x}"
    for said, spent, left in ((used, False, used), ("f" * 16, True, "0080" + "0" * 12), ("x", True, "0080" + "0" * 12)):
        counter.write_text(said)
        assert looked() == ((state.CRITICAL, True) if spent else (state.OK, False))
        rewind.rewind(folder, 0, f"after-{said}", CONFIG.encode())
        assert counter.read_text() == left
        assert looked() == (state.OK, False)


def test_nobody_rewinds_under_a_backup(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.touch()
    descriptor = os.open(lock, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(rewind.RewindError, match="under way"), rewind.quiet(str(lock), 0.1):
        raise AssertionError
    os.close(descriptor)
    with rewind.quiet(str(lock), 0.1):
        pass


# --- check-offsite

LIMITS = {
    "quota_bytes": 1000,
    "quota_warning": 75,
    "quota_critical": 90,
    "free_warning": 15,
    "free_critical": 5,
    "quiet": 6 * HOUR,
}


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
        (10, 50.0, 60.0, 1, state.CRITICAL, "nobody pruned"),
        (10, 50.0, -299.0, 0, state.OK, ""),
        (10, 50.0, -24 * HOUR, 0, state.WARNING, "in the future: was the clock set back?"),
    ],
)
def test_offsite(used: int, free: float, age: float, deleted: int, status: str, word: str) -> None:
    found, words = offsite.decide(used, free, 90.0, age, deleted, LIMITS)
    assert found == status
    assert word in "; ".join(words)


@pytest.mark.parametrize(
    "data",
    [None, b"", b"{", b'{"baseline": 1}', b'{"baseline": true, "scanned": 1, "deleted": 1, "first": 1, "manifest": 1}'],
)
def test_a_torn_memory_means_that_everything_is_read_again(data: bytes | None) -> None:
    assert offsite.remembered(data) == segment_log.Scan()


def test_offsite_looks_at_a_repository_and_remembers(tmp_path: Path, places: state.Places) -> None:
    folder = made_repository(tmp_path, PUT, GONE)
    values = {**LIMITS, "repository": folder, "lock": folder, "deadline": 60}
    look = offsite.look(places, values)
    assert callable(look)
    first = look(False)
    assert first.status == state.CRITICAL
    assert first.metrics["deleted"] == 1
    known = offsite.remembered(state.read_bytes(f"{places.persistent}/offsite.json"))
    assert replace(known, baseline=1).deleted == 1


def test_the_age_off_site_is_that_of_the_highest_segment(tmp_path: Path, places: state.Places) -> None:
    folder = made_repository(tmp_path, PUT)
    first = max(segment_log.segments(folder).values())
    shutil.copy(first, f"{os.path.dirname(first)}/99")
    ahead = time.time() + 86400
    os.utime(first, (ahead, ahead))  # by a clock that was ahead when that was written; then it was set right
    look = offsite.look(places, {**LIMITS, "repository": folder, "lock": folder, "deadline": 60})
    assert callable(look)
    found = look(False)
    assert "in the future" not in found.summary
    assert 0 <= float(found.metrics["newest_age_seconds"]) < 300


def test_the_dump_command_reads_one_snapshot() -> None:
    from mf_backup import stream

    words = stream.command("/s", ["a", "b"])
    assert "--single-transaction" in words
    assert words[-3:] == ["--databases", "a", "b"]
    assert not any("password" in word for word in words)
