"""The fleet budget, its estimate and the protocol between hosts that act at once."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from mf.throttle import budget, firewall, peers
from mf.throttle.peers import Survey

from action_plugins import mf_inventory
from tests.core.conftest import server

ROOT = Path(__file__).resolve().parents[2]


def fleet(count: int, minimum: int = 2) -> dict[str, Any]:
    return {
        "min_accepting": minimum,
        "peers": [
            {"name": f"mx{number}", "address": f"192.0.2.{number}", "port": 25} for number in range(1, count + 1)
        ],
    }


def late(seconds: float) -> Any:
    """A server that greets after so long."""

    def serve(connection: socket.socket) -> None:
        time.sleep(seconds)
        connection.sendall(b"220 ready\r\n")

    return serve


def names(*numbers: int) -> list[str]:
    return [f"mx{number}" for number in numbers]


def test_only_peers_that_greet_count() -> None:
    def ask(targets: Sequence[tuple[str, int]], limit: float) -> dict[tuple[str, int], bool]:
        assert limit == peers.PATIENCE
        return {targets[0]: True, targets[1]: False}

    survey = peers.survey(fleet(3), ask)
    assert (survey.total, survey.asked, survey.accepting) == (3, frozenset(names(1, 2, 3)), frozenset(names(1)))


def test_a_large_fleet_is_sampled_and_the_same_are_asked_again() -> None:
    chosen = random.Random(1)
    first = peers.survey(fleet(1000), lambda targets, _: dict.fromkeys(targets, True), chosen.sample)
    assert len(first.asked) == peers.SAMPLE
    again = peers.survey(fleet(1000), lambda targets, _: {}, only=first.asked)
    assert again.asked == first.asked
    assert not again.accepting


def test_without_peers_none_accepts() -> None:
    assert peers.survey({}, lambda *_: {}).estimate() == 0


@pytest.mark.parametrize(("accepting", "minimum", "enough"), [(2, 2, True), (1, 2, False), (0, 0, True), (0, 1, False)])
def test_a_small_fleet_is_counted(accepting: int, minimum: int, enough: bool) -> None:
    survey = Survey(2, names(1, 2), names(1, 2)[:accepting])
    assert budget.is_enough(survey, minimum) is enough


def test_a_sample_counts_at_its_lower_end() -> None:
    everyone = [str(number) for number in range(30)]
    assert Survey(999, everyone, everyone).estimate() == 885
    assert Survey(999, everyone, everyone[:15]).estimate() == 331
    assert Survey(999, everyone, []).estimate() == 0


@given(st.integers(1, 2000), st.integers(0, 30), st.integers(0, 30))
def test_an_estimate_is_never_more_than_proportion_nor_less_than_seen(total: int, asked: int, accepting: int) -> None:
    asked = min(asked, total)
    accepting = min(accepting, asked)
    survey = Survey(total, [str(number) for number in range(asked)], [str(number) for number in range(accepting)])
    assert accepting <= survey.estimate() <= max(accepting, total * accepting / max(1, asked))


@given(st.integers(2, 8), st.data())
def test_hosts_that_refuse_at_once_leave_the_minimum_and_no_more_yield_than_must(
    count: int, data: st.DataObject
) -> None:
    """All see each other before and after; the rank decides alike on each."""
    minimum = data.draw(st.integers(0, count - 1))
    everyone = names(*range(1, count + 1))
    eager = data.draw(st.sets(st.sampled_from(everyone)))
    staying = set(everyone) - eager
    yielded = set()
    for host in eager:
        others = [name for name in everyone if name != host]
        first, second = Survey(len(others), others, others), Survey(len(others), others, staying)
        if budget.must_yield(host, first, second, minimum):
            yielded.add(host)
    accepting = len(staying | yielded)
    # who refuses counts the others, so the minimum holds whenever anybody still refuses
    assert accepting >= min(minimum, count) or not eager - yielded
    assert len(yielded) == max(0, min(len(eager), minimum - len(staying)))


def test_the_lower_rank_yields() -> None:
    before, after = Survey(2, names(2, 3), names(2, 3)), Survey(2, names(2, 3), names(3))
    assert budget.must_yield("mx1", before, after, 2)
    assert not budget.must_yield("mx9", before, after, 2)


def test_a_host_that_was_down_before_has_no_rank() -> None:
    before, after = Survey(3, names(1, 2, 4), names(2, 4)), Survey(3, names(1, 2, 4), names(2))
    assert budget.must_yield("mx3", before, after, 2)
    assert not budget.must_yield("mx5", before, after, 2)


def test_of_a_sample_the_same_share_yields() -> None:
    everyone = [f"mx{number:02}" for number in range(30)]
    before, after = Survey(999, everyone, everyone), Survey(999, everyone, [])
    yielding = sum(budget.must_yield(f"mx{number:02}x", before, after, 700) for number in range(30))
    assert 20 <= yielding <= 23


def test_description() -> None:
    assert Survey(2, names(1, 2), names(1)).describe(2) == "1 of 2 peers accept mail; 2 must"
    assert "so of all 999 at least 0" in Survey(999, names(1), []).describe(2)


def test_delays_follow_the_names_and_fit_into_the_spread() -> None:
    names = ["mx1", "mx2", "mx3", "mx4"]
    delays = [budget.delay(host, {"peers": [{"name": name} for name in names if name != host]}) for host in names]
    assert delays == [0.0, budget.SPREAD / 4, budget.SPREAD / 2, budget.SPREAD * 3 / 4]
    assert budget.delay("mx1", {}) == 0.0


def test_a_whole_settling_fits_into_the_deadline_of_the_load_check() -> None:
    settings = yaml.safe_load((ROOT / "roles/mf_checks/vars/main.yml").read_text())["__mf_checks_load"]
    fleet = {"patience": mf_inventory.PATIENCE[1]}
    settling = budget.SPREAD + 3 * peers.patience(fleet) + 2 * budget.settle(fleet)
    assert settling + 2 * firewall.TIMEOUT < settings["deadline"]
    assert 2 * settings["period"] + settings["deadline"] <= 300  # the least mf_throttle_lease_ttl


def test_settling_outlasts_another_hosts_survey_and_refusal() -> None:
    for fleet in ({}, {"patience": 2}, {"patience": 8}):
        assert budget.settle(fleet) >= peers.patience(fleet) + budget.TAKING


def test_a_survey_has_the_patience_of_the_settings_and_ends_with_the_slowest_greeting() -> None:
    """A real server that greets late, as `earlytalker` has it do."""
    with server(late(0.6)) as port, server(late(0.1)) as other:
        both = {
            "peers": [
                {"name": f"mx{peer_port}", "address": "127.0.0.1", "port": peer_port} for peer_port in (port, other)
            ]
        }
        assert peers.survey({**both, "patience": 0.3}).accepting == {f"mx{other}"}
        began = time.monotonic()
        assert peers.survey(both).accepting == {f"mx{port}", f"mx{other}"}
        assert 0.6 <= time.monotonic() - began < peers.PATIENCE / 2
