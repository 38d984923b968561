"""The engine and the hosts' own health, on a virtual clock."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from mf_monitor import engine, settings
from mf_monitor.clocks import Clocks
from mf_monitor.judging.health import Reading
from mf_monitor.probing import hosthealth

from tests.monitor import samples
from tests.monitor.virtual import NOW, Fleet, fleet, run

ACCESS = {"user": "u", "key": "k", "known_hosts": "n", "folder": "/nowhere"}


def health(host: str, **changed: Any) -> bytes:
    """What ssh gets from a host."""
    return json.dumps(samples.health_record(host, "mx", NOW, **changed)).encode()


def test_a_bug_with_one_hosts_health_leaves_the_others(tmp_path: Path) -> None:
    monitor = engine.Engine(samples.settings(database=str(tmp_path / "m.sqlite")), clocks=Clocks(lambda: NOW))
    monitor.on_reading(Reading("nobody", NOW, NOW, None, "a host that there isn't"))
    monitor.on_reading(Reading("mx2", NOW, NOW, hosthealth.parse(health("mx2")), "read"))
    run(monitor.evaluate)
    assert monitor.subjects.states["mx2/health"].state == "up"
    monitor.recorder.close()


def test_an_answer_that_cannot_be_understood_is_a_reading() -> None:
    async def broken(argv: list[str]) -> Any:
        raise TypeError("unhashable")

    chosen = samples.settings(health=ACCESS)
    readings: list[Reading] = []

    async def go() -> None:
        readings.append(await hosthealth.Reader(chosen, Clocks(), broken).read(chosen.hosts[1]))

    run(go)
    assert (readings[0].record, readings[0].message) == (None, "health can't be understood: TypeError")


def behind_ssh(world: Fleet, hosts: int, ask: Any) -> engine.Engine:
    """A monitor of so many MXs whose health is read by ssh."""
    services = [{"kind": "smtp"}, {"kind": "ssh"}]
    fleet = [
        {"name": f"mx{number}", "role": "mx", "address": "192.0.2.1", "health": True, "services": services}
        for number in range(hosts)
    ]
    chosen = settings.parse({**world.raw, "hosts": fleet, "health": ACCESS})
    return engine.Engine(chosen, clocks=world.clocks, probe=world.probe, answer=world.answer, ask=ask, send=world.send)


async def stuck(argv: list[str]) -> tuple[bytes, int]:
    """An ssh that never comes to its end."""
    await asyncio.sleep(1e9)
    return b"", 255


@pytest.mark.parametrize("reason", ["silent", "refused"])
def test_failed_probes_do_not_wait_for_hosts_that_ssh_cannot_read(tmp_path: Path, reason: str) -> None:
    world = fleet(tmp_path)

    async def go() -> None:
        monitor = behind_ssh(world, 100, stuck)
        fail = world.silence if reason == "silent" else world.refuse
        fail(*monitor.services)
        async with asyncio.timeout(2 * monitor.settings.timeout + 1):
            probes = (monitor.prober.probe(host.services[0]) for host in monitor.settings.hosts)
            results = await asyncio.gather(*probes)
        assert {(result.state, result.reason) for result in results} == {("down", reason)}
        monitor.recorder.close()

    run(go)


def test_a_throttle_is_confirmed_while_scheduled_reads_are_stuck(tmp_path: Path) -> None:
    world = fleet(tmp_path)

    async def ask(argv: list[str]) -> tuple[bytes, int]:
        return (health("mx99", throttled=True, refusing=True), 0) if asked else await stuck(argv)

    asked = False

    async def go() -> None:
        nonlocal asked
        monitor = behind_ssh(world, 100, ask)
        reads = [asyncio.create_task(monitor.prober.read(host)) for host in monitor.settings.hosts[:50]]
        await asyncio.sleep(1)
        asked = True
        world.refuse("mx99/smtp")
        async with asyncio.timeout(2):
            result = await monitor.prober.probe(monitor.services["mx99/smtp"])
        assert result.state == "throttled"
        for read in reads:
            read.cancel()
        await asyncio.gather(*reads, return_exceptions=True)
        monitor.recorder.close()

    run(go)


def test_health_behind_a_silent_ssh_is_not_read_on_schedule(tmp_path: Path) -> None:
    world = fleet(tmp_path)

    async def go() -> None:
        monitor = behind_ssh(world, 1, stuck)
        world.silence("mx0/ssh")
        monitor.on_result(await monitor.prober.probe(monitor.services["mx0/ssh"]))
        await monitor.evaluate()
        async with asyncio.timeout(1):
            reading = await monitor.prober.read(monitor.settings.hosts[0])
        assert (reading.record, reading.message) == (None, "its ssh does not answer")
        monitor.recorder.close()

    run(go)
