"""Snapshots of a fleet in every state that the status page has to show, in the shape of `mf_monitor.page.model`.

Made from a seed, so the same each time. The engine's own snapshots are shown, too: see tests/monitor/test_page.py.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import random
import time
import typing
from collections.abc import Callable
from typing import Any

from mf_monitor.page import model

Raw = dict[str, Any]  # a snapshot's JSON, or a part of it

NOW = 1764038470.0  # Tuesday, 25 November 2025, 02:41:10 UTC
DAY = 86400
SSH = "SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u7"
PLACES = {"mx1": ("north", "hall 1"), "mx2": ("south", "hall 2"), "mx3": ("west", "hall 3")}
CHECKS = {
    "load": "load 0.24, 0.31, 0.28 of 5",
    "processes": "9 children, none stuck",
    "queue": "3 messages, oldest 41 s",
    "smtp": "accepted the canary in 0.04 s",
}
HOSTILE = (
    "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">'\"`&{{7*7}}"
    "\x1b[31mred\x1b[0m\u202egnp.exe\u202c\x00\x07 \u200b\r\nSet-Cookie: x=1 " + "A" * 600
)


def _days(now: float, troubled: dict[int, dict[str, float]] | None = None, length: int = 90) -> list[Any]:
    """History: ``troubled`` says by how many days back what was wrong (or ``missing``) for how many seconds."""
    history: list[Any] = [None] * (90 - length)
    for back in range(length - 1, -1, -1):
        bad = dict.fromkeys(("down", "throttled", "warning", "maintenance", "unknown"), 0.0)
        bad.update((troubled or {}).get(back, {}))
        missing = bad.pop("missing", 0.0)
        worst = next((kind for kind, seconds in bad.items() if seconds), "up")
        history.append(
            {
                "day": time.strftime("%Y-%m-%d", time.gmtime(now - back * DAY)),
                "state": worst,
                "up": 1 - bad["down"] / DAY,
                **{f"{kind}_seconds": seconds for kind, seconds in bad.items()},
                "up_seconds": DAY - missing - sum(bad.values()),
                "unmeasured_seconds": missing + bad["unknown"],
                "mean_ms": 24.0,
            }
        )
    return history


def days(now: float, troubled: dict[int, dict[str, float]] | None = None, length: int = 90) -> list[model.Day | None]:
    """The same as dataclasses."""
    return [day and model.Day(**day) for day in _days(now, troubled, length)]


def _curve(now: float, dice: random.Random, base: float) -> list[list[float]]:
    points, level = [], base
    for step in range(287, -1, -1):
        level += (base - level) * 0.15 + dice.gauss(0, base * 0.05)
        hour = ((now - step * 300) % DAY) / 3600
        mean = max(base * 0.4, level * (1 + 0.5 * max(0.0, 1 - abs(hour - 10) / 6)))
        points.append([now - step * 300, mean, mean * (1.3 + 0.6 * dice.random() ** 3), 5, 0])
    return points


def _service(now: float, dice: random.Random, name: str, port: int, base: float, message: str, **more: Any) -> Raw:
    latency = _curve(now, dice, base)
    return {
        "name": name,
        "kind": name,
        "port": port,
        "state": "up",
        "since": now - dice.randint(3, 40) * DAY,
        "checked": now - dice.randint(2, 40),
        "latency_ms": latency[-1][1],
        "words": message,
        "soft": False,
        "flapping": False,
        "expires": None,
        "days": _days(now),
        "latency": latency,
        **more,
    }


def _host(now: float, dice: random.Random, name: str, role: str, octet: int, services: list[Raw]) -> Raw:
    mx, place = role == "mx", PLACES.get(name, ("east", "vault"))
    return {
        "name": name,
        "role": role,
        "address": f"192.0.2.{octet}",
        "provider": place[0],
        "location": place[1],
        "state": "up",
        "since": now - 12 * DAY,
        "words": "all well",
        "flapping": False,
        "maintenance": None,
        "services": services,
        "health": {
            "read": now - 20,
            "age_seconds": 20.0,
            "fresh": True,
            "ok": True,
            "words": "read",
            "status": "OK",
            "load1": round(0.1 + dice.random() * 0.5, 2),
            "queue": dice.randint(0, 14) if mx else None,
            "throttled": False,
            "refusing": False,
            "held": False,
            "leases": [],
            "problems": [],
            "checks": [
                {"name": key, "status": "OK", "summary": text, "age_seconds": dice.randint(5, 110), "since": now - DAY}
                for key, text in CHECKS.items()
                if mx or key == "load"
            ],
        },
        "canary": {"seconds": round(2.1 + 3 * dice.random(), 1), "age_seconds": 130.0, "status": "OK", "summary": ""}
        if mx
        else None,
        "backups": {"age_seconds": 7900.0, "status": "OK", "summary": "newest dump 2.2 h old"}
        if role == "control"
        else None,
        "days": _days(now),
    }


def _incident(
    now: float, number: int, key: str, severity: str, title: str, message: str, ago: float, lasted: float | None = None
) -> Raw:
    opened = now - ago
    timeline = [
        {"at": opened, "what": "opened", "words": message},
        {"at": opened + 4, "what": "sent", "words": "opened to sms"},
    ]
    if lasted is not None:
        timeline.append({"at": opened + lasted, "what": "closed", "words": "answers again"})
    return {
        "id": number,
        "key": key,
        "kind": key.partition(":")[0],
        "host": "",
        "service": "",
        "severity": severity,
        "title": title,
        "opened": opened,
        "closed": None if lasted is None else opened + lasted,
        "acked": False,
        "acked_by": None,
        "ack_until": None,
        "silenced": False,
        "timeline": timeline,
    }


def _all_well(now: float = NOW) -> Raw:
    """Three MXs, control, offsite and monitor; nothing open, some history."""
    dice = random.Random(1)
    expires, hosts = now + 61 * DAY, []
    for number, name in enumerate(PLACES):
        base, banner = 31.0 + 12 * number, f"220 {name}.mail.example ESMTP; EHLO, STARTTLS"
        services = [
            _service(now, dice, "smtp", 25, base, banner, expires=expires),
            _service(now, dice, "smtp6", 25, base + 3, banner, expires=expires),
            _service(now, dice, "relay", 25, base + 9, "550 relaying denied, as it must be"),
            _service(now, dice, "ssh", 22, 18, SSH),
        ]
        hosts.append(_host(now, dice, name, "mx", 11 + number, services))
    https = _service(now, dice, "https", 443, 88, "HTTP 200", expires=now + 40 * DAY)
    hosts.append(_host(now, dice, "control1", "control", 21, [https, _service(now, dice, "ssh", 22, 19, SSH)]))
    hosts.append(_host(now, dice, "offsite1", "offsite", 22, [_service(now, dice, "ssh", 22, 42, SSH)]))
    hosts.append(_host(now, dice, "monitor1", "monitor", 23, [_service(now, dice, "ssh", 22, 1, SSH)]))
    hosts[0]["days"] = _days(now, {71: {"down": 1260.0}, 33: {"throttled": 2400.0}})
    hosts[1]["days"] = _days(now, {58: {"down": 240.0}, 12: {"down": 5400.0}, 11: {"throttled": 3600.0}})
    hosts[2]["days"] = _days(now, {33: {"throttled": 5200.0}, 32: {"throttled": 900.0}, 5: {"maintenance": 1800.0}})
    hosts[3]["days"] = _days(now, {47: {"down": 600.0}, 20: {"missing": 30000.0}, 19: {"unknown": 40000.0}})
    return {
        "version": 1,
        "generated": now,
        "interval": 60,
        "stale_after": 150,
        "name": "mf",
        "monitor": "monitor1",
        "fleet": {
            "state": "up",
            "sentence": "All 3 MXs accept mail.",
            "accepting": 3,
            "mxs": 3,
            "min_accepting": 2,
            "hosts": 6,
            "hosts_up": 6,
            "days": _days(now),
        },
        "uplink": {"state": "up", "since": now - 30 * DAY, "words": "3 of 3 reference hosts answer"},
        "hosts": hosts,
        "incidents": {
            "open": [],
            "recent": [
                _incident(now, 41, "host:mx2", "notice", "mx2 does not answer", "no answer in 10 s", 5 * DAY, 5400),
                _incident(now, 37, "service:control1/https", "page", "control1 https: 502", "502", 9 * DAY, 600),
                _incident(now, 36, "service:mx2/smtp", "notice", "mx2 smtp: no greeting", "none", 12 * DAY, 240),
            ],
        },
        "silences": [],
        "heartbeat": {"at": now - 31, "ok": True},
        "test_message": {"at": now - 38 * 3600, "ok": True},
        "messages": {
            "waiting": 0,
            "failing": 0,
            "channels": [{"name": name, "ok": True, "last": now - 38 * 3600, "waiting": 0} for name in ("sms", "mail")],
            "recent": [
                {
                    "at": now - 38 * 3600,
                    "channel": "sms",
                    "kind": "test",
                    "severity": "page",
                    "text": "mf: weekly test of this channel",
                    "status": "sent",
                    "attempts": 1,
                    "finished": now - 38 * 3600 + 2,
                    "error": "",
                    "incidents": [],
                    "repeat": False,
                }
            ],
        },
    }


def _one_down(now: float = NOW) -> Raw:
    """mx2 answers nothing; the others carry the mail."""
    snapshot = _all_well(now)
    host = snapshot["hosts"][1]
    host.update(state="down", since=now - 840, words="does not answer", canary=None)
    host["health"].update(read=now - 900, fresh=False)
    host["days"][-1].update(up=1 - 840 / DAY, down_seconds=840.0, state="down")
    for service in host["services"]:
        service.update(state="down", since=now - 840, words="no answer within 10 s", latency_ms=None)
        service["latency"][-3:] = [[at, None, None, 5, 5] for at, *_ in service["latency"][-3:]]
    sentence = "2 of 3 MXs accept mail, enough for the fleet."
    snapshot["fleet"].update(state="warning", sentence=sentence, accepting=2, hosts_up=5)
    snapshot["incidents"]["open"] = [
        _incident(now, 42, "host:mx2", "notice", "mx2 does not answer", "no answer from any service", 840)
    ]
    return snapshot


def _throttled(now: float = NOW) -> Raw:
    """mx1 refuses new mail under a valid lease; control's page is slow and flapping; offsite is in maintenance."""
    snapshot = _all_well(now)
    host = snapshot["hosts"][0]
    host.update(state="throttled", since=now - 340, words="throttled by load, refuses mail, 4 min left")
    lease = {"owner": "load", "reason": "load 9.1", "refuse": True, "held_seconds": 340, "left_seconds": 240.0}
    host["health"].update(load1=9.12, queue=1284, throttled=True, refusing=True, status="WARNING", leases=[lease])
    host["health"]["problems"] = ["load WARNING: load 9.12; refuses new mail"]
    host["health"]["checks"][0].update(status="WARNING", summary="load 9.12; refuses new mail, 2 of 2 peers accept it")
    for service in host["services"][:3]:
        service.update(state="throttled", since=now - 340, words="refused, under a valid lease", latency_ms=None)
    host["days"][-1].update(throttled_seconds=340.0, state="throttled")
    https = snapshot["hosts"][3]["services"][0]
    https.update(state="warning", soft=True, flapping=True, words="HTTP 200 after 4.2 s", latency_ms=4200.0)
    https.update(expires=now + 6 * DAY)
    snapshot["hosts"][3].update(state="warning", since=now - 600, words="https: HTTP 200 after 4.2 s", flapping=True)
    work = {"owner": "anna", "reason": "kernel", "until": now + 2400}
    snapshot["hosts"][4].update(state="maintenance", maintenance=work, words="maintenance by anna (kernel); all well")
    snapshot["fleet"].update(state="warning", sentence="2 of 3 MXs accept mail, enough for the fleet.", accepting=2)
    title = "control1 https is flapping, 5 changes"
    snapshot["incidents"]["open"] = [_incident(now, 43, "service:control1/https", "page", title, "5 changes", 600)]
    return snapshot


