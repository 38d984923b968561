"""Whom to notify of what, and when: from incidents to messages. Pure.

=========  ============================================================================================
urgent     at once, day and night; reminders; escalation when nobody acknowledges it
notice     one message when it begins, one when it is over
page       no message
=========  ============================================================================================

Incidents that begin within a few seconds share a message, and so do those that end. While fewer MXs accept mail than
must, what is wrong with single MXs is part of that incident's message. An incident is notified once for its severity;
what grows worse is notified anew, and so is what was said to flap and stays down.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mf import text

from .. import texts
from ..judging.severity import NOTICE, PAGE, URGENT
from ..judging.states import restored, stored
from ..settings import Settings

GROUP = 3.0  # seconds in which what begins together becomes one message, and what ends together
AT_ONCE = 0.5  # the same for what is urgent
RANK = {PAGE: 0, NOTICE: 1, URGENT: 2}
MARKS = {URGENT: "URGENT", NOTICE: ""}


@dataclass(frozen=True, slots=True)
class Alert:
    """What was done about an incident. ``notified``: at which severity; ``suppressed``: another one speaks for it."""

    noticed: float = 0.0
    notified: str = ""
    notified_at: float = 0.0
    suppressed: bool = False
    reminded_at: float = 0.0
    escalated_at: float = 0.0
    flapping: bool = False
    stays_since: float = 0.0  # what was said to flap is steadily so since then
    stays_notified: bool = False
    resolution_notified: bool = False
    held_since: float = 0.0  # a lease that refuses mail
    about: tuple[str, ...] = ()
    level: int | None = None  # of the cause
    notified_level: int | None = None  # the lowest that was notified
    seen: str = ""  # the severity at the last plan

    @staticmethod
    def of(found: Mapping[str, Any]) -> Alert:
        """From the store."""
        return restored(Alert, found, _KEYS)

    def as_json(self) -> dict[str, Any]:
        """For the store."""
        return stored(self, _KEYS)


_KEYS = {  # in the store, where they differ
    "notified": "told",
    "notified_at": "told_at",
    "notified_level": "told_level",
    "suppressed": "covered",
    "stays_notified": "stays_told",
    "resolution_notified": "over_told",
}


@dataclass(slots=True)
class Incident:
    """An incident: what is stored of it, and below what holds at the moment of a plan. Times are epoch seconds.

    ``behind``: another one hides it, and nothing better was seen of it yet; ``ack_ended``: when an acknowledgement ran
    out.
    """

    number: int
    key: str
    kind: str
    host: str
    severity: str
    title: str
    opened: float
    alert: Alert
    service: str = ""
    closed: float | None = None
    acked_at: float | None = None
    ack_until: float | None = None

    acked: bool = False
    flapping: bool = False
    behind: bool = False
    ack_ended: float = 0.0

    @staticmethod
    def of(row: Mapping[str, Any]) -> Incident:
        """From the store."""
        names = ("key", "kind", "host", "severity", "title", "opened", "service", "closed", "ack_until")
        values = {name: row[name] for name in names}
        return Incident(row["id"], alert=Alert.of(row["alert"]), acked_at=row["acked"], **values)


@dataclass(frozen=True, slots=True)
class Draft:
    """A message to be sent to the channels of a severity, or to those of the escalation."""

    kind: str  # opened flapping stays closed reminder escalation
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
    """What to send now. ``incidents``: all open ones, and closed ones of which the end wasn't notified yet."""
    return _Planner(settings, incidents, [str(one["pattern"]) for one in silences], now).plan()


def _fell(alert: Alert) -> bool:
    return alert.level is not None and alert.notified_level is not None and alert.level < alert.notified_level


def severity_now(settings: Settings, one: Incident, now: float) -> str:
    """Its severity by now: an MX that refuses mail for very long is worth a message."""
    refuses = one.kind == "throttled" and one.severity == PAGE and one.alert.held_since > 0
    return NOTICE if refuses and now - one.alert.held_since >= settings.throttled_after else one.severity


