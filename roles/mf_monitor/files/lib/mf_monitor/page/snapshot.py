"""Everything the page shows, as one dict: read from the store, no judgement of its own beyond counting.

``take(store, settings, now)`` returns (times are epoch seconds, latencies ms; texts are cleaned but not HTML-escaped)::

    {"version": 1, "generated": now, "interval": 60, "stale_after": 150,   seconds after which a page is stale
     "name": "mf", "monitor": "monitor1",
     "fleet": {"state": "up", "since": …, "sentence": "All 3 MXs accept mail.", "accepting": 3 (null: not known),
               "mxs": 3, "min_accepting": 2, "hosts": 6, "hosts_up": 6, "days": [DAY × 90]},
     "uplink": {"state": "up", "since": …, "words": "2 of 2 references answer"},
     "hosts": [{"name", "role", "provider", "location", "address",
                "state", "since", "words", "flapping": false,
                "maintenance": null or {"owner", "reason", "until"},
                "services": [SERVICE …], "health": null or HEALTH,
                "canary": null or {"seconds", "age_seconds", "status", "summary"},
                "backups": null or {"age_seconds", "status", "summary"},
                "days": [DAY × 90]}],
     "incidents": {"open": [INCIDENT …], "recent": [INCIDENT …]},         recent: closed within 14 days, newest first
     "silences": [{"id", "pattern", "until", "reason", "by", "created"}],
     "heartbeat": null or {"at", "ok"}, "test_message": null or {"at", "ok"},
     "messages": {"waiting": 0, "failing": 0, "channels": [{"name", "ok" (null: never used), "last", "waiting"}],
                  "recent": [{"at", "channel", "kind", "severity", "text", "status",
                  "attempts", "finished", "repeat", "error", "incidents": [12]} × 20]}}

    state     up warning throttled maintenance down unknown. What wasn't seen for too long (``states.patience``)
              is unknown, whatever it was; so is everything while the monitor is offline or doesn't look
    SERVICE   {"name", "kind", "port", "state", "since", "checked", "latency_ms" (or null), "words", "soft": false,
               "flapping": false, "expires": null or epoch (certificate), "days": [DAY × 90],
               "latency": [[start, mean ms or null, max ms or null, looks, bad] …]}     5 minutes each, last 24 hours
    HEALTH    {"read", "age_seconds", "fresh", "ok", "words", "status", "load1", "throttled", "refusing", "held",
               "leases": [{"owner", "reason", "refuse", "held_seconds", "left_seconds"}], "queue", "accepting",
               "uptime_seconds", "problems": [text], "checks": [{"name", "status", "summary", "age_seconds", "since"}]}
    DAY       null (nothing known), or {"day": "2026-11-25", "state": the worst of it, "up": share 0..1 of the known
               time (up, warning and throttled count), "up_seconds", "down_seconds", "throttled_seconds",
               "warning_seconds", "maintenance_seconds", "unknown_seconds" (looked at in vain), "unmeasured_seconds"
               (those, and what nobody looked at of the day so far), "mean_ms" or null}
    INCIDENT  {"id", "key", "kind", "host", "service", "severity": urgent notice page, "title", "opened", "closed",
               "acked": bool, "acked_by", "ack_until", "silenced": bool, "timeline": [{"at", "what", "words"}]}

A host of role ``dns`` is none: it holds what is asked of the DNS (``mx`` services) and counts nowhere.
Oldest first in ``days``, ``latency`` and ``timeline``; hosts in the inventory's order.
"""

from __future__ import annotations

import fnmatch
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mf.state import UNKNOWN

from .. import settings as settings_
from .. import store as store_
from .. import texts
from ..judging import states

HISTORY_DAYS = 90
LATENCY_SPAN = 86400
RECENT = 14 * 86400
# What a day is called after, gravest first, and from how many seconds on: a lost packet doesn't colour a day.
GRAVE = (("down", 60.0), ("throttled", 60.0), ("warning", 600.0), ("maintenance", 60.0))
BACKUP_CHECK, CANARY_CHECK = "backup", "canary"


