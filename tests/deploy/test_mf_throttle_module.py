"""The module mf_throttle on a host in a directory, and what its action plugin tells it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from action_plugins import mf_throttle as plugin
from library import mf_throttle
from tests.throttle.conftest import Clock, Host

Throttle = Callable[..., dict[str, Any]]
# the package as Ansible's modules see it
package, state, peers, budget = (
    importlib.import_module(f"ansible.module_utils.mf.{name}")
    for name in ("throttle.control", "state", "throttle.peers", "throttle.budget")
)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    clock = Clock()
    host = Host(tmp_path, clock, minimum=2)
    host.kernel.table = host.kernel.rules = True  # as after a boot
    monkeypatch.setattr(state, "boottime", clock.now)
    monkeypatch.setattr(state, "Places", lambda: host.places)
    monkeypatch.setattr(budget, "settle", lambda _: 0)
    monkeypatch.setattr(package.firewall, "_run", host.kernel.run)
    monkeypatch.setattr(package.decisions, "JOURNAL", str(tmp_path / "journal"))
    fleet(monkeypatch, "mx2", "mx3")
    return host


def fleet(monkeypatch: pytest.MonkeyPatch, *accepting: str, names: Iterable[str] = ("mx2", "mx3")) -> None:
    """Let the host see these peers accept mail."""

    def survey(_settings: object, only: Iterable[str] | None = None) -> object:
        asked = [name for name in names if only is None or name in only]
        return peers.Survey(len(list(names)), asked, [name for name in asked if name in accepting])

    monkeypatch.setattr(peers, "survey", survey)


@pytest.fixture
def throttle(host: Host, run_module: Callable[..., dict[str, Any]]) -> Throttle:
    return lambda **options: run_module(mf_throttle, **options)


def test_take_renew_and_give_back(host: Host, throttle: Throttle) -> None:
    first = throttle(ttl="15m", reason="disk swap")
    assert first["changed"]
    assert first["exit_code"] == 0
    assert first["msg"] == "throttled, refusing new mail: operator (disk swap, 15 min left)"
    assert (first["throttled"], first["refusing"], host.kernel.refused) == (True, True, [25])
    host.clock.sleep(600)
    again = throttle(ttl="15m", reason="disk swap")
    assert not again["changed"]
    assert again["msg"].endswith("15 min left)")  # renewed all the same
    back = throttle(state="absent")
    assert (back["changed"], back["msg"], host.kernel.refused) == (True, "not throttled", [])
    assert not throttle(state="absent")["changed"]


def test_an_owner_without_a_lease_gets_the_names_of_the_holders(throttle: Throttle) -> None:
    throttle(reason="disk swap")
    slip = throttle(state="absent", owner="operater")
    assert (slip["changed"], slip["msg"]) == (False, "operater holds no lease here; held by: operator")


@pytest.mark.parametrize(
    "change", [{"reason": "another"}, {"refuse": False, "reason": "a"}, {"hold": True, "reason": "a"}]
)
def test_another_reason_or_kind_is_a_change(throttle: Throttle, change: dict[str, Any]) -> None:
    throttle(reason="a")
    assert throttle(**change)["changed"]
    assert not throttle(**change)["changed"]


def test_marking_only_refuses_nothing(host: Host, throttle: Throttle, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet(monkeypatch)
    result = throttle(refuse=False)
    assert (result["throttled"], result["refusing"], host.kernel.refused) == (True, False, [])


def test_check_mode_changes_nothing_and_reports_the_same(host: Host, throttle: Throttle) -> None:
    forecast = throttle(check=True, diff=True, ttl="1h", reason="x")
    assert forecast["changed"]
    assert not host.marker.exists()
    assert host.kernel.refused == []
    real = throttle(diff=True, ttl="1h", reason="x")
    assert forecast["diff"] == real["diff"]
    assert real["diff"] == {
        "before": {"refusing": False, "leases": {}},
        "after": {"refusing": True, "leases": {"operator": {"reason": "x", "refuse": True, "hold": False}}},
    }
    assert not throttle(check=True, ttl="1h", reason="x")["changed"]
    assert throttle(check=True, state="absent")["changed"]
    assert host.kernel.refused == [25]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ttl": "-5"}, "ttl: '-5' is not a duration; use for example 90s, 15m, 2h or 1d"),
        ({"ttl": "soon"}, "ttl: 'soon' is not a duration; use for example 90s, 15m, 2h or 1d"),
        ({"ttl": ""}, "ttl: '' is not a duration; use for example 90s, 15m, 2h or 1d"),
        ({"ttl": "30d"}, "ttl: a lease lasts from 1 s to 7 d, not 2592000.0; use hold=true for a lease without an end"),
        ({"owner": "load"}, "owner load belongs to check-load; use another name (for example: operator)"),
        ({"owner": "Über uns"}, "is not a name: a small letter, then up to 31 of a-z 0-9 _ . -"),
        ({"owner": "load", "state": "absent"}, "owner load belongs to check-load"),
        ({"reason": "two\nlines"}, "a reason is one line of at most 200 printable characters"),
        ({"ttl": "5m", "hold": True}, "parameters are mutually exclusive: ttl|hold"),
        ({"state": "on"}, "value of state must be one of: present, absent, got: on"),
        ({"refuse": "perhaps"}, "refuse"),
        ({"till": "5m"}, "Unsupported parameters"),
    ],
)
def test_bad_input_is_one_clear_line(host: Host, throttle: Throttle, options: dict[str, Any], message: str) -> None:
    result = throttle(**options)
    assert result["failed"]
    assert result["exit_code"] == 1
    assert message in result["msg"]
    assert "\n" not in result["msg"]
    assert not host.marker.exists()


def test_over_budget_nothing_changes(host: Host, throttle: Throttle, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet(monkeypatch, "mx2")
    for options in ({}, {"hold": True}, {"check": True}):
        result = throttle(**options)
        assert result["failed"]
        assert result["msg"] == (
            "over budget: 1 of 2 peers accept mail; 2 must. Nothing was changed: use refuse=false to throttle without "
            "refusing mail, force=true to refuse it all the same"
        )
    assert not host.marker.exists()
    assert throttle(force=True)["refusing"]


def test_a_host_throttled_in_the_same_run_counts_as_gone(host: Host, throttle: Throttle) -> None:
    result = throttle(leaving=["mx3"])
    assert result["failed"]
    assert "1 of 2 peers accept mail; 2 must (mx3 would be throttled in the same run)" in result["msg"]
    assert "name fewer hosts at once" in result["msg"]
    assert not host.marker.exists()


def test_a_hold_is_not_held_against_its_renewal(throttle: Throttle, monkeypatch: pytest.MonkeyPatch) -> None:
    assert throttle(hold=True)["changed"]
    fleet(monkeypatch)
    assert not throttle(hold=True)["changed"]


def test_a_firewall_that_does_not_follow_is_a_failure(host: Host, throttle: Throttle) -> None:
    host.kernel.stuck = package.firewall.FirewallError("nft: no")
    result = throttle(reason="x")
    assert result["failed"]
    assert result["msg"].startswith("throttled, but NOT refusing new mail as it should")
    assert host.marker.exists()  # local jobs back off all the same


def test_without_a_tree_the_error_names_the_remedy(host: Host, throttle: Throttle) -> None:
    Path(host.places.settings).unlink()
    result = throttle()
    assert result["failed"]
    assert result["msg"].endswith("mf.json is missing; deploy again with playbooks/site.yml")


def test_a_host_without_smtp_only_marks(host: Host, throttle: Throttle) -> None:
    host.settings["throttle"]["ports"] = []
    host.save()
    result = throttle(reason="x", hold=True)
    assert (result["changed"], result["throttled"], result["refusing"]) == (True, True, False)


def test_the_action_plugin_names_the_mx_machines_of_the_same_batch() -> None:
    machines = ["mx1", "mx2", "mx3"]
    assert plugin.leaving_with("mx1", machines, ["mx1", "mx3", "control"]) == ["mx3"]
    assert plugin.leaving_with("control", machines, ["control"]) == []
