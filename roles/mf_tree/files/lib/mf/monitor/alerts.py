"""Whom to tell what, and when: from incidents to messages. Pure.

=========  ============================================================================================
urgent     at once, day and night; reminders; escalation when nobody acknowledges it
notice     one message when it begins, one when it is over
page       no message
=========  ============================================================================================

Incidents that begin within a few seconds share a message. While fewer MXs accept mail than must, what is wrong with
single MXs is part of that incident's message. An incident is told once for its severity; what grows worse is told anew.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from .. import text
from . import texts
from .causes import NOTICE, PAGE, URGENT
from .settings import Settings
from .states import restored

GROUP = 3.0  # seconds in which what begins together becomes one message
RANK = {PAGE: 0, NOTICE: 1, URGENT: 2}
MARKS = {URGENT: "URGENT", NOTICE: ""}


@dataclass(frozen=True, slots=True)
class Alert:
    """What was done about an incident. ``told``: the severity it was told at; ``covered``: another one spoke for it."""

    noticed: float = 0.0
    told: str = ""
    told_at: float = 0.0
    covered: bool = False
    reminded_at: float = 0.0
    escalated: bool = False
    flapping: bool = False
    over_told: bool = False
    held_since: float = 0.0  # a lease that refuses mail
    about: tuple[str, ...] = ()
    level: int | None = None  # MXs that accept mail, of the fleet's incident
    told_level: int | None = None  # the lowest that was told

    @staticmethod
    def of(found: Mapping[str, Any]) -> Alert:
        """From the store."""
        return restored(Alert, found)

    def as_json(self) -> dict[str, Any]:
        """For the store."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Incident:
    """An incident as the planner sees it; ``since``: when what is wrong began."""

    number: int
    key: str
    kind: str
    host: str
    severity: str
    title: str
    opened: float
    closed: float | None
    acked: bool
    flapping: bool
    alert: Alert


@dataclass(frozen=True, slots=True)
class Draft:
    """A message to be sent to the channels of a severity, or to those of the escalation."""

    kind: str  # opened flapping closed reminder escalation
    severity: str
    text: str
    incidents: tuple[int, ...]
    escalation: bool = False


@dataclass(slots=True)
class Plan:
    """Messages, and the alerts of incidents as they are once those are queued."""

    drafts: list[Draft] = field(default_factory=list)
    alerts: dict[int, Alert] = field(default_factory=dict)
    void: set[int] = field(default_factory=set)  # what was acknowledged was less than this


def plan(settings: Settings, incidents: Sequence[Incident], silences: Iterable[Mapping[str, Any]], now: float) -> Plan:
    """What to send now. ``incidents``: all open ones, and those that closed and weren't told to be over yet."""
    patterns = [str(one["pattern"]) for one in silences]
    result = Plan()
    alerts = {one.number: one.alert for one in incidents}
    quiet = {one.number for one in incidents if any(fnmatch.fnmatchcase(one.key, pattern) for pattern in patterns)}
    for number, one in enumerate(incidents := list(incidents)):
        alert = alerts[one.number]
        if one.closed is None and _fell(alert):
            # fewer still: that is news, whoever has taken care of less
            alerts[one.number] = replace(alert, told="", told_level=None, noticed=now, escalated=False)
            if one.acked:
                result.void.add(one.number)
                incidents[number] = replace(one, acked=False)
    fleet = next((one for one in incidents if one.key == "fleet" and one.closed is None), None)
    # only what speaks can speak for others
    if fleet is not None and not fleet.acked and fleet.number not in quiet:
        for one in incidents:
            if one.key in fleet.alert.about and one.closed is None and not alerts[one.number].told:
                alerts[one.number] = replace(alerts[one.number], covered=True)
    _begin(settings, incidents, quiet, alerts, result, now)
    _remind(settings, incidents, quiet, alerts, result, now)
    _end(settings, incidents, quiet, alerts, result, now)
    result.alerts = {one.number: alerts[one.number] for one in incidents if alerts[one.number] != one.alert}
    return result


def _fell(alert: Alert) -> bool:
    return alert.level is not None and alert.told_level is not None and alert.level < alert.told_level


def loudness(settings: Settings, one: Incident, now: float) -> str:
    """Its severity by now: an MX that refuses mail for very long is worth a message."""
    refuses = one.kind == "throttled" and one.severity == PAGE and one.alert.held_since > 0
    return NOTICE if refuses and now - one.alert.held_since >= settings.throttled_after else one.severity


