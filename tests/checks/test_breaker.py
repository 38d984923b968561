"""The circuit breaker of restarts."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mf import state
from mf_checks import breaker
from mf_checks.breaker import Breaker

NOW = 50_000.0
UNIT = "qpsmtpd.service"


def used(count: int, first: float = NOW, step: float = 60.0, healed: bool = False) -> Breaker:
    unit_breaker = Breaker()
    for number in range(count):
        allowed, unit_breaker = breaker.ask(unit_breaker, first + number * step)
        assert allowed
        unit_breaker = breaker.after_restart(unit_breaker, first + number * step, healed)
    return unit_breaker


def test_three_restarts_then_open() -> None:
    for healed in (True, False):
        unit_breaker = used(3, healed=healed)
        allowed, unit_breaker = breaker.ask(unit_breaker, NOW + 180)
        assert not allowed
        assert unit_breaker.phase(NOW + 180) == breaker.OPEN
        assert unit_breaker.until == NOW + 180 + breaker.BACKOFF


def test_restarts_far_apart_never_open_it() -> None:
    unit_breaker = used(20, step=max(window / limit for limit, window in breaker.LIMITS) + 1)
    assert unit_breaker.phase(NOW) == breaker.CLOSED


@pytest.mark.parametrize("minutes", [6, 10, 19])
def test_restarts_that_heal_and_relapse_open_it_too(minutes: int) -> None:
    step = minutes * 60.0
    unit_breaker = used(6, step=step, healed=True)
    allowed, unit_breaker = breaker.ask(unit_breaker, NOW + 6 * step)
    assert not allowed
    assert unit_breaker.until == NOW + 6 * step + breaker.BACKOFF
    # it heals, and relapses again: each time the wait is longer
    now, lengths = unit_breaker.until, []
    for _ in range(3):
        while True:
            allowed, unit_breaker = breaker.ask(unit_breaker, now)
            if not allowed:
                break
            unit_breaker = breaker.after_restart(unit_breaker, now, healed=True)
            now += step
        assert unit_breaker.until is not None
        lengths.append(unit_breaker.until - now)
        now = unit_breaker.until
    assert lengths == [1800, 3600, 7200]


def test_it_remembers_six_restarts_over_a_reboot(places: state.Places) -> None:
    now = state.boottime()
    breaker.save(places, UNIT, Breaker(tuple(now - ago for ago in (6000, 5000, 4000, 3000, 2000, 1000))))
    os.unlink(os.path.dirname(places.marker) + "/boot")
    allowed, _ = breaker.ask(breaker.load(places, UNIT), now)
    assert not allowed


def test_half_open_allows_one_and_failure_doubles_the_back_off() -> None:
    _, unit_breaker = breaker.ask(used(3), NOW + 180)
    later = NOW + 181 + breaker.BACKOFF
    assert unit_breaker.phase(later) == breaker.HALF_OPEN
    allowed, unit_breaker = breaker.ask(unit_breaker, later)
    assert allowed
    unit_breaker = breaker.after_restart(unit_breaker, later, healed=False)
    assert unit_breaker.phase(later + 1) == breaker.OPEN
    assert unit_breaker.until == later + 2 * breaker.BACKOFF
    assert not breaker.ask(unit_breaker, later + 2 * breaker.BACKOFF - 1)[0]


def test_half_open_success_closes() -> None:
    _, unit_breaker = breaker.ask(used(3), NOW + 180)
    later = NOW + 181 + breaker.BACKOFF
    unit_breaker = breaker.after_restart(unit_breaker, later, healed=True)
    assert unit_breaker.phase(later) == breaker.CLOSED
    assert breaker.ask(unit_breaker, later + 60)[0]


def test_flapping_after_a_success_backs_off_longer_each_time() -> None:
    unit_breaker, now, lengths = Breaker(), NOW, []
    for _ in range(6):
        while True:
            allowed, unit_breaker = breaker.ask(unit_breaker, now)
            if not allowed:
                break
            unit_breaker = breaker.after_restart(unit_breaker, now, healed=True)
            now += 60
        assert unit_breaker.until is not None
        lengths.append(unit_breaker.until - now)
        now = unit_breaker.until + 1
    assert lengths == [900, 1800, 3600, 7200, 14400, 14400]


def test_calm_makes_the_back_off_small_again() -> None:
    unit_breaker = Breaker((NOW,), 5)
    _, unit_breaker = breaker.ask(unit_breaker, NOW + breaker.CALM)
    assert unit_breaker.opened == 0


@given(st.lists(st.tuples(st.floats(1, 20_000), st.booleans()), max_size=60))
def test_never_more_than_the_limit_in_a_window(events: list[tuple[float, bool]]) -> None:
    unit_breaker, now, done = Breaker(), NOW, []
    for pause, healed in events:
        now += pause
        allowed, unit_breaker = breaker.ask(unit_breaker, now)
        if allowed:
            done.append(now)
            unit_breaker = breaker.after_restart(unit_breaker, now, healed)
    for at in done:
        # the limit while closed, and the one that a half-open breaker allows
        limit, window = breaker.LIMITS[0]
        assert sum(1 for other in done if at - window < other <= at) <= limit + 1


@pytest.fixture
def places(tmp_path: Path) -> state.Places:
    return state.Places(str(tmp_path))


def test_it_is_stored_and_found_again(places: state.Places) -> None:
    _, unit_breaker = breaker.ask(used(3, first=state.boottime() - 200), state.boottime())
    breaker.save(places, UNIT, unit_breaker)
    breaker.save(places, "other.service", Breaker())
    again = breaker.load(places, UNIT)
    assert again.opened == 1
    assert again.until == pytest.approx(unit_breaker.until, abs=0.2)
    assert len(again.restarts) == 3


def test_it_survives_a_reboot(places: state.Places) -> None:
    now = state.boottime()
    breaker.save(places, UNIT, Breaker((now - 100, now - 50), 2, now + 600))
    os.unlink(os.path.dirname(places.marker) + "/boot")
    again = breaker.load(places, UNIT)
    assert again.until == pytest.approx(now + 600, abs=2)
    assert again.restarts[-1] == pytest.approx(now - 50, abs=2)


@pytest.mark.parametrize("file", ["breaker.fallback", "breaker.json"])
def test_a_record_written_while_the_clock_was_ahead_is_superseded(places: state.Places, file: str) -> None:
    breaker.save(places, UNIT, Breaker())
    durable, fallback = Path(places.persistent, "breaker.json"), Path(places.results, "breaker.fallback")
    fallback.parent.mkdir(parents=True, exist_ok=True)
    stored = state.decode(durable.read_bytes())
    assert stored is not None
    ahead = stored[UNIT]
    assert isinstance(ahead, dict)
    ahead["epoch"] = float(str(ahead["epoch"])) + 86_400
    (durable if file == "breaker.json" else fallback).write_text(json.dumps({UNIT: ahead}))
    newer = breaker.form(used(3, first=state.boottime() - 200), state.boot_token(places), state.boottime() + 0.2, 1.0)
    (fallback if file == "breaker.json" else durable).write_text(json.dumps({UNIT: newer}))
    assert len(breaker.load(places, UNIT).restarts) == 3


def test_times_of_another_boot_are_shifted() -> None:
    record = breaker.form(Breaker((9_000.0,), 1, 9_900.0), "before", 9_000.0, 1_000_000.0)
    # rebooted; 120 s of wall clock later the new boot clock stands at 30 s
    again = breaker.parse(record, "after", 30.0, 1_000_120.0)
    assert again.until == 30.0 + 900 - 120
    assert again.restarts == (30.0 - 120,)


@pytest.mark.parametrize("step", [-86_400.0, 86_400.0, -1e9, 1e9])
def test_a_clock_step_changes_nothing_within_a_boot(step: float) -> None:
    record = breaker.form(Breaker((9_000.0,), 1, 9_900.0), "same", 9_000.0, 1_000_000.0)
    again = breaker.parse(record, "same", 9_100.0, 1_000_000.0 + step)
    assert (again.restarts, again.until) == ((9_000.0,), 9_900.0)


def test_a_clock_set_back_over_a_reboot_is_open_no_longer_than_the_longest() -> None:
    record = breaker.form(Breaker((9_000.0,), 1, 9_900.0), "before", 9_000.0, 1_000_000.0)
    again = breaker.parse(record, "after", 30.0, 1_000_000.0 - 86_400)
    assert again.until == 30.0 + 900


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
records = st.dictionaries(
    st.sampled_from(["restarts", "opened", "until", "boot", "boottime", "epoch"]),
    json_values | st.lists(st.floats() | st.integers(), max_size=9) | st.floats(0, 1e6),
)


@given(records)
def test_garbage_makes_a_breaker_that_works(record: dict[str, object]) -> None:
    unit_breaker = breaker.parse(record, "same", NOW, 1e9)
    allowed, after = breaker.ask(unit_breaker, NOW)
    breaker.after_restart(after, NOW, allowed)
    assert len(unit_breaker.restarts) <= breaker.MOST
    assert unit_breaker.until is None or unit_breaker.until <= NOW + breaker.LONGEST


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"qpsmtpd.service": 5}', b"\xff\xfe", b"{" * 100_000])
def test_a_torn_file_is_a_fresh_breaker(places: state.Places, content: bytes) -> None:
    os.makedirs(places.persistent)
    Path(places.persistent, "breaker.json").write_bytes(content)
    assert breaker.load(places, UNIT).restarts == ()
    breaker.save(places, UNIT, Breaker((1.0,)))
    assert breaker.load(places, UNIT).restarts == (1.0,)


def test_an_unwritable_disk_still_counts(places: state.Places) -> None:
    os.makedirs(os.path.dirname(places.persistent))
    # a file in the directory's place: works for root, too
    Path(places.persistent).write_text("")
    breaker.save(places, UNIT, Breaker((5.0, 6.0)))
    assert breaker.load(places, UNIT).restarts == (5.0, 6.0)
