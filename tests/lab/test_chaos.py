"""The fault suite's own parts that need no lab: the list of faults, the choice of them, whose a lost message is."""

import pytest
from mflab.mail import Run
from mflab.reconcile import reconcile

from chaos.__main__ import APART, SYSTEMS, choose
from chaos.faults.breaker import overlapping
from chaos.outcomes import attribute, document, show
from chaos.scene import CONTROL, FAULTS, MXS, Outcome
from chaos.tally import Tally
from chaos.watch import fewest, steady


def test_every_fault_has_a_name_of_its_own_and_an_expectation() -> None:
    names = [(fault.system, fault.name) for fault in FAULTS]
    assert len(set(names)) == len(names)
    assert {fault.system for fault in FAULTS} == set(SYSTEMS)
    assert all(fault.expected and fault.host in (*MXS, CONTROL) for fault in FAULTS)
    assert all(fault.lane in (*MXS, "any", "fleet", CONTROL) for fault in FAULTS)
    assert all((fault.lane == CONTROL) == (fault.system == APART) for fault in FAULTS)


def test_faults_that_share_their_minutes_share_their_lane() -> None:
    lanes: dict[str, set[str]] = {}
    for fault in FAULTS:
        if fault.together:
            lanes.setdefault(fault.together, set()).add(fault.lane)
    assert lanes
    assert all(len(lane_names) == 1 for lane_names in lanes.values())


def test_the_choice_takes_parts_of_names_and_refuses_what_fits_nothing() -> None:
    assert [fault.name for fault in choose(["smtp: tarpit"])] == ["tarpit"]
    assert {fault.system for fault in choose(["^around"])} == {"around"}
    assert len(choose([])) == sum(fault.system != APART for fault in FAULTS)
    with pytest.raises(ValueError, match="no fault is called 'nonsense'"):
        choose(["tarpit", "nonsense"])


def end(number: int, started: float, outcome: str = "accepted") -> dict[str, object]:
    return {
        "id": f"m{number}",
        "kind": "ham",
        "outcome": outcome,
        "mx": "mx1",
        "stage": "message",
        "attempts": 1,
        "unknown": 0,
        "deferred": [],
        "started": started,
        "finished": started + 2,
    }


def test_a_lost_message_counts_with_the_faults_it_met() -> None:
    first = Outcome("smtp", "first", "x", began=100, ended=110)
    second = Outcome("smtp", "second", "x", began=111, ended=120)
    ends = [end(1, 101), end(2, 109.5), end(3, 130)]
    account = reconcile(ends, [{"id": "m3", "time": 131.0}], stopped=True)
    attribute([first, second], account, ends)
    assert account.lost == ["m1", "m2"]
    assert (first.lost, second.lost) == (2, 1)


def test_the_table_shows_no_control_characters() -> None:
    bad = Outcome("smtp", "x", "y", happened="\x1b[2Jgone")
    assert "\x1b" not in show([bad])
    assert "DEVIATION" in show([bad])


def test_a_fall_of_a_moment_is_seen() -> None:
    observations = [(0.0, "a", True), (0.1, "b", True), (0.2, "c", True), (1.0, "a", False), (1.1, "b", True)]
    assert fewest(observations, 2) == (2, 0.0)
    observations += [(1.2, "c", False), (1.5, "a", True), (2.0, "c", True)]
    worst, below = fewest(observations, 2)
    assert (worst, round(below, 3)) == (1, 0.3)
    assert steady(observations, max(moment for moment, _, _ in observations)) == pytest.approx(1.0)
    assert steady(observations, 90.0) > 50  # whoever stops looking has seen nothing


def test_a_host_that_never_accepts_counts_from_the_beginning() -> None:
    worst, below = fewest([(0.0, "a", False), (0.1, "b", True), (0.3, "b", True)], 2)
    assert (worst, round(below, 3)) == (1, 0.2)


def act(outcome: str, action: str = "kill", target: str = "1") -> dict[str, str]:
    return {"action": action, "target": target, "outcome": outcome, "time": "2026-11-25T10:00:00Z"}


def test_acts_one_after_the_other_are_in_order_and_refused_ones_are_none() -> None:
    restart = [act("begun", "restart", "q"), act("done", "restart", "q")]
    kills = [act("begun"), act("begun", target="2"), act("done: TERM"), act("done: KILL", target="2")]
    assert overlapping([*restart, *kills]) == ""
    assert overlapping([kills[0], act("refused", "restart", "q"), kills[2], *restart]) == ""


def test_an_act_begun_within_another_is_found() -> None:
    assert overlapping([act("begun", "restart", "q"), act("begun")]) == "kill 1 was begun during restart q"
    assert overlapping([act("begun"), act("begun", "restart", "q")]) == "restart q was begun during kill 1"


def test_the_page_has_each_fault_in_its_system_and_nothing_that_breaks_it() -> None:
    fine = Outcome("smtp", "a | b", "lives", "lives <b>\x1b[1m", ok=True, heal=2.04)
    bad = Outcome("processes", "zombie", "reported", "killed", lost=2)
    account = reconcile([end(1, 101)], [{"id": "m1", "time": 131.0}], stopped=True)
    page = document([fine, bad], account, 61, "2026-11-25")
    assert "- 1 faults ended as expected, 1 didn't, in 1 minutes." in page
    assert "- **a | b**: lives &lt;b>\\x1b[1m. Expected: lives. Healed in 2.0 s.\n" in page
    assert "\x1b" not in page
    assert page.index("## Smtp") < page.index("a | b") < page.index("## Processes")
    assert "- **zombie**: deviation: killed. Expected: reported. Lost: 2.\n" in page
    assert max(map(len, page.splitlines())) <= 120


def test_a_tally_adds_up_runs_and_what_is_wrong_with_them() -> None:
    tally = Tally()
    tally.add(
        Run("m", [], [], [end(1, 101), {**end(2, 102, "refused"), "kind": "spam"}], kept=["m2"]),
        [{"id": "m1", "time": 131.0}],
    )
    assert (tally.sent, tally.delivered, tally.quarantined, tally.refused_early) == (2, 1, 1, 0)
    lost = Run("m", [], [], [end(3, 103)], kept=[], missing=["row"])
    tally.add(lost, [])
    assert tally.sent == 3
    assert tally.faults == ["1 lost, such as m3", "1 rows without a file"]
