"""Queue messages for the channels of their severity, within the limit of an hour; queue the weekly test."""

from __future__ import annotations

import time
from collections.abc import Sequence

from .. import texts
from ..judging.severity import NOTICE, URGENT
from ..rules import weekly
from ..settings import Settings
from ..store import HELD_BACK, QUEUED, Store

HOUR = 3600.0
WEEK = 7 * 86400.0


def enqueue(
    store: Store,
    settings: Settings,
    now: float,
    kind: str,
    severity: str,
    message: str,
    incidents: Sequence[int] = (),
    *,
    escalation: bool = False,
) -> None:
    """Queue a message for the channels of its severity, or of the escalation; timelines record what isn't sent."""
    channels = [
        channel
        for channel in settings.channels
        if (channel.escalation if escalation else severity in channel.severities and not channel.escalation)
    ]
    for channel in channels:
        held_back = severity != URGENT and _full(store, settings, channel.name, now)
        status = HELD_BACK if held_back else QUEUED
        store.messages.enqueue(now, channel.name, kind, severity, message, incidents, status=status)
        if held_back:
            for number in incidents:
                reason = f"{channel.name}: too many messages within an hour"
                store.incidents.add_event(number, now, "held back", reason)
    if not channels:
        for number in incidents:
            what = "escalations" if escalation else severity
            store.incidents.add_event(number, now, "not sent", f"no channel takes {what}")


def _full(store: Store, settings: Settings, channel: str, now: float) -> bool:
    return store.messages.sent_since(channel, now - HOUR) >= settings.rate_limit


def enqueue_held_back(store: Store, settings: Settings, now: float) -> bool:
    """Queue one message that lists what was held back, as soon as the limit allows; whether anything was."""
    queued = False
    for channel in settings.channels:
        messages = store.messages.held_back(channel.name)
        if not messages or _full(store, settings, channel.name, now):
            continue
        titles = [message.text.removeprefix(f"{settings.name}: ") for message in messages]
        content = texts.compose(settings.name, "", [f"{len(messages)} held back", *titles], "")
        store.messages.enqueue(now, channel.name, "held back", NOTICE, content)
        store.messages.set_named(channel.name, now)
        queued = True
    return queued


def enqueue_weekly_test(store: Store, settings: Settings, now: float) -> bool:
    """Queue the test message at its hour, or as soon as possible after it: it shows that the gateway works."""
    chosen = weekly(settings.test_at)
    if chosen is None:
        return False
    day, hour, minute = chosen
    midnight = now - now % 86400
    due = midnight + (day - time.gmtime(now).tm_wday) * 86400 + hour * 3600 + minute * 60
    if due > now:
        due -= WEEK
    last = float(store.get("tested", "0"))
    sane = 0 < last <= now + 60  # otherwise a new history, or a clock that went wrong: the next test is the first
    if sane and last >= due:
        return False
    store.put("tested", str(now))
    if not sane:
        return False
    message = texts.compose(settings.name, "TEST", ["the weekly test message; all is well if you read it"], "")
    for channel in settings.channels:
        store.messages.enqueue(now, channel.name, "test", NOTICE, message)
    return True
