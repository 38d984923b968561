"""Plan the notifications of operators: from incidents to messages. Pure.

=========  ============================================================================================
urgent     at once, day and night; reminders; escalation if it is not acknowledged
notice     one message when it begins, one when it is over
page       no message
=========  ============================================================================================

Incidents that begin within a few seconds share a message, and so do those that end. While fewer MXs accept mail than
must, what is wrong with single MXs is part of that incident's message. An incident is notified once for its severity;
what grows worse is notified anew, and so is what was notified as flapping and stays down.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mf import text

from .. import texts
from ..judging.severity import NOTICE, PAGE, URGENT
from ..judging.states import CONNECTIVITY, restored, stored
from ..settings import Settings
from ..store import Silence
from ..store.incidents import StoredIncident

GROUP = 3.0  # seconds in which what begins together becomes one message, and what ends together
AT_ONCE = 0.5  # the same for what is urgent
RANK = {PAGE: 0, NOTICE: 1, URGENT: 2}
MARKS = {URGENT: "URGENT", NOTICE: ""}


@dataclass(frozen=True, slots=True)
class Alert:
    """Notifications of an incident. ``notified``: at which severity; ``suppressed``: part of another's message."""

    noticed: float = 0.0
    notified: str = ""
    notified_at: float = 0.0
    suppressed: bool = False
    reminded_at: float = 0.0
    escalated_at: float = 0.0
    flapping: bool = False
    stays_since: float = 0.0  # what was notified as flapping is steadily down since then
    stays_notified: bool = False
    resolution_notified: bool = False
    held_since: float = 0.0  # a lease that refuses mail
    about: tuple[str, ...] = ()
    level: int | None = None  # of the cause
    notified_level: int | None = None  # the lowest that was notified
    seen: str = ""  # the severity at the last plan

    @staticmethod
    def of(row: Mapping[str, Any]) -> Alert:
        """From the store."""
        return restored(Alert, row, _KEYS)

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

    ``behind``: another incident hides it, and nothing better was seen of it yet; ``ack_ended``: when an acknowledgement
    ran out.
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
    def of(row: StoredIncident) -> Incident:
        """From the store."""
        names = ("key", "kind", "host", "severity", "title", "opened", "service", "closed", "ack_until")
        values = {name: getattr(row, name) for name in names}
        return Incident(row.id, alert=Alert.of(row.alert), acked_at=row.acked, **values)


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
    void: set[int] = field(default_factory=set)  # acknowledgements that end: the incident is worse now


def plan(settings: Settings, incidents: Sequence[Incident], silences: Iterable[Silence], now: float) -> Plan:
    """Messages to send now. ``incidents``: all that are open, and those closed whose end wasn't notified yet."""
    return _Planner(settings, incidents, [silence.pattern for silence in silences], now).plan()


def severity_now(settings: Settings, incident: Incident, now: float) -> str:
    """Its severity by now: an MX that refuses mail for very long is worth a message."""
    refuses = incident.kind == "throttled" and incident.severity == PAGE and incident.alert.held_since > 0
    return NOTICE if refuses and now - incident.alert.held_since >= settings.throttled_after else incident.severity


