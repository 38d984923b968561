"""A machine on the page: its row, its services, its details. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mf.health_record import Lease

from . import charts
from .model import Host, Service
from .values import CHECKS, LABELS, milliseconds, short, show, slug, uptime, when

MANY = 24  # machines: with more, those in trouble come first and they alone have details
_CERTIFICATE_SOON = 14 * 86400.0  # seconds
_ROLES = {"mx": "MX", "control": "Control", "offsite": "Offsite", "monitor": "Monitor", "dns": "DNS"}


def chip(service: Service) -> dict[str, Any]:
    """One service in a machine's row."""
    icon, name = service.state, show(service.name, 32)
    if icon == "up" and service.soft:  # its last probe failed, the next decides
        return {"name": name, "icon": "unknown", "fact": "in doubt"}
    timed = icon in {"up", "warning"} and service.latency_ms is not None
    return {"name": name, "icon": icon, "fact": milliseconds(service.latency_ms) if timed else LABELS[icon].lower()}


def _service(service: Service, now: float) -> dict[str, Any]:
    """One service among a machine's details."""
    expires = service.expires
    return {
        **chip(service),
        "port": show(service.port or "–", 8),
        "label": LABELS[service.state],
        "soft": service.soft,
        "flapping": service.flapping,
        "latency": milliseconds(service.latency_ms),
        "message": show(service.message),
        "since": when(service.since, now),
        "certificate": None if expires is None else (short(expires - now) if expires > now else "expired"),
        "certificate_soon": expires is not None and expires - now < _CERTIFICATE_SOON,
    }


def _state_line(host: Host, now: float) -> str:
    """The text under a machine's name."""
    if host.state == "throttled":
        if host.health is None or not (host.health.held or host.health.leases):
            return "Throttled"
        left = max((lease.left_seconds or 0.0 for lease in host.health.leases), default=0.0)
        return "On hold" if host.health.held else f"Throttled, {short(left)} left"
    if host.state == "maintenance":
        until = host.maintenance.until if host.maintenance else 0.0
        return f"Maintenance, {short(until - now)} left" if until > now else "Maintenance"
    if host.state == "up":
        return "Accepting mail" if host.role == "mx" else "Up"
    label = LABELS[host.state]
    return f"{label} for {short(now - host.since)}" if host.since < now else label


def row(host: Host, now: float) -> dict[str, Any]:
    """One machine's row."""
    fresh = host.health is not None and host.health.fresh
    load = host.health.load1 if host.health and fresh else None
    queue = host.health.queue if host.health and fresh else None
    canary, backups = host.canary, host.backups
    seconds = canary.seconds if canary else None
    checked = max((service.checked for service in host.services if service.checked is not None), default=None)
    name = show(host.name, 64)
    return {
        "name": name,
        "id": slug(name),
        "role": _ROLES.get(host.role, show(host.role, 20)),
        "is_mx": host.role == "mx",
        "is_machine": host.role != "dns",
        "place": ", ".join(show(place, 40) for place in (host.provider, host.location) if place),
        "address": show(host.address, 45),
        "icon": host.state,
        "label": _state_line(host, now),
        "flapping": host.flapping,
        "why": show(host.message) if host.state != "up" or host.flapping else "",
        "checked": when(checked, now),
        "chips": [chip(service) for service in host.services],
        "load": "–" if load is None else f"{load:.2f}",
        "queue": "–" if queue is None else f"{queue:,.0f}".replace(",", " "),
        "queue_high": queue is not None and queue >= 1000,
        "canary": "–" if seconds is None else milliseconds(seconds * 1000),
        "canary_age": short(canary.age_seconds) if canary else "",
        "canary_bad": canary is not None and canary.status != "OK",
        "backup": short(backups.age_seconds if backups else None),
        "backup_bad": backups is not None and backups.status != "OK",
        "fresh": fresh,
        "bars": charts.bars(host.days, now),
        "uptime": uptime(host.days),
    }


def details(host: Host, shown: dict[str, Any], now: float) -> dict[str, Any]:
    """All that is known of one machine, beside its row, which is ``shown``."""
    health = host.health
    curves = [
        charts.latency(service.latency, now, f"{shown['name']}, {show(service.name, 32)}") for service in host.services
    ]
    return {
        **shown,
        "services": [_service(service, now) for service in host.services],
        "health_read": when(health.read if health else None, now),
        "problems": [show(problem) for problem in health.problems[:12]] if health else [],
        "leases": [_lease(lease) for lease in health.leases] if health else [],
        "checks": [
            {
                "name": show(check.name, 32),
                "icon": CHECKS[check.status],
                "status": check.status,
                "age": short(check.age_seconds),
                "summary": show(check.summary),
            }
            for check in (health.checks if health else ())
        ],
        "charts": [curve for curve in curves if curve],
        "troubled": [
            f"{charts.day_name(day.day)}: {note}"
            for day in reversed(host.days)
            if day and day.up is not None and (note := charts.classify(day)[1])
        ],
    }


def _lease(lease: Lease) -> str:
    mode = "refuses new mail" if lease.refuse else "marked only"
    end = "no end" if lease.left_seconds is None else f"{short(lease.left_seconds)} left"
    return f"{show(lease.owner, 32)}: {show(lease.reason, 120)} ({mode}, {end})"


def first_charts(hosts: Iterable[Host], now: float) -> list[charts.Latency]:
    """The first service of each MX, all on one scale; in a large fleet those of the slowest."""
    chosen = []
    for host in hosts:
        if host.role == "mx" and host.services and (series := host.services[0].latency):
            name = f"{show(host.name, 64)}, {show(host.services[0].name, 32)}"
            chosen.append((charts.highest(series), name, series))
    if len(chosen) > MANY:
        chosen = sorted(chosen, key=lambda entry: -entry[0])[:MANY]
    top = max((high for high, _, _ in chosen), default=0.0)
    return [chart for _, name, series in chosen if (chart := charts.latency(series, now, name, top))]
