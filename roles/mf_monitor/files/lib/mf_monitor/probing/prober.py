"""Probe a subject, and check its result against the monitor's own connectivity and the host's own health."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TypeAlias

from ..judging.health import Reading, door
from ..judging.states import CONNECTIVITY, DOWN, SILENT, THROTTLED, UNKNOWN, ProbeResult, SubjectState
from ..settings import Host, Service
from . import hosthealth
from .connectivity import ConnectivityCheck
from .hosthealth import Reader
from .world import World

Probe: TypeAlias = Callable[[Service, World], Awaitable[ProbeResult]]

LAG = 1.0  # seconds a probe's end came too late: what was silent meanwhile proves nothing


class Prober:
    """``subjects``: the states as they are now; ``on_reading`` and ``recheck`` are called as readings and doubts come.

    ``discarded``: results in a row that came too late, the first of them at ``slow_since``.
    """

    def __init__(
        self,
        world: World,
        probe: Probe,
        connectivity: ConnectivityCheck,
        reader: Reader | None,
        subjects: Mapping[str, SubjectState],
        on_reading: Callable[[Reading], None],
        recheck: Callable[[str], None],
    ) -> None:
        self._world = world
        self._monotonic = world.clocks.monotonic
        self._probe = probe
        self._connectivity = connectivity
        self._reader = reader
        self._subjects = subjects
        self._on_reading = on_reading
        self._recheck = recheck
        self._hosts = {host.name: host for host in world.settings.hosts}
        self._latest: dict[str, tuple[float, Reading]] = {}  # by host; when it was started, monotonic
        self.discarded = 0
        self.slow_since = 0.0

    async def probe(self, service: Service) -> ProbeResult:
        """Probe a service; what can't be blamed on it is unknown."""
        started = self._monotonic()
        result = await self._probe(service, self._world)
        # what was held up before its end still had its time
        if result.reason == SILENT and self._monotonic() - started > self._world.settings.timeout + LAG:
            self.discarded += 1
            if self.discarded == 1:
                self.slow_since = result.started
            return replace(result, state=UNKNOWN, message="this monitor was too slow to judge")
        self.discarded = 0
        if result.state != DOWN:
            return result
        if result.reason == SILENT:
            verdict = await self._connectivity.after(started)
            if not verdict.up:
                self._recheck(CONNECTIVITY)
                return replace(result, state=UNKNOWN, message="this monitor is offline")
            if not verdict.reaches(service.address):
                return replace(result, state=UNKNOWN, message="no reference host answers over this family of addresses")
        # a throttle refuses, it is never silent
        elif service.kind == "smtp":
            return await self._refused(service, result, started)
        return result

    async def _refused(self, service: Service, result: ProbeResult, started: float) -> ProbeResult:
        """Check whether the host's own throttle refused: only if its health reports that now."""
        host, record = self._hosts[service.host], None
        if host.health and self._reader is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._world.settings.timeout):
                    record = (await self.read(host, started)).record
        if record is not None and record.throttled and record.refusing:
            return replace(result, state=THROTTLED, message=hosthealth.leases(record), reason="")
        return result

    async def read(self, host: Host, since: float = 0.0) -> Reading:
        """The host's health, read now, or by another probe that started after ``since`` (monotonic)."""
        assert self._reader is not None
        latest = self._latest.get(host.name)
        if since and latest is not None and latest[0] >= since:
            return latest[1]
        started = self._monotonic()
        if not since and self._without_ssh(host):
            now = self._world.clocks.wall()
            reading = Reading(host.name, now, now, None, "its ssh does not answer")
        else:
            reading = await self._reader.read(host, asked=since > 0)
        if reading.record is None and not (await self._connectivity.after(started)).up:
            return reading
        self._latest[host.name] = started, reading
        self._on_reading(reading)
        return reading

    def _without_ssh(self, host: Host) -> bool:
        """Whether ssh there was silent at the last probe: a read would hold its place for a whole timeout."""
        doors = [service.subject for service in host.services if door(service, host)]
        states = [self._subjects.get(subject, SubjectState()) for subject in doors]
        return bool(states) and all(state.silent and DOWN in (state.state, state.soft) for state in states)