def _failing(now: float = NOW) -> Raw:
    """Two MXs are out: fewer accept mail than must; the gateway for SMS is down; an operator has acknowledged."""
    snapshot = _one_down(now)
    host = snapshot["hosts"][2]
    host.update(state="down", since=now - 430, words="smtp: connected, but no greeting within 10 s")
    for service in host["services"][:2]:
        service.update(state="down", since=now - 430, words="connected, but no greeting within 10 s", latency_ms=None)
    host["days"][-1].update(up=1 - 430 / DAY, down_seconds=430.0)
    snapshot["fleet"].update(state="down", sentence="Only 1 of 3 MXs accepts mail; 2 must.", accepting=1)
    snapshot["fleet"]["days"][-1].update(up=1 - 430 / DAY, down_seconds=430.0)
    title = "1 of 3 MX accept mail, 2 must: mx2 down, mx3 down"
    worst = _incident(now, 44, "fleet", "urgent", title, "mx2 down, mx3 down", 430)
    worst["timeline"][1] = {"at": now - 426, "what": "failed", "words": "sms: connection refused"}
    worst["timeline"].append({"at": now - 396, "what": "sent", "words": "opened to mail, instead of sms"})
    worst["timeline"].append({"at": now - 120, "what": "acked", "words": "by anna: on the way"})
    worst.update(acked=True, acked_by="anna", ack_until=now + 3480)
    snapshot["incidents"]["open"].insert(0, worst)
    snapshot["messages"].update(waiting=2, failing=1)
    snapshot["messages"]["channels"][0].update(ok=False, waiting=1)
    return snapshot