class _Planner:
    """Makes a plan."""

    def __init__(self, settings: Settings, incidents: Sequence[Incident], patterns: Sequence[str], now: float) -> None:
        self.settings = settings
        self.before = incidents
        self.incidents = [replace(incident) for incident in incidents]
        self.open = [incident for incident in self.incidents if incident.closed is None]
        self.now = now
        self.silenced = {
            incident.number
            for incident in incidents
            if any(fnmatch.fnmatchcase(incident.key, pattern) for pattern in patterns)
        }
        self.result = Plan()

    def plan(self) -> Plan:
        """All of it."""
        self._renew()
        self._suppress()
        for severity in (URGENT, NOTICE):
            self._begin(severity)
        self._escalate()
        self._remind()
        self._end()
        self.result.alerts = {
            incident.number: incident.alert
            for incident, before in zip(self.incidents, self.before, strict=True)
            if incident.alert != before.alert
        }
        return self.result

    def _change(self, incident: Incident, **values: Any) -> None:
        incident.alert = replace(incident.alert, **values)

    def _renew(self) -> None:
        """Notify anew of what has grown worse, acknowledged or not: a lower level, or a higher severity."""
        for incident in self.open:
            alert = incident.alert
            level, before = alert.level, alert.notified_level
            fell = level is not None and before is not None and level < before
            if fell:
                self._change(incident, notified="", notified_level=None, noticed=self.now)
            elif alert.notified and alert.notified_level is None:
                # from a release before, or had none when it was notified
                self._change(incident, notified_level=alert.level)
            rose = RANK[incident.severity] > max(RANK[alert.seen or incident.severity], RANK.get(alert.notified, 0))
            if incident.acked and (fell or rose):
                self.result.void.add(incident.number)
                incident.acked = False
            if alert.seen != incident.severity:
                if alert.notified == URGENT and incident.severity == URGENT and alert.seen:
                    self._change(
                        incident, notified_at=self.now
                    )  # a new message, so the time until escalation begins anew
                self._change(incident, seen=incident.severity)

    def _suppress(self) -> None:
        """Suppress incidents that the fleet's incident covers, unless that sends no messages itself."""
        fleet = next((incident for incident in self.open if incident.key == "fleet"), None)
        if fleet is None or fleet.acked or fleet.number in self.silenced:
            return
        for incident in self.open:
            if incident.key in fleet.alert.about and not incident.alert.notified:
                self._change(incident, suppressed=True)

    def _begin(self, severity: str) -> None:
        fresh, turned, stays = [], [], []
        for incident in self.open:
            alert = incident.alert
            # a monitor that is offline can't send that; it does afterwards
            if incident.number in self.silenced or incident.acked or incident.kind == CONNECTIVITY or incident.behind:
                continue
            if severity_now(self.settings, incident, self.now) != severity or alert.suppressed:
                continue
            if RANK[severity] > RANK.get(alert.notified, 0):
                fresh.append(incident)
            elif incident.flapping and not alert.flapping:
                turned.append(incident)
            elif alert.stays_since and not alert.stays_notified:
                stays.append(incident)
        # the eldest has waited for the others: those that have come since go with it, however young
        patience = AT_ONCE if severity == URGENT else GROUP
        if not any(self.now - incident.alert.noticed >= patience for incident in fresh):
            fresh = []
        for kind, chosen in (("opened", fresh), ("flapping", turned), ("stays", stays)):
            if not chosen:
                continue
            since = min(incident.alert.stays_since if kind == "stays" else incident.opened for incident in chosen)
            self._draft(kind, severity, chosen, f"since {texts.clock(since)}")
            for incident in chosen:
                alert = incident.alert
                self._change(
                    incident,
                    notified=severity,
                    notified_level=alert.level,
                    notified_at=self.now if kind == "opened" else alert.notified_at,
                    reminded_at=self.now,
                    flapping=incident.flapping or kind == "stays",
                    stays_notified=alert.stays_since > 0,
                )
            included = {key for incident in chosen for key in incident.alert.about}
            for incident in self.open:
                if incident.key in included:
                    self._change(incident, suppressed=True)

    def _unanswered(self) -> list[Incident]:
        """Urgent incidents that were notified, are still urgent (no maintenance), and were not acknowledged."""
        return [
            incident
            for incident in self.open
            if incident.number not in self.silenced
            and not incident.acked
            and not incident.behind
            and incident.severity == URGENT
            and incident.alert.notified == URGENT
        ]

    def _escalate(self) -> None:
        late = []
        for incident in self._unanswered():
            alert = incident.alert
            waiting_since = max(alert.notified_at, incident.ack_ended)
            if alert.escalated_at < waiting_since <= self.now - self.settings.escalate_after:
                late.append((waiting_since, incident))
        if late and any(channel.escalation for channel in self.settings.channels):
            chosen = [incident for _, incident in late]
            waited = text.span(self.now - min(waiting_since for waiting_since, _ in late))
            self._draft("escalation", URGENT, chosen, f"not acknowledged for {waited}")
            for incident in chosen:
                self._change(incident, escalated_at=self.now)

    def _remind(self) -> None:
        again = [
            incident
            for incident in self._unanswered()
            if self.now - incident.alert.reminded_at >= self.settings.reminder
        ]
        if again:
            since = min(incident.opened for incident in again)
            self._draft("reminder", URGENT, again, f"still, for {text.span(self.now - since)}")
            for incident in again:
                self._change(incident, reminded_at=self.now)

    def _end(self) -> None:
        """Notify of recoveries. What the fleet's incident suppressed ends with it, or has messages of its own then."""
        over = [
            incident
            for incident in self.incidents
            if incident.closed is not None and not incident.alert.resolution_notified
        ]
        notified = [incident for incident in over if self._end_severity(incident)]
        back = {incident.key for incident in self.open}
        # good news waits for more of it, unless bad news of the same is about to overtake it
        if not any(self.now - (incident.closed or 0.0) >= GROUP or incident.key in back for incident in notified):
            over = [incident for incident in over if incident not in notified]
            notified = []
        for severity in (URGENT, NOTICE):
            self._resolve(severity, [incident for incident in notified if self._end_severity(incident) == severity])
        self._resolve(URGENT, [incident for incident in notified if incident.alert.escalated_at], escalation=True)
        for incident in over:
            self._change(incident, resolution_notified=True)
        if any(incident.key == "fleet" for incident in over):
            for incident in self.open:
                if incident.alert.suppressed:
                    # named in the fleet's recovery as still wrong: so it was notified
                    level = incident.severity if incident.severity != PAGE else ""
                    self._change(incident, suppressed=False, notified=level, notified_at=self.now, reminded_at=self.now)

    def _resolve(self, severity: str, chosen: Sequence[Incident], escalation: bool = False) -> None:
        if chosen:
            titles = [_resolution(self.settings, self.open, incident) for incident in chosen]
            message = texts.compose(self.settings.name, "OK", titles, _numbers(chosen), _hosts(chosen))
            numbers = tuple(incident.number for incident in chosen)
            self.result.drafts.append(Draft("closed", severity, message, numbers, escalation))

    def _end_severity(self, incident: Incident) -> str:
        """The severity at which an incident's end is notified, or nothing."""
        if incident.number in self.silenced:
            return ""
        # the monitor probes again, and too few accept mail: that is a message by itself
        if incident.key == "unknown:fleet" and any(other.key == "fleet" for other in self.open):
            return ""
        return incident.alert.notified or (NOTICE if incident.kind == CONNECTIVITY else "")

    def _draft(self, kind: str, severity: str, chosen: Sequence[Incident], tail: str) -> None:
        """A message about what is wrong."""
        mark = {"reminder": "REMINDER", "escalation": "ESCALATION"}.get(kind, MARKS[severity])
        titles = [incident.title for incident in chosen]
        message = texts.compose(self.settings.name, mark, titles, f"{tail} {_numbers(chosen)}", _hosts(chosen))
        numbers = tuple(incident.number for incident in chosen)
        self.result.drafts.append(Draft(kind, severity, message, numbers, kind == "escalation"))


