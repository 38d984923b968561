"""Incidents on the page: what happened, and whether an operator has to act. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from .model import Incident
from .values import short, show, slug, when

_SEVERITIES = {"urgent": ("down", "Urgent"), "notice": ("warning", "Notice"), "page": ("unknown", "Page only")}
_NEEDS = {
    "urgent": "Act now.",
    "notice": "It can wait until morning: mail goes on without it.",
    "page": "It can wait for office hours.",
}
_EVENTS = {
    "opened": "Opened",
    "changed": "Changed",
    "sent": "Message",
    "failed": "Failed",
    "acked": "Acknowledged",
    "unacked": "Not acknowledged",
    "closed": "Recovered",
}


def card(incident: Incident, now: float) -> dict[str, Any]:
    """One incident with its timeline."""
    icon, label = _SEVERITIES[incident.severity]
    is_open = incident.closed is None
    return {
        "id": slug(str(incident.id)),
        "icon": icon if is_open else "up",
        "severity": label,
        "title": show(incident.title, 200),
        "opened": when(incident.opened, now),
        "lasted": short((now if incident.closed is None else incident.closed) - incident.opened),
        "open": is_open,
        "acked": f"{_operator(incident)} is on it" if incident.acked and is_open else "",
        "silenced": incident.silenced and is_open,
        "events": [
            {
                "at": when(event.at, now),
                "kind": slug(event.what[:20]),
                "label": _EVENTS.get(event.what, show(event.what, 20).capitalize()),
                "text": show(event.text),
            }
            for event in incident.timeline[-60:]
        ],
    }


def _operator(incident: Incident) -> str:
    return show(incident.acked_by or "An operator", 40)


def need(opened: Sequence[Incident], state: str) -> str:
    """Sentence on the action that open incidents need from an operator."""
    for severity, sentence in _NEEDS.items():
        ours = [incident for incident in opened if incident.severity == severity]
        if severity == "urgent" and ours and all(incident.acked for incident in ours):
            operators = sorted({_operator(incident) for incident in ours})
            return f"{' and '.join(operators)} {'is' if len(operators) == 1 else 'are'} on it."
        if ours:
            return sentence
    return "No action needed." if state == "up" else ""


def by_day(incidents: Iterable[Incident], now: float) -> list[tuple[str, list[dict[str, Any]]]]:
    """Past incidents by the day of their start."""
    days: dict[str, list[dict[str, Any]]] = {}
    for incident in incidents:
        day = time.strftime("%A, %d %B", time.gmtime(incident.opened)).replace(", 0", ", ")
        days.setdefault(day, []).append(card(incident, now))
    return list(days.items())
