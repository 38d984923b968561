"""The monitor's ways out of its process: a release that is refused, what sends messages, and a machine that is slow."""

from __future__ import annotations

import asyncio
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from mf import text
from mf_monitor import engine, settings
from mf_monitor.notifying.outbox import Outbox, Sender
from mf_monitor.settings import Channel
from mf_monitor.store import SENDING, SENT, Store

from tests.integration.test_monitor_engine import fleet
from tests.monitor.servers import SENDER, says, until


def test_a_release_is_refused_by_the_program_that_would_read_it(tmp_path: Path) -> None:
    """The role's validate command, with this package as the staged release."""
    variables = yaml.safe_load((Path(__file__).parents[2] / "roles/mf_monitor/vars/main.yml").read_text())
    message = variables["__mf_monitor_files"]["etc/monitor/settings.json"]["validate"]
    path = tmp_path / "settings.json"
    packages = ":".join(str(Path(module).parents[1]) for module in (engine.__file__, text.__file__))
    message = message.replace("%r/lib", packages).replace("%s", str(path)).replace("/usr/bin/python3", sys.executable)
    for content, code, reason in (
        ("{}", 0, ""),
        ('{"intervall": 60}', 3, "'intervall' is no setting"),
        ('{"test_at": "someday"}', 3, "test_at must be like 'mon 10:00' (UTC) or empty"),
        ('{"cert_notice_days": [400]}', 3, "cert_notice_days must be a list of days from 0 to 365"),
    ):
        path.write_text(content)
        done = subprocess.run(shlex.split(message), capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == code, done.stderr
        assert reason in done.stderr
        assert done.stderr.count("\n") == (1 if reason else 0)


# the channel "bad" refuses, every other one takes what it is given
PICKY = (sys.executable, "-I", "-c", "import json, sys; sys.exit(json.load(sys.stdin)['url'] == 'bad')")


async def delivered(store: Store, done: Callable[[], bool], sender: tuple[str, ...] = PICKY) -> None:
    async def stored(function: Callable[[Any], Any]) -> Any:
        with store.writing():
            return function(store)

    channels = [Channel("sms", "bad", ("urgent",), second="mail"), Channel("mail", "good")]
    task = asyncio.create_task(Outbox(channels, stored, time.time, Sender("t", sender)).run())
    try:
        await until(done)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_the_second_channel_gets_all_that_waits_for_the_first_and_each_once(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "m.sqlite"))
    with store.writing():
        for number in range(3):
            store.messages.enqueue(time.time(), "sms", "opened", "urgent", f"text {number}")

    def taken() -> list[str]:
        return [
            message.text for message in store.messages.newest() if message.channel == "mail" and message.status == SENT
        ]

    def stood_in() -> bool:
        with store.writing():
            if len(taken()) == 3 and not store.rows("SELECT 1 FROM messages WHERE text = 'late'"):
                store.messages.enqueue(time.time(), "sms", "opened", "urgent", "late")
        return "late" in taken()

    asyncio.run(delivered(store, stood_in))
    assert sorted(taken()) == ["late", "text 0", "text 1", "text 2"]


def test_the_second_channel_steps_in_after_a_crash_in_the_first_attempt(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "m.sqlite"))
    with store.writing():
        number = store.messages.enqueue(time.time(), "sms", "opened", "urgent", "text")
        store.messages.set(number, SENDING, attempts=1, next_try=1.0, finished=None, error="")
        store.messages.recover(1.0)
    asyncio.run(delivered(store, lambda: store.messages.newest()[0].channel == "mail"))


def test_a_planned_end_lets_what_is_under_way_end(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "m.sqlite"))
    with store.writing():
        store.messages.enqueue(time.time(), "sms", "opened", "urgent", "text")
    slow = (sys.executable, "-I", "-c", "import sys, time; sys.stdin.read(); time.sleep(1)")
    asyncio.run(delivered(store, lambda: store.messages.newest()[0].status == SENDING, slow))
    assert [(message.status, message.repeat) for message in store.messages.newest()] == [(SENT, 0)]


@pytest.mark.parametrize(("end", "repeat"), [("sys.exit(3)", 1), ("os.kill(os.getpid(), 9)", 1), ("sys.exit(1)", 0)])
def test_what_may_have_arrived_is_sent_again_as_a_repeat(tmp_path: Path, end: str, repeat: int) -> None:
    store = Store(str(tmp_path / "m.sqlite"))
    with store.writing():
        store.messages.enqueue(time.time(), "sms", "opened", "urgent", "text")
    broken = (sys.executable, "-I", "-c", f"import os, sys; sys.stdin.read(); {end}")
    asyncio.run(delivered(store, lambda: bool(store.messages.newest()[-1].error), broken))
    first = store.messages.newest()[-1]
    assert (first.status, first.repeat) == ("queued", repeat)


async def hold_up(stop: asyncio.Event, seconds: float, every: float) -> None:
    """Hold up the loop now and then, as a busy machine does."""
    while not stop.is_set():
        await asyncio.sleep(every)
        time.sleep(seconds)


def test_a_monitor_that_was_held_up_before_the_end_of_a_probe_still_sees_silence(tmp_path: Path) -> None:
    async def go() -> None:
        async with fleet(tmp_path, timeout=2) as world:
            world.raw["hosts"] = [{**world.raw["hosts"][0], "services": [world.raw["hosts"][0]["services"][0]]}]
            world.mail[0].talk = says(b"", hold=True)
            monitor = engine.Engine(settings.parse(world.raw), send=Sender("t", SENDER))
            task = asyncio.create_task(monitor.run())
            stop = asyncio.Event()
            blocker = asyncio.create_task(hold_up(stop, 1.2, 0.7))
            try:
                await until(lambda: "host:mx1" in monitor.incidents.open, 40)
            finally:
                stop.set()
                task.cancel()
                await asyncio.gather(task, blocker, return_exceptions=True)

    asyncio.run(go())
