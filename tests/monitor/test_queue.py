"""The queue of messages: the weekly test, the limit of an hour."""

from __future__ import annotations

from pathlib import Path

from mf_monitor import settings
from mf_monitor.notifying import queue
from mf_monitor.store import Store


def test_the_weekly_test_is_sent_once_in_its_minute_or_when_it_is_back(tmp_path: Path) -> None:
    monday = 1_790_589_600.0  # 2026-09-28, 10:00:00 UTC
    chosen = settings.parse({"test_at": "mon 10:00", "channels": [{"name": "sms", "url": "x"}]})
    store = Store(str(tmp_path / "m.sqlite"))
    with store.writing():
        moments = [monday + after for after in (-1, 0, 30, 60, 3600, 7 * 86400)]
        assert [queue.enqueue_weekly_test(store, chosen, at) for at in moments] == [
            False,
            True,
            False,
            False,
            False,
            True,
        ]
        # it was away in that minute
        late = [monday + 14 * 86400 + after for after in (7200, 7201)]
        assert [queue.enqueue_weekly_test(store, chosen, at) for at in late] == [True, False]
    assert [row.kind for row in store.messages.newest()] == ["test"] * 3
    store.close()


CHANNEL = {"name": "sms", "url": "x", "severities": ["urgent", "notice"]}


def test_beyond_the_rate_limit_only_what_is_urgent_goes_out(tmp_path: Path) -> None:
    chosen = settings.parse({"rate_limit": 2, "channels": [CHANNEL]})
    store = Store(str(tmp_path / "m.sqlite"))
    with store.writing():
        for number, severity in enumerate(("notice", "notice", "notice", "urgent")):
            queue.enqueue(store, chosen, 1000.0 + number, "opened", severity, "text")
        queue.enqueue(store, chosen, 9000.0, "opened", "notice", "text")
    statuses = [row.status for row in reversed(store.messages.newest())]
    assert statuses == ["queued", "queued", "held back", "queued", "queued"]
    store.close()


def test_what_the_rate_limit_held_back_is_named_in_one_message(tmp_path: Path) -> None:
    chosen = settings.parse({"rate_limit": 2, "channels": [CHANNEL]})
    store = Store(str(tmp_path / "m.sqlite"))
    with store.writing():
        for number in range(5):
            queue.enqueue(store, chosen, 1000.0 + number, "opened", "notice", f"mf: fault {number}")
        named = [queue.enqueue_held_back(store, chosen, at) for at in (1010.0, 4599.0, 4700.0, 4800.0)]
    assert named == [False, False, True, False]
    newest = store.messages.newest()[0]
    assert newest.text.startswith("mf: 3 held back")
    assert newest.status == "queued"
    store.close()
