"""Read from the store everything that the page shows. It counts, and judges nothing itself. Types: ``model``."""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from mf.health_record import Check
from mf.state import UNKNOWN

from .. import settings as settings_
from .. import store as store_
from .. import texts
from ..judging import states
from ..judging.problems import Maintenance
from ..judging.states import SubjectState
from ..store.current import HostHealth, StoredState
from ..store.history import STATES, Bucket, Day
from ..store.incidents import Event, StoredIncident
from . import model

HISTORY_DAYS = 90
LATENCY_SPAN = 86400
RECENT = 14 * 86400
# What a day is called after, gravest first, and from how many seconds on: a lost packet doesn't colour a day.
GRAVE = (("down", 60.0), ("throttled", 60.0), ("warning", 600.0), ("maintenance", 60.0))
# fields that a host's health and the page have in common
SHARED = ("load1", "throttled", "refusing", "held", "leases", "queue", "accepting", "uptime_seconds", "problems")
BACKUP_CHECK, CANARY_CHECK = "backup", "canary"


def take(store: store_.Store, settings: settings_.Settings, now: float) -> model.Snapshot:
    """The snapshot, from one consistent view of the store."""
    with store.reading():
        current = store.current.load()
        health = store.current.health()
        last = int(now // store_.DAY)
        days = store.history.days(last - HISTORY_DAYS + 1, last)
        latency = store.history.latency(now - LATENCY_SPAN)
        incidents = store.incidents.load(since=now - RECENT)
        events = store.incidents.events([incident.id for incident in incidents])
        silences = store.incidents.silences(now)
        messages = store.messages.newest(200)
        heartbeat = store.get("heartbeat")
    shown = [_incident(stored, events[stored.id], silences, now) for stored in incidents]
    own = {
        host.name: known
        for host in settings.hosts
        if host.health and (known := _health(health.get(host.name), now, settings.interval))
    }
    control = {host.name: own[host.name] for host in settings.hosts if host.role == "control" and host.name in own}
    canary = _canary(control, health, [host.name for host in settings.hosts if host.health])
    backups = _backups(own, health)
    limit = states.patience(settings.interval, settings.timeout)
    connectivity = _probed(current.get(states.CONNECTIVITY), now, limit)
    probed = max((row.checked for row in current.values()), default=None)
    # why nothing is known of the whole fleet, or empty
    gone = "the monitor is offline" if connectivity.state == states.DOWN else ""
    if probed is not None and now - probed > limit:
        gone = f"nothing was probed since {texts.clock(probed)}"
    reader = _Reader(current, days, latency, settings, now, gone)
    hosts = [
        reader.host(host, own.get(host.name), canary.get(host.name), backups.get(host.name)) for host in settings.hosts
    ]
    return model.Snapshot(
        version=1,
        generated=now,
        interval=settings.interval,
        stale_after=max(30.0, 2.5 * settings.interval),
        name=settings.name,
        monitor=settings.host,
        fleet=reader.fleet(hosts),
        connectivity=model.Connectivity(connectivity.state, connectivity.since, connectivity.message),
        hosts=hosts,
        incidents=model.Incidents(
            open=[incident for incident in shown if incident.closed is None],
            recent=[incident for incident in shown if incident.closed is not None],
        ),
        silences=silences,
        heartbeat=_heartbeat(heartbeat),
        test_message=_test(messages),
        messages=_messages(messages, settings),
    )


def _subject(stored: StoredState | None, now: float) -> SubjectState:
    """A subject as stored; unknown when it has no result yet."""
    if stored is None:
        return SubjectState(since=now, message="not probed yet")
    return SubjectState.of({**stored.memory, **stored._asdict()})


def _probed(stored: StoredState | None, now: float, limit: float) -> SubjectState:
    """A subject that is probed; its state is unknown when its last probe is older than ``limit`` seconds."""
    current = _subject(stored, now)
    state, message = states.shown(current, now, limit)
    return replace(current, state=state, message=message, latency=current.latency if state == current.state else None)


@dataclass(frozen=True, slots=True)
class _Reader:
    """What is stored of all subjects, and as what it may be shown now. ``gone``: why nothing is known, or nothing."""

    current: Mapping[str, StoredState]
    days: Mapping[str, Sequence[Day]]
    latency: Mapping[str, Sequence[Bucket]]
    settings: settings_.Settings
    now: float
    gone: str

    def _judged(self, name: str) -> SubjectState:
        """The state of a host or of the fleet, which the engine has judged with time in mind."""
        return self._gone(_subject(self.current.get(name), self.now))

    def _gone(self, row: SubjectState) -> SubjectState:
        if self.gone and row.state != states.UNKNOWN:
            return replace(row, state=states.UNKNOWN, message=f"not known: {self.gone}", latency=None)
        return row

    def _service(self, service: settings_.Service) -> model.Service:
        limit = states.patience(service.interval, self.settings.timeout)
        row = self._gone(_probed(self.current.get(service.subject), self.now, limit))
        return model.Service(
            name=service.name,
            kind=service.kind,
            port=service.port,
            state=row.state,
            since=row.since,
            checked=row.checked or None,
            latency_ms=None if row.latency is None else round(row.latency, 2),
            message=row.message,
            soft=bool(row.soft),
            flapping=bool(row.flapping),
            expires=row.expires,
            days=self._days(service.subject),
            latency=[_bucket(bucket) for bucket in self.latency.get(service.subject, ())],
        )

    def _days(self, subject: str) -> list[model.Day | None]:
        by, last = {row.day: row for row in self.days.get(subject, ())}, int(self.now // store_.DAY)
        return [_day(by.get(day), self.now) for day in range(last - HISTORY_DAYS + 1, last + 1)]

    def host(
        self,
        host: settings_.Host,
        health: model.Health | None,
        canary: model.Canary | None,
        backups: model.Backups | None,
    ) -> model.Host:
        """A host with its services."""
        own, stored = self._judged(host.name), self.current.get(host.name)
        maintenance = stored.memory.get("maintenance") if stored else None
        services = [self._service(service) for service in host.services]
        return model.Host(
            name=host.name,
            role=host.role,
            provider=host.provider,
            location=host.location,
            address=host.address,
            state=own.state,
            since=own.since,
            message=own.message,
            flapping=any(service.flapping for service in services),
            maintenance=Maintenance(**maintenance) if maintenance else None,
            services=services,
            health=health,
            canary=canary,
            backups=backups,
            days=self._days(host.name),
        )

    def fleet(self, hosts: Sequence[model.Host]) -> model.Fleet:
        """The fleet, and how many of its hosts are up."""
        row, stored = self._judged("fleet"), self.current.get("fleet")
        sentence = f"Nothing is known at the moment: {self.gone}." if self.gone else row.message
        machines = [host for host in hosts if host.role != "dns"]
        return model.Fleet(
            state=row.state,
            since=row.since if stored else None,
            sentence=sentence if stored else "Nothing has been probed yet.",
            accepting=stored.memory.get("accepting", 0) if stored and row.state != states.UNKNOWN else None,
            mxs=len(self.settings.mxs),
            min_accepting=self.settings.min_accepting,
            hosts=len(machines),
            hosts_up=sum(host.state in ("up", "warning", "throttled") for host in machines),
            days=self._days("fleet"),
        )


def _bucket(row: Bucket) -> list[float | None]:
    mean, most = (round(row.ms / row.timed, 2), round(row.ms_max, 2)) if row.timed else (None, None)
    return [row.start, mean, most, row.looks, row.bad]


def _day(row: Day | None, now: float) -> model.Day | None:
    if row is None:
        return None
    known = row.up + row.warning + row.throttled + row.down
    so_far = min(store_.DAY, now - row.day * store_.DAY)
    return model.Day(
        day=time.strftime("%Y-%m-%d", time.gmtime(row.day * store_.DAY)),
        state=next((name for name, least in GRAVE if getattr(row, name) >= least), "up" if known else "unknown"),
        up=round(1 - row.down / known, 5) if known else None,
        **{f"{state}_seconds": round(getattr(row, state)) for state in STATES},
        unmeasured_seconds=max(0, round(so_far - known - row.maintenance)),
        mean_ms=round(row.ms / row.timed, 2) if row.timed else None,
    )


def _health(stored: HostHealth | None, now: float, interval: float) -> model.Health | None:
    if stored is None or stored.record is None or stored.read is None:
        return None
    record, age = stored.record, now - stored.read
    fresh = stored.ok and age <= 3 * interval + 30
    return model.Health(
        read=stored.read,
        age_seconds=round(age, 1),
        fresh=fresh,
        ok=stored.ok,
        message=stored.message,
        status=record.status if fresh else UNKNOWN,
        **{name: getattr(record, name) for name in SHARED},
        checks=[
            model.Check(
                name=name,
                status=check.status if fresh else UNKNOWN,
                summary=check.summary,
                age_seconds=None if check.age_seconds is None else round(check.age_seconds + age, 1),
                since=check.since,
                metrics=dict(check.metrics),
            )
            for name, check in record.checks.items()
        ],
    )


def _backups(hosts: Mapping[str, model.Health], health: Mapping[str, HostHealth]) -> dict[str, model.Backups]:
    """Backups by host, from its check ``backup``."""
    by = {}
    for host, check, read in _checks(hosts, health, BACKUP_CHECK):
        age = read.metric("dump_age_seconds")
        age = read.metric("full_age_seconds") if age is None else age
        by[host] = model.Backups(_older(age, check), check.status, check.summary)
    return by


def _canary(
    control: Mapping[str, model.Health], health: Mapping[str, HostHealth], hosts: Iterable[str]
) -> dict[str, model.Canary]:
    """By MX, its canaries, from the check ``canary`` on a control machine only."""
    by = {}
    for _, check, read in _checks(control, health, CANARY_CHECK):
        for host in hosts:
            took = [read.metric(f"{host.lower()}_{kind}_seconds") for kind in ("spam", "ham")]
            age = read.metric(f"{host.lower()}_age_seconds")
            if age is not None:
                seconds = max((value for value in took if value is not None), default=None)
                by[host] = model.Canary(seconds, _older(age, check), check.status, check.summary)
    return by


def _checks(
    hosts: Mapping[str, model.Health], health: Mapping[str, HostHealth], name: str
) -> list[tuple[str, model.Check, Check]]:
    """A check by host: as it is shown, and as it was read."""
    return [
        (host, check, record.checks[name])
        for host, shown in hosts.items()
        for check in shown.checks
        if check.name == name and (record := health[host].record)
    ]


def _older(age: float | None, check: model.Check) -> float | None:
    """An age as it is now: the check reported it when it ran."""
    return None if age is None else round(age + (check.age_seconds or 0.0), 1)


def _incident(
    stored: StoredIncident, timeline: Iterable[Event], silences: Iterable[store_.Silence], now: float
) -> model.Incident:
    acked = stored.acked is not None and (stored.ack_until is None or stored.ack_until > now)
    silenced = any(fnmatch.fnmatchcase(stored.key, silence.pattern) for silence in silences)
    kept = {key: value for key, value in stored._asdict().items() if key != "alert"}
    events = [model.Event(*event) for event in timeline]
    return model.Incident(**{**kept, "acked": acked, "silenced": silenced, "timeline": events})


def _heartbeat(stored: str) -> model.Sent | None:
    """The last call of the dead man's switch, stored as ``TIME 1`` or ``TIME 0``."""
    moment, _, good = stored.partition(" ")
    return model.Sent(float(moment), good == "1") if moment else None


def _test(messages: Iterable[store_.Message]) -> model.Sent | None:
    """The last test message, weekly or by command."""
    for message in messages:
        if message.kind == "test":
            return model.Sent(message.created, message.status == store_.SENT)
    return None


def _channel(name: str, messages: Iterable[store_.Message]) -> model.Channel:
    own = [message for message in messages if message.channel == name]
    tried = next((message for message in own if message.attempts), None)
    sent = next((message for message in own if message.status == store_.SENT), None)
    return model.Channel(
        name=name,
        ok=None if tried is None else tried.status == store_.SENT,
        last=sent.finished if sent else None,
        waiting=sum(message.status in (store_.QUEUED, store_.SENDING) for message in own),
    )


def _messages(messages: Sequence[store_.Message], settings: settings_.Settings) -> model.Messages:
    waiting = [message for message in messages if message.status in (store_.QUEUED, store_.SENDING)]
    keys = ("channel", "kind", "severity", "text", "status", "attempts", "finished", "error", "incidents", "repeat")
    return model.Messages(
        waiting=len(waiting),
        failing=sum(message.attempts > 0 for message in waiting),
        channels=[_channel(channel.name, messages) for channel in settings.channels],
        recent=[
            model.Message(at=message.created, **{key: getattr(message, key) for key in keys})
            for message in messages[:20]
        ],
    )
