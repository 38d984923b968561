"""The monitor at work: looks when it's time, judges what came in, stores and tells it in one transaction.

::

    scheduler ─→ probes, uplink, hosthealth ─→ looks ─→ judge ─→ one transaction ─→ outbox, page, heartbeat

All decisions are in ``states``, ``causes`` and ``alerts``; here are clocks, sockets and order. State changes, the
incidents they open or close and the messages about them are committed together: after kill -9 either all of it has
happened or none, and the next look finds the rest.
"""

from __future__ import annotations

import asyncio
import heapq
import importlib
import json
import math
import os
import socket
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, TypeVar

from mf import text

from . import texts
from .judging import former, problems, states
from .judging.problems import View
from .judging.severity import NOTICE, URGENT, Problem
from .judging.states import DOWN, SILENT, THROTTLED, UNKNOWN, ProbeResult, SubjectState
from .notifying import alerts
from .notifying.alerts import Alert, Incident
from .notifying.outbox import Outbox, awaken
from .page import snapshot
from .probing import hosthealth, probes
from .probing.connectivity import ConnectivityCheck
from .settings import Host, Service, Settings, place, weekly
from .store import HELD_BACK, QUEUED, Store, damaged, refuses

T = TypeVar("T")
Row: TypeAlias = tuple[str, str, float, float, float | None, str, Mapping[str, Any]]  # see Store.set_current
Time: TypeAlias = tuple[str, float, str, float, float | None]  # see Store.add_time

AT_ONCE = 1000  # probes under way; 10 % dead hosts of 1,000 hold 400 of them for one timeout
CALM = 50  # times the CPU that judging took are let pass before it is done again: 2 % of a core
LAG = 1.0  # seconds a look's end came too late: what was silent meanwhile proves nothing
BLIND = 10  # looks in a row that proved nothing are told
PAGE_EVERY = 5.0  # seconds, at most so often; a large fleet's page seldomer, but once in an interval
MOST_KEPT = 200_000  # looks and times that couldn't be stored
END_IS_NEWS = 86400.0  # seconds; a monitor that was away for longer doesn't tell ends from before
PEERS = 30  # machines of the same role that are looked at as soon as one turns
TOO_SOON = 0.1  # intervals between a look out of turn and the next in turn
WELL, OFFLINE = "well", "offline"


@dataclass(slots=True)
class Batch:
    """What is to be stored: looks, readings of health, the subjects that changed, times by state."""

    results: list[ProbeResult] = field(default_factory=list)
    readings: list[hosthealth.Reading] = field(default_factory=list)
    changed: set[str] = field(default_factory=set)
    times: list[Time] = field(default_factory=list)

    def add(
        self, results: list[ProbeResult], readings: list[hosthealth.Reading], changed: set[str], times: list[Time]
    ) -> None:
        """More of it. What is too much is dropped, oldest first; of readings the newest of each host counts."""
        self.results = [*self.results, *results][-MOST_KEPT:]
        self.readings = list({one.host: one for one in [*self.readings, *readings]}.values())
        self.changed |= changed
        self.times = [*self.times, *times][-MOST_KEPT:]


