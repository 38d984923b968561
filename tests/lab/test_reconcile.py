"""The account of every message: sent, delivered, refused, lost, doubled."""

from __future__ import annotations

import json
from typing import Any

from mflab import reconcile


def end(number: int, outcome: str = "accepted", kind: str = "ham", **more: Any) -> dict[str, Any]:
    return {
        "id": f"r-{number}",
        "kind": kind,
        "outcome": outcome,
        "mx": "mx1",
        "stage": "message",
        "attempts": 1,
        "unknown": 0,
        "deferred": [],
        "started": 100.0,
        **more,
    }


def arrival(number: int, at: float = 101.0) -> dict[str, Any]:
    return {"id": f"r-{number}", "time": at}


def test_a_good_run() -> None:
    account = reconcile.reconcile(
        [end(1), end(2, mx="mx2"), end(3, "refused", "spam"), end(4, "refused", "stranger", stage="rcpt")],
        [arrival(1), arrival(2, 103.0)],
    )
    assert account.faults() == []
    assert (account.sent, account.delivered, account.refused_total) == (4, 2, 2)
    assert account.refused == {"message": 1, "rcpt": 1}
    assert account.by_mx == {"mx1": 1, "mx2": 1}
    assert account.delays["median"] == 2.0


def test_a_lost_message_is_a_fault() -> None:
    account = reconcile.reconcile([end(1), end(2)], [arrival(1)])
    assert account.lost == ["r-2"]
    assert account.faults() == ["1 lost, such as r-2"]


def test_a_double_needs_an_explanation() -> None:
    record = [arrival(1), arrival(1)]
    assert reconcile.reconcile([end(1)], record).unexplained == ["r-1"]
    explained = reconcile.reconcile([end(1, unknown=1, attempts=2)], record)
    assert (explained.doubled, explained.faults(), explained.unknown) == (["r-1"], [], 1)
    # Somebody else's lost reply explains nothing ...
    assert reconcile.reconcile([end(1), end(2, unknown=1)], [*record, arrival(2)]).unexplained == ["r-1"]
    # ... but an MX that was stopped does.
    assert reconcile.reconcile([end(1)], record, stopped=True).faults() == []


def test_misjudged_and_undecided() -> None:
    account = reconcile.reconcile(
        [end(1, "refused"), end(2, kind="spam"), end(3, "undecided"), end(4, "undecided", unknown=1)],
        [arrival(2), arrival(4)],
    )
    assert account.misjudged == ["r-1", "r-2"]
    assert account.undecided == ["r-3"]  # r-4 did arrive: its reply was lost
    assert len(account.faults()) == 2


def test_an_empty_and_a_single_run() -> None:
    assert reconcile.reconcile([], []).delays == {}
    assert reconcile.reconcile([end(1)], [arrival(1)]).delays == {"median": 1.0, "p95": 1.0}


def test_mail_is_held_against_the_quarantine() -> None:
    ends = [end(1), end(2, "refused", "spam"), end(3, "refused", "stranger", stage="rcpt")]
    record = [arrival(1)]
    good = reconcile.reconcile(ends, record, kept=["r-2"])
    assert (good.quarantined, good.refused_early, good.faults()) == (1, 1, [])
    assert reconcile.reconcile(ends, record).quarantined is None
    assert reconcile.unquarantined(ends, []) == 1
    assert reconcile.unquarantined(ends, ["r-2"]) == 0
    for kept, wrong in (
        ([], "1 refused after DATA and not in the quarantine, such as r-2"),
        (["r-2", "r-2"], "1 in the quarantine more than once, such as r-2"),
        (["r-2", "r-1"], "1 in the quarantine although never refused after DATA, such as r-1"),
    ):
        assert reconcile.reconcile(ends, record, kept=kept).faults() == [wrong]
    turned = reconcile.reconcile(ends, [], kept=["r-2", "r-1"])
    assert (turned.lost, turned.strays, turned.turned) == ([], [], ["r-1"])
    assert turned.faults() == [
        "1 accepted and refused by the customer's server, kept in the quarantine, such as r-1",
    ]
    again = [*ends[:1], end(2, "refused", "spam", unknown=1, attempts=2), ends[2]]
    assert reconcile.reconcile(again, record, kept=["r-2", "r-2"]).faults() == []


def test_pending_and_unfinished_lines() -> None:
    text = json.dumps(arrival(1)) + "\n" + json.dumps(arrival(2))[:7]
    assert reconcile.parse_lines(text) == [arrival(1)]
    assert reconcile.pending([end(1), end(2), end(3, "refused")], [arrival(1)]) == 1
