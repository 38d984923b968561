"""What must not blind, end or mute the monitor: hostile health, dead hosts, a full disk, a clock set back."""

from __future__ import annotations

import asyncio
import json
import shlex
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import monitor_support
import pytest
import yaml
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from mf import maintenance
from mf_monitor import command, daemon, engine, settings
from mf_monitor import store as store_
from mf_monitor.judging import problems, states
from mf_monitor.notifying import send
from mf_monitor.notifying.outbox import Outbox
from mf_monitor.page import metrics, snapshot
from mf_monitor.probing import hosthealth, probes, wire
from mf_monitor.settings import Channel
from mf_monitor.store import SENDING, SENT, Store
from monitor_targets import SENDER, says, until
from test_monitor_engine import fleet, watching

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
        assert monitor.subjects["mx2/health"].state == "up"

    asyncio.run(go())


def test_an_answer_that_cannot_be_understood_is_a_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    access = {"user": "u", "key": "k", "known_hosts": "n", "folder": "/nowhere"}
    chosen = monitor_support.settings(health=access)
    reader = hosthealth.Reader(chosen, time.time)

    async def broken(host: Any) -> Any:
        raise TypeError("unhashable")

    monkeypatch.setattr(reader, "_run", broken)
    reading = asyncio.run(reader.read(chosen.hosts[1]))
    assert (reading.record, reading.message) == (None, "health can't be understood: TypeError")


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
            assert set(monitor.incidents) == {"host:mx1", "fleet"}  # it was the only one
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(go())


def behind_ssh(tmp_path: Path, address: str, hosts: int) -> engine.Engine:
    """A monitor of so many MXs at an address, port 9, whose health is read by ssh."""
    services = [{"kind": "smtp", "port": 9}, {"kind": "ssh"}]
    found = [
        {"name": f"mx{number}", "role": "mx", "address": address, "health": True, "services": services}
        for number in range(hosts)
    ]
    access = {"user": "u", "key": "k", "known_hosts": "n", "folder": "/nowhere"}
    raw = {"timeout": 0.5, "database": str(tmp_path / "m.sqlite"), "hosts": found, "health": access}
    return engine.Engine(settings.parse(raw))


async def stuck(self: hosthealth.Reader, host: Any) -> Any:
    """An ssh that never comes to its end."""
    await asyncio.sleep(60)


# class E: nobody can have it; 127.6.6.6: nobody listens there
@pytest.mark.parametrize(("address", "reason"), [("240.0.0.1", "silent"), ("127.6.6.6", "refused")])
def test_failed_looks_do_not_wait_for_hosts_that_ssh_cannot_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, reason: str
) -> None:
    monkeypatch.setattr(hosthealth.Reader, "_run", stuck)

    async def go() -> None:
        monitor = behind_ssh(tmp_path, address, 100)
        began = time.monotonic()
        results = await asyncio.gather(*(monitor._look(host.services[0]) for host in monitor.settings.hosts))
        assert {(result.state, result.reason) for result in results} == {("down", reason)}
        assert time.monotonic() - began < 2 * 0.5 + 3

    asyncio.run(go())


def test_a_throttle_is_confirmed_while_the_reads_in_turn_are_stuck(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"throttled": True, "refusing": True, "leases": []}
    record = hosthealth.parse(json.dumps(monitor_support.health_record("mx99", "mx", 0.0, **said)).encode())

    async def run(self: hosthealth.Reader, host: settings.Host) -> Any:
        return (record, "read") if host.name == "mx99" else await stuck(self, host)

    monkeypatch.setattr(hosthealth.Reader, "_run", run)

    async def go() -> None:
        monitor = behind_ssh(tmp_path, "127.6.6.6", 100)
        reads = [asyncio.create_task(monitor._read(host)) for host in monitor.settings.hosts[:50]]
        await asyncio.sleep(0)
        async with asyncio.timeout(5):
            assert (await monitor._look(monitor.services["mx99/smtp"])).state == "throttled"
        for one in reads:
            one.cancel()
        await asyncio.gather(*reads, return_exceptions=True)

    asyncio.run(go())


def test_health_behind_a_silent_ssh_is_not_read_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosthealth.Reader, "_run", stuck)

    async def go() -> None:
        monitor = behind_ssh(tmp_path, "240.0.0.1", 1)
        host = monitor.settings.hosts[0]
        monitor._came(await monitor._look(monitor.services["mx0/ssh"]))
        await monitor._judge()
        async with asyncio.timeout(5):
            reading = await monitor._read(host)
        assert (reading.record, reading.message) == (None, "its ssh does not answer")

    asyncio.run(go())


