"""The engine on a virtual clock: what operators are notified of, and when."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from mf_monitor import command, engine, settings
from mf_monitor.clocks import Clocks
from mf_monitor.probing.prober import LAG
from mf_monitor.store import SENT, Store

from tests.monitor import samples
from tests.monitor.virtual import NOW, fleet, run, until, watching


def test_a_fault_and_its_end_are_one_message_each_in_time(tmp_path: Path) -> None:
    world = fleet(tmp_path)

    async def go() -> None:
        async with watching(world):
            world.refuse("mx1/smtp")
            # an interval, two rechecks, the seconds in which messages are grouped
            await until(lambda: len(world.texts) == 1, 60 + 2 * 10 + 3 + 2)
            world.mend()
            await until(lambda: len(world.texts) == 2, 60 + 10 + 3 + 2)
            await asyncio.sleep(1800)

    run(go)
    assert [re.sub(r"\d\d:\d\dZ|[\d.]+ (s|min)\b", "T", text) for text in world.texts] == [
        "mf: mx1 smtp: connection refused since T #1",
        "mf OK: mx1 smtp well again after T #1",
    ]


def test_too_few_is_urgent_and_speaks_for_its_members(tmp_path: Path) -> None:
    world = fleet(tmp_path, recheck=0.2)

    async def go() -> None:
        async with watching(world):
            world.refuse("mx1/smtp", "mx2/smtp")
            await until(lambda: any("URGENT: 1 of 3 MX accept mail, 2 must" in text for text in world.texts))
            world.mend()
            await until(lambda: any("OK: enough MX accept mail again" in text for text in world.texts))
            await asyncio.sleep(600)

    run(go)
    # the first one that fails makes the monitor probe the others, so that one message speaks for both
    assert [text.partition(":")[0] for text in world.texts] == ["mf URGENT", "mf OK"]


def test_a_service_is_not_well_again_because_its_host_is_gone(tmp_path: Path) -> None:
    world = fleet(tmp_path)

    async def go() -> None:
        async with watching(world) as monitor:
            world.refuse("mx1/smtp")
            await until(lambda: len(world.texts) == 1)
            world.silence("mx1/smtp", "mx1/ssh")
            await until(lambda: any("mx1 does not answer" in text for text in world.texts))
            await asyncio.sleep(300)
            assert not [text for text in world.texts if "OK" in text]
            world.mend()
            await until(lambda: "mx1 smtp well again" in " ".join(world.texts))
            await until(lambda: monitor.incidents.open == {}, 120)

    run(go)


def test_what_fails_together_is_probed_and_notified_together(tmp_path: Path) -> None:
    # in turn the second would be probed long after people were notified of the first
    world = fleet(tmp_path, min_accepting=0, interval=600, recheck=0.2)
    names = {"mx1/smtp", "mx2/smtp", "mx3/smtp"}

    def turns() -> dict[str, float]:
        """When each is probed within the interval, by its last probe."""
        return {name: round(at % 600, 3) for name, at in world.probed if name in names}

    async def go() -> None:
        async with watching(world):
            await until(lambda: names <= {name for name, _ in world.probed})
            before = turns()
            for faulty in (True, False):
                if faulty:
                    world.refuse("mx1/smtp", "mx2/smtp")
                else:
                    world.mend()
                await until(lambda: len(world.texts) == 2 - faulty, 700)  # noqa: B023
                await asyncio.sleep(1500)
            assert len(world.texts) == 2
            for text in world.texts:
                assert re.search("mx1 smtp.*mx2 smtp|mx2 smtp.*mx1 smtp", text), text
            # and they are spread over the interval as before
            after = turns()
            assert all(abs(before[name] - after[name]) < 0.1 for name in names), (before, after)

    run(go)


def test_offline_reports_nothing_of_the_fleet_and_notifies_afterwards(tmp_path: Path) -> None:
    world = fleet(tmp_path)

    async def go() -> None:
        async with watching(world) as monitor:
            world.online = False
            world.broken = {"sms"}
            world.silence(*monitor.services)
            await until(lambda: "uplink" in monitor.incidents.open)
            await asyncio.sleep(60)
            assert set(monitor.incidents.open) == {"uplink"}
            world.online, world.broken = True, set()
            world.mend()
            await until(lambda: bool(world.texts))
            await asyncio.sleep(600)

    run(go)
    assert len(world.texts) == 1
    assert "monitor1 was offline for" in world.texts[0]


def test_ipv6_that_is_lost_at_the_monitor_is_no_alarm(tmp_path: Path) -> None:
    world = fleet(tmp_path)
    world.raw["hosts"] = [{**host, "address6": "2001:db8::1"} for host in world.raw["hosts"]]

    async def go() -> None:
        async with watching(world) as monitor:
            world.silence("mx1/smtp6", "mx2/smtp6")  # the reference host answers over IPv4
            await asyncio.sleep(600)
            assert monitor.subjects.states["mx1/smtp"].state == "up"
            assert monitor.subjects.states["mx1/smtp6"].blind
            assert monitor.incidents.open.keys() <= {"unknown:mx1/smtp6", "unknown:mx2/smtp6"}
            assert world.texts == []

    run(go)


def test_a_dead_mx_with_the_services_of_its_role_is_one_problem_in_two_intervals(tmp_path: Path) -> None:
    world = fleet(tmp_path, hosts=[{"name": "mx1", "role": "mx", "address": "192.0.2.1", "services": None}])

    async def go() -> None:
        monitor = world.engine()
        world.silence(*monitor.services)
        task = asyncio.create_task(monitor.run())
        await until(lambda: bool(monitor.incidents.open), 120 + 5)
        await asyncio.sleep(120)
        assert set(monitor.incidents.open) == {"host:mx1", "fleet"}  # it was the only one
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(go)


def test_a_dead_gateway_delays_and_the_second_channel_steps_in(tmp_path: Path) -> None:
    sms = {"name": "sms", "url": "x", "severities": ["urgent", "notice"], "second": "chat"}
    world = fleet(tmp_path, channels=[sms, {"name": "chat", "url": "y"}])

    async def go() -> None:
        async with watching(world):
            world.broken = {"sms"}
            world.refuse("mx1/smtp")
            await until(lambda: [channel for channel, _ in world.sent] == ["chat"])
            world.broken = set()
            await until(lambda: len(world.sent) == 2, 90)
            await asyncio.sleep(600)

    run(go)
    assert [channel for channel, _ in world.sent] == ["chat", "sms"]
    assert world.texts[0] == world.texts[1]


def test_an_operators_command_counts_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = fleet(tmp_path)
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(world.raw))

    async def go() -> None:
        async with watching(world) as monitor:
            store = Store(world.raw["database"])  # as the command opens it, which has clocks of its own
            with store.writing():
                number = store.incidents.add_silence("service:mx1/*", NOW + 1e6, "disk", "anna", NOW)
            world.refuse("mx1/smtp")
            await until(lambda: "service:mx1/smtp" in monitor.incidents.open)
            await asyncio.sleep(60)
            assert world.texts == []
            assert command.main(["ack", "all", "--by", "anna"], str(path)) == 0
            with store.writing():
                store.incidents.end_silence(number)
            store.close()
            await until(lambda: bool(monitor.incidents.open["service:mx1/smtp"].acked), 5)
            await asyncio.sleep(60)
            assert world.texts == []
            assert command.main(["test"], str(path)) == 0
            # the command's message was queued by another clock
            await until(lambda: bool(world.texts), 1e9)
            assert "TEST" in world.texts[-1]

    run(go)
    assert "#1 acknowledged by anna" in capsys.readouterr().out


def test_a_database_that_breaks_at_work_is_replaced_and_notified(tmp_path: Path) -> None:
    world = fleet(tmp_path, page=str(tmp_path / "page"))

    async def go() -> None:
        async with watching(world) as monitor:
            world.refuse("mx1/smtp")
            await until(lambda: len(world.texts) == 1)
            await until((tmp_path / "page" / "public" / "index.html").exists, 60)
            path = Path(world.raw["database"])
            monitor.recorder.store.rows("PRAGMA wal_checkpoint(TRUNCATE)")
            path.write_bytes(b"\xff" * path.stat().st_size)
            await until(lambda: any("history was damaged" in text for text in world.texts))
            # what is wrong still is, and the new file doesn't know that people were notified of it
            await until(lambda: any("mx1 smtp" in text for text in world.texts[1:]))
            assert list(tmp_path.glob("*.damaged-*"))

    run(go)


def test_without_storage_it_goes_on_judging_and_notifies_directly(tmp_path: Path) -> None:
    world = fleet(tmp_path)

    async def go() -> None:
        async with watching(world) as monitor:
            monitor.recorder.store.execute("PRAGMA busy_timeout = 1")
            other = sqlite3.connect(world.raw["database"], isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            await until(lambda: any("can't store" in text for text in world.texts))
            world.refuse("mx1/smtp", "mx2/smtp")
            await until(lambda: any("1 of 3 MX accept mail" in text for text in world.texts))
            await asyncio.sleep(60)
            assert len(world.texts) <= 3  # not again and again
            other.execute("ROLLBACK")
            other.close()
            # then it is stored, and people are notified as ever
            await until(lambda: "fleet" in monitor.incidents.open)
            await until(lambda: any(row.status == SENT for row in monitor.recorder.store.messages.newest()))

    run(go)


def test_a_clock_that_is_set_back_stops_no_probe(tmp_path: Path) -> None:
    world = fleet(tmp_path)

    async def go() -> None:
        async with watching(world):
            world.set_back = 3600.0
            world.refuse("mx1/smtp")
            await until(lambda: any("mx1 smtp: connection refused" in text for text in world.texts), 120)

    run(go)


def test_a_monitor_that_was_held_up_sees_silence_only_when_its_probes_had_their_time(tmp_path: Path) -> None:
    world = fleet(
        tmp_path, hosts=[{"name": "mx1", "role": "mx", "address": "192.0.2.1", "services": [{"kind": "smtp"}]}]
    )
    held_up = 0.9 * LAG

    async def late(*arguments: Any) -> Any:
        result = await world.probe(*arguments)
        await asyncio.sleep(held_up if result.reason else 0.0)
        return result

    async def go() -> None:
        nonlocal held_up
        monitor = engine.Engine(
            settings.parse(world.raw), clocks=world.clocks, probe=late, answer=world.answer, send=world.send
        )
        world.silence("mx1/smtp")
        task = asyncio.create_task(monitor.run())
        await until(lambda: "host:mx1" in monitor.incidents.open, 300)
        held_up = 2 * LAG
        await until(lambda: "internal:slow" in monitor.incidents.open, 3600)
        assert "too slow to judge" in monitor.subjects.states["mx1/smtp"].blind
        held_up = 0.0
        await until(lambda: "internal:slow" not in monitor.incidents.open, 300)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(go)


def test_without_results_there_is_no_sign_of_life(tmp_path: Path) -> None:
    sent: list[str] = []
    now = [0.0]
    chosen = samples.settings(database=str(tmp_path / "m.sqlite"))
    monitor = engine.Engine(chosen, clocks=Clocks(monotonic=lambda: now[0]), ready=sent.append)
    monitor.signal_liveness()
    assert sent == ["WATCHDOG=1"]
    now[0] += 2.5 * chosen.interval + chosen.timeout + 31
    monitor.signal_liveness()
    assert sent == ["WATCHDOG=1"]
    monitor.recorder.close()
