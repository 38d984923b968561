"""What the status page says, worked out from a snapshot: pure, so that the templates only place it.

Source: the snapshot of ``snapshot``. ``private`` and ``public`` give what ``page/*.html`` show, ``status``
and ``public_status`` the two ``status.json``; their shapes stand in docs/status-page.md. Text from outside keeps its
printable letters, everything else becomes an escape, and it is cut; the templates escape it for HTML besides.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from mf.text import span

from . import charts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

VERSION = 1  # of status.json: raised when a key goes away or changes its meaning; new keys may come at any time
_MANY = 24  # machines: with more, those in trouble come first and they alone have details
_DAY = 86400.0

# state of a host or service -> what people read. The icon of that name differs in shape, not only in colour.
WORDS = {
    "up": "Up",
    "warning": "Warning",
    "throttled": "Throttled",
    "maintenance": "Maintenance",
    "down": "Down",
    "unknown": "Not known",
}
_TROUBLE = ("down", "warning", "unknown", "throttled", "maintenance", "up")
_FLEET = {"up": "Well", "warning": "Reduced", "throttled": "Reduced", "maintenance": "Reduced", "down": "Failing"}
_SEVERITIES = {"urgent": ("down", "Urgent"), "notice": ("warning", "Notice"), "page": ("unknown", "Page only")}
_NEEDS = {
    "urgent": "Somebody has to act now.",
    "notice": "It can wait until morning: mail goes on without it.",
    "page": "Nobody has to get up: it is a matter for office hours.",
}
_EVENTS = {
    "opened": "Began",
    "changed": "Changed",
    "sent": "Message",
    "failed": "Failed",
    "acknowledged": "Acknowledged",
    "closed": "Recovered",
}
_ROLES = {"mx": "MX", "control": "Control", "offsite": "Offsite", "monitor": "Monitor", "dns": "DNS"}
_CHECKS = {"OK": "up", "WARNING": "warning", "CRITICAL": "down"}
# What the public page calls the parts of the service; it names no machine.
_COMPONENTS = (("mx", "Incoming mail"), ("control", "Quarantine and control panel"), ("offsite", "Backups"))


_PUBLIC_WORDS = {
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


class When(NamedTuple):
    """A moment: ``iso`` for machines, ``clock`` for people (UTC), ``epoch`` in seconds for the script."""

    iso: str
    clock: str
    epoch: int


def show(text: object, limit: int = 300) -> str:
    """Printable text of at most ``limit`` characters; control, bidirectional and invisible ones become escapes."""
    source = str(text)[: 4 * limit]
    if source.isprintable() and len(source) <= limit:
        return source
    shown = "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape", "surrogatepass").decode()
        for letter in source
    )
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def number(value: object) -> float | None:
    """A finite number, or None for anything else."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and -1e15 < value < 1e15:
        return float(value)
    return None


def milliseconds(value: float | None) -> str:
    """Milliseconds as ``42 ms`` or ``1.3 s``; a dash when not known."""
    if value is None:
        return "–"
    if value < 999.5:
        return f"{value:.0f} ms"
    return f"{value / 1000:.1f} s" if value < 99950 else span(value / 1000)


def short(value: float | None) -> str:
    """Seconds as ``45 s``, ``12 min``, ``3.5 h``; a dash when not known."""
    return "–" if value is None else span(max(0.0, value))


def when(value: object, now: float) -> When | None:
    """A moment; its date is said unless it is today's."""
    moment = number(value)
    if moment is None or not 0 <= moment < 32503680000:
        return None
    parts, today = time.gmtime(moment), time.gmtime(now)
    same = parts[:3] == today[:3]
    clock = time.strftime("%H:%M:%S" if same else "%d %b %H:%M", parts).lstrip("0" if not same else "")
    return When(time.strftime("%Y-%m-%dT%H:%M:%SZ", parts), clock, int(moment))


