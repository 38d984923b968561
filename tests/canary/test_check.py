"""Arrivals of canaries, judged by their age."""

from __future__ import annotations

import json
import time
from pathlib import Path

from mf import run, state
from mf_canary import check

from tests.canary.conftest import NOW

VALUES = {
    "mx": "mx1 MX2",
    "quarantine": "/q",
    "sink": "/s",
    "age_warning": 1500,
    "age_critical": 3600,
    "period": 300,
    "deadline": 20,
}


def arrival(
    sent: float | None = None, arrived: float | None = None, since: float | None = NOW - 60000
) -> check.Arrival:
    return check.Arrival.of({"sent": sent, "x": arrived}, "x", since, NOW)


def decide(spam: check.Arrival, ham: check.Arrival, delivered: dict[str, float] | None = None) -> state.Result:
    return check.decide({"mx1": (spam, ham)}, delivered or {}, NOW, VALUES)


def test_arrivals_are_judged_by_age() -> None:
    fresh = arrival(NOW - 300, NOW - 290)
    good = decide(fresh, arrival(NOW - 300, NOW - 299))
    assert (good.status, good.summary) == (state.OK, "1 MX, slowest way 10 s")
    assert good.metrics == {
        "mx": 1,
        "overdue": 0,
        "delivered": 0,
        "age_seconds": 300,
        "mx1_age_seconds": 300,
        "mx1_spam_seconds": 10,
        "mx1_ham_seconds": 1,
    }
    late = decide(arrival(NOW - 1500, NOW - 1490), fresh)
    assert late.status == state.WARNING
    assert late.summary == "mx1: the newest spam in the quarantine was sent 25 min ago"
    assert decide(fresh, arrival(NOW - 3600, NOW - 3599)).status == state.CRITICAL


def test_all_overdue_is_said_first_and_counted() -> None:
    late, fresh = arrival(NOW - 4000, NOW - 3990), arrival(NOW - 300, NOW - 290)
    every = check.decide({"mx1": (late, fresh), "mx2": (fresh, late)}, {}, NOW, VALUES)
    assert every.summary.startswith("no mail goes the whole way, of 2 MXs; mx1: the newest spam")
    assert (every.metrics["mx"], every.metrics["overdue"]) == (2, 2)
    result = check.decide({"mx1": (late, late), "mx2": (fresh, fresh)}, {}, NOW, VALUES)
    assert result.summary.startswith("mx1:")
    assert (result.status, result.metrics["overdue"]) == (state.CRITICAL, 1)
    never = arrival(since=None)
    assert check.decide({"mx1": (never, never)}, {}, NOW, VALUES).metrics["overdue"] == 0


def test_a_new_mx_has_time() -> None:
    assert decide(arrival(since=NOW - 600), arrival(since=NOW - 600)).summary == "1 MX, none was due yet"
    never = decide(arrival(since=NOW - 2000), arrival(NOW - 100, NOW - 99))
    assert (never.status, never.summary) == (state.WARNING, "mx1: no spam in the quarantine yet")
    unknown = decide(arrival(since=None), arrival(since=None))
    assert unknown.status == state.WARNING
    assert "mf-canary-sink" in unknown.summary


def test_delivered_spam_is_critical_for_an_hour() -> None:
    fresh = arrival(NOW - 300, NOW - 290)
    assert decide(fresh, fresh, {"mx1": NOW - 60}).status == state.CRITICAL
    assert decide(fresh, fresh, {"mx1": NOW - 4000}).status == state.OK


def test_many_mxs_stay_readable() -> None:
    arrivals = {f"mx{number}": (arrival(NOW - 4000, NOW), arrival(NOW - number, NOW)) for number in range(1000)}
    result = check.decide(arrivals, {}, NOW, VALUES)
    assert result.status == state.CRITICAL
    assert result.summary.endswith("and 995 more")
    assert len(result.metrics) < 100


def test_it_reads_the_notes_of_both(tmp_path: Path) -> None:
    values = {**VALUES, "quarantine": str(tmp_path), "sink": str(tmp_path)}
    assert run.wrong_setting(values, check.RULES) is None
    now = time.time()
    for name, record in (
        ("canary-mx1.json", {"sent": now - 9, "imported": now - 2}),
        ("ham-mx1.json", {"since": 5, "sent": now - 9, "received": now - 8}),
        ("ham-mx2.json", {"since": now - 10}),
    ):
        (tmp_path / name).write_text(json.dumps(record))
    result = check.probe(state.Places(), values)
    assert isinstance(result, state.Result)
    assert result.status == state.OK
    assert result.metrics["mx1_spam_seconds"] == 7
    for damage in ("", "[", '{"sent": "x"}', '{"sent": NaN}', '{"sent": true, "imported": -1}'):
        (tmp_path / "canary-mx1.json").write_text(damage)
        assert isinstance(check.probe(state.Places(), values), state.Result)