# --- settings


def test_the_program_says_whether_its_settings_are_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(monitor_support.raw_settings(database=str(tmp_path / "m.sqlite"))))
    assert daemon.main(["--check", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: right; 7 hosts, 17 services\n"
    assert not (tmp_path / "m.sqlite").exists()
    for content, said in (('{"interval": 0}', "interval must be a number"), ("{", "is not JSON")):
        path.write_text(content)
        assert daemon.main(["--check", str(path)]) == daemon.UNUSABLE
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"monitord: {path}")
        assert said in line


def test_a_release_is_refused_by_the_program_that_would_read_it(tmp_path: Path) -> None:
    """The role's validate command, with this package as the staged release."""
    found = yaml.safe_load((Path(__file__).parents[2] / "roles/mf_monitor/vars/main.yml").read_text())
    message = found["__mf_monitor_files"]["etc/monitor/settings.json"]["validate"]
    path = tmp_path / "settings.json"
    library = Path(engine.__file__).resolve().parents[2]
    message = (
        message.replace("%r/lib", str(library)).replace("%s", str(path)).replace("/usr/bin/python3", sys.executable)
    )
    for content, code in (("{}", 0), ('{"intervall": 60}', 3)):
        path.write_text(content)
        done = subprocess.run(shlex.split(message), capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == code, done.stderr
    assert "'intervall' is no setting" in done.stderr


# --- the way to people

# the channel "bad" refuses, every other one takes what it is given
PICKY = (sys.executable, "-I", "-c", "import json, sys; sys.exit(json.load(sys.stdin)['url'] == 'bad')")


async def delivered(store: Store, done: Callable[[], bool], sender: tuple[str, ...] = PICKY) -> None:
    async def stored(function: Callable[[Any], Any]) -> Any:
        with store.writing():
            return function(store)

    channels = [Channel("sms", "bad", ("urgent",), second="mail"), Channel("mail", "good")]
    task = asyncio.create_task(Outbox(channels, "t", stored, time.time, sender).run())
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
        return [one["text"] for one in store.messages.newest() if one["channel"] == "mail" and one["status"] == SENT]

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
    asyncio.run(delivered(store, lambda: store.messages.newest()[0]["channel"] == "mail"))


def test_a_planned_end_lets_what_is_under_way_end(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "m.sqlite"))
    with store.writing():
        store.messages.enqueue(time.time(), "sms", "opened", "urgent", "text")
    slow = (sys.executable, "-I", "-c", "import sys, time; sys.stdin.read(); time.sleep(1)")
    asyncio.run(delivered(store, lambda: store.messages.newest()[0]["status"] == SENDING, slow))
    assert [(one["status"], one["repeat"]) for one in store.messages.newest()] == [(SENT, 0)]


POOL = "Socket Exception: HTTPConnectionPool(host='192.0.2.1', port=80): "
NEW = "Max retries exceeded with url: / (Caused by NewConnectionError('<HTTPConnection>: Failed to establish a new"
SLOW = (
    "Max retries exceeded (Caused by ConnectTimeoutError(<HTTPConnection at 0x7f>, 'timed out. (connect timeout=4.0)'))"
)


@pytest.mark.parametrize(
    ("said", "arrived"),
    [
        # as Apprise 1.2.1 logs it
        (f"{POOL}Read timed out. (read timeout=4.0)", True),
        ("Socket Exception: ('Connection aborted.', RemoteDisconnected('Remote end closed connection'))", True),
        ("Connection error while submitting email to mx. Reason: Connection unexpectedly closed", True),
        (f"{POOL}{NEW} connection: [Errno 111] Connection refused'))", False),
        (f"{POOL}{NEW} connection: [Errno 110] Connection timed out'))", False),
        (f"{POOL}{SLOW}", False),
        ("Failed to send JSON POST notification: Servers are overloaded., error=503.", False),
    ],
)
def test_what_broke_off_may_have_arrived(said: str, arrived: bool) -> None:
    assert (
        send.may_have_arrived(["A Connection error occurred sending JSON notification to 192.0.2.1.", said]) is arrived
    )


@pytest.mark.parametrize(("end", "repeat"), [("sys.exit(3)", 1), ("os.kill(os.getpid(), 9)", 1), ("sys.exit(1)", 0)])
def test_what_may_have_arrived_is_sent_again_as_a_repeat(tmp_path: Path, end: str, repeat: int) -> None:
    store = Store(str(tmp_path / "m.sqlite"))
    with store.writing():
        store.messages.enqueue(time.time(), "sms", "opened", "urgent", "text")
    broken = (sys.executable, "-I", "-c", f"import os, sys; sys.stdin.read(); {end}")
    asyncio.run(delivered(store, lambda: bool(store.messages.newest()[-1]["error"]), broken))
    first = store.messages.newest()[-1]
    assert (first["status"], first["repeat"]) == ("queued", repeat)


# --- the file


def hollow(path: Path) -> None:
    """Damage that no quick check sees: an index without what the table has."""
    known: tuple[int, str] = (0, "")
    for statement in (
        "DELETE FROM sqlite_schema WHERE name = 'messages_status'",
        "DELETE FROM messages",
        "INSERT INTO sqlite_schema VALUES ('index', 'messages_status', 'messages', {root}, '{sql}')",
    ):
        connection = sqlite3.connect(path)
        found = connection.execute("SELECT rootpage, sql FROM sqlite_schema WHERE name = 'messages_status'").fetchone()
        known = found or known
        connection.execute("PRAGMA writable_schema = 1")
        if "DELETE FROM messages" in statement:
            connection.execute("DELETE FROM messages")
            values = "(5, 1, 'sms', 'o', 'u', 't', '[]', 'queued', 0, 1, NULL, 0, '', NULL)"
            connection.execute(f"INSERT INTO messages VALUES {values}")
        else:
            connection.execute(statement.format(root=known[0], sql=known[1]))
        connection.commit()
        connection.close()


def test_damage_that_a_check_does_not_see_is_moved_aside_once_and_numbers_go_on(tmp_path: Path) -> None:
    path = tmp_path / "m.sqlite"
    store = Store(str(path))
    with store.writing():
        for _ in range(4):
            number = store.incidents.open("a", "a", "", "", "urgent", "t", 1.0)
            store.incidents.close(number, 2.0)
        store.messages.enqueue(1.0, "sms", "opened", "urgent", "x")
    store.close()
    hollow(path)
    whole = Store(str(path))
    assert whole.damage == ""  # it isn't seen
    whole.close()

    async def go() -> None:
        monitor = engine.Engine(monitor_support.settings(database=str(path)))
        monitor.silences = [{"pattern": "mx1*", "until": time.time() + 99, "reason": "", "by": "anna", "created": 1.0}]

        def write(store: Store) -> None:
            store.messages.set(5, SENT, attempts=1, next_try=9.0, finished=1.0, error="")

        await monitor._stored(write)
        await monitor._stored(write)
        assert len([one for one in tmp_path.glob("*.damaged-*") if not one.name.endswith(("-wal", "-shm"))]) == 1
        assert [one["key"] for one in monitor.store.incidents.load(since=0)] == ["internal:database"]
        assert monitor.store.incidents.load(since=0)[0]["id"] == 5
        assert [one["pattern"] for one in monitor.store.incidents.silences(time.time())] == ["mx1*"]
        monitor.store.close()

    asyncio.run(go())


def test_a_transaction_on_a_full_disk_is_undone_and_the_next_one_works(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "m.sqlite"))
    store.rows("PRAGMA max_page_count = 1")  # nothing is added any more

    def fill() -> None:
        with store.writing():
            store.put("key", "x" * 100000)

    with pytest.raises(sqlite3.OperationalError) as caught:
        fill()
    assert store_.refuses(caught.value)
    assert not store_.damaged(caught.value)
    store.rows("PRAGMA max_page_count = 1000000")
    fill()


