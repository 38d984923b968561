"""Open, change and close incidents as problems come and go, and notify operators of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mf import text

from . import journal, texts
from .judging.problems import View
from .judging.severity import NOTICE, Problem
from .notifying import alerts, queue
from .notifying.alerts import Alert, Incident
from .settings import Settings
from .store import Silence, Store

END_IS_NEWS = 86400.0  # seconds; a monitor that was away for longer doesn't notify of ends from before


@dataclass(frozen=True, slots=True)
class Update:
    """Result of a transaction: open incidents, those whose end is still to be notified, whether it queued."""

    open: dict[str, Incident]
    ended: list[Incident]
    queued: bool


class Incidents:
    """The open incidents by key, those whose end is still to be notified, and silences."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.open: dict[str, Incident] = {}
        self.ended: list[Incident] = []
        self.silences: list[Silence] = []

    def load(self, store: Store, now: float) -> None:
        """Read incidents and silences from disk: an operator may have changed them."""
        records = [Incident.of(row) for row in store.incidents.load(since=now - END_IS_NEWS)]
        self.open = {record.key: record for record in records if record.closed is None}
        self.ended = [
            incident for incident in records if incident.closed is not None and not incident.alert.resolution_notified
        ]
        self.silences = store.incidents.silences(now)

    def refill(self, store: Store) -> None:
        """Write silences into a new file; incidents are opened again by the next update."""
        self.open, self.ended = {}, []
        for silence in self.silences:
            store.incidents.add_silence(silence.pattern, silence.until, silence.reason, silence.by, silence.created)

    def note_damage(self, store: Store, now: float) -> None:
        """Record and notify that a damaged file was moved aside: an incident that begins and ends at once."""
        title, store.damage = store.damage, ""
        if not title:
            return
        journal.log(title)
        number = store.incidents.open("internal:database", "internal", "", "", NOTICE, title, now)
        store.incidents.add_event(number, now, "opened", title)
        alert = Alert(noticed=now, notified=NOTICE, notified_at=now, resolution_notified=True)
        store.incidents.set(number, NOTICE, title, alert.as_json())
        store.incidents.close(number, now)
        message = texts.compose(self._settings.name, "", [f"{self._settings.host}: {title}"], f"#{number}")
        queue.enqueue(store, self._settings, now, "opened", NOTICE, message, (number,))

    def update(self, store: Store, view: View, now: float) -> Update:
        """Reconcile incidents with problems, and queue messages. Takes effect here with ``take``, once committed."""
        records = {key: replace(record) for key, record in self.open.items()}
        flapping = self._reconcile(store, view, records, now)
        first = [records[key] for key in view.problems]
        rest = [record for key, record in records.items() if key not in view.problems]
        everything = [*first, *rest, *(replace(record) for record in self.ended)]
        queued = self._notify(store, everything, flapping, view.behind, now)
        return Update(
            {record.key: record for record in everything if record.closed is None},
            [record for record in everything if record.closed is not None and not record.alert.resolution_notified],
            queued,
        )

    def take(self, update: Update) -> None:
        """Adopt the committed update."""
        self.open, self.ended = update.open, update.ended

    def _reconcile(self, store: Store, view: View, records: dict[str, Incident], now: float) -> set[str]:
        """Open, change and close ``records``; the keys of those that flap."""
        for key, problem in view.problems.items():
            if key not in records:
                records[key] = self._open(store, problem, now)
            record = records[key]
            alert = fresh_alert(record.alert, problem)
            if (problem.severity, problem.title, alert) != (record.severity, record.title, record.alert):
                if problem.severity != record.severity or problem.flapping != record.alert.flapping:
                    store.incidents.add_event(record.number, now, "changed", problem.title)
                record.severity, record.title, record.alert = problem.severity, problem.title, alert
                store.incidents.set(record.number, record.severity, record.title, alert.as_json())
        for key, record in records.items():
            if key not in view.problems and key not in view.behind:
                record.closed = now
                store.incidents.close(record.number, now)
                lasted = text.span(max(0.0, now - record.opened))
                store.incidents.add_event(record.number, now, "closed", f"over after {lasted}")
                journal.log(f"#{record.number} over: {record.title}")
        return {key for key, problem in view.problems.items() if problem.flapping}

    def _open(self, store: Store, problem: Problem, now: float) -> Incident:
        key, kind, host, severity, title = problem.key, problem.kind, problem.host, problem.severity, problem.title
        opened = problem.since or now
        number = store.incidents.open(key, kind, host, problem.service, severity, title, opened)
        store.incidents.add_event(number, now, "opened", title)
        journal.log(f"#{number} {severity}: {title}")
        return Incident(number, key, kind, host, severity, title, opened, Alert(noticed=now), problem.service)

    def _notify(
        self, store: Store, records: list[Incident], flapping: set[str], behind: frozenset[str], now: float
    ) -> bool:
        """Queue the messages that are due, and change the incidents accordingly; whether anything was queued."""
        for record in records:
            until, is_open = record.ack_until, record.closed is None
            record.acked = record.acked_at is not None and (until is None or until > now)
            record.ack_ended = until if until is not None and until <= now else 0.0
            record.flapping = is_open and record.key in flapping
            record.behind = is_open and record.key in behind
        plan = alerts.plan(self._settings, records, self.silences, now)
        for record in records:
            if record.number in plan.alerts:
                record.alert = plan.alerts[record.number]
                store.incidents.set(record.number, record.severity, record.title, record.alert.as_json())
            if record.number in plan.void:
                record.acked_at = record.ack_until = None
                store.incidents.end_acknowledgement(record.number)
                store.incidents.add_event(record.number, now, "unacked", "it has grown worse")
        for draft in plan.drafts:
            queue.enqueue(
                store,
                self._settings,
                now,
                draft.kind,
                draft.severity,
                draft.text,
                draft.incidents,
                escalation=draft.escalation,
            )
        tested = queue.enqueue_weekly_test(store, self._settings, now)
        named = queue.enqueue_held_back(store, self._settings, now)
        return bool(plan.drafts) or tested or named


def fresh_alert(alert: Alert, problem: Problem) -> Alert:
    """An incident's alert with what its problem is now."""
    return replace(
        alert,
        about=problem.about,
        held_since=problem.since if problem.kind == "throttled" else 0.0,
        level=problem.level,
        stays_since=problem.since if alert.flapping and not problem.flapping else 0.0,
        stays_notified=alert.stays_notified and not problem.flapping,
    )
