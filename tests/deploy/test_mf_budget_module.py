"""The budget of a deployment: which MX may be touched now."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest

from library import mf_budget
from tests.core.conftest import server, talking

peers, marker, lease, smtp, health = (
    importlib.import_module(f"ansible.module_utils.mf.{name}")
    for name in ("throttle.peers", "throttle.marker", "throttle.lease", "smtp", "health")
)
greeting = smtp.greeting
PEERS = [{"name": name, "address": "192.0.2.1", "port": 25} for name in ("mx2", "mx3")]


@pytest.fixture
def budget(monkeypatch: pytest.MonkeyPatch, run_module: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    def call(*accepting: str, refusing: bool = False, silent: str = "", **options: Any) -> dict[str, Any]:
        """``silent``: this MX doesn't greet, and its check says "full" or something else."""
        outcome = smtp.ACCEPTED if "this" in accepting else smtp.SILENT if silent else smtp.UNREACHABLE
        here = smtp.Dialogue("greeting", outcome)
        # on loopback; its own address is asked in earnest
        monkeypatch.setattr(
            smtp, "greeting", lambda *where: here if where[2] < mf_budget.OWN_TIMEOUT else greeting(*where)
        )
        monkeypatch.setattr(health, "collect", lambda _: {"accepting": silent == "full"})

        def survey(fleet: dict[str, Any]) -> Any:
            names = [peer["name"] for peer in fleet["peers"]]
            return peers.Survey(len(names), names, [name for name in names if name in accepting])

        monkeypatch.setattr(peers, "survey", survey)
        leases = [lease.Lease("load", "", 0.0, 9e9, True)] if refusing else []
        monkeypatch.setattr(marker, "current", lambda _: marker.Status(leases, refusing, 1.0))
        return run_module(mf_budget, **{"peers": PEERS, "min_accepting": 2, **options})

    return call


def test_enough_others_accept(budget: Callable[..., dict[str, Any]]) -> None:
    result = budget("this", "mx2", "mx3")
    assert (result["exit_code"], result["changed"], result["others"]) == (0, False, 2)
    assert result["msg"] == "this MX accepts mail, and so do 2 of 2 others; 2 must"


def test_too_few_others_accept(budget: Callable[..., dict[str, Any]]) -> None:
    result = budget("this", "mx2")
    assert result["failed"]
    assert result["msg"] == (
        "over budget: only 1 of 2 other MX machines accept mail, 2 must, so this one was not touched. First see to mx3"
    )


def test_a_host_that_refuses_mail_takes_nothing(budget: Callable[..., dict[str, Any]]) -> None:
    assert budget("mx2")["exit_code"] == 0
    assert budget("this", refusing=True)["exit_code"] == 0


def test_an_mx_whose_slots_are_all_taken_is_one_that_the_fleet_needs(budget: Callable[..., dict[str, Any]]) -> None:
    assert budget("mx2", silent="full")["failed"]
    assert budget("mx2", "mx3", silent="full")["others"] == 2
    assert budget("mx2", silent="full", refusing=True)["exit_code"] == 0
    # a frozen one is silent, too, and may be repaired
    assert budget("mx2", silent="frozen")["exit_code"] == 0


def test_a_check_result_counts_only_for_a_silent_host(
    budget: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped since the last run of its check: refused connections leave no doubt."""
    monkeypatch.setattr(health, "collect", lambda _: {"accepting": True})
    assert budget("mx2")["exit_code"] == 0


def test_one_mx_and_a_minimum(budget: Callable[..., dict[str, Any]]) -> None:
    assert budget("this", peers=[], min_accepting=1)["failed"]
    assert budget("this", peers=[], min_accepting=0)["exit_code"] == 0


def test_a_greeting_on_loopback_is_none_while_others_get_a_421(budget: Callable[..., dict[str, Any]]) -> None:
    """Loopback is greeted though the queue is dead; with all queues dead nobody could be mended otherwise."""
    with server(talking(b"421 4.3.2 the queue behind takes no mail now\r\n")) as port:
        result = budget("this", address="127.0.0.1", port=port)
    assert (result["exit_code"], result["accepting"]) == (0, False)
    for reply in (b"220 ready\r\n", b"451 too many connections from you\r\n", b"554 no\r\n"):
        with server(talking(reply)) as port:
            assert budget("this", address="127.0.0.1", port=port)["failed"]
    assert budget("this", address="127.0.0.1", port=port)["failed"], "no way to its own address says nothing"