def _resolution(settings: Settings, still: Sequence[Incident], incident: Incident) -> str:
    """The text for an incident that is over: well again, or what is still wrong there."""
    lasted = text.span(max(0.0, (incident.closed or incident.opened) - incident.opened))
    if incident.kind == CONNECTIVITY:
        return f"{settings.host} was offline for {lasted} and saw nothing meanwhile"
    if incident.kind == "fleet":
        left = dict.fromkeys(other.host for other in still if other.alert.suppressed)
        rest = f", still wrong: {', '.join(left)}" if left else ""
        return f"enough MX accept mail again after {lasted}{rest}"
    if incident.kind == "unknown":
        return f"{settings.host} probes again after {lasted}: enough MX accept mail"
    if incident.kind == "internal":
        return f"{settings.host} keeps up again after {lasted}"
    # a host that answers may have a service that doesn't, and a service that answers another fault
    subject = incident.key.partition(":")[2]
    watched = {service.subject for host in settings.hosts for service in host.services}
    watched.update(host.name for host in settings.hosts)
    if incident.kind != "check" and subject not in watched:
        return f"{_subject(incident)} no longer watched"
    notified = [other for other in still if other.severity != PAGE]
    well = all(subject not in (other.host, other.key.partition(":")[2]) for other in notified)
    rest = "answers again" if incident.kind == "host" else "better"
    return f"{_subject(incident)} {'well again' if well else rest} after {lasted}"


def _subject(incident: Incident) -> str:
    return incident.key.partition(":")[2].replace("/", " ") or incident.key


def _hosts(chosen: Sequence[Incident]) -> list[str]:
    """Of each incident the host, or its key where it has none."""
    return [incident.host or _subject(incident) for incident in chosen]


def _numbers(chosen: Sequence[Incident]) -> str:
    shown = [f"#{incident.number}" for incident in chosen[:3]]
    return ",".join(shown) + ("+" if len(chosen) > 3 else "")
