"""When `make attack` fails: by its figures, and for lack of an attack."""

from dataclasses import replace
from typing import Any

import pytest

from chaos.attack import MEMORY, Report
from chaos.attacker import ATTACKS, SILENCE

ANSWERS = {f"{attack.__name__}: 250": 1 for attack in ATTACKS}
HELD = Report("mx1", 60.0, sent=40, delivered=40, memory=300.0, burning=0.02, answers=ANSWERS)


def test_an_mx_that_answered_each_attack_and_delivered_all_withstood() -> None:
    assert HELD.faults() == []
    assert replace(HELD, answers={**ANSWERS, f"burst: {SILENCE}": 3}).faults() == []
    closed = {answer.replace("250", "closed"): 1 for answer in ANSWERS}
    assert replace(HELD, answers=closed).faults() == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"delivered": 39}, "good mail was lost, doubled or not delivered"),
        ({"lost": 1}, "good mail was lost, doubled or not delivered"),
        ({"doubled": 1}, "good mail was lost, doubled or not delivered"),
        ({"sent": 0, "delivered": 0}, "no good mail was sent"),
        ({"memory": MEMORY + 1.0}, "1025 MiB of memory, more than 1024"),
        ({"burning": 0.5}, "0.50 cores are still used after the attack"),
        ({"answers": {}, "turned_away": 500}, f"the MX never answered: {', '.join(a.__name__ for a in ATTACKS)}"),
        (
            {"answers": {**{k: 1 for k in ANSWERS if not k.startswith("burst:")}, f"burst: {SILENCE}": 9}},
            "the MX never answered: burst",
        ),
    ],
)
def test_each_fault_has_its_line(change: dict[str, Any], fault: str) -> None:
    assert replace(HELD, **change).faults() == [fault]
