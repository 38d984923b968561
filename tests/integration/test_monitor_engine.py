"""The engine on real clocks, real sockets on loopback and real processes; the rest is in tests/monitor/test_engine."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import functools
import json
import os
import random
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from mf import text
from mf_monitor import engine, settings
from mf_monitor.notifying import outbox
from mf_monitor.store import Store

from tests.monitor.servers import SENDER, Gateway, Target, says, smtp, until

KILLS = int(os.environ.get("MF_KILLS", "5"))


@dataclasses.dataclass
class Fleet:
    """Three MXs and a reference on loopback, a gateway, and the settings of a monitor that watches them."""

    gateway: Gateway
    mail: list[Target]
    ssh: list[Target]
    reference: Target
    raw: dict[str, Any]

    @property
    def texts(self) -> list[str]:
        """Messages that reached operators."""
        return self.gateway.texts


@contextlib.asynccontextmanager
async def fleet(folder: Path, **changed: Any) -> AsyncIterator[Fleet]:
    gateway = await Gateway().start()
    mail = [await Target(smtp()).start() for _ in range(3)]
    ssh = [await Target(says(b"SSH-2.0-OpenSSH_9\r\n")).start() for _ in range(3)]
    reference = await Target(says(b"")).start()
    raw: dict[str, Any] = {
        "interval": 1,
        "timeout": 0.8,
        "recheck": 0.2,
        "min_accepting": 2,
        "flap_changes": 100,
        "rate_limit": 10000,
        "database": str(folder / "monitor.sqlite"),
        "references": [f"127.0.0.1:{reference.port}"],
        "channels": [{"name": "sms", "url": gateway.url, "severities": ["urgent", "notice"]}],
        "hosts": [
            {
                "name": f"mx{number + 1}",
                "role": "mx",
                "address": "127.0.0.1",
                "services": [
                    {"kind": "smtp", "port": mail[number].port},
                    {"kind": "ssh", "port": ssh[number].port},
                ],
            }
            for number in range(3)
        ],
        **changed,
    }
    try:
        yield Fleet(gateway, mail, ssh, reference, raw)
    finally:
        for target in (*mail, *ssh, reference, gateway.target):
            await target.stop()


@contextlib.asynccontextmanager
async def watching(raw: dict[str, Any]) -> AsyncIterator[engine.Engine]:
    monitor = engine.Engine(settings.parse(raw), send=outbox.Sender("mf monitor", SENDER))
    task = asyncio.create_task(monitor.run())
    try:
        await until(lambda: monitor.view is not None and monitor.view.state != "unknown")
        yield monitor
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_a_fault_and_its_end_are_one_message_each_in_time(tmp_path: Path) -> None:
    async def go() -> None:
        async with fleet(tmp_path) as world, watching(world.raw):
            started = time.monotonic()
            await world.mail[0].stop()
            await until(lambda: len(world.texts) == 1)
            # two intervals, the seconds in which messages are grouped, and a slow machine
            assert time.monotonic() - started < 2 + 3 + 5
            await world.mail[0].start()
            await until(lambda: len(world.texts) == 2)
            await asyncio.sleep(2)
            assert [re.sub(r"\d\d:\d\dZ|\d+ s\b", "T", text) for text in world.texts] == [
                "mf: mx1 smtp: connection refused since T #1",
                "mf OK: mx1 smtp well again after T #1",
            ]

    asyncio.run(go())


def test_an_attempt_without_an_answer_is_repeated_with_the_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "LIMIT", 3.0)
    slow = (*SENDER[:-1], SENDER[-1] + "import time; time.sleep(60)")

    async def go() -> None:
        async with fleet(tmp_path) as world:
            monitor = engine.Engine(settings.parse(world.raw), send=outbox.Sender("mf monitor", slow))
            task = asyncio.create_task(monitor.run())
            await world.mail[0].stop()
            await until(lambda: len(world.texts) == 2, 60)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert world.texts[1] == f"repeat: {world.texts[0]}"

    asyncio.run(go())


DRIVER = """
import json, sys
sys.path[:0] = json.loads(sys.argv[1])
from mf_monitor import daemon
sys.exit(daemon.main([sys.argv[2]], tuple(json.loads(sys.argv[3]))))
"""


@dataclasses.dataclass
class Outage:
    """What was really broken, from when to when (epoch seconds)."""

    mxs: tuple[int, ...]
    began: float
    ended: float = 0.0

    @property
    def keys(self) -> set[str]:
        """The incidents it must become, once each."""
        return {f"service:mx{number + 1}/smtp" for number in self.mxs} | ({"fleet"} if len(self.mxs) > 1 else set())


def _fleet_is_up(database: str) -> bool:
    """Whether the monitor has seen it so; False while there is no database yet."""
    try:
        store = Store(database, readonly=True)
        row = store.current.load().get("fleet")
        store.close()
    except sqlite3.Error:
        return False
    return row is not None and row.state == "up"


async def break_and_mend(world: Fleet, dice: random.Random, stop: asyncio.Event) -> list[Outage]:
    """One outage after the other, each until what it must become was queued as a message, and then until it was closed.

    (What is over within the seconds in which messages are grouped is never notified.)
    """
    store = Store(world.raw["database"], readonly=True)
    outages: list[Outage] = []

    def notified(outage: Outage) -> bool:
        queued = {
            incident.key
            for incident in store.incidents.load()
            if incident.alert.get("told") or incident.alert.get("covered")
        }
        return queued >= outage.keys

    while not stop.is_set():
        outage = Outage(dice.choice([(0,), (1,), (0, 1)]), time.time())
        for number in outage.mxs:
            await world.mail[number].stop()
        await until(functools.partial(notified, outage), 120)
        await asyncio.sleep(dice.uniform(0.0, 2.0))
        outage.ended = time.time()
        for number in outage.mxs:
            await world.mail[number].start()
        await until(lambda: not store.incidents.load(), 120)
        outages.append(outage)
    store.close()
    return outages


def test_killed_at_random_moments_every_outage_is_one_incident_notified_once(tmp_path: Path) -> None:
    """`make kill-monitor` kills 50 times."""
    dice = random.Random(50)
    packages = [str(Path(module).parents[1]) for module in (engine.__file__, text.__file__)]

    async def go() -> tuple[Fleet, list[Outage]]:
        async with fleet(tmp_path) as world:
            path = tmp_path / "settings.json"
            path.write_text(json.dumps(world.raw))
            argv = [sys.executable, "-I", "-c", DRIVER, json.dumps(packages), str(path), json.dumps(SENDER)]

            def start() -> subprocess.Popen[bytes]:
                return subprocess.Popen(argv, stderr=subprocess.DEVNULL)

            monitor = start()
            try:
                # what was never seen well can't be seen to break
                await until(lambda: _fleet_is_up(world.raw["database"]), 60)
                stop = asyncio.Event()
                breaking = asyncio.create_task(break_and_mend(world, dice, stop))
                for _ in range(KILLS):
                    await asyncio.sleep(dice.uniform(0.0, 5.0))
                    monitor.kill()
                    monitor.wait()
                    monitor = start()
                stop.set()
                outages = await breaking

                watched = Store(world.raw["database"], readonly=True)

                def settled() -> bool:
                    over = all(incident.alert.get("over_told") for incident in watched.incidents.load(since=0))
                    return over and all(message.status == "sent" for message in watched.messages.newest(10000))

                await until(settled, 60)
                watched.close()
                monitor.terminate()
                assert monitor.wait() == 0
            finally:
                if monitor.poll() is None:
                    monitor.kill()
                    monitor.wait()
            return world, outages

    world, outages = asyncio.run(go())
    store = Store(world.raw["database"])
    # the history is whole
    assert store.damage == ""
    assert [row[0] for row in store.rows("PRAGMA integrity_check")] == ["ok"]
    # every outage that was made is one incident of each kind it must be, in their order, and there are no others
    incidents = sorted(store.incidents.load(since=0), key=lambda incident: incident.opened)
    made = sorted(key for outage in outages for key in outage.keys)
    assert sorted(incident.key for incident in incidents) == made
    for key in set(made):
        wanted = [outage for outage in outages if key in outage.keys]
        for outage, incident in zip(wanted, (incident for incident in incidents if incident.key == key), strict=True):
            assert outage.began - 2 <= incident.opened <= outage.ended, (outage, incident)
            assert outage.ended <= (incident.closed or 0.0), (outage, incident)
    lines = store.incidents.events([incident.id for incident in incidents])
    for incident in incidents:
        whats = [line.what for line in lines[incident.id]]
        assert (whats.count("opened"), whats.count("closed")) == (1, 1), whats
    # every message reached people at least once, and more often only with the mark
    messages = store.messages.newest(10000)
    deliveries = collections.Counter(world.texts)
    assert {message.status for message in messages} == {"sent"}
    assert set(deliveries) <= {f"{mark}{message.text}" for message in messages for mark in ("", "repeat: ")}
    for message in messages:
        assert deliveries[message.text] <= 1
        assert deliveries[message.text] + deliveries[f"repeat: {message.text}"] >= 1
        assert message.repeat or not deliveries[f"repeat: {message.text}"]
    # every incident was notified once, by a message of its own or by the fleet's
    by_incident: dict[int, list[str]] = collections.defaultdict(list)
    for message in messages:
        for number in message.incidents:
            by_incident[number].append(message.kind)
    for incident in incidents:
        kinds = by_incident[incident.id]
        together = any(
            len(outage.mxs) > 1 and outage.began - 2 <= incident.opened <= outage.ended for outage in outages
        )
        alone = incident.key == "fleet" or not together
        assert kinds.count("opened") == 1 if alone else kinds.count("opened") <= 1, (incident, kinds)
        assert kinds.count("closed") == (1 if incident.alert["told"] else 0), (incident, kinds)