def _uplink_lost(now: float = NOW) -> Raw:
    """The monitor itself is offline."""
    snapshot = _all_well(now)
    snapshot["uplink"] = {"state": "down", "since": now - 420, "words": "0 of 3 reference hosts answer"}
    sentence = "This monitor is offline; nothing is known of the fleet."
    snapshot["fleet"].update(state="unknown", sentence=sentence, accepting=0)
    for host in snapshot["hosts"]:
        host.update(state="unknown", since=now - 420, words="this monitor is offline")
        host["health"].update(read=now - 440, fresh=False)
        for service in host["services"]:
            service.update(state="unknown", latency_ms=None, words="this monitor is offline", checked=now - 440)
    title = "monitor monitor1 is offline"
    snapshot["incidents"]["open"] = [_incident(now, 45, "uplink", "notice", title, "no reference host answers", 420)]
    snapshot["messages"].update(waiting=1, failing=1)
    return snapshot


def _stale(now: float = NOW) -> Raw:
    """Written 14 minutes before ``now``."""
    return _all_well(now - 840)


def _empty(now: float = NOW) -> Raw:
    """Nothing measured, no host."""
    return {"version": 1, "name": "mf", "monitor": "monitor1", "generated": now, "interval": 60, "stale_after": 150}


def _hostile(now: float = NOW) -> Raw:
    """Every text from outside tries to break out."""

    def poison(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: poison(inner, name) for name, inner in value.items()}
        if isinstance(value, list):
            return [poison(inner, key) for inner in value]
        kept = {"state", "role", "severity", "day", "status"}
        return HOSTILE if isinstance(value, str) and key not in kept else value

    poisoned: Raw = poison(copy.deepcopy(_failing(now)))
    for number, host in enumerate(poisoned["hosts"]):
        host["name"] = f"{number}{host['name']}"
        for place, service in enumerate(host["services"]):
            service["name"] = f"{place}{service['name']}"
    return poisoned


