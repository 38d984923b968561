"""A monitor's store filled with the plausible history of a fleet, for tests and for looking at the page."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

from mf_monitor import settings as settings_
from mf_monitor.settings import Settings
from mf_monitor.store import DAY, QUEUED, SENT, Store

MXS = ("mx1", "mx2", "mx3")
HOSTILE = '<script>alert(1)</script> & "quotes"'


def raw_settings(**changed: Any) -> dict[str, Any]:
    """Settings of a small fleet, as the role renders them."""
    ssh, smtp = {"kind": "ssh"}, {"kind": "smtp"}
    places = {"mx1": ("north", "hall 1"), "mx2": ("south", "hall 2"), "mx3": ("west", "hall 3")}
    hosts: list[dict[str, Any]] = [
        {"name": "dns", "role": "dns", "services": [{"kind": "mx", "domain": "customer.example", "expect": {}}]}
    ]
    for number, name in enumerate(MXS):
        hosts.append(
            {
                "name": name,
                "role": "mx",
                "address": f"192.0.2.{11 + number}",
                "address6": f"2001:db8::{11 + number}" if name == "mx1" else "",
                "provider": places[name][0],
                "location": places[name][1],
                "health": True,
                "services": [smtp, ssh, {"kind": "relay", "interval": 600}],
            }
        )
    hosts.append(
        {
            "name": "control1",
            "role": "control",
            "address": "192.0.2.21",
            "provider": "north",
            "location": "hall 1",
            "health": True,
            "services": [ssh, {"kind": "https", "name": "panel"}],
        }
    )
    hosts.append({"name": "offsite1", "role": "offsite", "address": "192.0.2.22", "health": True, "services": [ssh]})
    hosts.append({"name": "monitor1", "role": "monitor", "address": "192.0.2.23", "health": True, "services": [ssh]})
    return {"min_accepting": 2, "hosts": hosts, "host": "monitor1", **changed}


def settings(**changed: Any) -> Settings:
    """The same, parsed."""
    return settings_.parse(raw_settings(**changed))


def health_record(host: str, role: str, now: float, **changed: Any) -> dict[str, Any]:
    """What /mf/bin/health --json of such a host says."""
    checks = {"load": "load 0.31"}
    if role == "mx":
        checks |= {"processes": "17 processes", "queue": "queue 3", "smtp": "accepted in 0.05 s"}
    if role == "control":
        checks |= {"backup": "newest dump 1.2 h old", "canary": "all MXs", "quarantine": "lag 40 s"}
    metrics = {
        "backup": {"dump_age_seconds": 4320.0, "full_age_seconds": 40000.0},
        "canary": {
            "mx1_spam_seconds": 4.1,
            "mx1_ham_seconds": 0.7,
            "mx1_age_seconds": 130.0,
            "mx2_spam_seconds": 3.9,
            "mx2_age_seconds": 95.0,
        },
    }
    record = {
        "host": host,
        "type": role,
        "status": "OK",
        "line": f"{host} OK load 0.31, not throttled, oldest result 34 s",
        "load1": 0.31,
        "uptime_seconds": 812345.0,
        "throttled": False,
        "refusing": False,
        "held": False,
        "leases": [],
        "maintenance": None,
        "oldest_result_seconds": 34.2,
        "queue": 3 if role == "mx" else None,
        "accepting": True if role == "mx" else None,
        "problems": [],
        "checks": {
            name: {
                "status": "OK",
                "summary": summary,
                "age_seconds": 34.2,
                "since": now - 90000,
                "overdue_seconds": 0.0,
                "metrics": metrics.get(name, {}),
            }
            for name, summary in checks.items()
        },
        "generation": "0123456789ab",
        "version": "0.1.0",
    }
    return {**record, **changed}


def fill(store: Store, chosen: Settings, now: float, days: int = 90, seed: int = 7) -> None:
    """A fleet with a past: outages here and there, one MX down just now, one throttled, one in maintenance."""
    dice = random.Random(seed)
    subjects = [service.subject for host in chosen.hosts for service in host.services]
    names = ["fleet", *(host.name for host in chosen.hosts), *subjects]
    with store.writing():
        rows: list[tuple[str, float, str, float, float | None]] = []
        today = int(now // DAY)
        for name in dict.fromkeys(names):
            for day in range(today - days + 1, today + 1):
                if day == today - 40 and name.startswith("mx3"):
                    continue  # nothing is known of that day
                end = min(now, (day + 1) * DAY)
                length = end - day * DAY
                bad = dice.choice((0.0,) * 30 + (90.0, 1200.0, 4000.0)) if name not in ("fleet", "dns") else 0.0
                state = dice.choice(("down", "down", "throttled", "warning", "maintenance"))
                bad = min(bad, length / 2)
                rows.append((name, end, "up", length - bad, dice.gauss(24, 3)))
                if bad:
                    rows.append((name, end, state, bad, None))
        store.history.add_time(rows)
        results = []
        for subject in subjects:
            for at in range(int(now) - DAY, int(now), 300):
                latency = 22 + 8 * math.sin(at / 9000) + dice.expovariate(0.4)
                down = subject.startswith("mx2/smtp") and at > now - 1500
                results.append((subject, float(at), down, None if down else latency))
        store.history.add_results(results)
        _present(store, chosen, now)
        _past(store, chosen, now, days, dice)


def _present(store: Store, chosen: Settings, now: float) -> None:
    rows: list[tuple[str, str, float, float, float | None, str, dict[str, Any]]] = []
    special = {
        "mx2/smtp": ("down", "connection refused"),
        "mx3/smtp": ("throttled", "throttled by load, refuses mail, 7 min left"),
        "control1/panel": ("warning", "certificate expires in 9 days"),
    }
    for host in chosen.hosts:
        worst, host_message = "up", "all well"
        for service in host.services:
            state, message = special.get(service.subject, ("up", "220 greeting, EHLO, STARTTLS offered"))
            if state != "up":
                worst, host_message = state, f"{service.name}: {message}"
            memory: dict[str, Any] = {"flapping": service.subject == "mx2/smtp", "pending": ""}
            if service.kind == "https":
                memory["expires"] = now + 9 * DAY
            since = now - (1500 if state != "up" else 86400 * 12)
            rows.append((service.subject, state, since, now - 20, None if state == "down" else 23.4, message, memory))
        on = {"owner": "operator", "reason": HOSTILE, "until": now + 1800} if host.name == "offsite1" else None
        state = "maintenance" if on else worst
        rows.append((host.name, state, now - 1500, now - 20, None, host_message, {"maintenance": on}))
        if host.health:
            record = health_record(host.name, host.role, now)
            if host.name == "mx3":
                record |= {
                    "throttled": True,
                    "refusing": True,
                    "load1": 7.2,
                    "status": "WARNING",
                    "leases": [
                        {
                            "owner": "load",
                            "reason": "load 7.2",
                            "refuse": True,
                            "held_seconds": 300,
                            "left_seconds": 420,
                        }
                    ],
                    "problems": [f"load WARNING: throttled; {HOSTILE}"],
                }
            store.current.set_health(host.name, now - 25, True, "read", record)
    rows.append(
        (
            "fleet",
            "down",
            now - 700,
            now - 20,
            None,
            "Only 1 of 3 MXs accepts mail; 2 must.",
            {"accepting": 1},
        )
    )
    rows.append(("uplink", "up", now - 86400, now - 20, 11.0, "2 of 2 reference hosts answer", {}))
    store.current.set(rows)


def _past(store: Store, chosen: Settings, now: float, days: int, dice: random.Random) -> None:
    for _ in range(days // 4):
        host = dice.choice(MXS)
        begun = now - dice.uniform(2, days) * DAY
        number = store.incidents.open(f"host:{host}", "host", host, "", "notice", f"{host} does not answer", begun)
        store.incidents.add_event(number, begun, "opened", "no answer from any service")
        store.incidents.add_event(number, begun + 5, "sent", "sms")
        end = begun + dice.uniform(90, 7200)
        store.incidents.add_event(number, end, "closed", "answers again")
        store.incidents.close(number, end)
    fleet = store.incidents.open("fleet", "fleet", "", "", "urgent", "1 of 3 MX accept mail, 2 must", now - 700)
    store.incidents.add_event(fleet, now - 700, "opened", "mx2 down, mx3 throttled")
    store.incidents.add_event(fleet, now - 695, "sent", "sms")
    store.incidents.add_event(fleet, now - 400, "acked", f"by ops: {HOSTILE}")
    store.incidents.acknowledge(fleet, now - 400, "ops", now + 3200)
    service = store.incidents.open(
        "service:mx2/smtp", "service", "mx2", "smtp", "notice", f"mx2 smtp: connection refused {HOSTILE}", now - 1500
    )
    store.incidents.add_event(service, now - 1500, "opened", "connection refused")
    store.incidents.add_event(service, now - 1495, "sent", "sms")
    store.incidents.add_event(service, now - 900, "flapping", "5 changes in 15 min")
    store.incidents.open("throttled:mx3", "throttled", "mx3", "smtp", "page", "mx3 throttled by load", now - 720)
    store.incidents.add_silence("health:offsite1", now + 3600, HOSTILE, "ops", now - 60)
    sent = store.messages.enqueue(now - 1495, "sms", "opened", "notice", "mf: mx2 smtp down since 12:01Z #2", [service])
    store.messages.set(sent, SENT, attempts=1, next_try=now - 1495, finished=now - 1494, error="")
    waits = store.messages.enqueue(now - 60, "mail", "opened", "notice", "mf: control1 panel", [])
    store.messages.set(waits, QUEUED, attempts=2, next_try=now + 60, finished=None, error="connection refused")


def sample(path: Path, now: float, days: int = 90, **changed: Any) -> tuple[Store, Settings]:
    """An opened store with all of that, and its settings."""
    chosen = settings(database=str(path), **changed)
    store = Store(str(path), now=now)
    fill(store, chosen, now, days)
    return store, chosen