def uptime(days: Iterable[Mapping[str, Any] | None]) -> str:
    """Share of the measured time that wasn't down, never rounded up to 100 %: throttled time isn't down; maintenance
    is neither."""
    known = bad = 0.0
    for day in days:
        if day is not None and day["up"] is not None:
            known += sum(day[f"{state}_seconds"] for state in ("up", "warning", "throttled", "down"))
            bad += day["down_seconds"]
    if not known > 0:
        return "–"
    if not bad:
        return "100 %"
    share = max(0.0, 100 - 100 * bad / known)
    return f"{min(int(share * 1000) / 1000, 99.999):.3f} %" if share >= 99.9 else f"{int(share * 100) / 100:.2f} %"


def slug(name: str) -> str:
    """A name as part of an anchor."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name)


def _look(state: object) -> str:
    return state if isinstance(state, str) and state in WORDS else "unknown"


def _list(holder: Mapping[str, Any], key: str) -> list[Any]:
    found = holder.get(key)
    return list(found) if isinstance(found, (list, tuple)) else []


def _dicts(holder: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    return [one for one in _list(holder, key) if isinstance(one, dict)]


def _map(holder: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = holder.get(key)
    return found if isinstance(found, dict) else {}


def _plural(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def chip(one: Mapping[str, Any]) -> dict[str, Any]:
    """One service in a machine's row."""
    look, latency = _look(one.get("state")), number(one.get("latency_ms"))
    if look == "up" and one.get("soft"):  # its last look failed, the next will tell
        return {"name": show(one.get("name", "?"), 32), "look": "unknown", "fact": "in doubt"}
    timed = look in {"up", "warning"} and latency is not None
    fact = milliseconds(latency) if timed else WORDS[look].lower()
    return {"name": show(one.get("name", "?"), 32), "look": look, "fact": fact}


def service(one: Mapping[str, Any], now: float) -> dict[str, Any]:
    """One service among a machine's details."""
    expires = number(one.get("expires"))
    return {
        **chip(one),
        "port": show(one.get("port") or "–", 8),
        "word": WORDS[_look(one.get("state"))],
        "soft": bool(one.get("soft")),
        "flapping": bool(one.get("flapping")),
        "latency": milliseconds(number(one.get("latency_ms"))),
        "words": show(one.get("words", "")),
        "since": when(one.get("since"), now),
        "certificate": None if expires is None else (short(expires - now) if expires > now else "expired"),
        "certificate_soon": expires is not None and expires - now < 14 * _DAY,
    }


def _state_line(host: Mapping[str, Any], look: str, now: float) -> str:
    """The words under a machine's name."""
    health, since = _map(host, "health"), number(host.get("since"))
    if look == "throttled":
        left = [number(lease.get("left_seconds")) for lease in _dicts(health, "leases")]
        if health.get("held"):
            return "On hold"
        return f"Throttled, {short(max(value or 0.0 for value in left))} left" if left else "Throttled"
    if look == "maintenance":
        until = number(_map(host, "maintenance").get("until"))
        return f"Maintenance, {short(until - now)} left" if until is not None and until > now else "Maintenance"
    if look == "up":
        return "Accepting mail" if host.get("role") == "mx" else "Up"
    return f"{WORDS[look]} for {short(now - since)}" if since is not None and since < now else WORDS[look]


