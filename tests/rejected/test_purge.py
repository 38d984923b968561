"""Removing rejected mail: by age, or loudly when the disk is nearly full; never through a link, never too much."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from mf import run, state
from mf_rejected import check, purge, purge_record
from mf_rejected import purge_command as command

NOW = 1764036000.0  # 2025-11-25T02:00:00Z
SETTINGS = {"root": "/x", "refused": "/x", "keep_days": 5, "free_percent": 8, "period": 300, "deadline": 20}
ROOMY = purge.Room(1000, 500, 0, 0)


def keep(root: Path, day: str, name: str, domain: str = "a.example", box: str = "new", size: int = 10) -> Path:
    path = root / day / domain / box / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    return path


def kept(name: str, size: int = 100) -> purge.Kept:
    return purge.Kept(("2025-11-24", "a.example", "new", name), size, NOW)


def everything(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "rejected"
    path.mkdir()
    return path


def test_a_day_goes_when_it_has_been_over_for_five_days() -> None:
    days = [
        "2025-11-18",
        "2025-11-19",
        "2025-11-20",
        "2025-11-25",
        "2025-13-99",
        "lost+found",
        "../../etc",
        "٢٠٢٥-11-18",
    ]
    assert purge_record.expired(days, NOW, 5) == ["2025-11-18", "2025-11-19"]
    # one second before midnight the 19th has been over for less
    assert purge_record.expired(days, NOW - 7201, 5) == ["2025-11-18"]


def test_the_clock_in_the_past_removes_nothing() -> None:
    assert purge_record.expired(["2025-11-18"], 0.0, 5) == []


def test_purge_by_age_takes_whole_days_and_leaves_the_rest(root: Path) -> None:
    for day in ("2025-11-10", "2025-11-19"):
        keep(root, day, "1")
        keep(root, day, "2", domain="b.example")
        keep(root, day, "3", box="tmp")
    young = keep(root, "2025-11-20", "4")
    (root / "not a day").mkdir()
    with purge.Store(str(root)) as store:
        forecast = purge.purge(store, 5, 0, NOW, dry_run=True)
        assert len(everything(root)) == 7
        done = purge.purge(store, 5, 0, NOW)
    assert done.days == forecast.days == ["2025-11-10", "2025-11-19"]
    assert done.aged == forecast.aged == 4
    assert everything(root) == [str(young.relative_to(root))]
    assert sorted(path.name for path in root.iterdir()) == ["2025-11-20", "not a day"]


def test_files_that_were_never_finished_go_after_a_day(root: Path) -> None:
    dead, live = keep(root, "2025-11-24", "1", box="tmp"), keep(root, "2025-11-25", "2", box="tmp")
    os.utime(dead, (NOW - 90000, NOW - 90000))
    os.utime(live, (NOW - 60, NOW - 60))
    with purge.Store(str(root)) as store:
        assert purge.purge(store, 5, 0, NOW).unfinished == 1
    assert not dead.exists()
    assert live.exists()


def test_links_are_never_followed(root: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    keep(precious, "2025-11-10", "1")
    (precious / "new").mkdir()
    (precious / "new/passwd").write_text("x")
    (root / "2025-11-10").symlink_to(precious / "2025-11-10")
    (root / "2025-11-11").mkdir()
    (root / "2025-11-11/a.example").symlink_to(precious)
    (root / "2025-11-12/a.example").mkdir(parents=True)
    (root / "2025-11-12/a.example/new").symlink_to(precious / "new")
    inside = keep(root, "2025-11-13", "1")
    inside.unlink()
    inside.symlink_to(precious / "new/passwd")
    with purge.Store(str(root)) as store:
        purge.purge(store, 5, 0, NOW)
    assert everything(precious) == ["2025-11-10/a.example/new/1", "new/passwd"]
    assert not inside.is_symlink()
    with pytest.raises(OSError, match="Not a directory"):
        purge.Store(str(root / "2025-11-10"))


def test_nothing_goes_while_there_is_room() -> None:
    assert purge.sacrifice([kept("1")], ROOMY, 8) == ([], True)


def test_the_oldest_go_until_there_is_room_and_a_little_more() -> None:
    files = [kept(str(number)) for number in range(100)]
    room = purge.Room(size=10000, free=500, inodes=0, inodes_free=0)  # 5 percent; 8 + 2 are wanted
    chosen, enough = purge.sacrifice(files, room, 8)
    assert enough
    assert [candidate.path[3] for candidate in chosen] == ["0", "1", "2", "3", "4"]


def test_inodes_count_as_well() -> None:
    room = purge.Room(size=10000, free=9000, inodes=1000, inodes_free=70)
    chosen, enough = purge.sacrifice([kept(str(number)) for number in range(100)], room, 8)
    assert (len(chosen), enough) == (30, True)


def test_nothing_goes_when_it_would_not_help() -> None:
    room = purge.Room(size=1_000_000, free=10_000, inodes=0, inodes_free=0)
    assert purge.sacrifice([kept("1"), kept("2")], room, 8) == ([], False)
    assert purge.sacrifice([], room, 8) == ([], False)


def test_a_nearly_full_disk_is_reported(root: Path, places: state.Places, monkeypatch: pytest.MonkeyPatch) -> None:
    old = keep(root, "2025-11-24", "20251124T1", size=5000)
    young = keep(root, "2025-11-25", "20251125T1", domain="0.example", size=5000)
    size = old.stat().st_blocks * 512
    monkeypatch.setattr(purge.Store, "room", lambda _: purge.Room(100 * size, 9 * size, 0, 0))
    sentences = purge.run(places, str(root), 5, 9.5, now=NOW, dry_run=True)
    assert [sentence for sentence in sentences if "before their time" in sentence]
    assert old.exists()
    assert not Path(places.decisions).exists()

    sentences = purge.run(places, str(root), 5, 9.5, now=NOW, counters="/nonexistent")
    assert not old.exists()
    assert not young.exists()  # 9.5 + 2 percent are more than one message
    assert "the disk is nearly full: 2 messages" in sentences[0]
    entry = json.loads(Path(places.decisions).read_text())
    assert (entry["check"], entry["action"], entry["outcome"]) == ("rejected", "remove", "done")
    assert entry["evidence"]["first"] == "20251124T1"
    status, problems = check.decide(purge_record.read(places), ["2025-11-25"], 50, NOW + 60, SETTINGS)
    assert status == state.CRITICAL
    assert problems == ["2 messages removed before their time for lack of room"]


def test_a_disk_that_others_fill_is_reported_once(
    root: Path, places: state.Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = keep(root, "2025-11-25", "1")
    monkeypatch.setattr(purge.Store, "room", lambda _: purge.Room(10**12, 10**9, 0, 0))
    for moment in (NOW, NOW + 600):
        purge.run(places, str(root), 5, 8, now=moment, counters="/nonexistent")
    assert message.exists()
    assert [json.loads(line)["action"] for line in Path(places.decisions).read_text().splitlines()] == ["refuse"]
    assert purge_record.read(places)["full"] == NOW
    assert check.decide(purge_record.read(places), [], 50, NOW + 600, SETTINGS)[0] == state.CRITICAL


def test_the_clock_of_days_to_come_removes_nothing_for_a_day(root: Path, places: state.Places) -> None:
    message = keep(root, "2025-11-24", "1")
    purge.run(places, str(root), 5, 0, now=NOW, counters="/nonexistent")
    later = NOW + 20 * 86400
    sentences = purge.run(places, str(root), 5, 0, now=later, counters="/nonexistent")
    assert sentences == [f"nothing goes by its age for a day: {purge_record.DOUBTED}"]
    assert message.exists()
    status, problems = check.decide(purge_record.read(places), ["2025-12-14"], 50, later + 60, SETTINGS)
    assert (status, problems) == (state.WARNING, [f"nothing goes by its age: {purge_record.DOUBTED}"])
    # the clock is put right
    assert purge.run(places, str(root), 5, 0, now=NOW + 600, counters="/nonexistent") == []
    # or it was right: this host was off
    for minute in range(0, 1450, 10):
        purge.run(places, str(root), 5, 0, now=later + minute * 60, counters="/nonexistent")
    assert not message.exists()


def test_a_fifo_in_the_place_of_the_counters_blocks_no_purge(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "counters")
    assert purge.failures(str(tmp_path / "counters")) == 0
    (tmp_path / "link").symlink_to("/etc/passwd")
    assert purge.failures(str(tmp_path / "link")) == 0


def test_unkept_messages_are_noticed(places: state.Places, tmp_path: Path) -> None:
    counters = tmp_path / "counters"
    done = purge.Purge([], 0, 0, [], False, 50)
    record: purge_record.Record = purge_record.EMPTY
    for moment, text, expected in (
        (1, '{"counts": {"rcpt mf_domains: x": 3}}', 0),
        (2, '{"counts": {"keep failed": 3}}', 2),
        (3, '{"counts": {"keep failed": 3}}', 2),
        (4, '{"counts": {"keep failed": 1}}', 4),
        (5, '{"counts": [', 4),
        (6, '{"counts": {"keep failed": "x"}}', 4),
    ):
        counters.write_text(text)
        record = purge.updated(record, done, purge.failures(str(counters)), moment)
        assert record["failed_at"] == expected
    purge_record.write(places, {**record, "failed": 1, "failed_at": NOW, "ran": NOW})
    assert check.decide(purge_record.read(places), [], 50, NOW, SETTINGS) == (
        state.WARNING,
        ["1 messages couldn't be kept"],
    )


@pytest.mark.parametrize(
    "damage", ["", "ran\n", "ran x\nfull -1\n", "\x00" * 50, "ran 99999999999999999999\nother 1\n"]
)
def test_a_damaged_record_counts_as_empty(places: state.Places, damage: str) -> None:
    Path(places.persistent, purge_record.RECORD).write_text(damage)
    assert purge_record.read(places) == purge_record.EMPTY
    assert check.decide(purge_record.EMPTY, [], 50, NOW, SETTINGS) == (state.WARNING, ["never purged"])


def test_a_purge_that_no_longer_runs_or_works_is_a_warning() -> None:
    record = {**purge_record.EMPTY, "ran": NOW}
    assert check.decide(record, ["2025-11-19", "2025-11-25"], 50, NOW, SETTINGS) == (state.OK, [])
    assert check.decide(record, ["2025-11-18"], 50, NOW, SETTINGS) == (
        state.WARNING,
        ["mail of 2025-11-18 is still here"],
    )
    assert check.decide(record, ["2025-11-25", "9999-12-31"], 50, NOW, SETTINGS) == (
        state.WARNING,
        ["mail is dated 9999-12-31, which goes by age only after that"],
    )
    assert check.decide(record, [], 50, NOW + 7200, SETTINGS) == (state.WARNING, ["last purged 2.0 h ago"])
    assert check.decide(record, [], 7.9, NOW, SETTINGS)[0] == state.CRITICAL


def test_the_check_reads_record_and_days(root: Path, places: state.Places) -> None:
    keep(root, "2025-11-25", "1")
    values = {**SETTINGS, "root": str(root)}
    assert run.wrong_setting(values, check.RULES) is None
    result = check.probe(places, values)
    assert isinstance(result, state.Result)
    assert result.metrics["days"] == 1
    gone = check.probe(places, {**values, "root": str(root / "none")})
    assert isinstance(gone, state.Result)
    assert gone.status == state.CRITICAL


def test_a_missing_setting_is_named(places: state.Places, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"generation": "g", "host": "mx1", "checks": {}}
    assert command.main([], places) == 1
    Path(places.settings).write_text(json.dumps(settings))
    assert command.main([], places) == 1
    assert "rejected.root is missing" in capsys.readouterr().err
    keep(root, "2001-01-01", "1")
    own = {"root": str(root), "keep_days": 5, "free_percent": 0, "refused_day_size": 1, "releases": str(root / "none")}
    Path(places.settings).write_text(json.dumps({**settings, "rejected": own}))
    assert command.main(["--dry-run"], places) == 0
    assert capsys.readouterr().out == "would: 1 messages of 2001-01-01 removed: their time was over\n"
    assert command.main(["--json"], places) == 0
    assert json.loads(capsys.readouterr().out)["said"]
    assert everything(root) == []
    with places.lock(command.LOCK):
        assert command.main([], places) == 0


# --- messages for several domains, and a day's limit


def test_shared_files_are_removed_like_the_others(root: Path) -> None:
    old, new = keep(root, "2025-11-18", "1", "_shared"), keep(root, "2025-11-25", "2", "_shared")
    with purge.Store(str(root)) as store:
        assert purge.purge(store, 5, 0, NOW).aged == 1
    assert not old.exists()
    assert new.exists()


def day(root: Path, text: str) -> purge_record.Record:
    (root / ".day").write_text(text)
    return purge_record.today(str(root), NOW)


def test_todays_count_is_read_as_qpsmtpd_writes_it(root: Path) -> None:
    assert purge_record.today(str(root), NOW) == purge_record.NO_DAY
    text = "".join(f"{name} {value:015d}\n" for name, value in {"day": 20251125, "used": 900, "limit": 1000}.items())
    today = day(root, text)
    assert (today["used"], today["limit"]) == (900, 1000)
    assert day(root, text.replace("20251125", "20251124"))["used"] == 0
    assert day(root, "used 12\nda") == purge_record.NO_DAY
    assert day(root, "limit " + "9" * 4000) == purge_record.NO_DAY


def test_anything_in_the_place_of_the_count_is_harmless(root: Path) -> None:
    os.mkfifo(root / ".day")
    assert purge_record.today(str(root), NOW) == purge_record.NO_DAY
    (root / ".day").unlink()
    (root / ".day").symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic"):
        purge_record.today(str(root), NOW)


def test_a_days_limit_is_reported_before_and_after_it_costs_mail() -> None:
    record = {**purge_record.EMPTY, "ran": NOW}
    today = {**purge_record.NO_DAY, "day": 20251125, "used": 4 << 30, "limit": 5 << 30}
    assert check.decide(record, [], 50, NOW, SETTINGS, {**today, "used": 3 << 30}) == (state.OK, [])
    assert check.decide(record, [], 50, NOW, SETTINGS, today) == (
        state.WARNING,
        ["today has taken 80% of the 5 GiB that a day may"],
    )
    missed = {**today, "missed": 7, "missed_at": NOW - 3600}
    problems = ["7 messages not kept, a day takes 5 GiB and no more"]
    assert check.decide(record, [], 50, NOW, SETTINGS, missed) == (state.CRITICAL, problems)
    # also on the next day, for a day
    missed["used"] = 0
    assert check.decide(record, [], 50, NOW + 80000, SETTINGS, missed)[1][0] == problems[0]
    assert check.decide({**record, "ran": NOW + 83000}, [], 50, NOW + 83000, SETTINGS, missed) == (state.OK, [])
