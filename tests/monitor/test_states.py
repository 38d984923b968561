"""The state of one subject: soft and hard states, thresholds, what was not seen for too long."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mf_monitor.judging import states
from mf_monitor.judging.states import DOWN, REFUSED, THROTTLED, UNKNOWN, UP, WARNING, SubjectState
from mf_monitor.notifying.alerts import Alert

from tests.monitor.conftest import NOW, RULES, run


def test_what_is_stored_keeps_its_keys() -> None:
    """An upgrade of a running monitor reads what the release before has written."""
    before = {"state": DOWN, "words": "refused", "why": REFUSED, "looks": [1.0, 2.0], "pending": UP, "checked": 9.0}
    state = SubjectState.of(before)
    assert (state.message, state.reason, state.turns, state.seen) == ("refused", REFUSED, (1.0, 2.0), 9.0)
    assert {**before, "looks": (1.0, 2.0)}.items() <= state.as_json().items()
    keys = {"told": "notice", "told_at": 1.0, "told_level": 2, "covered": True, "over_told": True, "stays_told": True}
    alert = Alert.of(keys)
    assert (alert.notified, alert.notified_at, alert.notified_level) == ("notice", 1.0, 2)
    assert alert.suppressed
    assert alert.resolution_notified
    assert alert.stays_notified
    assert keys.items() <= alert.as_json().items()


def test_the_first_probe_is_confirmed_when_it_is_good_only() -> None:
    assert run(UP).state == UP
    assert run(DOWN).state == UNKNOWN
    assert run(DOWN, DOWN, DOWN).state == DOWN


def test_bad_news_is_confirmed_after_failures_in_a_row_and_dates_from_the_first() -> None:
    soft = run(UP, DOWN, DOWN)
    assert (soft.state, soft.soft, soft.count) == (UP, DOWN, 2)
    hard = run(DOWN, current=soft)
    assert (hard.state, hard.soft) == (DOWN, "")
    assert hard.since == NOW + 10 - 1


def test_a_good_probe_in_between_begins_anew() -> None:
    assert run(UP, DOWN, DOWN, UP, DOWN, DOWN).state == UP


def test_good_news_needs_its_threshold() -> None:
    down = run(DOWN, DOWN, DOWN)
    assert run(UP, current=down).state == DOWN
    assert run(UP, UP, current=down).state == UP


def test_a_lease_that_was_read_is_confirmed_at_once() -> None:
    assert run(UP, THROTTLED).state == THROTTLED
    assert run(UP, THROTTLED, UP).state == UP


def test_health_that_could_not_be_read_once_is_no_news() -> None:
    assert run(UP, WARNING).state == WARNING
    assert run(WARNING, WARNING, reason="unread", current=run(UP)).state == UP
    assert run(WARNING, WARNING, WARNING, reason="unread", current=run(UP)).state == WARNING


def test_unknown_changes_nothing_that_is_confirmed() -> None:
    soft = run(UP, DOWN, DOWN)
    after = run(UNKNOWN, UNKNOWN, current=soft)
    assert (after.blind, after.checked) == (UNKNOWN, soft.checked + 20)
    assert dataclasses.replace(after, checked=soft.checked, blind="") == soft


def test_what_was_seen_too_long_ago_is_not_known() -> None:
    limit = states.patience(60, 10)
    current = run(UP)
    assert states.shown(current, NOW + limit, limit) == (UP, UP)
    assert states.shown(current, NOW + limit + 1, limit) == (UNKNOWN, "not known since 14:13Z")
    vain = run(*[UNKNOWN] * 30, current=current)
    assert states.shown(vain, vain.checked, limit) == (UNKNOWN, "not known since 14:13Z: unknown")
    # probes in vain are not the same as no probes: a restart notifies no operator
    assert states.blind(vain, limit) == NOW
    assert states.blind(run(*[UNKNOWN] * 2, current=current), limit) is None
    assert states.blind(current, 0.0) is None
    assert states.blind(run(*[UNKNOWN] * 30), limit) is not None  # never seen at all


def test_three_changes_are_flapping_and_calm_ends_it() -> None:
    once = run(UP, *[DOWN] * 3, *[UP] * 2)
    assert once.flapping is None
    again = run(*[DOWN] * 3, current=once)
    assert again.flapping == again.checked
    assert run(*[UP] * 5, current=again).flapping is not None
    calm = run(*[UP] * 10, current=again, every=RULES.flap_calm / 5)
    assert (calm.flapping, calm.state) == (None, UP)


def test_time_in_which_nothing_was_seen_is_no_calm() -> None:
    flapping = run(UP, *[DOWN] * 3, *[UP] * 2, *[DOWN] * 3, *[UP] * 2)
    assert flapping.flapping is not None
    offline = run(*[UNKNOWN] * 20, current=flapping, every=RULES.flap_calm / 10)
    assert run(UP, current=offline).flapping is not None
    assert run(UP, current=flapping, every=10 * RULES.flap_calm).flapping is not None
    assert run(*[UP] * 10, current=flapping, every=RULES.flap_calm / 9).flapping is None


def test_what_never_becomes_hard_flaps_as_well() -> None:
    current = run(UP)
    for _ in range(RULES.flap_changes):
        current = run(DOWN, UP, current=current)
    assert current.state == UP
    assert current.flapping is not None


def test_changes_that_are_far_apart_are_no_flapping() -> None:
    current = run(UP)
    for _ in range(5):
        current = run(*[DOWN] * 3, *[UP] * 2, current=current, every=RULES.flap_window / 3)
    assert current.flapping is None


def flaps(times: int, down: float, current: SubjectState | None = None) -> SubjectState:
    """It goes down and comes back this often, for ``down`` seconds each."""
    current = current or run(UP)
    for _ in range(times):
        current = run(*[DOWN] * 4, *[UP] * 4, every=down / 4, current=current)
    return current


@pytest.mark.parametrize("down", [20.0, 200.0])
def test_what_stays_down_flaps_no_more(down: float) -> None:
    current = flaps(5, down)
    assert states.wavers(current)
    began = current.checked
    while states.wavers(current):
        current = run(DOWN, current=current)
        assert current.checked - began < 600  # flap_calm
    assert current.flapping is not None  # it isn't relied on until it is calm
    # two intervals; longer than an outage before, or every turn of a slow flapping would be notified
    assert 0 <= current.checked - began - max(states.STAYS * RULES.interval, states.LONGER * down) <= 30
    assert current.fell == current.since
    # back again, and down for as long again: notified at its calm only
    again = run(*[DOWN] * 40, current=flaps(1, 20.0, current))
    assert states.wavers(again)
    assert not states.wavers(run(*[DOWN] * 40, current=again))


def test_slow_flapping_is_not_notified_at_each_change() -> None:
    current = run(UP)
    for _ in range(3):
        current = run(*[DOWN] * 20, current=current)
        assert current.fell == 0.0
        current = run(*[UP] * 20, current=current)
    assert states.wavers(current)


@given(st.lists(st.sampled_from([UP, DOWN, WARNING, THROTTLED, UNKNOWN]), max_size=40))
def test_a_memory_survives_its_json(results: list[str]) -> None:
    current = run(*results)
    assert SubjectState.of(current.as_json()) == current
