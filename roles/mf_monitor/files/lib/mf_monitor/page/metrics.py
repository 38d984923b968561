"""A snapshot as Prometheus metrics in the text format 0.0.4, by its naming rules (`promtool check metrics`).

Source: https://prometheus.io/docs/instrumenting/exposition_formats/ and /docs/practices/naming/. What isn't known has
no sample: a gap, never a zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isfinite

from .model import Backups, Canary, Health, Host, Snapshot
from .values import LABELS, show

_HELP = {
    "mf_monitor_written_timestamp_seconds": "When the monitor finished this round.",
    "mf_monitor_uplink_up": "1 while a reference host answers, 0 while the monitor itself is offline.",
    "mf_fleet_mx_machines": "MX machines in the inventory.",
    "mf_fleet_mx_accepting": "MX machines that accept mail.",
    "mf_fleet_mx_required": "MX machines that must accept mail.",
    "mf_host_state": "1 for the state that the host is in, 0 for the others.",
    "mf_host_load1": "Load average of one minute, by the host's own health.",
    "mf_host_queue_messages": "Messages waiting in the host's queue.",
    "mf_host_throttled": "1 while a lease throttles the host.",
    "mf_host_health_read_timestamp_seconds": "When the host's own health was read.",
    "mf_host_canary_latency_seconds": "How long the last end-to-end canary took.",
    "mf_host_canary_age_seconds": "Age of the last end-to-end canary that came through.",
    "mf_host_backup_age_seconds": "Age of the newest backup.",
    "mf_service_up": "1 if the service answered as it should, 0 if not.",
    "mf_service_latency_seconds": "How long the service took to answer.",
    "mf_service_checked_timestamp_seconds": "When the service was last probed.",
    "mf_service_certificate_expiry_timestamp_seconds": "When the service's certificate expires.",
    "mf_incidents_open": "Open incidents.",
    "mf_messages_waiting": "Messages that wait to be sent.",
    "mf_messages_failing": "Those among them that failed at least once.",
}


def label(value: object) -> str:
    """A label's value: backslash, quote and line feed escaped, what isn't printable made visible."""
    return show(value, 120).replace("\\", "\\\\").replace('"', '\\"')


def text(snapshot: Snapshot) -> str:
    """The whole file."""
    samples: dict[str, list[str]] = {name: [] for name in _HELP}
    for name, labels, value in _samples(snapshot):
        if value is not None and isfinite(value):
            inside = ",".join(f'{key}="{label(content)}"' for key, content in labels.items())
            samples[name].append(f"{name}{{{inside}}} {value:.15g}" if inside else f"{name} {value:.15g}")
    lines = []
    for name, own in samples.items():
        if own:
            lines += [f"# HELP {name} {_HELP[name]}", f"# TYPE {name} gauge", *own]
    return "\n".join(lines) + "\n"


_Sample = tuple[str, Mapping[str, object], float | None]


def _samples(snapshot: Snapshot) -> Iterator[_Sample]:
    fleet, messages = snapshot.fleet, snapshot.messages
    yield "mf_monitor_written_timestamp_seconds", {}, snapshot.generated
    yield "mf_monitor_uplink_up", {}, _flag(snapshot.connectivity.state, ("up",), ("down",))
    yield "mf_fleet_mx_machines", {}, fleet.mxs
    yield "mf_fleet_mx_accepting", {}, fleet.accepting
    yield "mf_fleet_mx_required", {}, fleet.min_accepting
    for host in snapshot.hosts:
        yield from _host(host)
    for severity in ("urgent", "notice", "page"):
        count = sum(incident.severity == severity for incident in snapshot.incidents.open)
        yield "mf_incidents_open", {"severity": severity}, count
    yield "mf_messages_waiting", {}, messages.waiting
    yield "mf_messages_failing", {}, messages.failing


def _host(host: Host) -> Iterator[_Sample]:
    labels: dict[str, object] = {"host": host.name, "role": host.role}
    for state in LABELS:
        yield "mf_host_state", {**labels, "state": state}, int(host.state == state)
    if host.health:
        yield from _health(host.health, labels)
    yield from _known(host.canary, host.backups, labels)
    for service in host.services:
        own = {**labels, "service": service.name, "kind": service.kind}
        latency = service.latency_ms
        yield "mf_service_up", own, _flag(service.state, ("up", "warning"), ("down", "throttled"))
        yield "mf_service_latency_seconds", own, None if latency is None else latency / 1000
        yield "mf_service_checked_timestamp_seconds", own, service.checked
        yield "mf_service_certificate_expiry_timestamp_seconds", own, service.expires


def _health(health: Health, labels: Mapping[str, object]) -> Iterator[_Sample]:
    if health.fresh:
        yield "mf_host_load1", labels, health.load1
        yield "mf_host_queue_messages", labels, health.queue
        yield "mf_host_throttled", labels, int(health.throttled)
    yield "mf_host_health_read_timestamp_seconds", labels, health.read


def _known(canary: Canary | None, backups: Backups | None, labels: Mapping[str, object]) -> Iterator[_Sample]:
    """Figures of checks, unless they are not known any more."""
    if canary and canary.status != "UNKNOWN":
        yield "mf_host_canary_latency_seconds", labels, canary.seconds
        yield "mf_host_canary_age_seconds", labels, canary.age_seconds
    if backups and backups.status != "UNKNOWN":
        yield "mf_host_backup_age_seconds", labels, backups.age_seconds


def _flag(state: str, good: tuple[str, ...], bad: tuple[str, ...]) -> int | None:
    return 1 if state in good else 0 if state in bad else None