def _begin(
    settings: Settings,
    incidents: Sequence[Incident],
    quiet: set[int],
    alerts: dict[int, Alert],
    result: Plan,
    now: float,
) -> None:
    for severity in (URGENT, NOTICE):
        fresh, turned = [], []
        for one in incidents:
            alert = alerts[one.number]
            # a monitor that is offline can't tell so; it does afterwards
            if one.closed is not None or one.number in quiet or one.acked or one.kind == "uplink":
                continue
            if loudness(settings, one, now) != severity or alert.covered:
                continue
            if RANK[severity] > RANK.get(alert.told, 0):
                if now - alert.noticed >= (0.5 if severity == URGENT else GROUP):
                    fresh.append(one)
            elif one.flapping and not alert.flapping:
                turned.append(one)
        for kind, chosen in (("opened", fresh), ("flapping", turned)):
            if not chosen:
                continue
            began = min(one.opened for one in chosen)
            result.drafts.append(_draft(settings, kind, severity, chosen, f"since {texts.clock(began)}"))
            for one in chosen:
                alerts[one.number] = replace(
                    alerts[one.number],
                    told=severity,
                    told_level=alerts[one.number].level,
                    told_at=now if kind == "opened" else alerts[one.number].told_at,
                    reminded_at=now,
                    flapping=one.flapping,
                )
            spoken = {key for one in chosen for key in one.alert.about}
            for one in incidents:
                if one.key in spoken and one.closed is None:
                    alerts[one.number] = replace(alerts[one.number], covered=True)


def _remind(
    settings: Settings,
    incidents: Sequence[Incident],
    quiet: set[int],
    alerts: dict[int, Alert],
    result: Plan,
    now: float,
) -> None:
    open_ = [
        one
        for one in incidents
        if one.closed is None and one.number not in quiet and not one.acked and alerts[one.number].told == URGENT
    ]
    late = [
        one
        for one in open_
        if not alerts[one.number].escalated and now - alerts[one.number].told_at >= settings.escalate_after
    ]
    if late and any(channel.escalation for channel in settings.channels):
        tail = f"nobody acknowledged for {text.span(now - min(alerts[one.number].told_at for one in late))}"
        draft = _draft(settings, "escalation", URGENT, late, tail)
        result.drafts.append(replace(draft, escalation=True))
        for one in late:
            alerts[one.number] = replace(alerts[one.number], escalated=True)
    again = [one for one in open_ if now - alerts[one.number].reminded_at >= settings.reminder]
    if again:
        began = min(one.opened for one in again)
        result.drafts.append(_draft(settings, "reminder", URGENT, again, f"still, for {text.span(now - began)}"))
        for one in again:
            alerts[one.number] = replace(alerts[one.number], reminded_at=now)


def _end(
    settings: Settings,
    incidents: Sequence[Incident],
    quiet: set[int],
    alerts: dict[int, Alert],
    result: Plan,
    now: float,
) -> None:
    """Recoveries. What the fleet's message spoke for is over with it, or is told by itself from then on."""
    over = [one for one in incidents if one.closed is not None and not alerts[one.number].over_told]
    fleet_over = any(one.key == "fleet" for one in over)
    for severity in (URGENT, NOTICE):
        chosen = []
        for one in over:
            told = alerts[one.number].told or (NOTICE if one.kind == "uplink" else "")
            if told == severity and one.number not in quiet:
                chosen.append(one)
        if chosen:
            result.drafts.append(_over(settings, severity, chosen, incidents, fleet_over))
    for one in over:
        alerts[one.number] = replace(alerts[one.number], over_told=True)
    if fleet_over:
        for one in incidents:
            if one.closed is None and alerts[one.number].covered:
                # named in the fleet's recovery as still wrong: so it has been told
                told = NOTICE if RANK[one.severity] >= RANK[NOTICE] else ""
                alerts[one.number] = replace(alerts[one.number], covered=False, told=told, told_at=now)


def _over(
    settings: Settings, severity: str, chosen: Sequence[Incident], incidents: Sequence[Incident], fleet_over: bool
) -> Draft:
    titles = []
    for one in chosen:
        lasted = text.span(max(0.0, (one.closed or one.opened) - one.opened))
        if one.kind == "uplink":
            titles.append(f"{settings.host} was offline for {lasted} and saw nothing meanwhile")
        elif one.kind == "fleet":
            left = [other.host for other in incidents if other.closed is None and other.alert.covered]
            rest = f", still wrong: {', '.join(dict.fromkeys(left))}" if left else ""
            titles.append(f"enough MX accept mail again after {lasted}{rest}")
        elif one.kind == "internal":
            titles.append(one.title)
        else:
            titles.append(f"{_subject(one)} well again after {lasted}")
    numbers = tuple(one.number for one in chosen)
    words = texts.compose(settings.name, "OK", titles, _numbers(chosen))
    return Draft("closed", severity, words, numbers)


def _subject(one: Incident) -> str:
    return one.key.partition(":")[2].replace("/", " ") or one.key


def _draft(settings: Settings, kind: str, severity: str, chosen: Sequence[Incident], tail: str) -> Draft:
    mark = {"reminder": "REMINDER", "escalation": "ESCALATION"}.get(kind, MARKS[severity])
    titles = [one.title for one in chosen]
    words = texts.compose(settings.name, mark, titles, f"{tail} {_numbers(chosen)}")
    return Draft(kind, severity, words, tuple(one.number for one in chosen))


def _numbers(chosen: Sequence[Incident]) -> str:
    shown = [f"#{one.number}" for one in chosen[:3]]
    return ",".join(shown) + ("…" if len(chosen) > 3 else "").replace("…", "+")
