"""The status page's contents, from a snapshot: pure, so that the templates only place them.

``private`` and ``public`` give what ``page/*.html`` show, ``status`` and ``public_status`` the two ``status.json``;
their shapes stand in docs/status-page.md.
"""

from __future__ import annotations

from typing import Any

from ..store import Silence
from . import charts, incidents, machines
from .model import Channel, Host, Incident, Snapshot, as_json
from .values import CHECKS, plural, short, show, uptime, when

VERSION = 1  # of status.json: raised when a key goes away or changes its meaning; new keys may come at any time

_TROUBLE = ("down", "warning", "unknown", "throttled", "maintenance", "up")
_FLEET = {"up": "Well", "warning": "Reduced", "throttled": "Reduced", "maintenance": "Reduced", "down": "Failing"}
# Names of the parts of the service on the public page, which names no machine.
_COMPONENTS = (("mx", "Incoming mail"), ("control", "Quarantine and control panel"), ("offsite", "Backups"))
_PUBLIC_LABELS = {
    "up": "Working",
    "throttled": "Working, slower than usual",
    "warning": "Working",
    "maintenance": "Being worked on",
    "down": "Not working",
    "unknown": "Not known at the moment",
}
_PUBLIC = {
    "up": ("Incoming mail works.", "Mail is accepted without delay."),
    "down": (
        "Incoming mail is delayed.",
        "Senders keep their mail and try again, so nothing is lost. We are working on it.",
    ),
    "unknown": ("The state of incoming mail is not known at the moment.", "Mail doesn't depend on this page."),
}


def _frame(snapshot: Snapshot) -> dict[str, Any]:
    """The values that both pages show."""
    now, fleet = snapshot.generated, snapshot.fleet
    icon, label = fleet.state, _FLEET.get(fleet.state, "Not known")
    offline = snapshot.connectivity.state == "down"
    if offline:
        icon, label = "unknown", "Monitor offline"
    return {
        "name": show(snapshot.name, 40),
        "now": now,
        "written": when(now, now),
        "interval": int(snapshot.interval),
        "stale_after": int(snapshot.stale_after),
        "icon": "warning" if icon in {"throttled", "maintenance"} else icon,
        "label": label,
        "offline": offline,
        "bars": charts.bars(fleet.days, now),
        "uptime": uptime(fleet.days),
        "lasted": short(now - fleet.since) if fleet.since is not None and fleet.since < now else "",
    }


def _meter(snapshot: Snapshot) -> dict[str, Any]:
    """Number of MXs that accept mail, of all, and the minimum; a pip for each while single ones can be seen."""
    fleet = snapshot.fleet
    pips = [{"icon": host.state, "name": show(host.name, 64)} for host in snapshot.hosts if host.role == "mx"]
    return {
        "accepting": fleet.accepting or 0,
        "total": fleet.mxs,
        "must": fleet.min_accepting,
        "known": fleet.mxs > 0 and fleet.state != "unknown",
        "pips": pips if len(pips) <= machines.MANY else [],
    }


def private(snapshot: Snapshot) -> dict[str, Any]:
    """The page for operators."""
    frame, fleet, now, hosts = _frame(snapshot), snapshot.fleet, snapshot.generated, snapshot.hosts
    many = len(hosts) > machines.MANY
    if many:
        hosts = sorted(hosts, key=lambda host: _TROUBLE.index(host.state))
    rows = [machines.row(host, now) for host in hosts]
    shown = [
        machines.details(host, row, now)
        for host, row in zip(hosts, rows, strict=True)
        if not many or host.state != "up"
    ][: 4 * machines.MANY]
    detailed = {row["id"] for row in shown}
    counted = [host.state for host in hosts if host.role != "dns"]
    opened = snapshot.incidents.open
    troubled = sum(state != "up" for state in counted)
    if frame["offline"]:
        needs = "Its own connection is down, so nothing is known of the fleet. Below is what it saw last."
    elif not hosts:
        needs = "Nothing has been measured yet."
    else:
        needs = incidents.need(opened, fleet.state)
    count = plural(len(counted), "machine", "machines")
    return {
        **frame,
        "title": f"{f'{len(opened)} open · ' if opened else ''}{frame['label']} · {frame['name']}",
        "monitor": show(snapshot.monitor, 64),
        "sentence": show(fleet.sentence or "Nothing is known about the fleet yet.", 200),
        "need": needs,
        "meter": _meter(snapshot),
        "machines": [{**row, "detailed": row["id"] in detailed} for row in rows],
        "details": shown,
        "details_left": len(rows) - len(shown),
        "count": f"{count}, {f'{troubled} not well' if troubled else 'all well'}" if counted else "",
        "opened": [incidents.card(incident, now) for incident in opened],
        "past": incidents.by_day(snapshot.incidents.recent, now),
        "charts": machines.first_charts(hosts, now),
        **_monitor(snapshot),
    }


