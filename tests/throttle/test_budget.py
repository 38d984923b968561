"""The fleet's budget: which host surveys, only marks or yields."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest
from mf.throttle import control, marker
from mf.throttle.budget import SPREAD, settle
from mf.throttle.peers import Survey

from tests.throttle.conftest import Host, controller, count_reads, sound, status


class Fleet:
    """Peers as one host sees them: the surveys it gets, in order; the last one stays."""

    def __init__(self, *surveys: Collection[str], total: int = 2) -> None:
        self.surveys = list(surveys)
        self.total = total
        self.asked = 0

    def survey(self, fleet: Any, only: Collection[str] | None = None) -> Survey:
        self.asked += 1
        accepting = self.surveys.pop(0) if len(self.surveys) > 1 else self.surveys[0]
        return Survey(self.total, [f"mx{number}" for number in range(2, self.total + 2)], accepting)


BOTH, ONE, NOBODY = ("mx2", "mx3"), ("mx3",), ()


@pytest.fixture
def member(host: Host) -> Host:
    host.settings["fleet"]["min_accepting"] = 2
    return host


def test_budget_left(member: Host) -> None:
    fleet = Fleet(BOTH)
    start = member.clock.boot
    outcome = controller(member, survey=fleet.survey).on("load", "load 9", 300, mark_instead=True)
    assert outcome.after.refusing
    assert fleet.asked == 2
    assert member.clock.boot - start == settle({})


def test_load_waits_for_the_budget_and_a_renewal_does_not(member: Host) -> None:
    member.settings["host"] = "mx2"
    member.settings["fleet"]["peers"] = [{"name": name, "address": "192.0.2.1", "port": 25} for name in ("mx3", "mx1")]
    fleet = Fleet(BOTH)
    start = member.clock.boot
    controller(member, survey=fleet.survey).on("load", "load 9", 300, mark_instead=True)
    assert member.clock.boot - start == pytest.approx(SPREAD / 3 + settle({}))
    start = member.clock.boot
    controller(member, survey=fleet.survey).on("load", "load 9", 300, mark_instead=True)
    assert member.clock.boot == start


def test_over_budget_load_only_marks(member: Host) -> None:
    outcome = controller(member, survey=Fleet(ONE).survey).on("load", "load 9", 300, mark_instead=True)
    assert outcome.after.throttled
    assert not outcome.after.refusing
    assert outcome.over_budget == "over budget: 1 of 2 peers accept mail; 2 must"
    assert not member.kernel.batches


def test_over_budget_an_operator_gets_an_error_and_nothing_changes(member: Host) -> None:
    with pytest.raises(control.OverBudgetError, match="--force"):
        controller(member, survey=Fleet(ONE).survey).on("operator", "", 900)
    assert not member.marker.exists()


@pytest.mark.parametrize("surveys", [(ONE,), (BOTH, ONE, ONE)])
def test_over_budget_an_operators_own_mark_stays_as_it_was(member: Host, surveys: tuple[Any, ...]) -> None:
    controller(member, survey=Fleet(NOBODY).survey).on("operator", "disk swap", 900, refuse=False)
    before = marker.current(member.places).leases
    with pytest.raises(control.OverBudgetError):
        controller(member, survey=Fleet(*surveys).survey).on("operator", "all of it", 60)
    assert [
        (lease.owner, lease.reason, lease.refuse, lease.until) for lease in marker.current(member.places).leases
    ] == [(lease.owner, lease.reason, lease.refuse, lease.until) for lease in before]
    assert member.kernel.refused == []
    sound(member)


@pytest.mark.parametrize("options", [{"force": True, "ttl": 900.0}, {"ttl": None}, {"refuse": False, "ttl": 900.0}])
def test_force_a_hold_and_a_mere_mark_need_no_survey(member: Host, options: dict[str, Any]) -> None:
    fleet = Fleet(NOBODY)
    controller(member, survey=fleet.survey).on("operator", "", **options)
    assert fleet.asked == 0


def test_before_the_survey_the_marker_is_read_once_more(member: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A survey lasts seconds, so the marker is read before it, and under the lock after it."""
    reads = count_reads(member, monkeypatch)
    controller(member, survey=Fleet(BOTH).survey).on("operator", "", 900)
    assert len(reads) == 2


def test_two_at_once_the_lower_rank_yields(member: Host) -> None:
    fleet = Fleet(BOTH, ONE)
    outcome = controller(member, survey=fleet.survey).on("load", "load 9", 300, mark_instead=True)
    assert outcome.over_budget
    assert member.kernel.refused == []
    assert status(member).throttled
    sound(member)


def test_two_at_once_the_higher_rank_stays_when_the_other_has_yielded(member: Host) -> None:
    member.settings["host"] = "mx9"
    fleet = Fleet(BOTH, ONE, BOTH)
    assert controller(member, survey=fleet.survey).on("load", "load 9", 300, mark_instead=True).after.refusing
    assert fleet.asked == 3


def test_the_higher_rank_yields_when_the_other_has_died(member: Host) -> None:
    member.settings["host"] = "mx9"
    outcome = controller(member, survey=Fleet(BOTH, ONE, ONE).survey).on("load", "load 9", 300, mark_instead=True)
    assert outcome.over_budget
    assert member.kernel.refused == []


def test_an_operator_that_yields_gives_the_lease_back(member: Host) -> None:
    with pytest.raises(control.OverBudgetError):
        controller(member, survey=Fleet(BOTH, ONE).survey).on("operator", "", 900)
    sound(member)
    assert not status(member).throttled


def test_a_renewal_by_load_surveys_once_and_yields_with_any_rank(member: Host) -> None:
    member.settings["host"] = "mx9"
    controller(member, survey=Fleet(BOTH).survey).on("load", "load 9", 300, mark_instead=True)
    fleet = Fleet(BOTH)
    controller(member, survey=fleet.survey).on("load", "load 9", 300, mark_instead=True)
    assert fleet.asked == 1
    outcome = controller(member, survey=Fleet(ONE).survey).on("load", "load 9", 300, mark_instead=True)
    assert outcome.over_budget
    assert member.kernel.refused == []
