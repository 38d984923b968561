"""What must not blind, end or mute the monitor: hostile health, dead hosts, a full disk, a clock set back."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import monitor_support
import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from mf import maintenance
from mf.monitor import engine, hosthealth, settings
from monitor_targets import until

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(9e14),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=8), inner, max_size=2),
    max_leaves=4,
)
WORDS = ("owner", "reason", "refuse", "held_seconds", "left_seconds")
OBJECT = st.fixed_dictionaries({}, optional=dict.fromkeys(WORDS, ANYTHING))
HOSTILE = st.fixed_dictionaries(
    {},
    optional={
        "status": ANYTHING,
        "leases": st.lists(OBJECT | ANYTHING, max_size=2) | ANYTHING,
        "maintenance": OBJECT | ANYTHING,
        "problems": ANYTHING,
        "checks": st.dictionaries(
            st.text(max_size=5),
            st.fixed_dictionaries({"status": st.just("OK") | ANYTHING}, optional={"metrics": ANYTHING}) | ANYTHING,
            max_size=2,
        ),
        "throttled": st.booleans() | ANYTHING,
        "queue": ANYTHING,
    },
)


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> engine.Engine:
    return engine.Engine(monitor_support.settings(database=str(tmp_path_factory.mktemp("monitor") / "m.sqlite")))


@effort(deadline=None)
@given(changed=HOSTILE)
def test_whatever_a_hosts_health_says_it_is_a_reading(listener: engine.Engine, changed: dict[str, Any]) -> None:
    record = monitor_support.health_record("mx1", "mx", 0.0, **changed)
    found = hosthealth.parse(json.dumps(record).encode())
    if found is not None:
        engine._lease_words(found)
    listener._heard(hosthealth.Reading("mx1", 99.0, 100.0, found, "read"))
    assert listener.maintenance.get("mx1", {"until": 0.0})["until"] <= 100.0 + maintenance.MAX_TTL


def test_a_bug_with_one_hosts_health_leaves_the_others(tmp_path: Path) -> None:
    async def go() -> None:
        monitor = engine.Engine(monitor_support.settings(database=str(tmp_path / "m.sqlite")))
        broken = {"maintenance": {"left_seconds": "soon"}}
        whole = hosthealth.parse(json.dumps(monitor_support.health_record("mx2", "mx", 0.0)).encode())
        now = time.time()
        monitor._readings += [
            hosthealth.Reading("mx1", now, now, broken, "read"),
            hosthealth.Reading("mx2", now, now, whole, "read"),
        ]
        await monitor._judge()
        assert monitor.memories["mx2/health"].state == "up"

    asyncio.run(go())


def test_an_answer_that_cannot_be_understood_is_a_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    access = {"user": "u", "key": "k", "known_hosts": "n", "folder": "/nowhere"}
    chosen = monitor_support.settings(health=access)
    reader = hosthealth.Reader(chosen, time.time)

    async def broken(host: Any) -> Any:
        raise TypeError("unhashable")

    monkeypatch.setattr(reader, "_run", broken)
    reading = asyncio.run(reader.read(chosen.hosts[1]))
    assert (reading.record, reading.words) == (None, "health can't be understood: TypeError")


def test_a_dead_mx_with_the_services_of_its_role_is_one_cause_in_two_intervals(tmp_path: Path) -> None:
    raw = {
        "interval": 2,
        "timeout": 0.5,
        "recheck": 0.2,
        "database": str(tmp_path / "m.sqlite"),
        # class E: nobody can have it, so nothing ever comes back
        "hosts": [{"name": "mx1", "role": "mx", "address": "240.0.0.1", "services": None}],
    }

    async def go() -> None:
        monitor = engine.Engine(settings.parse(raw))
        task = asyncio.create_task(monitor.run())
        try:
            began = time.monotonic()
            await until(lambda: bool(monitor.incidents))
            # a slow machine gets a little more
            assert time.monotonic() - began < 2 * 2 + 3
            await asyncio.sleep(2)
            assert list(monitor.incidents) == ["host:mx1"]
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(go())
