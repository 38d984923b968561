"""The engine: probe on schedule, evaluate the results, store and notify in one transaction.

::

    schedule ─→ prober ─→ results ─→ states, problems ─→ recorder: one transaction ─→ outbox, publisher, heartbeat

All decisions are in ``judging`` and ``notifying.alerts``; here are life cycle and order. State changes, the incidents
they open or close and the messages about them are committed together: after kill -9 either all of it has happened or
none, and the next probe finds the rest.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from dataclasses import replace

from . import history, journal, schedule
from .clocks import Clocks, awaken
from .heartbeat import Heartbeat
from .history import History
from .incidents import Incidents, Update
from .judging import problems
from .judging.health import Reading
from .judging.problems import View
from .judging.severity import NOTICE, Problem
from .judging.states import CONNECTIVITY, ProbeResult
from .notifying import outbox
from .notifying.direct import Direct
from .notifying.outbox import Outbox
from .probing import connectivity, hosthealth, probes
from .probing.connectivity import Answer, ConnectivityCheck
from .probing.hosthealth import Ask, Reader
from .probing.prober import Probe, Prober
from .probing.world import World
from .publisher import Publisher
from .recorder import Batch, Recorder
from .schedule import Schedule
from .settings import Settings
from .store import Store, refuses
from .subjects import Subjects

AT_ONCE = 1000  # probes under way; 10 % dead hosts of 1,000 hold 400 of them for one timeout
CALM = 50  # times the CPU that an evaluation took are let pass before the next: 2 % of a core
BLIND = 10  # results in a row that proved nothing: then that is a problem
CONNECTIVITY_RECHECK = 2.0  # seconds until the next connectivity check while its state is not confirmed


class Engine:
    """One monitor. ``await run()`` until it is cancelled. ``probe answer ask send`` reach the network."""

    def __init__(
        self,
        settings: Settings,
        *,
        clocks: Clocks | None = None,
        ready: Callable[[str], None] = lambda message: None,
        probe: Probe = probes.probe,
        answer: Answer = connectivity.answer,
        ask: Ask = hosthealth.ask,
        send: outbox.Send | None = None,
    ) -> None:
        self.settings = settings
        self.clocks = clocks or Clocks()
        self.ready = ready
        self.services = {service.subject: service for host in settings.hosts for service in host.services}
        self.hosts = {host.name: host for host in settings.hosts}
        self.subjects = Subjects(settings)
        self.incidents = Incidents(settings)
        self.view: View | None = None
        self._results: list[ProbeResult] = []
        self._readings: list[Reading] = []
        self._news = asyncio.Event()
        self._room = asyncio.Semaphore(AT_ONCE)
        self._seen_at = self.clocks.monotonic()  # the last result
        self._effort = 0.0  # CPU seconds of the last evaluation
        self._unstored = Batch()
        world = World.of(settings, self.clocks)
        self.connectivity = ConnectivityCheck(settings, self.clocks, answer)
        self.reader = Reader(settings, self.clocks, ask) if settings.health else None
        self.schedule = Schedule(schedule.intervals(settings), self.clocks.monotonic)
        self.prober = Prober(
            world, probe, self.connectivity, self.reader, self.subjects.states, self.on_reading, self.schedule.plan_soon
        )
        self.history = History(settings, self.schedule.intervals)
        self.recorder = Recorder(settings.database, self.clocks, self._refill)
        self.publisher = Publisher(settings, self.clocks, self.recorder)
        self.heartbeat = Heartbeat(world, self.recorder)
        self.outbox = Outbox(
            settings.channels,
            self.recorder.stored,
            self.clocks.wall,
            send or outbox.Sender(f"{settings.name} monitor"),
            note=journal.log,
        )
        self.direct = Direct(settings, self.outbox)

    # --- life

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            await self.recorder.stored(self.restore)
            self.schedule.start(
                {CONNECTIVITY, *(name for name, current in self.subjects.states.items() if current.soft)}
            )
            works = (self.schedule.run(self._probe), self._evaluate_forever(), self.outbox.run())
            tasks = [asyncio.create_task(work) for work in works]
            self.ready("READY=1")
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                for task in (ending := [*tasks, *self.direct.tasks]):
                    task.cancel()
                await asyncio.gather(*ending, return_exceptions=True)
        finally:
            self.recorder.close()

    def restore(self, store: Store) -> None:
        """Load what is on disk."""
        now = self.clocks.wall()
        self.incidents.note_damage(store, now)
        if repeated := store.messages.recover(now):
            journal.log(f"{repeated} messages may have been sent before a crash; they are sent again, marked")
        self.subjects.restore(store)
        self.incidents.load(store, now)

    def _refill(self, store: Store) -> None:
        """Write what is in memory into a new file; incidents are opened again."""
        self.history.forget()
        # a copy of the names: this is the store's thread, and results may come in meanwhile
        store.current.set(history.rows(self.subjects.states, list(self.subjects.states)))
        self.incidents.refill(store)
        self.incidents.note_damage(store, self.clocks.wall())

    # --- results

    async def _probe(self, name: str) -> None:
        try:
            async with self._room:
                if name == CONNECTIVITY:
                    self.on_result(await self.connectivity.probe())
                elif name in self.services:
                    self.on_result(await self.prober.probe(self.services[name]))
                else:
                    await self.prober.read(self.hosts[name.partition("/")[0]])
        except Exception as error:  # noqa: BLE001  (one bug must not end the monitoring; it is in the journal)
            journal.log(f"a bug in the probe of {name}: {type(error).__name__}: {error}")

    def on_result(self, result: ProbeResult) -> None:
        """Keep a result for the next evaluation."""
        self._seen_at = self.clocks.monotonic()
        self._results.append(result)
        self._news.set()

    def on_reading(self, reading: Reading) -> None:
        """Keep a reading of a host's health for the next evaluation."""
        self._readings.append(reading)
        self._news.set()

    # --- evaluation

    async def _evaluate_forever(self) -> None:
        while True:
            await awaken(self._news, 1.0)
            self._news.clear()
            # what arrives together is evaluated together; the larger the fleet, the longer the wait, up to a second
            await asyncio.sleep(min(1.0, max(0.05, CALM * self._effort)))
            before = self.clocks.cpu()
            await self.evaluate()
            self._effort = self.clocks.cpu() - before
            self.signal_liveness()

    def signal_liveness(self) -> None:
        """Signal to systemd, the page and the dead man's switch that the monitor works: only while results come in."""
        patience = 2.5 * self.settings.interval + self.settings.timeout + 30
        if self.clocks.monotonic() - self._seen_at > patience:
            return
        self.ready("WATCHDOG=1")
        self.publisher.write_if_due()
        # a monitor that can't store can't queue messages: then the missing heartbeat is the second way to learn of it
        if not self.direct.refused:
            self.heartbeat.send_if_due()

    async def evaluate(self) -> None:
        """Evaluate all results, and commit what follows from them."""
        now = self.clocks.wall()
        results, self._results = self._results, []
        readings, self._readings = self._readings, []
        try:
            await self.recorder.if_changed(lambda store: self.incidents.load(store, now))
        except sqlite3.Error as error:
            if not refuses(error):
                raise  # otherwise the transaction below fails too, and handles it
        for reading in readings:
            try:
                results.extend(self.subjects.ingest_health(reading))
            except Exception as error:  # noqa: BLE001  (one host's answer must not stop the monitoring of others)
                journal.log(f"a bug with the health of {reading.host}: {type(error).__name__}: {error}")
        self.advance(results)
        self.subjects.end_maintenance(now)
        view = self._judge(now)
        self.view = view
        batch = self._unstored
        batch.add(results, readings, self.history.times(view, results, self.subjects, now))

        def commit(store: Store) -> Update:
            self.history.store(store, batch, view, self.subjects.states, now)
            return self.incidents.update(store, view, now)

        try:
            update = await self.recorder.stored(commit)
        except sqlite3.Error as error:
            if not refuses(error):
                raise
            self.history.forget()
            self.direct.send(view.problems, str(error))
            return
        self.incidents.take(update)
        self._unstored = Batch()
        self.direct.end()
        if update.queued:
            self.outbox.wake.set()

    def _judge(self, now: float) -> View:
        view = problems.judge(self.settings, self.subjects.states, self.subjects.maintenance, self.incidents.open, now)
        if self.prober.discarded < BLIND:
            return view
        title = f"monitor {self.settings.host} is too slow to judge what doesn't answer"
        slow = Problem("internal:slow", "internal", "", "", NOTICE, title, self.prober.slow_since)
        return replace(view, problems={**view.problems, slow.key: slow})

    def advance(self, results: list[ProbeResult]) -> None:
        """Advance the states of subjects, and probe again soon what is in doubt."""
        offline = self.subjects.offline
        for result in results:
            before, seen = self.subjects.advance(result, offline)
            if self.subjects.states[result.subject].soft:
                self.recheck_soon(result.subject)
            service = self.services.get(result.subject)
            if service is not None and schedule.turns(before, seen):
                for other in schedule.related(self.settings, self.subjects.states, service, seen):
                    self.schedule.plan_soon(other)

    def recheck_soon(self, subject: str) -> None:
        """Probe a subject again soon; a check of a host by reading its health."""
        name = subject if subject in self.schedule.intervals else f"{subject.partition('/')[0]}/health"
        if name in self.schedule.intervals:
            soon = CONNECTIVITY_RECHECK if name == CONNECTIVITY else self.settings.recheck
            self.schedule.plan_soon(name, min(soon, self.schedule.intervals[name]))