def take(store: store_.Store, settings: settings_.Settings, now: float) -> dict[str, Any]:
    """The dict described above, from one consistent view of the store."""
    with store.reading():
        current = store.current.load()
        health = store.current.health()
        last = int(now // store_.DAY)
        days = store.history.days(last - HISTORY_DAYS + 1, last)
        latency = store.history.latency(now - LATENCY_SPAN)
        incidents = store.incidents.load(since=now - RECENT)
        events = store.incidents.events([one["id"] for one in incidents])
        silences = store.incidents.silences(now)
        messages = store.messages.newest(200)
        beat = store.get("heartbeat")
    shown = [_incident(one, events[one["id"]], silences, now) for one in incidents]
    found = {
        host.name: _health(health.get(host.name), now, settings.interval) for host in settings.hosts if host.health
    }
    control = {host.name: found.get(host.name) for host in settings.hosts if host.role == "control"}
    canary, backups = _canary(control, found), _backups(found)
    limit = states.patience(settings.interval, settings.timeout)
    uplink = _service_row(current.get("uplink"), now, limit)
    looked = max((row["checked"] for row in current.values()), default=None)
    # the reason why nothing is known, if there is one for all
    gone = "the monitor is offline" if uplink["state"] == states.DOWN else ""
    if looked is not None and now - looked > limit:
        gone = f"nothing was looked at since {texts.clock(looked)}"
    seen = _Seen(current, settings, now, gone)
    hosts = [_host(host, seen, found.get(host.name), canary, backups, days, latency) for host in settings.hosts]
    snapshot: dict[str, Any] = {
        "version": 1,
        "generated": now,
        "interval": settings.interval,
        "stale_after": max(30.0, 2.5 * settings.interval),
        "name": settings.name,
        "monitor": settings.host,
        "fleet": {},
        "uplink": {"state": uplink["state"], "since": uplink["since"], "words": uplink["words"]},
        "hosts": hosts,
        "incidents": {
            "open": [one for one in shown if one["closed"] is None],
            "recent": [one for one in shown if one["closed"] is not None],
        },
        "silences": silences,
        "heartbeat": _heartbeat(beat),
        "test_message": _test(messages),
        "messages": _messages(messages, settings),
    }
    snapshot["fleet"] = _fleet(snapshot, settings, seen, _days(days.get("fleet", ()), now))
    return snapshot


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is stored of all subjects, and as what it may be shown now. ``gone``: why nothing is known, or nothing."""

    current: Mapping[str, Any]
    settings: settings_.Settings
    now: float
    gone: str

    def service(self, service: settings_.Service) -> dict[str, Any]:
        """A service's row."""
        limit = states.patience(service.interval, self.settings.timeout)
        return self._gone(_service_row(self.current.get(service.subject), self.now, limit))

    def judged(self, name: str) -> dict[str, Any]:
        """The row of a host or of the fleet, which the engine has judged with time in mind."""
        return self._gone(_row(self.current.get(name), self.now))

    def _gone(self, row: dict[str, Any]) -> dict[str, Any]:
        if self.gone and row["state"] != states.UNKNOWN:
            row |= {"state": states.UNKNOWN, "words": f"not known: {self.gone}", "latency_ms": None}
        return row


def _row(row: Any, now: float) -> dict[str, Any]:
    """A subject as stored, or one of which nothing is known yet."""
    if row is None:
        return {
            "state": "unknown",
            "since": now,
            "checked": None,
            "latency_ms": None,
            "words": "not looked at yet",
            "memory": {},
        }
    return {
        "state": row["state"],
        "since": row["since"],
        "checked": row["checked"],
        "latency_ms": None if row["latency"] is None else round(row["latency"], 2),
        "words": row["words"],
        "memory": json.loads(row["memory"]),
    }


def _service_row(stored: Any, now: float, limit: float) -> dict[str, Any]:
    """The same, but unknown when nothing was seen of it for ``limit`` seconds."""
    row = _row(stored, now)
    if stored is not None:
        kept = {key: row[key] for key in ("state", "words", "checked")}
        state, words = states.shown(states.SubjectState.of({**row["memory"], **kept}), now, limit)
        row |= {"state": state, "words": words, "latency_ms": row["latency_ms"] if state == kept["state"] else None}
    return row


def _host(
    host: settings_.Host,
    seen: _Seen,
    health: dict[str, Any] | None,
    canary: Mapping[str, dict[str, Any]],
    backups: Mapping[str, dict[str, Any]],
    days: Mapping[str, Any],
    latency: Mapping[str, Any],
) -> dict[str, Any]:
    own = seen.judged(host.name)
    services = []
    for service in host.services:
        row = seen.service(service)
        memory = row.pop("memory")
        services.append(
            {
                "name": service.name,
                "kind": service.kind,
                "port": service.port,
                **row,
                "soft": bool(memory.get("pending")),
                "flapping": bool(memory.get("flapping")),
                "expires": memory.get("expires"),
                "days": _days(days.get(service.subject, ()), seen.now),
                "latency": [_bucket(one) for one in latency.get(service.subject, ())],
            }
        )
    return {
        "name": host.name,
        "role": host.role,
        "provider": host.provider,
        "location": host.location,
        "address": host.address,
        "state": own["state"],
        "since": own["since"],
        "words": own["words"],
        "flapping": any(service["flapping"] for service in services),
        "maintenance": own["memory"].get("maintenance"),
        "services": services,
        "health": health,
        "canary": canary.get(host.name),
        "backups": backups.get(host.name),
        "days": _days(days.get(host.name, ()), seen.now),
    }


def _bucket(row: Any) -> list[float | None]:
    timed = row["timed"]
    mean = round(row["ms"] / timed, 2) if timed else None
    return [row["start"], mean, round(row["ms_max"], 2) if timed else None, row["looks"], row["bad"]]


def _days(rows: Iterable[Any], now: float) -> list[dict[str, Any] | None]:
    by, last = {row["day"]: row for row in rows}, int(now // store_.DAY)
    return [_day(by.get(day), now) for day in range(last - HISTORY_DAYS + 1, last + 1)]


def _day(row: Any, now: float) -> dict[str, Any] | None:
    if row is None:
        return None
    known = row["up"] + row["warning"] + row["throttled"] + row["down"]
    state = next((name for name, least in GRAVE if row[name] >= least), "up" if known else "unknown")
    so_far = min(store_.DAY, now - row["day"] * store_.DAY)
    names = ("up", "down", "throttled", "warning", "maintenance", "unknown")
    return {
        "day": time.strftime("%Y-%m-%d", time.gmtime(row["day"] * store_.DAY)),
        "state": state,
        "up": round(1 - row["down"] / known, 5) if known else None,
        **{f"{name}_seconds": round(row[name]) for name in names},
        "unmeasured_seconds": max(0, round(so_far - known - row["maintenance"])),
        "mean_ms": round(row["ms"] / row["timed"], 2) if row["timed"] else None,
    }


def _health(found: dict[str, Any] | None, now: float, interval: float) -> dict[str, Any] | None:
    if found is None or found["record"] is None:
        return None
    record, age = found["record"], now - found["read"]
    fresh = found["ok"] and age <= 3 * interval + 30
    keys = ("load1", "throttled", "refusing", "held", "leases", "queue", "accepting", "uptime_seconds")
    return {
        "read": found["read"],
        "age_seconds": round(age, 1),
        "fresh": fresh,
        "ok": found["ok"],
        "words": found["words"],
        "status": record.get("status") if fresh else UNKNOWN,
        **{key: record.get(key) for key in keys},
        "problems": record.get("problems", []),
        "checks": [
            {
                "name": name,
                "status": check["status"] if fresh else UNKNOWN,
                "summary": check["summary"],
                "age_seconds": None if check["age_seconds"] is None else round(check["age_seconds"] + age, 1),
                "since": check["since"],
                "metrics": check.get("metrics", {}),
            }
            for name, check in record.get("checks", {}).items()
        ],
    }


def _backups(found: Mapping[str, dict[str, Any] | None]) -> dict[str, dict[str, Any]]:
    """By host, what its check ``backup`` says; the age is that of the newest dump, what would be lost at most."""
    by = {}
    for host, check in _checks(found, BACKUP_CHECK):
        metrics = check["metrics"]
        by[host] = {
            "age_seconds": _older(metrics.get("dump_age_seconds", metrics.get("full_age_seconds")), check),
            "status": check["status"],
            "summary": check["summary"],
        }
    return by


def _canary(control: Mapping[str, dict[str, Any] | None], hosts: Iterable[str]) -> dict[str, dict[str, Any]]:
    """By MX, what the check ``canary`` on a control machine, and nobody else, says of it; the time is that of the
    slower of spam and ham."""
    by = {}
    for _, check in _checks(control, CANARY_CHECK):
        metrics = check["metrics"]
        for host in hosts:
            took = [metrics[key] for kind in ("spam", "ham") if (key := f"{host.lower()}_{kind}_seconds") in metrics]
            if f"{host.lower()}_age_seconds" in metrics:
                by[host] = {
                    "seconds": max(took, default=None),
                    "age_seconds": _older(metrics[f"{host.lower()}_age_seconds"], check),
                    "status": check["status"],
                    "summary": check["summary"],
                }
    return by


def _checks(found: Mapping[str, dict[str, Any] | None], name: str) -> list[tuple[str, dict[str, Any]]]:
    """A check by host, with those of its metrics that are numbers: a host may say anything."""
    return [
        (host, {**check, "metrics": {key: one for key, one in check["metrics"].items() if type(one) in (int, float)}})
        for host, health in found.items()
        if health
        for check in health["checks"]
        if check["name"] == name
    ]


def _older(age: float | None, check: Mapping[str, Any]) -> float | None:
    """An age as it is now: the check said it when it ran."""
    return None if age is None else round(age + (check["age_seconds"] or 0.0), 1)


def _incident(
    one: Mapping[str, Any], timeline: list[dict[str, Any]], silences: list[dict[str, Any]], now: float
) -> dict[str, Any]:
    acked = one["acked"] is not None and (one["ack_until"] is None or one["ack_until"] > now)
    keys = ("id", "key", "kind", "host", "service", "severity", "title", "opened", "closed", "acked_by", "ack_until")
    return {
        **{key: one[key] for key in keys},
        "acked": acked,
        "silenced": any(fnmatch.fnmatchcase(one["key"], silence["pattern"]) for silence in silences),
        "timeline": timeline,
    }


def _heartbeat(found: str) -> dict[str, Any] | None:
    """The last call of the dead man's switch, stored as ``TIME 1`` or ``TIME 0``."""
    moment, _, good = found.partition(" ")
    return {"at": float(moment), "ok": good == "1"} if moment else None


def _test(messages: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The last test message, whoever asked for it."""
    for one in messages:
        if one["kind"] == "test":
            return {"at": one["created"], "ok": one["status"] == store_.SENT}
    return None


def _channel(name: str, messages: list[dict[str, Any]]) -> dict[str, Any]:
    """How a channel does, by its newest message that was tried."""
    own = [one for one in messages if one["channel"] == name]
    tried = next((one for one in own if one["attempts"]), None)
    sent = next((one for one in own if one["status"] == store_.SENT), None)
    return {
        "name": name,
        "ok": None if tried is None else tried["status"] == store_.SENT,
        "last": sent["finished"] if sent else None,
        "waiting": sum(one["status"] in (store_.QUEUED, store_.SENDING) for one in own),
    }


def _messages(messages: list[dict[str, Any]], settings: settings_.Settings) -> dict[str, Any]:
    waiting = [one for one in messages if one["status"] in (store_.QUEUED, store_.SENDING)]
    keys = ("channel", "kind", "severity", "text", "status", "attempts", "finished", "error", "incidents")
    return {
        "waiting": len(waiting),
        "failing": sum(one["attempts"] > 0 for one in waiting),
        "channels": [_channel(channel.name, messages) for channel in settings.channels],
        "recent": [
            {"at": one["created"], **{key: one[key] for key in keys}, "repeat": bool(one["repeat"])}
            for one in messages[:20]
        ],
    }


def _fleet(
    snapshot: Mapping[str, Any],
    settings: settings_.Settings,
    seen: _Seen,
    days: list[dict[str, Any] | None],
) -> dict[str, Any]:
    row = seen.judged("fleet")
    sentence = row["words"]
    if seen.gone:
        sentence = f"Nothing is known at the moment: {seen.gone}."
    hosts = [host for host in snapshot["hosts"] if host["role"] != "dns"]
    return {
        "state": row["state"],
        "since": row["since"] if row["checked"] is not None else None,
        "sentence": sentence if row["checked"] is not None else "Nothing has been looked at yet.",
        "accepting": row["memory"].get("accepting", 0) if row["state"] != states.UNKNOWN else None,
        "mxs": len(settings.mxs),
        "min_accepting": settings.min_accepting,
        "hosts": len(hosts),
        "hosts_up": sum(host["state"] in ("up", "warning", "throttled") for host in hosts),
        "days": days,
    }
