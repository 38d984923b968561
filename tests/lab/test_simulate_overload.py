"""The simulation of an overload, small: under the budget enough MXs accept mail, and it's the budget that does it."""

from __future__ import annotations

import json
from xml.etree import ElementTree as ET

import overload_model as overload
import overload_plot
import pytest
import simulate_overload
from mf.throttle import budget, peers

# Hosts that refuse at the same moment may be too many until they have settled: two rounds, each a wait and a look.
SETTLED = 2 * (budget.settle({}) + peers.PATIENCE) + overload.TAKING
SVG = "{http://www.w3.org/2000/svg}"


def run(throttling: str, seed: int = 1) -> overload.Outcome:
    return simulate_overload.simulate(overload.Case(3, 2, throttling), seed)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_under_the_budget_enough_accept(seed: int) -> None:
    outcome = run(overload.BUDGET, seed)
    assert min(outcome.minutes) < 3, "no MX ever refused: nothing was tried"
    assert outcome.none_accepting == 0
    assert outcome.below <= SETTLED


def test_naive_throttling_leaves_no_mx() -> None:
    naive, budget = run(overload.NAIVE), run(overload.BUDGET)
    assert naive.fewest == 0
    assert naive.below > 60
    assert naive.accepted < budget.accepted


def test_a_broken_budget_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "is_enough", lambda sight, minimum: True)
    outcome = run(overload.BUDGET)
    assert outcome.fewest == 0
    assert outcome.below > SETTLED


def at_the_same_moment(monkeypatch: pytest.MonkeyPatch) -> overload.Simulation:
    """Three idle MXs with a high load, whose checks began together, half a minute later."""
    monkeypatch.setattr(overload, "turn", lambda name: 0.0)
    monkeypatch.setattr(overload, "JITTER", 0.01)
    monkeypatch.setattr(overload, "MISSED", 0.0)
    simulation = overload.Simulation(overload.Case(3, 2, overload.BUDGET), 1)
    for host in simulation.hosts:
        host.load = 9.0
    simulation.happen(30)
    return simulation


def test_hosts_that_begin_at_the_same_moment_alternate(monkeypatch: pytest.MonkeyPatch) -> None:
    simulation = at_the_same_moment(monkeypatch)
    assert simulation.fewest == 2
    assert sum(host.refusing for host in simulation.hosts) == 1


def test_hosts_that_refuse_at_the_same_moment_all_the_same_settle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "SPREAD", 0.0)
    simulation = at_the_same_moment(monkeypatch)
    assert simulation.fewest == 0
    assert sum(host.refusing for host in simulation.hosts) == 1
    assert 0 < simulation.below <= SETTLED


def test_hosts_that_never_yield_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "SPREAD", 0.0)
    monkeypatch.setattr(overload.Simulation, "_settle", lambda *args, **options: None)
    assert all(host.refusing for host in at_the_same_moment(monkeypatch).hosts)


def test_the_same_seed_gives_the_same_figures() -> None:
    assert run(overload.BUDGET, 7) == run(overload.BUDGET, 7) != run(overload.BUDGET, 8)


def test_no_throttling_refuses_no_sender_and_the_surge_is_more_than_can_be_accepted() -> None:
    outcome = run(overload.NOTHING)
    assert outcome.fewest == 3
    assert 0.5 < outcome.accepted <= 1 / overload.SURGE + 0.02


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    simulate_overload.main(["--fleet", "3", "--min-accepting", "2", "--json"])
    results = json.loads(capsys.readouterr().out)
    assert [(result["fleet"], result["throttling"]) for result in results] == [(3, "none"), (3, "naive"), (3, "budget")]
    with pytest.raises(SystemExit) as ended:
        simulate_overload.main(["--fleet", "1"])
    assert ended.value.code == 2


def test_the_plot_and_the_one_in_the_documents_are_well_formed_and_described() -> None:
    drawn = overload_plot.plot([run(overload.NAIVE), run(overload.BUDGET)])
    for text in (drawn, (overload.REPO / "docs/overload.svg").read_text()):
        root = ET.fromstring(text)
        assert root.findtext(f"{SVG}title")
        assert "at the worst moment" in (root.findtext(f"{SVG}desc") or "")
        assert "prefers-color-scheme: dark" in (root.findtext(f"{SVG}style") or "")