def machine(host: Mapping[str, Any], now: float) -> dict[str, Any]:
    """One machine's row."""
    look, health = _look(host.get("state")), _map(host, "health")
    fresh = bool(health.get("fresh"))
    name, days = show(host.get("name", "?"), 64), _list(host, "days")
    load, queue = number(health.get("load1")), number(health.get("queue"))
    canary, backups = _map(host, "canary"), _map(host, "backups")
    checked = [moment for one in _dicts(host, "services") if (moment := number(one.get("checked"))) is not None]
    seconds = number(canary.get("seconds"))
    return {
        "name": name,
        "id": slug(name),
        "role": _ROLES.get(str(host.get("role")), show(host.get("role", ""), 20)),
        "is_mx": host.get("role") == "mx",
        "is_machine": host.get("role") != "dns",
        "place": ", ".join(show(host[key], 40) for key in ("provider", "location") if host.get(key)),
        "address": show(host.get("address", ""), 45),
        "look": look,
        "word": _state_line(host, look, now),
        "flapping": bool(host.get("flapping")),
        "why": show(host.get("words", "")) if look != "up" or host.get("flapping") else "",
        "checked": when(max(checked, default=None), now),
        "chips": [chip(one) for one in _dicts(host, "services")],
        "load": f"{load:.2f}" if fresh and load is not None else "–",
        "queue": f"{queue:,.0f}".replace(",", " ") if fresh and queue is not None else "–",
        "queue_high": fresh and queue is not None and queue >= 1000,
        "canary": "–" if seconds is None else milliseconds(seconds * 1000),
        "canary_age": short(number(canary.get("age_seconds"))) if canary else "",
        "canary_bad": bool(canary) and canary.get("status") != "OK",
        "backup": short(number(backups.get("age_seconds"))),
        "backup_bad": bool(backups) and backups.get("status") != "OK",
        "fresh": fresh,
        "bars": charts.bars(days, now),
        "uptime": uptime(days),
    }


def details(host: Mapping[str, Any], row: Mapping[str, Any], now: float) -> dict[str, Any]:
    """All that is known of one machine, beside its row."""
    health = _map(host, "health")
    found = [
        charts.latency(_list(one, "latency"), now, f"{row['name']}, {show(one.get('name', ''), 32)}")
        for one in _dicts(host, "services")
    ]
    return {
        **row,
        "services": [service(one, now) for one in _dicts(host, "services")],
        "health_read": when(health.get("read"), now),
        "problems": [show(problem) for problem in _list(health, "problems")[:12]],
        "leases": [_lease(lease) for lease in _dicts(health, "leases")],
        "checks": [
            {
                "name": show(check.get("name", "?"), 32),
                "look": _CHECKS.get(str(check.get("status")), "unknown"),
                "status": show(check.get("status", ""), 10),
                "age": short(number(check.get("age_seconds"))),
                "summary": show(check.get("summary", "")),
            }
            for check in _dicts(health, "checks")
        ],
        "charts": [chart for chart in found if chart],
        "troubled": [
            f"{charts.day_name(day['day'])}: {words}"
            for day in reversed(_list(host, "days"))
            if day and day["up"] is not None and (words := charts.classify(day)[1])
        ],
    }


def _lease(lease: Mapping[str, Any]) -> str:
    left = number(lease.get("left_seconds"))
    mode = "refuses new mail" if lease.get("refuse") else "marked only"
    end = "until somebody ends it" if left is None else f"{short(left)} left"
    return f"{show(lease.get('owner', '?'), 32)}: {show(lease.get('reason', ''), 120)} ({mode}, {end})"


def incident(one: Mapping[str, Any], now: float) -> dict[str, Any]:
    """One incident with its timeline."""
    look, word = _SEVERITIES.get(str(one.get("severity")), _SEVERITIES["page"])
    opened, closed = number(one.get("opened")) or now, number(one.get("closed"))
    return {
        "id": slug(str(one.get("id", ""))[:20]),
        "look": look if closed is None else "up",
        "severity": word,
        "title": show(one.get("title", ""), 200),
        "opened": when(opened, now),
        "lasted": short((now if closed is None else closed) - opened),
        "open": closed is None,
        "acked": f"{_who(one)} is on it" if one.get("acked") and closed is None else "",
        "silenced": bool(one.get("silenced")) and closed is None,
        "events": [
            {
                "at": when(event.get("at"), now),
                "kind": slug(str(event.get("what", ""))[:20]),
                "word": _EVENTS.get(str(event.get("what")), show(event.get("what", ""), 20).capitalize()),
                "text": show(event.get("words", "")),
            }
            for event in _dicts(one, "timeline")[-60:]
        ],
    }