class _Planner:
    """One plan in the making."""

    def __init__(self, settings: Settings, incidents: Sequence[Incident], patterns: Sequence[str], now: float) -> None:
        self.settings = settings
        self.incidents = list(incidents)
        self.now = now
        self.alerts = {one.number: one.alert for one in incidents}
        self.silenced = {
            one.number for one in incidents if any(fnmatch.fnmatchcase(one.key, pattern) for pattern in patterns)
        }
        self.result = Plan()

    def plan(self) -> Plan:
        """All of it."""
        self._renew()
        self._cover()
        for severity in (URGENT, NOTICE):
            self._begin(severity)
        self._escalate()
        self._remind()
        self._end()
        self.result.alerts = {
            one.number: self.alerts[one.number] for one in self.incidents if self.alerts[one.number] != one.alert
        }
        return self.result

    def _change(self, one: Incident, **values: Any) -> None:
        self.alerts[one.number] = replace(self.alerts[one.number], **values)

    def _renew(self) -> None:
        """What has grown worse is news, whoever has taken care of less: fewer MXs still, or a higher severity."""
        for number, one in enumerate(self.incidents):
            if one.closed is not None:
                continue
            alert = self.alerts[one.number]
            fell = _fell(alert)
            if fell:
                self._change(one, notified="", notified_level=None, noticed=self.now)
            rose = RANK[one.severity] > max(RANK[alert.seen or one.severity], RANK.get(alert.notified, 0))
            if one.acked and (fell or rose):
                self.result.void.add(one.number)
                self.incidents[number] = replace(one, acked=False)
            if alert.seen != one.severity:
                if alert.notified == URGENT and one.severity == URGENT and alert.seen:
                    self._change(one, notified_at=self.now)  # who is woken again has as long again
                self._change(one, seen=one.severity)

    def _cover(self) -> None:
        """What the fleet's incident speaks for; only what speaks can speak for others."""
        fleet = next((one for one in self.incidents if one.key == "fleet" and one.closed is None), None)
        if fleet is None or fleet.acked or fleet.number in self.silenced:
            return
        for one in self.incidents:
            if one.key in fleet.alert.about and one.closed is None and not self.alerts[one.number].notified:
                self._change(one, suppressed=True)

    def _begin(self, severity: str) -> None:
        fresh, turned, stays = [], [], []
        for one in self.incidents:
            alert = self.alerts[one.number]
            # a monitor that is offline can't say so; it does afterwards
            if one.closed is not None or one.number in self.silenced or one.acked or one.kind == "uplink" or one.behind:
                continue
            if severity_now(self.settings, one, self.now) != severity or alert.suppressed:
                continue
            if RANK[severity] > RANK.get(alert.notified, 0):
                fresh.append(one)
            elif one.flapping and not alert.flapping:
                turned.append(one)
            elif alert.stays_since and not alert.stays_notified:
                stays.append(one)
        # the eldest has waited for the others: those that have come since go with it, however young
        patience = AT_ONCE if severity == URGENT else GROUP
        if not any(self.now - self.alerts[one.number].noticed >= patience for one in fresh):
            fresh = []
        for kind, chosen in (("opened", fresh), ("flapping", turned), ("stays", stays)):
            if not chosen:
                continue
            began = min(self.alerts[one.number].stays_since if kind == "stays" else one.opened for one in chosen)
            self._draft(kind, severity, chosen, f"since {texts.clock(began)}")
            for one in chosen:
                alert = self.alerts[one.number]
                self._change(
                    one,
                    notified=severity,
                    notified_level=alert.level,
                    notified_at=self.now if kind == "opened" else alert.notified_at,
                    reminded_at=self.now,
                    flapping=one.flapping or kind == "stays",
                    stays_notified=alert.stays_since > 0,
                )
            spoken = {key for one in chosen for key in one.alert.about}
            for one in self.incidents:
                if one.key in spoken and one.closed is None:
                    self._change(one, suppressed=True)

    def _unanswered(self) -> list[Incident]:
        """Urgent ones that were notified, still are (no maintenance), and that nobody has acknowledged."""
        return [
            one
            for one in self.incidents
            if one.closed is None
            and one.number not in self.silenced
            and not one.acked
            and not one.behind
            and one.severity == URGENT
            and self.alerts[one.number].notified == URGENT
        ]

    def _escalate(self) -> None:
        late = []
        for one in self._unanswered():
            alert = self.alerts[one.number]
            begun = max(alert.notified_at, one.ack_ended)
            if alert.escalated_at < begun <= self.now - self.settings.escalate_after:
                late.append((begun, one))
        if late and any(channel.escalation for channel in self.settings.channels):
            chosen = [one for _, one in late]
            waited = text.span(self.now - min(begun for begun, _ in late))
            self._draft("escalation", URGENT, chosen, f"nobody acknowledged for {waited}")
            for one in chosen:
                self._change(one, escalated_at=self.now)

    def _remind(self) -> None:
        again = [
            one
            for one in self._unanswered()
            if self.now - self.alerts[one.number].reminded_at >= self.settings.reminder
        ]
        if again:
            began = min(one.opened for one in again)
            self._draft("reminder", URGENT, again, f"still, for {text.span(self.now - began)}")
            for one in again:
                self._change(one, reminded_at=self.now)

    def _end(self) -> None:
        """Recoveries. What the fleet's message spoke for is over with it, or has messages of its own from then on."""
        over = [
            one for one in self.incidents if one.closed is not None and not self.alerts[one.number].resolution_notified
        ]
        loud = [one for one in over if self._end_severity(one)]
        back = {one.key for one in self.incidents if one.closed is None}
        # good news waits for more of it, unless bad news of the same is about to overtake it
        if not any(self.now - (one.closed or 0.0) >= GROUP or one.key in back for one in loud):
            over = [one for one in over if one not in loud]
            loud = []
        for severity in (URGENT, NOTICE):
            self._resolve(severity, [one for one in loud if self._end_severity(one) == severity])
        self._resolve(URGENT, [one for one in loud if self.alerts[one.number].escalated_at], escalation=True)
        for one in over:
            self._change(one, resolution_notified=True)
        if any(one.key == "fleet" for one in over):
            for one in self.incidents:
                if one.closed is None and self.alerts[one.number].suppressed:
                    # named in the fleet's recovery as still wrong: so it was notified
                    notified = one.severity if one.severity != PAGE else ""
                    self._change(one, suppressed=False, notified=notified, notified_at=self.now, reminded_at=self.now)

    def _resolve(self, severity: str, chosen: Sequence[Incident], escalation: bool = False) -> None:
        if chosen:
            titles = [_resolution(self.settings, self.incidents, self.alerts, one) for one in chosen]
            message = texts.compose(self.settings.name, "OK", titles, _numbers(chosen), _hosts(chosen))
            numbers = tuple(one.number for one in chosen)
            self.result.drafts.append(Draft("closed", severity, message, numbers, escalation))

    def _end_severity(self, one: Incident) -> str:
        """The severity at which an incident's end is notified, or nothing."""
        if one.number in self.silenced:
            return ""
        # who sees again sees that too few accept mail: that is a message by itself
        if one.key == "unknown:fleet" and any(other.key == "fleet" and not other.closed for other in self.incidents):
            return ""
        return self.alerts[one.number].notified or (NOTICE if one.kind == "uplink" else "")

    def _draft(self, kind: str, severity: str, chosen: Sequence[Incident], tail: str) -> None:
        """A message about what is wrong."""
        mark = {"reminder": "REMINDER", "escalation": "ESCALATION"}.get(kind, MARKS[severity])
        titles = [one.title for one in chosen]
        message = texts.compose(self.settings.name, mark, titles, f"{tail} {_numbers(chosen)}", _hosts(chosen))
        numbers = tuple(one.number for one in chosen)
        self.result.drafts.append(Draft(kind, severity, message, numbers, kind == "escalation"))