def _monitor(snapshot: Snapshot) -> dict[str, Any]:
    """The monitor's own state: its connectivity, what waits to be sent, the last messages, silences."""
    connectivity, messages, now = snapshot.connectivity, snapshot.messages, snapshot.generated
    sent = max((message.finished for message in messages.recent if message.finished is not None), default=None)
    waiting = plural(messages.waiting, "message waits", "messages wait") if messages.waiting else "nothing waits"
    failing = f"{plural(messages.waiting, 'message waits', 'messages wait')}, {messages.failing} after a failure"
    facts: list[dict[str, Any]] = [
        {"name": "Connectivity", "icon": connectivity.state, "text": show(connectivity.message or "not known", 120)},
        {
            "name": "Outgoing messages",
            "icon": "down" if messages.failing else "up",
            "text": failing if messages.failing else waiting,
        },
        {"name": "Last message", "icon": "up" if sent else "unknown", "text": "none yet", "at": when(sent, now)},
        *(_channel(channel, now) for channel in messages.channels),
    ]
    for name, last in (("Heartbeat", snapshot.heartbeat), ("Weekly test message", snapshot.test_message)):
        if last:
            icon, text = ("up", "sent") if last.ok else ("down", "failed")
            facts.append({"name": name, "icon": icon, "text": text, "at": when(last.at, now)})
    return {
        "facts": [{"at": None, **fact} for fact in facts],
        "messages": [
            {
                "at": when(message.at, now),
                "channel": show(message.channel, 32),
                "status": show(message.status, 20) + (", repeat" if message.repeat else ""),
                "text": show(message.text, 200),
                "error": show(message.error or "", 160),
            }
            for message in messages.recent
        ],
        "silences": [_silence(silence, now) for silence in snapshot.silences],
    }


def _channel(channel: Channel, now: float) -> dict[str, Any]:
    icon = "unknown" if channel.ok is None else "up" if channel.ok else "down"
    text = "the last message failed" if channel.ok is False else "nothing sent yet"
    return {"name": f"Channel {show(channel.name, 32)}", "icon": icon, "text": text, "at": when(channel.last, now)}


def _silence(silence: Silence, now: float) -> str:
    until = when(silence.until, now)
    clock = until.clock if until else "?"
    return f"{show(silence.pattern, 80)} until {clock}, by {show(silence.by, 40)}: {show(silence.reason, 160)}"


def components(snapshot: Snapshot) -> list[dict[str, Any]]:
    """The parts of the service as the public may know them: no machine, no address, no text from outside."""
    fleet, shown = snapshot.fleet, []
    for role, name in _COMPONENTS:
        ours = [host for host in snapshot.hosts if host.role == role]
        if not ours:
            continue
        icon = _component(role, ours, snapshot)
        days = fleet.days if role == "mx" else ours[0].days
        bars = {"bars": charts.bars(days, snapshot.generated), "uptime": uptime(days)}
        shown.append({"name": name, "icon": icon, "label": _PUBLIC_LABELS[icon], **bars})
    return shown


def _component(role: str, hosts: list[Host], snapshot: Snapshot) -> str:
    """The state of a part of the service."""
    if snapshot.connectivity.state == "down":
        return "unknown"
    if role == "mx":  # some may be out: what counts is whether enough of them accept mail
        return {"down": "down", "unknown": "unknown"}.get(snapshot.fleet.state, "up")
    states = {host.state for host in hosts}
    if role == "offsite":  # what counts is the backups' age, which the host that makes them reports
        states |= {CHECKS[host.backups.status] for host in snapshot.hosts if host.backups}
    return next(state for state in _TROUBLE if state in states)


def public(snapshot: Snapshot) -> dict[str, Any]:
    """The public page."""
    frame, now = _frame(snapshot), snapshot.generated
    if frame["icon"] == "warning":  # a matter for operators: the public's mail isn't touched by it
        frame.update(icon="up", label=_FLEET["up"])
    sentence, needs = _PUBLIC[frame["icon"]]
    past: list[Incident] = [*snapshot.incidents.open, *snapshot.incidents.recent]
    outages = [incidents.card(incident, now) for incident in past if incident.kind == "fleet"]
    return {
        **frame,
        "title": f"{sentence.rstrip('.')} · {frame['name']}",
        "sentence": sentence,
        "need": needs,
        "components": components(snapshot),
        "outages": [{key: outage[key] for key in ("icon", "opened", "open", "lasted")} for outage in outages],
    }


def status(snapshot: Snapshot) -> dict[str, Any]:
    """``status.json`` for operators: the snapshot without its series, texts made safe to show."""
    plain = as_json(snapshot, left_out={"latency", "days", "metrics", "version"})
    return {**_presentable(plain), "version": VERSION}


def _presentable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _presentable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_presentable(inner) for inner in value]
    if isinstance(value, str):
        return show(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def public_status(snapshot: Snapshot) -> dict[str, Any]:
    """The public ``status.json``."""
    shown = public(snapshot)
    return {
        "version": VERSION,
        "name": shown["name"],
        "generated": int(shown["now"]),
        "stale_after": shown["stale_after"],
        "state": shown["icon"],
        "sentence": shown["sentence"],
        "components": [
            {"name": part["name"], "state": part["icon"], "word": part["label"]} for part in shown["components"]
        ],
    }
