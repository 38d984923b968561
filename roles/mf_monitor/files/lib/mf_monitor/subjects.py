"""The current state of every subject, hosts in maintenance, and which checks of a host are subjects."""

from __future__ import annotations

from dataclasses import replace

from .judging import health, states
from .judging.health import Reading
from .judging.problems import Maintenance
from .judging.states import CONNECTIVITY, DOWN, UNKNOWN, ProbeResult, SubjectState
from .settings import Settings
from .store import Store, former


class Subjects:
    """``states`` by subject, ``maintenance`` by host."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._hosts = {host.name: host for host in settings.hosts}
        self._services = {service.subject for host in settings.hosts for service in host.services}
        self._known_checks: dict[str, set[str]] = {}  # by host
        self.states: dict[str, SubjectState] = {}
        self.maintenance: dict[str, Maintenance] = {}

    def restore(self, store: Store) -> None:
        """Load what is on disk, and delete there what isn't monitored any more."""
        former.adopt(store, self._settings)
        rows = store.current.load()
        read = {host: last.record for host, last in store.current.health().items() if last.ok and last.record}
        checks = health.known_checks(self._settings, rows, read)
        watched = {*self._services, *checks, CONNECTIVITY}
        store.current.forget([name for name in rows if name not in {*watched, *self._hosts, "fleet"}])
        for name, row in rows.items():
            if name in watched:
                self.states[name] = SubjectState.of(row.memory)
                host, _, check = name.partition(f"/{health.CHECK}")
                if check:
                    self._known_checks.setdefault(host, set()).add(check)
            elif name in self._hosts and row.memory.get("maintenance"):
                self.maintenance[name] = Maintenance(**row.memory["maintenance"])

    @property
    def offline(self) -> bool:
        """Whether this monitor is known to be cut off."""
        return self.states.get(CONNECTIVITY, SubjectState()).state == DOWN

    def ingest_health(self, reading: Reading) -> list[ProbeResult]:
        """Results from a reading. Its maintenance is kept until its end: a host that reboots can't report it."""
        name, record = reading.host, reading.record
        known = self._known_checks.setdefault(name, set())
        results = health.results(reading, health.vital(self._settings, self._hosts[name]), known)
        prefix = health.check_subject(name, "")
        known.update(result.subject.removeprefix(prefix) for result in results if result.subject.startswith(prefix))
        if record is not None:
            self.maintenance.pop(name, None)
            if at_work := record.maintenance:
                until = reading.finished + at_work.left_seconds
                self.maintenance[name] = Maintenance(at_work.owner, at_work.reason, until)
        return results

    def end_maintenance(self, now: float) -> None:
        """Drop maintenance whose end has passed."""
        self.maintenance = {host: work for host, work in self.maintenance.items() if work.until > now}

    def advance(self, result: ProbeResult, offline: bool) -> tuple[SubjectState, ProbeResult]:
        """Advance a subject's state; the state before, and the result as it counts: nothing is seen while offline."""
        name = result.subject
        before = self.states.get(name, SubjectState())
        if offline and name != CONNECTIVITY:
            result = replace(result, state=UNKNOWN)
        self.states[name] = states.advance(before, result, self._settings)
        return before, result