def _who(one: Mapping[str, Any]) -> str:
    return show(one.get("acked_by") or "somebody", 40)


def need(opened: Sequence[Mapping[str, Any]], state: object) -> str:
    """Does anybody have to get up? In a sentence, from the open incidents."""
    for severity in ("urgent", "notice", "page"):
        ours = [one for one in opened if one.get("severity") == severity]
        if severity == "urgent" and ours and all(one.get("acked") for one in ours):
            helpers = sorted({_who(one) for one in ours})
            return f"{' and '.join(helpers)} {'is' if len(helpers) == 1 else 'are'} on it."
        if ours:
            return _NEEDS[severity]
    return "Nothing needs you." if state == "up" else ""


def _meter(fleet: Mapping[str, Any], hosts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """How many MXs accept mail, of how many, and how many must; a pip for each while they can be told apart."""
    mxs = [host for host in hosts if host.get("role") == "mx"]
    accepting, total = int(number(fleet.get("accepting")) or 0), int(number(fleet.get("mxs")) or 0)
    must = int(number(fleet.get("min_accepting")) or 0)
    pips = [{"look": _look(host.get("state")), "name": show(host.get("name", ""), 64)} for host in mxs]
    return {
        "accepting": accepting,
        "total": total,
        "must": must,
        "known": total > 0 and fleet.get("state") != "unknown",
        "pips": pips if len(pips) <= _MANY else [],
    }


def _frame(snapshot: Mapping[str, Any]) -> dict[str, Any]:
    """What both pages have."""
    now, fleet = number(snapshot.get("generated")) or 0.0, _map(snapshot, "fleet")
    look = _look(fleet.get("state"))
    word = _FLEET.get(look, "Not known")
    offline = _map(snapshot, "uplink").get("state") == "down"
    if offline:
        look, word = "unknown", "Monitor offline"
    since = number(fleet.get("since"))
    return {
        "name": show(snapshot.get("name") or "mf", 40),
        "now": now,
        "written": when(now, now),
        "interval": int(number(snapshot.get("interval")) or 60),
        "stale_after": int(number(snapshot.get("stale_after")) or 180),
        "look": "warning" if look in {"throttled", "maintenance"} else look,
        "word": word,
        "offline": offline,
        "bars": charts.bars(_list(fleet, "days"), now),
        "uptime": uptime(_list(fleet, "days")),
        "lasted": short(now - since) if since is not None and since < now else "",
    }


def private(snapshot: Mapping[str, Any]) -> dict[str, Any]:
    """The page for operators."""
    view, fleet = _frame(snapshot), _map(snapshot, "fleet")
    now, hosts, incidents = view["now"], _dicts(snapshot, "hosts"), _map(snapshot, "incidents")
    many = len(hosts) > _MANY
    if many:
        rank = {state: place for place, state in enumerate(_TROUBLE)}
        hosts.sort(key=lambda host: rank[_look(host.get("state"))])
    machines = [machine(host, now) for host in hosts]
    shown = [
        details(host, row, now) for host, row in zip(hosts, machines, strict=True) if not many or row["look"] != "up"
    ][: 4 * _MANY]
    detailed = {one["id"] for one in shown}
    counted = [one for one in machines if one["is_machine"]]
    opened = [incident(one, now) for one in _dicts(incidents, "open")]
    troubled = sum(one["look"] != "up" for one in counted)
    if view["offline"]:
        needs = "Its own connection is down, so nothing can be said of the fleet. Below is what it saw last."
    elif not machines:
        needs = "Nothing has been measured yet."
    else:
        needs = need(_dicts(incidents, "open"), fleet.get("state"))
    count = _plural(len(counted), "machine", "machines")
    return {
        **view,
        "title": f"{f'{len(opened)} open · ' if opened else ''}{view['word']} · {view['name']}",
        "monitor": show(snapshot.get("monitor", ""), 64),
        "sentence": show(fleet.get("sentence") or "Nothing is known about the fleet yet.", 200),
        "need": needs,
        "meter": _meter(fleet, hosts),
        "machines": [{**one, "detailed": one["id"] in detailed} for one in machines],
        "details": shown,
        "details_left": len(machines) - len(shown),
        "count": f"{count}, {f'{troubled} not well' if troubled else 'all well'}" if counted else "",
        "opened": opened,
        "past": _by_day([incident(one, now) for one in _dicts(incidents, "recent")]),
        "charts": _first_charts(hosts, now),
        **_speech(snapshot, now),
    }


def _first_charts(hosts: Iterable[Mapping[str, Any]], now: float) -> list[charts.Latency]:
    """The first service of each MX, all on one scale; in a large fleet the slowest ones."""
    chosen = []
    for host in hosts:
        first = next(iter(_dicts(host, "services")), {})
        if host.get("role") == "mx" and (series := _list(first, "latency")):
            name = f"{show(host.get('name', '?'), 64)}, {show(first.get('name', ''), 32)}"
            chosen.append((charts.highest(series), name, series))
    if len(chosen) > _MANY:
        chosen = sorted(chosen, key=lambda one: -one[0])[:_MANY]
    top = max((high for high, _, _ in chosen), default=0.0)
    return [chart for _, name, series in chosen if (chart := charts.latency(series, now, name, top))]


def _by_day(incidents: Iterable[Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    days: dict[str, list[Mapping[str, Any]]] = {}
    for one in incidents:
        day = time.strftime("%A, %d %B", time.gmtime(one["opened"].epoch)).replace(", 0", ", ") if one["opened"] else ""
        days.setdefault(day, []).append(one)
    return list(days.items())


def _speech(snapshot: Mapping[str, Any], now: float) -> dict[str, Any]:
    """Whether the monitor can see and speak: its uplink, what waits to be sent, the last messages, silences."""
    uplink, messages = _map(snapshot, "uplink"), _map(snapshot, "messages")
    waiting, failing = int(number(messages.get("waiting")) or 0), int(number(messages.get("failing")) or 0)
    recent = _dicts(messages, "recent")
    sent = max((moment for one in recent if (moment := number(one.get("finished"))) is not None), default=None)
    words = f"{_plural(waiting, 'message waits', 'messages wait')}, {failing} after a failure" if failing else ""
    facts: list[dict[str, Any]] = [
        {"name": "Uplink", "look": _look(uplink.get("state")), "text": show(uplink.get("words") or "not known", 120)},
        {
            "name": "Outgoing messages",
            "look": "down" if failing else "up",
            "text": words or (_plural(waiting, "message waits", "messages wait") if waiting else "nothing waits"),
        },
        {"name": "Last message", "look": "up" if sent else "unknown", "text": "none yet", "at": when(sent, now)},
        *(_channel(one, now) for one in _dicts(messages, "channels")),
    ]
    for key, name in (("heartbeat", "Heartbeat"), ("test_message", "Weekly test message")):
        if found := _map(snapshot, key):
            look, words = ("up", "sent") if found.get("ok") else ("down", "failed")
            facts.append({"name": name, "look": look, "text": words, "at": when(found.get("at"), now)})
    return {
        "facts": [{"at": None, **fact} for fact in facts],
        "messages": [
            {
                "at": when(one.get("at"), now),
                "channel": show(one.get("channel", ""), 32),
                "status": show(one.get("status", ""), 20) + (", repeat" if one.get("repeat") else ""),
                "text": show(one.get("text", ""), 200),
                "error": show(one.get("error") or "", 160),
            }
            for one in recent
        ],
        "silences": [_silence(one, now) for one in _dicts(snapshot, "silences")],
    }


def _channel(one: Mapping[str, Any], now: float) -> dict[str, Any]:
    ok, last = one.get("ok"), when(one.get("last"), now)
    look = "up" if ok is True else "down" if ok is False else "unknown"
    words = "the last message failed" if ok is False else "nothing sent yet"
    return {"name": f"Channel {show(one.get('name', ''), 32)}", "look": look, "text": words, "at": last}


def _silence(one: Mapping[str, Any], now: float) -> str:
    until = when(one.get("until"), now)
    who, why = show(one.get("by", "?"), 40), show(one.get("reason", ""), 160)
    return f"{show(one.get('pattern', ''), 80)} until {until.clock if until else '?'}, by {who}: {why}"


def components(snapshot: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The parts of the service as the public may know them: no machine, no address, no text from outside."""
    fleet, now = _map(snapshot, "fleet"), number(snapshot.get("generated")) or 0.0
    offline = _map(snapshot, "uplink").get("state") == "down"
    found = []
    for role, name in _COMPONENTS:
        ours = [host for host in _dicts(snapshot, "hosts") if host.get("role") == role]
        if not ours:
            continue
        states = {_look(host.get("state")) for host in ours}
        if role == "offsite":  # what counts is the backups' age, which the host that makes them knows
            states |= {_CHECKS.get(str(_map(host, "backups").get("status")), "unknown") for host in _backed(snapshot)}
        look = next(state for state in _TROUBLE if state in states)
        if role == "mx":  # one of several may be out: what counts is whether enough of them accept mail
            look = {"down": "down", "unknown": "unknown"}.get(_look(fleet.get("state")), "up")
        if offline:
            look = "unknown"
        days = _list(fleet if role == "mx" else ours[0], "days")
        bars = {"bars": charts.bars(days, now), "uptime": uptime(days)}
        found.append({"name": name, "state": look, "look": look, "word": _PUBLIC_WORDS[look], **bars})
    return found


def _backed(snapshot: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [host for host in _dicts(snapshot, "hosts") if _map(host, "backups")]


def public(snapshot: Mapping[str, Any]) -> dict[str, Any]:
    """The page for everybody."""
    view, incidents = _frame(snapshot), _map(snapshot, "incidents")
    now = view["now"]
    if view["look"] == "warning":  # a matter for operators: the public's mail isn't touched by it
        view.update(look="up", word=_FLEET["up"])
    sentence, needs = _PUBLIC[view["look"]]
    outages = [
        incident(one, now) for key in ("open", "recent") for one in _dicts(incidents, key) if one.get("kind") == "fleet"
    ]
    return {
        **view,
        "title": f"{sentence.rstrip('.')} · {view['name']}",
        "sentence": sentence,
        "need": needs,
        "components": components(snapshot),
        "outages": [{key: one[key] for key in ("look", "opened", "open", "lasted")} for one in outages],
    }


def status(snapshot: Mapping[str, Any]) -> dict[str, Any]:
    """``status.json`` for operators: the snapshot without its series, texts made safe to show."""
    left_out = {"latency", "days", "metrics"}

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items() if key not in left_out}
        if isinstance(value, (list, tuple)):
            return [plain(inner) for inner in value]
        if value is None or isinstance(value, bool):
            return value
        found = number(value)
        return (
            show(value) if isinstance(value, str) else int(found) if found is not None and found.is_integer() else found
        )

    return {**plain({key: value for key, value in snapshot.items() if key != "version"}), "version": VERSION}


def public_status(snapshot: Mapping[str, Any]) -> dict[str, Any]:
    """``status.json`` for everybody."""
    view = public(snapshot)
    return {
        "version": VERSION,
        "name": view["name"],
        "generated": int(view["now"]),
        "stale_after": view["stale_after"],
        "state": view["look"],
        "sentence": view["sentence"],
        "components": [{key: one[key] for key in ("name", "state", "word")} for one in view["components"]],
    }