def _big(now: float = NOW, count: int = 1000) -> Raw:
    """``count`` MXs with four services each, one in fifty down."""
    snapshot = _all_well(now)
    model = snapshot["hosts"][0]
    hosts = []
    for number in range(count):
        host = {**model, "name": f"mx{number + 1:04}", "services": [dict(service) for service in model["services"]]}
        if number % 50 == 7:
            host.update(state="down", words="does not answer")
        hosts.append(host)
    well = sum(host["state"] == "up" for host in hosts)
    snapshot["hosts"] = hosts
    snapshot["fleet"].update(
        state="warning",
        sentence=f"{well} of {count} MXs accept mail, enough for the fleet.",
        accepting=well,
        mxs=count,
        min_accepting=count * 2 // 3,
    )
    return snapshot


_hints = functools.cache(typing.get_type_hints)


def _build(kind: Any, raw: Any) -> Any:
    """JSON as its annotation: objects become dataclasses."""
    if not isinstance(raw, (dict, list)):
        return raw
    if dataclasses.is_dataclass(kind) and isinstance(raw, dict):
        make = typing.cast(Callable[..., Any], kind)
        hints, names = (
            _hints(make),
            {item.metadata.get("key", item.name): item.name for item in dataclasses.fields(kind)},
        )
        return make(**{names[key]: _build(hints[names[key]], value) for key, value in raw.items()})
    inner = next(iter(typing.get_args(kind)), Any)
    if isinstance(raw, list):
        return [_build(inner, entry) for entry in raw]
    return raw if inner is Any else _build(inner, raw)


def _state(make: Callable[..., Raw]) -> Callable[..., model.Snapshot]:
    return lambda *arguments, **options: _build(model.Snapshot, make(*arguments, **options))


_ALL = (_all_well, _one_down, _throttled, _failing, _uplink_lost, _stale, _empty, _hostile)
STATES = {make.__name__[1:].replace("_", "-"): _state(make) for make in _ALL}
all_well, one_down, throttled, failing, uplink_lost, stale, empty, hostile = STATES.values()
big = _state(_big)