def test_while_nothing_can_be_stored_it_goes_on_judging_and_says_so_directly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_, "BUSY", 0.05)

    async def go() -> None:
        async with fleet(tmp_path) as world, watching(world.raw) as monitor:
            other = sqlite3.connect(world.raw["database"], isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            await until(lambda: any("can't store" in text for text in world.texts))
            for target in world.mail[:2]:
                await target.stop()
            await until(lambda: any("1 of 3 MX accept mail" in text for text in world.texts))
            await asyncio.sleep(2)
            assert len(world.texts) <= 3  # not again and again
            other.execute("ROLLBACK")
            other.close()
            # then it is stored, and told as ever
            await until(lambda: "fleet" in monitor.incidents)
            await until(lambda: any(one["status"] == SENT for one in monitor.store.messages.newest()))

    asyncio.run(go())


# --- clocks


def test_a_clock_that_is_set_back_stops_no_look(tmp_path: Path) -> None:
    async def go() -> None:
        back = [0.0]
        async with fleet(tmp_path) as world:
            monitor = engine.Engine(settings.parse(world.raw), clock=lambda: time.time() - back[0], sender=SENDER)
            task = asyncio.create_task(monitor.run())
            try:
                await until(lambda: monitor.view is not None and monitor.view.state != "unknown")
                back[0] = 3600.0
                await world.mail[0].stop()
                await until(lambda: any("mx1 smtp: connection refused" in text for text in world.texts))
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    asyncio.run(go())


async def hold_up(stop: asyncio.Event, seconds: float, every: float) -> None:
    """Hold up the loop now and then, as a busy machine does."""
    while not stop.is_set():
        await asyncio.sleep(every)
        time.sleep(seconds)


def test_a_monitor_that_was_held_up_before_the_end_of_a_look_still_sees_silence(tmp_path: Path) -> None:
    async def go() -> None:
        async with fleet(tmp_path, timeout=2) as world:
            world.raw["hosts"] = [{**world.raw["hosts"][0], "services": [world.raw["hosts"][0]["services"][0]]}]
            world.mail[0].talk = says(b"", hold=True)
            monitor = engine.Engine(settings.parse(world.raw), sender=SENDER)
            task = asyncio.create_task(monitor.run())
            stop = asyncio.Event()
            blocker = asyncio.create_task(hold_up(stop, 1.2, 0.7))
            try:
                await until(lambda: "host:mx1" in monitor.incidents, 40)
            finally:
                stop.set()
                task.cancel()
                await asyncio.gather(task, blocker, return_exceptions=True)

    asyncio.run(go())


def test_a_monitor_that_is_too_slow_to_judge_says_so(tmp_path: Path) -> None:
    async def go() -> None:
        monitor = engine.Engine(monitor_support.settings(database=str(tmp_path / "m.sqlite")))
        monitor._discarded, monitor._slow_since = engine.BLIND, time.time() - 60
        await monitor._judge()
        assert list(monitor.incidents) == ["internal:slow"]
        monitor._discarded = 0
        await monitor._judge()
        assert monitor.incidents == {}

    asyncio.run(go())


def test_without_looks_there_is_no_sign_of_life(tmp_path: Path) -> None:
    said: list[str] = []
    chosen = monitor_support.settings(database=str(tmp_path / "m.sqlite"))
    monitor = engine.Engine(chosen, ready=said.append)
    monitor._sign()
    assert said == ["WATCHDOG=1"]
    monitor._looked_at -= 2.5 * chosen.interval + chosen.timeout + 31
    monitor._sign()
    assert said == ["WATCHDOG=1"]
    monitor.store.close()


# --- one address family, redirects, names, what is read too long ago


def test_ipv6_that_is_lost_at_the_monitor_is_no_alarm(tmp_path: Path) -> None:
    async def go() -> None:
        async with fleet(tmp_path) as world:
            # from the documentation's network (RFC 3849), which leads nowhere
            hosts = [
                {**host, "address6": "2001:db8::1", "services": host["services"][:1]} for host in world.raw["hosts"]
            ]
            async with watching({**world.raw, "hosts": hosts}) as monitor:
                await asyncio.sleep(5)
                assert monitor.subjects["mx1/smtp"].state == "up"
                assert monitor.subjects["mx1/smtp6"].checked
                assert monitor.incidents == {}

    asyncio.run(go())


@pytest.mark.parametrize("where", ["http://127.0.0.1:25/", "http://169.254.169.254/", "//other.example/"])
def test_a_redirect_to_another_host_is_not_followed(where: str) -> None:
    page = probes.Target(False, "192.0.2.1", 80, "panel.example", "/")
    with pytest.raises(wire.Ended, match="another host"):
        page.redirected(where)
    assert page.redirected("https://panel.example/login").address == "192.0.2.1"


def test_a_certificate_must_be_for_the_name_in_the_mx_record() -> None:
    host = {"name": "mx1", "role": "mx", "address": "192.0.2.1", "mx_name": "mx1.filter.example"}
    (found,) = settings.parse({"hosts": [host]}).hosts
    assert {one.tls_name for one in found.services} == {"mx1.filter.example"}


def test_what_a_host_said_long_ago_is_not_known(tmp_path: Path) -> None:
    now = time.time()
    store, chosen = monitor_support.sample(tmp_path / "m.sqlite", now, days=2)

    def backups(age: float) -> tuple[dict[str, Any], str]:
        with store.writing():
            store.current.set_health("control1", now - age, True, "read", record)
        shot = snapshot.take(store, chosen, now)
        return next(one for one in shot["hosts"] if one["name"] == "control1")["backups"], metrics.text(shot)

    record = monitor_support.health_record("control1", "control", now)
    fresh, text = backups(10)
    assert (fresh["status"], fresh["age_seconds"]) == ("OK", 4320.0 + 34.2 + 10)
    assert 'mf_host_backup_age_seconds{host="control1"' in text
    stale, text = backups(86400)
    assert (stale["status"], stale["age_seconds"]) == ("UNKNOWN", 4320.0 + 34.2 + 86400)
    assert 'mf_host_backup_age_seconds{host="control1"' not in text
    store.close()


def test_the_command_neither_moves_nor_changes_the_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.sqlite"
    store = Store(str(path))
    with store.writing():
        for number in range(2000):
            store.incidents.open(f"k{number}", "a", "h", "s", "urgent", "t" * 200, 1.0)
    store.close()
    with path.open("r+b") as file:
        file.seek(4096 * 40)
        file.write(b"\xff" * 4096)
    (tmp_path / "settings.json").write_text(json.dumps({"database": str(path)}))
    for argv in (["status"], ["ack", "all"]):
        command.main(argv, str(tmp_path / "settings.json"))
        assert "monitor: " in capsys.readouterr().err
        assert not list(tmp_path.glob("*.damaged-*"))


def test_what_the_rate_limit_held_back_is_told_in_one_message(tmp_path: Path) -> None:
    channel = {"name": "sms", "url": "x", "severities": ["notice"]}
    chosen = {"database": str(tmp_path / "m.sqlite"), "rate_limit": 2, "channels": [channel]}
    monitor = engine.Engine(settings.parse(chosen))
    with monitor.store.writing():
        for number in range(5):
            monitor._enqueue(monitor.store, 1000.0 + number, "opened", "notice", f"mf: fault {number}", (), False)
        told = [monitor._tell_held_back(monitor.store, at) for at in (1010.0, 4599.0, 4700.0, 4800.0)]
    assert told == [False, False, True, False]
    assert monitor.store.messages.newest()[0]["text"].startswith("mf: 3 held back")
    assert monitor.store.messages.newest()[0]["status"] == "queued"
    monitor.store.close()


def test_a_hold_is_told_though_the_throttle_shows() -> None:
    now = time.time()
    record = monitor_support.health_record("mx1", "mx", now, throttled=True, refusing=True, held=True)
    found = hosthealth.parse(json.dumps(record).encode())
    chosen = monitor_support.settings()
    subjects: dict[str, states.SubjectState] = {}
    for result in hosthealth.results(hosthealth.Reading("mx1", now, now, found, "read"), (), ()) * 3:
        subjects[result.subject] = states.advance(subjects.get(result.subject, states.SubjectState()), result, chosen)
    subjects["mx1/smtp"] = states.SubjectState(state="throttled", since=now, message="throttled by anna", checked=now)
    seen = problems.judge(chosen, subjects, {}, (), now + 1).problems
    assert seen["health:mx1"].severity == "notice"
    assert "on hold" in seen["health:mx1"].title


def test_a_dry_run_of_the_command_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(str(tmp_path / "m.sqlite"))
    with store.writing():
        store.incidents.add_silence("mx1*", time.time() + 99, "", "anna", 1.0)
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"database": store.path, "channels": [{"name": "sms", "url": "x"}]}))
    assert command.main(["unsilence", "--dry-run", "1"], str(path)) == 0
    assert command.main(["test", "--dry-run"], str(path)) == 0
    assert capsys.readouterr().out == "silence 1 would end\nwould send a test message to sms\n"
    assert len(store.incidents.silences(time.time())) == 1
    assert store.messages.newest() == []
    store.close()