class Engine:
    """One monitor. ``await run()`` until it is cancelled."""

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.time,
        sender: tuple[str, ...] = (),
        ready: Callable[[str], None] = lambda message: None,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.world = replace(probes.World.of(settings), clock=clock)
        self.ready = ready
        self.services: dict[str, Service] = {one.subject: one for host in settings.hosts for one in host.services}
        self.hosts = {host.name: host for host in settings.hosts}
        self.subjects: dict[str, SubjectState] = {}
        self.health: dict[str, dict[str, Any]] = {}
        self.maintenance: dict[str, dict[str, Any]] = {}
        self.incidents: dict[str, dict[str, Any]] = {}
        self.ended: list[dict[str, Any]] = []  # incidents of which the end is still to be told
        self.silences: list[dict[str, Any]] = []
        self.view: View | None = None
        self._complained: dict[str, set[str]] = {}  # checks with a memory, by host
        self._looks: list[ProbeResult] = []
        self._latest: dict[str, tuple[float, hosthealth.Reading]] = {}  # when it began, monotonic
        self._shown: dict[
            str, tuple[tuple[object, ...], float]
        ] = {}  # hosts and fleet as they are stored, and since when
        self._readings: list[hosthealth.Reading] = []
        self._news = asyncio.Event()
        self._due: list[tuple[float, str]] = []
        self._planned: dict[str, float] = {}
        self._phase: dict[str, float] = {}  # when each is looked at in turn, by which looks stay spread
        self._turn = asyncio.Event()
        self._flying: dict[str, asyncio.Task[None]] = {}
        self._room = asyncio.Semaphore(AT_ONCE)
        self._looked_at = time.monotonic()
        self._discarded = 0  # looks in a row that came too late
        self._slow_since = 0.0
        self._effort = 0.0  # CPU seconds of the last judgement
        self._counted: dict[str, float] = {}
        self._hosts_at = 0.0
        self._version = -1
        self._pruned = 0.0
        self._kept = Batch()  # what couldn't be stored yet
        self._cannot_store = ""
        self._said_directly: set[str] = set()
        self._direct: set[asyncio.Task[None]] = set()
        self._page_at = -PAGE_EVERY
        self._page_effort = 0.0  # CPU seconds of the last rendering
        self._page_trouble = ""
        self._page_task: asyncio.Task[None] | None = None
        self._beat_at = -3600.0
        self._thread = ThreadPoolExecutor(1, "store")
        self.connectivity = ConnectivityCheck(settings, self.world)
        self.reader = hosthealth.Reader(settings, clock) if settings.health else None
        self.store = Store(settings.database, now=clock())
        self.outbox = Outbox(settings.channels, f"{settings.name} monitor", self._stored, clock, sender, note=say)

    # --- life

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            await self._in_thread(self._restore)
        except sqlite3.Error as error:
            if not damaged(error):
                raise
            seen, message = self.store, str(error)
            await self._in_thread(lambda: self._renew(seen, message))
            await self._in_thread(self._restore)
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(one) for one in (self._schedule(), self._judge_for_ever(), self.outbox.run())]
        self._plan_all(time.monotonic())
        self.ready("READY=1")
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            ending = [*tasks, *self._flying.values(), *self._direct]
            for task in ending:
                task.cancel()
            await asyncio.gather(*ending, return_exceptions=True)
            self._thread.shutdown(wait=True)
            self.store.close()

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    async def _stored(self, function: Callable[[Store], T]) -> T:
        """Run a function of the store in one transaction, in the store's thread. A damaged file is replaced, once."""

        def work() -> T:
            with self.store.writing():
                return function(self.store)

        seen = self.store
        try:
            return await self._in_thread(work)
        except Exception as error:
            if not damaged(error):
                raise
            message = str(error)
        await self._in_thread(lambda: self._renew(seen, message))
        return await self._in_thread(work)

    def _renew(self, seen: Store, reason: str) -> None:
        """The file is damaged, whatever a check of it says: another one, with what is in memory; incidents open anew.

        ``seen``: the store that was found damaged; when it has been replaced since, nothing is to be done.
        """
        if self.store is not seen:
            return
        with suppress(Exception):
            seen.close()
        self.store = Store(self.settings.database, now=self.clock(), damage=reason)
        self.incidents = {}
        self.ended = []
        self._shown = {}
        self._version = -1
        with self.store.writing():
            self.store.current.set(self._rows(list(self.subjects)))
            for one in self.silences:
                self.store.incidents.add_silence(one["pattern"], one["until"], one["reason"], one["by"], one["created"])
        self._note_damage()

    def _rows(self, names: Iterable[str]) -> list[Row]:
        """Subjects' memories as they are stored."""
        rows: list[Row] = []
        for name in names:
            current = self.subjects[name]
            since = current.since or current.checked
            rows.append(
                (name, current.state, since, current.checked, current.latency, current.message, current.as_json())
            )
        return rows

    def _note_damage(self) -> None:
        if not self.store.damage:
            return
        say(self.store.damage)
        now = self.clock()
        with self.store.writing():
            number = self.store.incidents.open("internal:database", "internal", "", "", NOTICE, self.store.damage, now)
            self.store.incidents.add_event(number, now, "opened", self.store.damage)
            alert = Alert(noticed=now, notified=NOTICE, notified_at=now, resolution_notified=True)
            self.store.incidents.set(number, NOTICE, self.store.damage, alert.as_json())
            self.store.incidents.close(number, now)
            message = texts.compose(
                self.settings.name, "", [f"{self.settings.host}: {self.store.damage}"], f"#{number}"
            )
            self._enqueue(self.store, now, "opened", NOTICE, message, (number,), False)
        self.store.damage = ""

    def _restore(self) -> None:
        self._note_damage()
        now = self.clock()
        with self.store.writing():
            repeated = self.store.messages.recover(now)
            former.adopt(self.store, self.settings)
            rows = self.store.current.load()
            self.health = self.store.current.health()
            known = {*self.services, *self.hosts, "uplink", "fleet"}
            checks = {
                name
                for host in self.settings.hosts
                for name in rows
                if name == f"{host.name}/health"
                or (name.startswith(hosthealth.check_subject(host.name, "")) and self._still_has(host, name))
            }
            gone = [name for name in rows if name not in known | checks]
            self.store.current.forget(gone)
        if repeated:
            say(f"{repeated} messages may have been sent before a crash; they are sent again, marked")
        for name, row in rows.items():
            current = json.loads(row["memory"])
            if name in self.services or name == "uplink" or name in checks:
                self.subjects[name] = SubjectState.of(current)
                host, _, check = name.partition(f"/{hosthealth.CHECK}")
                if check:
                    self._complained.setdefault(host, set()).add(check)
            elif name in self.hosts and current.get("maintenance"):
                self.maintenance[name] = current["maintenance"]
        self._reload(self.store)

    def _still_has(self, host: Host, subject: str) -> bool:
        """Whether a host names a check still, or can't say."""
        check = subject.removeprefix(hosthealth.check_subject(host.name, ""))
        found = self.health.get(host.name)
        record = found["record"] if found is not None and found["ok"] else None
        return not record or not record["checks"] or check in record["checks"]

    def _reload(self, store: Store) -> None:
        """Incidents and silences as they are on disk: an operator may have changed them."""
        found = [
            {**one, "alert": Alert.of(one["alert"])} for one in store.incidents.load(since=self.clock() - END_IS_NEWS)
        ]
        self.incidents = {one["key"]: one for one in found if one["closed"] is None}
        self.ended = [one for one in found if one["closed"] is not None and not one["alert"].resolution_notified]
        self.silences = store.incidents.silences(self.clock())

    # --- when to look; all of it on the monotonic clock: the other one may be set back

    def _plan_all(self, now: float) -> None:
        subjects = [*sorted(self.services, key=probes.share), "uplink"]
        if self.reader is not None:
            subjects += [f"{host.name}/health" for host in self.settings.hosts if host.health]
        for number, name in enumerate(subjects):
            every = self._interval(name)
            first = self._phase[name] = now + every * (number + 0.5) / len(subjects)
            if self.subjects.get(name, SubjectState()).pending:
                first = now
            self._plan(name, first)
        self._plan("uplink", now)

    def _interval(self, name: str) -> float:
        return self.services[name].interval if name in self.services else self.settings.interval

    def _plan(self, name: str, at: float) -> None:
        """The next look; an earlier one that is planned already stands."""
        planned = self._planned.get(name)
        if planned is not None and planned <= at:
            return
        self._planned[name] = at
        heapq.heappush(self._due, (at, name))
        self._turn.set()

    async def _schedule(self) -> None:
        while True:
            now = time.monotonic()
            while self._due and self._due[0][0] <= now:
                at, name = heapq.heappop(self._due)
                if self._planned.get(name) != at:
                    continue  # there was an earlier one since
                if name in self._flying:
                    del self._planned[name]  # what is under way plans the next
                    continue
                del self._planned[name]
                task = asyncio.create_task(self._visit(name))
                self._flying[name] = task
            self._turn.clear()
            pause = min(1.0, max(0.0, self._due[0][0] - time.monotonic())) if self._due else 1.0
            if pause > 0:
                await awaken(self._turn, pause)
            else:
                await asyncio.sleep(0)

    async def _visit(self, name: str) -> None:
        try:
            async with self._room:
                if name == "uplink":
                    self._came(await self.connectivity.probe())
                elif name in self.services:
                    self._came(await self._look(self.services[name]))
                else:
                    await self._read(self.hosts[name.partition("/")[0]])
        except Exception as error:  # noqa: BLE001  (one bug must not end the watch; it is in the journal)
            say(f"a bug while looking at {name}: {type(error).__name__}: {error}")
        finally:
            del self._flying[name]
            self._plan(name, self._in_turn(name, time.monotonic()))

    def _in_turn(self, name: str, now: float) -> float:
        """The next look in turn, as if there had been none out of turn: what is hurried stays spread all the same."""
        every, phase = self._interval(name), self._phase[name]
        following = phase + every * math.ceil((now - phase) / every)
        return following if following - now > TOO_SOON * every else following + every

    async def _look(self, service: Service) -> ProbeResult:
        started = time.monotonic()
        result = await probes.probe(service, self.world)
        # what was held up before its end still had its time
        if result.reason == SILENT and time.monotonic() - started > self.settings.timeout + LAG:
            self._discarded += 1
            if self._discarded == 1:
                self._slow_since = result.started
            return replace(result, state=UNKNOWN, message="this monitor was too slow to judge")
        self._discarded = 0
        if result.state != DOWN:
            return result
        if result.reason == SILENT:
            verdict = await self.connectivity.after(started)
            if not verdict.up:
                self._plan("uplink", time.monotonic())
                return replace(result, state=UNKNOWN, message="this monitor is offline")
            if not verdict.reaches(service.address):
                return replace(result, state=UNKNOWN, message="no reference answers over this family of addresses")
        host = self.hosts[service.host]
        # a throttle refuses, it is never silent
        if service.kind == "smtp" and result.reason != SILENT and host.health and self.reader is not None:
            # refused by the host's own throttle? Only if it says so now.
            record = None
            with suppress(TimeoutError):
                async with asyncio.timeout(self.settings.timeout):
                    record = (await self._read(host, started)).record
            if record is not None and record["throttled"] and record["refusing"]:
                return replace(result, state=THROTTLED, message=_lease_words(record), reason="")
        return result

    async def _read(self, host: Host, since: float = 0.0) -> hosthealth.Reading:
        """The host's health, read now (or by somebody else since ``since``, on the monotonic clock)."""
        assert self.reader is not None
        latest = self._latest.get(host.name)
        if since and latest is not None and latest[0] >= since:
            return latest[1]
        started = time.monotonic()
        if not since and self._without_ssh(host):
            now = self.clock()
            reading = hosthealth.Reading(host.name, now, now, None, "its ssh does not answer")
        else:
            reading = await self.reader.read(host, asked=since > 0)
        if reading.record is None and not (await self.connectivity.after(started)).up:
            return reading
        self._latest[host.name] = started, reading
        self._readings.append(reading)
        self._news.set()
        return reading

    def _without_ssh(self, host: Host) -> bool:
        """Whether ssh there is silent by the last look at it: a read would hold its place for a whole timeout."""
        found = [self.subjects.get(one.subject, SubjectState()) for one in host.services if hosthealth.door(one, host)]
        return bool(found) and all(one.silent and DOWN in (one.state, one.pending) for one in found)

    def _came(self, result: ProbeResult) -> None:
        self._looked_at = time.monotonic()
        self._looks.append(result)
        self._news.set()

    # --- what to make of it

    async def _judge_for_ever(self) -> None:
        while True:
            await awaken(self._news, 1.0)
            self._news.clear()
            # what arrives together is judged together; the larger the fleet, the more is waited for, up to a second
            await asyncio.sleep(min(1.0, max(0.05, CALM * self._effort)))
            before = time.thread_time()
            await self._judge()
            self._effort = time.thread_time() - before
            self._sign()

    def _sign(self) -> None:
        """Signs of life, to systemd, the page and the dead man's switch: only while looks come in."""
        patience = 2.5 * self.settings.interval + self.settings.timeout + 30
        if time.monotonic() - self._looked_at > patience:
            return
        self.ready("WATCHDOG=1")
        self._show()
        self._beat()

    async def _judge(self) -> None:
        now = self.clock()
        results, self._looks = self._looks, []
        readings, self._readings = self._readings, []
        try:
            version = await self._stored(lambda store: store.data_version())
            if version != self._version:
                await self._stored(self._reload)
                self._version = version
        except sqlite3.Error as error:
            if not refuses(error):
                raise  # otherwise the transaction below says so
        for reading in readings:
            try:
                results.extend(self._heard(reading))
            except Exception as error:  # noqa: BLE001  (what one host says must not end the watch over the others)
                say(f"a bug with the health of {reading.host}: {type(error).__name__}: {error}")
        changed = self._advance(results)
        self.maintenance = {host: one for host, one in self.maintenance.items() if one["until"] > now}
        view = problems.judge(self.settings, self.subjects, self.maintenance, self.incidents, now)
        if self._discarded >= BLIND:
            title = f"monitor {self.settings.host} is too slow to judge what doesn't answer"
            slow = Problem("internal:slow", "internal", "", "", NOTICE, title, self._slow_since)
            view = replace(view, problems={**view.problems, slow.key: slow})
        self.view = view
        kept = self._kept
        kept.add(results, readings, changed, self._times(view, results, now))

        def work(store: Store) -> tuple[dict[str, Any], list[dict[str, Any]], bool]:
            self._store_looks(store, kept, view, now)
            # copies: what isn't committed hasn't happened
            held = {key: dict(one) for key, one in self.incidents.items()}
            incidents = self._reconcile(store, view, held, now)
            incidents += [(one, one["alert"], False) for one in map(dict, self.ended)]
            return self._tell(store, incidents, view.behind, now)

        try:
            self.incidents, self.ended, queued = await self._stored(work)
        except sqlite3.Error as error:
            if not refuses(error):
                raise
            self._shown = {}
            self._say_directly(view, str(error))
            return
        self._kept = Batch()
        if self._cannot_store:
            say("what is seen can be stored again")
            self._cannot_store = ""
            self._said_directly = set()
        if queued:
            self.outbox.wake.set()

    def _say_directly(self, view: View, reason: str) -> None:
        """Nothing can be stored, so nothing can be queued: that is said past the queue, and what is urgent as well."""
        first, self._cannot_store = not self._cannot_store, reason
        urgent = {key for key, one in view.problems.items() if one.severity == URGENT}
        fresh = urgent - self._said_directly
        if not first and not fresh:
            return
        self._said_directly |= urgent
        titles = [f"{self.settings.host} can't store what it sees ({text.clean(reason, 40)})"]
        titles += [view.problems[key].title for key in sorted(fresh)]
        message = texts.compose(self.settings.name, "URGENT", titles, "")
        say(message)
        task = asyncio.create_task(self.outbox.direct(URGENT, message))
        self._direct.add(task)
        task.add_done_callback(self._direct.discard)

    def _heard(self, reading: hosthealth.Reading) -> list[ProbeResult]:
        """Looks from a reading. The maintenance it tells of is kept until its end: a rebooting host says nothing."""
        name = reading.host
        vital = hosthealth.vital(self.settings, self.hosts[name])
        known = self._complained.setdefault(name, set())
        found = hosthealth.results(reading, vital, known)
        before = hosthealth.check_subject(name, "")
        known.update(one.subject.removeprefix(before) for one in found if one.subject.startswith(before))
        entry = self.health.setdefault(name, {"read": None})
        entry.update({"tried": reading.finished, "ok": reading.record is not None, "words": reading.message})
        if reading.record is not None:
            entry.update({"read": reading.finished, "record": reading.record})
            at_work = reading.record["maintenance"]
            if at_work:
                self.maintenance[name] = {
                    "owner": at_work["owner"],
                    "reason": at_work["reason"],
                    "until": reading.finished + at_work["left_seconds"],
                }
            else:
                self.maintenance.pop(name, None)
        return found

    def _advance(self, results: list[ProbeResult]) -> set[str]:
        changed = set()
        offline = self.subjects.get("uplink", SubjectState()).state == DOWN
        for result in results:
            before = self.subjects.get(result.subject, SubjectState())
            seen = replace(result, state=UNKNOWN) if offline and result.subject != "uplink" else result
            after = states.advance(before, seen, self.settings)
            self.subjects[result.subject] = after
            changed.add(result.subject)
            if states.wants_recheck(after):
                soon = 2.0 if result.subject == "uplink" else self.settings.recheck
                self._hurry(result.subject, time.monotonic() + min(soon, self._interval_of(result.subject)))
            if result.subject in self.services and _turns(before, seen):
                self._hurry_others(self.services[result.subject], seen)
        return changed

    def _interval_of(self, subject: str) -> float:
        return self._interval(subject if subject in self.services else "uplink")

    def _hurry(self, subject: str, at: float) -> None:
        """Look again soon. An urgent check is looked at by reading its host's health."""
        if subject in self.services or subject == "uplink":
            self._plan(subject, at)
        elif self.reader is not None:
            self._plan(f"{subject.partition('/')[0]}/health", at)

    def _hurry_others(self, service: Service, result: ProbeResult) -> None:
        """Something has begun to fail, or to work again, and is it alone? The host's other services show whether it's
        the host; its peers, those of the same provider first, whether it's one cause, to be told in one message."""
        host = self.hosts[service.host]
        others = [one for one in host.services if one.tells] if result.state == DOWN else []
        if service.tells:
            peers = [one for one in self.settings.hosts if one.role == host.role and one is not host]
            peers.sort(key=lambda one: one.provider != host.provider)
            others += [one for peer in peers[:PEERS] for one in peer.services if one.kind == service.kind]
        for other in others:
            current = self.subjects.get(other.subject, SubjectState())
            worth = result.state in (DOWN, THROTTLED) or current.state in (DOWN, THROTTLED)
            if other is not service and worth and current.checked < result.started:
                self._plan(other.subject, time.monotonic())

    def _times(self, view: View, results: list[ProbeResult], now: float) -> list[Time]:
        """Seconds by state since each subject was last counted."""
        most = 3 * self.settings.interval + self.settings.timeout
        offline = self.subjects.get("uplink", SubjectState()).state == DOWN
        rows = []
        for result in results:
            current = self.subjects[result.subject]
            host = result.subject.partition("/")[0]
            last = self._counted.get(result.subject)
            self._counted[result.subject] = result.finished
            longest = max(most, 2 * self._interval_of(result.subject))
            if last is None or not 0 < result.finished - last <= longest:
                continue
            limit = states.patience(self._interval_of(result.subject), self.settings.timeout)
            state = (
                UNKNOWN if offline and result.subject != "uplink" else states.shown(current, result.finished, limit)[0]
            )
            if host in self.maintenance and state == DOWN:
                state = problems.MAINTENANCE
            rows.append((result.subject, result.finished, state, result.finished - last, result.latency))
        if now - self._hosts_at >= min(60.0, self.settings.interval):
            span = now - self._hosts_at
            if self._hosts_at and span <= most + 60:
                rows += [(name, now, UNKNOWN if offline else one.state, span, None) for name, one in view.hosts.items()]
                rows.append(("fleet", now, view.state, span, None))
            self._hosts_at = now
        return rows

    def _store_looks(
        self,
        store: Store,
        kept: Batch,
        view: View,
        now: float,
    ) -> None:
        results, readings, changed, times = kept.results, kept.readings, kept.changed, kept.times
        rows = self._rows(changed)
        offline = view.state == UNKNOWN and "uplink" in view.problems
        for name, one in [
            *view.hosts.items(),
            ("fleet", problems.HostView(view.state, view.sentence, None, None)),
        ]:
            state = UNKNOWN if offline and name != "fleet" else one.state
            until = one.maintenance["until"] if one.maintenance else None
            key = (state, one.message, until, view.accepting)
            before = self._shown.get(name)
            if before is None or before[0] != key:
                since = before[1] if before is not None and before[0][0] == state else now
                if before is None:
                    stored = store.rows(
                        "SELECT since, state FROM current JOIN subjects ON id = subject WHERE name = ?", name
                    )
                    since = stored[0]["since"] if stored and stored[0]["state"] == state else now
                self._shown[name] = (key, since)
                memory_ = {"maintenance": one.maintenance, "accepting": view.accepting}
                rows.append((name, state, since, now, None, one.message, memory_))
        store.current.set(rows)
        store.history.add_results(
            (result.subject, result.finished, result.state == DOWN, result.latency)
            for result in results
            if result.state != UNKNOWN
        )
        store.history.add_time(times)
        for reading in readings:
            store.current.set_health(
                reading.host, reading.finished, reading.record is not None, reading.message, reading.record
            )
        if abs(now - self._pruned) > 3600:
            self._pruned = now
            store.prune(now)

    # --- incidents and messages; inside the transaction

    def _reconcile(
        self, store: Store, view: View, held: dict[str, dict[str, Any]], now: float
    ) -> list[tuple[dict[str, Any], Alert, bool]]:
        """Open, change and close incidents; all of them with their alerts and whether they flap."""
        found = []
        for key, problem in view.problems.items():
            one = held.get(key)
            if one is None:
                began = problem.since or now
                number = store.incidents.open(
                    key, problem.kind, problem.host, problem.service, problem.severity, problem.title, began
                )
                store.incidents.add_event(number, now, "opened", problem.title)
                one = {
                    "id": number,
                    "key": key,
                    "kind": problem.kind,
                    "host": problem.host,
                    "severity": problem.severity,
                    "title": problem.title,
                    "opened": began,
                    "closed": None,
                    "acked": None,
                    "ack_until": None,
                    "alert": Alert(noticed=now),
                }
                held[key] = one
                say(f"#{number} {problem.severity}: {problem.title}")
            alert = fresh_alert(one["alert"], problem)
            if (problem.severity, problem.title, alert) != (one["severity"], one["title"], one["alert"]):
                if problem.severity != one["severity"] or problem.flapping != one["alert"].flapping:
                    store.incidents.add_event(one["id"], now, "changed", problem.title)
                one.update({"severity": problem.severity, "title": problem.title, "alert": alert})
                store.incidents.set(one["id"], problem.severity, problem.title, alert.as_json())
            found.append((one, alert, problem.flapping))
        for key, one in held.items():
            if key in view.problems or one["closed"] is not None:
                continue
            if key not in view.behind:
                one["closed"] = now
                store.incidents.close(one["id"], now)
                message = f"over after {text.span(max(0.0, now - one['opened']))}"
                store.incidents.add_event(one["id"], now, "closed", message)
                say(f"#{one['id']} over: {one['title']}")
            found.append((one, one["alert"], False))
        return found

    def _tell(
        self, store: Store, found: list[tuple[dict[str, Any], Alert, bool]], behind: frozenset[str], now: float
    ) -> tuple[dict[str, Any], list[dict[str, Any]], bool]:
        """Queue what is to be told; the incidents that stay open, those whose end isn't told yet, whether there was
        anything to queue."""
        incidents = [
            Incident(
                one["id"],
                one["key"],
                one["kind"],
                one["host"],
                one["severity"],
                one["title"],
                one["opened"],
                one["closed"],
                one["acked"] is not None and (one["ack_until"] is None or one["ack_until"] > now),
                flapping,
                alert,
                one["closed"] is None and one["key"] in behind,
                one["ack_until"] if one["ack_until"] is not None and one["ack_until"] <= now else 0.0,
            )
            for one, alert, flapping in found
        ]
        plan = alerts.plan(self.settings, incidents, self.silences, now)
        for number, alert in plan.alerts.items():
            one = next(one for one, _, _ in found if one["id"] == number)
            one["alert"] = alert
            store.incidents.set(number, one["severity"], one["title"], alert.as_json())
        for one, _, _ in found:
            if one["id"] in plan.void:
                one.update({"acked": None, "ack_until": None})
                store.incidents.end_acknowledgement(one["id"])
                store.incidents.add_event(one["id"], now, "unacked", "it has grown worse")
        for draft in plan.drafts:
            self._enqueue(store, now, draft.kind, draft.severity, draft.text, draft.incidents, draft.escalation)
        tested = self._weekly_test(store, now)
        tested = self._tell_held_back(store, now) or tested
        still = {one["key"]: one for one, _, _ in found if one["closed"] is None}
        ended = [one for one, _, _ in found if one["closed"] is not None and not one["alert"].resolution_notified]
        return still, ended, bool(plan.drafts) or tested

    def _enqueue(
        self,
        store: Store,
        now: float,
        kind: str,
        severity: str,
        message: str,
        numbers: tuple[int, ...],
        escalation: bool,
    ) -> None:
        channels = [
            one
            for one in self.settings.channels
            if (one.escalation if escalation else severity in one.severities and not one.escalation)
        ]
        for channel in channels:
            full = store.messages.sent_since(channel.name, now - 3600) >= self.settings.rate_limit
            status = HELD_BACK if full and severity != URGENT else QUEUED
            store.messages.enqueue(now, channel.name, kind, severity, message, numbers, status=status)
            if status == HELD_BACK:
                for number in numbers:
                    store.incidents.add_event(
                        number, now, "held back", f"{channel.name}: too many messages within an hour"
                    )
        if not channels:
            for number in numbers:
                store.incidents.add_event(
                    number, now, "not sent", f"no channel takes {'escalations' if escalation else severity}"
                )

    def _tell_held_back(self, store: Store, now: float) -> bool:
        """What the limit of an hour held back is named in one message as soon as there is room again."""
        told = False
        for channel in self.settings.channels:
            rows = store.messages.held_back(channel.name)
            if not rows or store.messages.sent_since(channel.name, now - 3600) >= self.settings.rate_limit:
                continue
            titles = [row["text"].removeprefix(f"{self.settings.name}: ") for row in rows]
            message = texts.compose(self.settings.name, "", [f"{len(rows)} held back", *titles], "")
            store.messages.enqueue(now, channel.name, "held back", NOTICE, message)
            store.messages.set_named(channel.name, now)
            told = True
        return told

    def _weekly_test(self, store: Store, now: float) -> bool:
        """The test message at its hour, or as soon as it can be; nobody notices a dead gateway otherwise."""
        chosen = weekly(self.settings.test_at)
        if chosen is None:
            return False
        day, hour, minute = chosen
        clock = time.gmtime(now)
        today = now - now % 86400
        due = today + (day - clock.tm_wday) * 86400 + hour * 3600 + minute * 60
        if due > now:
            due -= 7 * 86400
        last = float(store.get("tested", "0"))
        if not 0 < last <= now + 60:
            # a new history, or a clock that went wrong: the next one is the first
            store.put("tested", str(now))
            return False
        if last >= due:
            return False
        store.put("tested", str(now))
        message = texts.compose(self.settings.name, "TEST", ["the weekly test message; all is well if you read it"], "")
        for channel in self.settings.channels:
            store.messages.enqueue(now, channel.name, "test", NOTICE, message)
        return True

    # --- the page and the heartbeat

    def _show(self) -> None:
        now = time.monotonic()
        pause = max(PAGE_EVERY, min(CALM * self._page_effort, self.settings.interval))
        if not self.settings.page or now - self._page_at < pause:
            return
        if self._page_task is not None and not self._page_task.done():
            return
        self._page_at = now
        self._page_task = asyncio.create_task(self._render(self.clock()))

    async def _render(self, now: float) -> None:
        seen = self.store

        def work() -> None:
            before = time.thread_time()
            # a connection of its own sees what is on disk, not what the engine has in its cache
            store = Store(self.settings.database, readonly=True)
            try:
                shot = snapshot.take(store, self.settings, now)
            finally:
                store.close()
            render = importlib.import_module(".page.render", __package__)
            render.write(shot, self.settings.page)
            self._page_effort = time.thread_time() - before

        trouble = ""
        try:
            await asyncio.to_thread(work)
        except Exception as error:  # noqa: BLE001  (a page that can't be written must not end the watch)
            trouble = f"the page can't be written: {type(error).__name__}: {text.clean(str(error))}"
            if damaged(error):
                message = str(error)
                await self._in_thread(lambda: self._renew(seen, message))
        if trouble and trouble != self._page_trouble:
            say(trouble)
        self._page_trouble = trouble

    def _beat(self) -> None:
        now = time.monotonic()
        # one that can't store can't tell either: then the switch is the second way to learn of it
        if not self.settings.heartbeat or self._cannot_store:
            return
        if now - self._beat_at < min(60.0, self.settings.interval):
            return
        self._beat_at = now
        self._beat_task = asyncio.create_task(self._send_beat(self.clock()))

    async def _send_beat(self, now: float) -> None:
        good = await beat(self.settings.heartbeat, self.world)
        try:
            await self._stored(lambda store: store.put("heartbeat", f"{now:.0f} {int(good)}"))
        except sqlite3.Error as error:
            if not refuses(error):
                raise


