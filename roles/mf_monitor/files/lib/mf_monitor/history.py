"""Store results: the states of subjects, hosts and the fleet, time by state, latency in buckets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict

from .judging import problems, states
from .judging.problems import HostView, View
from .judging.states import CONNECTIVITY, DOWN, UNKNOWN, ProbeResult, SubjectState
from .recorder import Batch
from .settings import Settings
from .store import Store
from .store.current import Row
from .store.history import Time
from .subjects import Subjects

PRUNE_EVERY = 3600.0  # seconds
LATE = 60.0  # seconds more than that the hosts' time isn't counted


def rows(subjects: Mapping[str, SubjectState], names: Iterable[str]) -> list[Row]:
    """States of subjects as they are stored."""
    stored: list[Row] = []
    for name in names:
        current = subjects[name]
        since = current.since or current.checked
        message = current.message
        stored.append((name, current.state, since, current.checked, current.latency, message, current.as_json()))
    return stored


class History:
    """Counts time by state, and remembers what is stored of hosts and fleet: that is written when it changes only."""

    def __init__(self, settings: Settings, intervals: Mapping[str, float]) -> None:
        self._settings = settings
        self._intervals = intervals
        self._counted: dict[str, float] = {}
        self._hosts_at = 0.0
        self._pruned = 0.0
        self._shown: dict[str, tuple[tuple[object, ...], float]] = {}  # as it is stored, and since when

    def forget(self) -> None:
        """Write hosts and fleet again next time: what was written may be lost."""
        self._shown = {}

    def times(
        self,
        view: View,
        results: list[ProbeResult],
        subjects: Subjects,
        now: float,
    ) -> list[Time]:
        """Seconds by state since each subject was last counted."""
        settings = self._settings
        most = 3 * settings.interval + settings.timeout
        times: list[Time] = []
        for result in results:
            name, at = result.subject, result.finished
            interval = self._intervals.get(name, settings.interval)
            last = self._counted.get(name)
            self._counted[name] = at
            if last is None or not 0 < at - last <= max(most, 2 * interval):
                continue
            state = UNKNOWN
            if not subjects.offline or name == CONNECTIVITY:
                state = states.shown(subjects.states[name], at, states.patience(interval, settings.timeout))[0]
            if name.partition("/")[0] in subjects.maintenance and state == DOWN:
                state = problems.MAINTENANCE
            times.append((name, at, state, at - last, result.latency))
        span = now - self._hosts_at
        if span >= min(60.0, settings.interval):
            if self._hosts_at and span <= most + LATE:
                hosts = view.hosts.items()
                times += [(name, now, UNKNOWN if subjects.offline else host.state, span, None) for name, host in hosts]
                times.append(("fleet", now, view.state, span, None))
            self._hosts_at = now
        return times

    def store(self, store: Store, batch: Batch, view: View, subjects: Mapping[str, SubjectState], now: float) -> None:
        """Write a batch, and what is shown of hosts and fleet."""
        store.current.set([*rows(subjects, batch.changed), *self._views(store, view, now)])
        store.history.add_results(
            (result.subject, result.finished, result.state == DOWN, result.latency)
            for result in batch.results
            if result.state != UNKNOWN
        )
        store.history.add_time(batch.times)
        for reading in batch.readings:
            record = None if reading.record is None else reading.record.as_json()
            store.current.set_health(reading.host, reading.finished, record is not None, reading.message, record)
        if abs(now - self._pruned) > PRUNE_EVERY:
            self._pruned = now
            store.prune(now)

    def _views(self, store: Store, view: View, now: float) -> list[Row]:
        """Hosts and fleet whose state, message, maintenance or number of accepting MXs changed."""
        changed: list[Row] = []
        offline = view.state == UNKNOWN and CONNECTIVITY in view.problems
        fleet = HostView(view.state, view.sentence, None, None)
        for name, host in [*view.hosts.items(), ("fleet", fleet)]:
            state = UNKNOWN if offline and name != "fleet" else host.state
            until = host.maintenance.until if host.maintenance else None
            key = (state, host.message, until, view.accepting)
            before = self._shown.get(name)
            if before is not None and before[0] == key:
                continue
            since = now
            if before is not None and before[0][0] == state:
                since = before[1]
            elif before is None and (stored := store.current.since(name)) and stored[0] == state:
                since = stored[1]
            self._shown[name] = (key, since)
            details = {"maintenance": host.maintenance and asdict(host.maintenance), "accepting": view.accepting}
            changed.append((name, state, since, now, None, host.message, details))
        return changed
