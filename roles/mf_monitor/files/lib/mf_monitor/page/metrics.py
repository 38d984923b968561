"""A snapshot as Prometheus metrics in the text format 0.0.4, by its naming rules (`promtool check metrics`).

Source: https://prometheus.io/docs/instrumenting/exposition_formats/ and /docs/practices/naming/. What isn't known has
no sample: a gap, never a zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import view

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_HELP = {
    "mf_monitor_written_timestamp_seconds": "When the monitor finished this round.",
    "mf_monitor_uplink_up": "1 while enough references answer, 0 while the monitor itself is offline.",
    "mf_fleet_mx_machines": "MX machines in the inventory.",
    "mf_fleet_mx_accepting": "MX machines that accept mail.",
    "mf_fleet_mx_required": "MX machines that must accept mail.",
    "mf_host_state": "1 for the state that the host is in, 0 for the others.",
    "mf_host_load1": "Load average of one minute, as the host said itself.",
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
    return view.show(value, 120).replace("\\", "\\\\").replace('"', '\\"')


def text(snapshot: Mapping[str, Any]) -> str:
    """The whole file."""
    found: dict[str, list[str]] = {name: [] for name in _HELP}
    for name, labels, value in _samples(snapshot):
        known = view.number(value)
        if known is not None:
            inside = ",".join(f'{key}="{label(word)}"' for key, word in labels.items())
            found[name].append(f"{name}{{{inside}}} {known:.15g}" if inside else f"{name} {known:.15g}")
    lines = []
    for name, samples in found.items():
        if samples:
            lines += [f"# HELP {name} {_HELP[name]}", f"# TYPE {name} gauge", *samples]
    return "\n".join(lines) + "\n"


def _samples(snapshot: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, object], object]]:
    fleet, messages = _dict(snapshot, "fleet"), _dict(snapshot, "messages")
    yield "mf_monitor_written_timestamp_seconds", {}, snapshot.get("generated")
    yield "mf_monitor_uplink_up", {}, _flag(_dict(snapshot, "uplink").get("state"), ("up",), ("down",))
    for key, name in (("mxs", "machines"), ("accepting", "accepting"), ("min_accepting", "required")):
        yield f"mf_fleet_mx_{name}", {}, fleet.get(key)
    for host in _dicts(snapshot, "hosts"):
        labels: dict[str, object] = {"host": host.get("name", ""), "role": host.get("role", "")}
        for state in view.WORDS:
            yield "mf_host_state", {**labels, "state": state}, int(host.get("state") == state)
        health = _dict(host, "health")
        if health.get("fresh"):
            yield "mf_host_load1", labels, health.get("load1")
            yield "mf_host_queue_messages", labels, health.get("queue")
            yield "mf_host_throttled", labels, int(bool(health.get("throttled")))
        yield "mf_host_health_read_timestamp_seconds", labels, health.get("read")
        yield "mf_host_canary_latency_seconds", labels, _known(host, "canary").get("seconds")
        yield "mf_host_canary_age_seconds", labels, _known(host, "canary").get("age_seconds")
        yield "mf_host_backup_age_seconds", labels, _known(host, "backups").get("age_seconds")
        for one in _dicts(host, "services"):
            service = {**labels, "service": one.get("name", ""), "kind": one.get("kind", "")}
            latency = view.number(one.get("latency_ms"))
            yield "mf_service_up", service, _flag(one.get("state"), ("up", "warning"), ("down", "throttled"))
            yield "mf_service_latency_seconds", service, None if latency is None else latency / 1000
            yield "mf_service_checked_timestamp_seconds", service, one.get("checked")
            yield "mf_service_certificate_expiry_timestamp_seconds", service, one.get("expires")
    opened = _dicts(_dict(snapshot, "incidents"), "open")
    for severity in ("urgent", "notice", "page"):
        yield "mf_incidents_open", {"severity": severity}, sum(one.get("severity") == severity for one in opened)
    yield "mf_messages_waiting", {}, messages.get("waiting")
    yield "mf_messages_failing", {}, messages.get("failing")


def _flag(state: object, good: tuple[str, ...], bad: tuple[str, ...]) -> int | None:
    return 1 if state in good else 0 if state in bad else None


def _dicts(holder: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    found = holder.get(key)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, (list, tuple)) else []


def _known(found: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """What a check says, unless that is not known any more."""
    one = _dict(found, key)
    return {} if one.get("status") == "UNKNOWN" else one


def _dict(holder: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = holder.get(key)
    return found if isinstance(found, dict) else {}