def fresh_alert(alert: Alert, problem: Problem) -> Alert:
    """An incident's alert with what its cause says now."""
    return replace(
        alert,
        about=problem.about,
        held_since=problem.since if problem.kind == "throttled" else 0.0,
        level=problem.level,
        stays_since=problem.since if alert.flapping and not problem.flapping else 0.0,
        stays_notified=alert.stays_notified and not problem.flapping,
    )


def _turns(before: SubjectState, result: ProbeResult) -> bool:
    """Whether a look is the first that says that something works no more, or works again."""
    bad = (DOWN, THROTTLED)
    if result.state in (UNKNOWN, before.state, before.pending):
        return False
    return result.state in bad or before.state in bad


async def beat(url: str, world: probes.World) -> bool:
    """Tell a dead man's switch that this monitor is alive and judging; whether it took that."""
    secure = url.startswith("https://")
    name, _, path = url.partition("://")[2].partition("/")
    try:
        host, port = place(name if ":" in name.rpartition("]")[2] else f"{name}:{443 if secure else 80}")
        target = probes.Target(secure, host, port, host, f"/{path}")
        async with asyncio.timeout(world.settings.timeout):
            places = await probes.addresses(host, port)
            status, *_ = await probes.fetch(target, world.strict, places)
        if 200 <= status < 300:
            return True
        say(f"the heartbeat was answered with {status}")
    except Exception as error:  # noqa: BLE001  (it is the switch's business to notice)
        say(f"the heartbeat can't be sent: {type(error).__name__} {text.clean(str(error), 60)}")
    return False


def _lease_words(record: Mapping[str, Any]) -> str:
    parts = []
    for one in record["leases"]:
        if one["refuse"]:
            left = one["left_seconds"]
            reason = f" ({one['reason']})" if one["reason"] else ""
            parts.append(f"{one['owner']}{reason}, {'no end' if left is None else text.span(left) + ' left'}")
    return "throttled by " + "; ".join(parts or ["a lease"])


def say(message: str) -> None:
    """A line for the journal."""
    print(text.clean(message, 400), file=sys.stderr, flush=True)


def notify(message: str) -> None:
    """Tell systemd (sd_notify(3)), when it listens."""
    path = os.environ.get("NOTIFY_SOCKET")
    if path:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel, suppress(OSError):
            channel.sendto(message.encode(), "\0" + path[1:] if path.startswith("@") else path)
