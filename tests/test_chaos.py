"""The fault suite's own parts that need no lab: the list of faults, the choice of them, whose a lost message is."""

import pytest
from mflab.reconcile import reconcile

from chaos.__main__ import APART, SYSTEMS, attribute, choose, show
from chaos.scene import CONTROL, FAULTS, MXS, Outcome


def test_every_fault_has_a_name_of_its_own_and_says_what_is_expected() -> None:
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
    assert all(len(found) == 1 for found in lanes.values())


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