def _resolution(settings: Settings, incidents: Sequence[Incident], alerts: Mapping[int, Alert], one: Incident) -> str:
    """An incident that is over, in words: well again, or what is still wrong there."""
    lasted = text.span(max(0.0, (one.closed or one.opened) - one.opened))
    still = [other for other in incidents if other.closed is None]
    if one.kind == "uplink":
        return f"{settings.host} was offline for {lasted} and saw nothing meanwhile"
    if one.kind == "fleet":
        left = dict.fromkeys(other.host for other in still if alerts[other.number].suppressed)
        rest = f", still wrong: {', '.join(left)}" if left else ""
        return f"enough MX accept mail again after {lasted}{rest}"
    if one.kind == "unknown":
        return f"{settings.host} sees again after {lasted} that enough MX accept mail"
    if one.kind == "internal":
        return f"{settings.host} keeps up again after {lasted}"
    # a host that answers may have a service that doesn't, and a service that answers another fault
    subject = one.key.partition(":")[2]
    watched = {host.name for host in settings.hosts} | {one.subject for host in settings.hosts for one in host.services}
    if one.kind != "check" and subject not in watched:
        return f"{_subject(one)} is watched no more"
    loud = [other for other in still if other.severity != PAGE]
    well = all(subject not in (other.host, other.key.partition(":")[2]) for other in loud)
    rest = "answers again" if one.kind == "host" else "better"
    return f"{_subject(one)} {'well again' if well else rest} after {lasted}"


def _subject(one: Incident) -> str:
    return one.key.partition(":")[2].replace("/", " ") or one.key


def _hosts(chosen: Sequence[Incident]) -> list[str]:
    """Of each incident the host, or its key where it has none."""
    return [one.host or _subject(one) for one in chosen]


def _numbers(chosen: Sequence[Incident]) -> str:
    shown = [f"#{one.number}" for one in chosen[:3]]
    return ",".join(shown) + ("+" if len(chosen) > 3 else "")
