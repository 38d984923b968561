"""check-quarantine: how far behind, what is wrong, and for how long it is reported."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from mf import state
from mf_quarantine import check, layout
from mf_quarantine.source import Source

from tests.quarantine.conftest import NOON, Room, ident, kept, put

VALUES = {"folder": "", "mx": "mx1 mx2", "lag_warning": 3600, "lag_critical": 259200, "silence": 600, "free_percent": 5}


def source(mx: str, **changes: Any) -> Source:
    return Source.parse(
        mx,
        {"since": NOON - 1e6, "attempted": NOON - 5, "listed": NOON - 30, "unpulled": 0, "oldest": None, "error": ""}
        | changes,
    )


def judged(*sources: Source, expected: Sequence[str] = ("mx1", "mx2")) -> state.Result:
    return check.decide({mx_source.mx: mx_source for mx_source in sources}, expected, NOON, VALUES)


@pytest.mark.parametrize(
    ("free", "message"), [(4.9, "4.9% of space or inodes is left there"), (0.0, "0.0%"), (-1.0, "read-only")]
)
def test_the_check_reports_a_full_disk_at_once(free: float, message: str) -> None:
    sources = {mx: source(mx) for mx in ("mx1", "mx2")}
    result = check.decide(sources, ["mx1", "mx2"], NOON, VALUES, free=free)
    assert result.status == "WARNING"
    assert message in result.summary
    assert check.decide(sources, ["mx1", "mx2"], NOON, VALUES, free=5.0).status == "OK"


def test_the_check_measures_the_free_room_itself(room: Room) -> None:
    values = VALUES | {"folder": room.layout.state, "mx": "", "free_percent": 0}
    figures = os.statvfs(room.layout.state)
    assert layout.free_percent(room.layout.state) == pytest.approx(100 * figures.f_bavail / figures.f_blocks, abs=1)
    assert check.probe(room.places, values).status == "OK"
    assert "is left there" in check.probe(room.places, values | {"free_percent": 101}).summary


def test_all_is_well() -> None:
    result = judged(source("mx1"), source("mx2"))
    assert (result.status, result.summary) == ("OK", "2 MXs, 0 messages to fetch, most behind 30 s")
    assert result.metrics["mx2_lag_seconds"] == 30


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        ({"listed": NOON - 3599}, "OK", "60 min"),
        ({"listed": NOON - 3700}, "WARNING", "mx2 is 62 min behind"),
        ({"oldest": NOON - 7200, "unpulled": 4}, "WARNING", "mx2 is 2.0 h behind, 4 messages known there"),
        (
            {"listed": NOON - 3 * 86400, "unpulled": 9, "error": "timed \x1bout"},
            "CRITICAL",
            r"9 messages known there and not fetched (timed \x1bout)",
        ),
        ({"listed": None, "since": NOON - 4 * 86400}, "CRITICAL", "mx2 is 4.0 days behind"),
        ({"error": "MariaDB: gone"}, "WARNING", "mx2: MariaDB: gone"),
        ({"ahead": 2}, "WARNING", "mx2: 2 messages there are dated more than a day ahead"),
        ({"error": "no route", "unpulled": 7}, "WARNING", "mx2: no route; 7 messages known there and not fetched"),
    ],
)
def test_the_summary_of_an_mx(changes: dict[str, Any], status: str, message: str) -> None:
    result = judged(source("mx1"), source("mx2", **changes))
    assert result.status == status
    assert message in result.summary


def test_files_put_aside_are_reported_until_they_are_removed(room: Room) -> None:
    values = VALUES | {"folder": room.layout.state, "mx": "mx1"}
    for name in (ident(1), ident(2)):
        put(str(room.mx.root), name, kept(name)[:-1])
    put(str(room.mx.root), ident(3), kept(ident(3)))
    room.now = time.time()
    room.pull()
    result = check.probe(room.places, values)
    assert (result.status, result.metrics["bad"]) == ("WARNING", 2)
    assert f"2 messages can't be imported and lie in {room.layout.bad}/mx1" in result.summary
    for path in Path(room.layout.bad, "mx1").iterdir():
        path.unlink()
    result = check.probe(room.places, values)
    assert (result.status, result.metrics["bad"]) == ("OK", 0)


def test_a_dead_puller_is_noticed() -> None:
    result = judged(source("mx1", attempted=NOON - 700), source("mx2", attempted=NOON - 800))
    assert result.status == "WARNING"
    assert "no pull for 12 min; is cron running?" in result.summary


def test_an_mx_that_left_the_inventory_with_mail_on_it_is_reported() -> None:
    gone = judged(source("mx1"), source("mx2", unpulled=7, oldest=NOON - 100), expected=["mx1"])
    assert gone.status == "WARNING"
    assert "mx2 has left the inventory: 7 messages were known there and not fetched" in gone.summary
    assert judged(source("mx1"), source("mx2"), expected=["mx1"]).status == "OK"


def test_an_mx_that_was_never_asked_is_named() -> None:
    assert "mx2: nothing was ever fetched from it" in judged(source("mx1")).summary


def test_a_new_mx_has_some_time() -> None:
    sources = {"mx1": source("mx1")}
    assert check.decide(sources, ["mx1", "mx2"], NOON, VALUES, NOON - 599).status == "OK"
    assert check.decide(sources, ["mx1", "mx2"], NOON, VALUES, NOON - 601).status == "WARNING"
    assert check.decide({}, ["mx1"], NOON, VALUES, NOON - 5).summary == "nothing fetched yet"


def test_values_of_another_type_in_a_record_count_as_unknown() -> None:
    wrong: dict[str, Any] = {"since": "x", "listed": True, "unpulled": None, "error": None, "foreign": "1", "new": 1}
    assert Source.parse("mx1", wrong) == Source("mx1")
    assert judged(Source.parse("mx1", wrong), source("mx2")).metrics["unpulled"] == 0


def test_the_check_reads_what_the_puller_writes(room: Room) -> None:
    room.fill(2)
    room.pull()
    Path(room.layout.state, "canary-mx1.json").write_text("{}")
    Path(room.layout.state, "mx2.json").write_text("{torn")
    sources = check.read(room.layout.state)
    assert sources["mx2"] is None
    assert sources["mx1"] is not None
    assert sources["mx1"].lag(room.now + 100) == 100
    values = VALUES | {"folder": room.layout.state, "mx": "mx1"}
    result = check.probe(room.places, values)
    assert "mx2: its state is not whole" in result.summary
