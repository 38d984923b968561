"""What must not blind, end or mute the monitor: hostile health, a damaged file, a full disk, redirects, old words."""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from mf import maintenance
from mf_monitor import command, daemon, engine, settings
from mf_monitor import store as store_
from mf_monitor.judging import health, problems, states
from mf_monitor.judging.health import Reading
from mf_monitor.notifying import send
from mf_monitor.page import metrics, model, snapshot
from mf_monitor.probing import hosthealth, http, wire
from mf_monitor.store import SENT, Silence, Store

from tests.monitor import samples
from tests.monitor.virtual import run

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
    return engine.Engine(samples.settings(database=str(tmp_path_factory.mktemp("monitor") / "m.sqlite")))


@effort(deadline=None)
@given(changed=HOSTILE)
def test_any_health_of_a_host_is_a_reading(listener: engine.Engine, changed: dict[str, Any]) -> None:
    record = samples.health_record("mx1", "mx", 0.0, **changed)
    parsed = hosthealth.parse(json.dumps(record).encode())
    if parsed is not None:
        hosthealth.leases(parsed)
    listener.subjects.ingest_health(Reading("mx1", 99.0, 100.0, parsed, "read"))
    assert all(on.until <= 100.0 + maintenance.MAX_TTL for on in listener.subjects.maintenance.values())


def test_the_program_validates_its_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(samples.raw_settings(database=str(tmp_path / "m.sqlite"))))
    assert daemon.main(["--check", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: right; 7 hosts, 17 services\n"
    assert not (tmp_path / "m.sqlite").exists()
    for content, expected in (('{"interval": 0}', "interval must be a number"), ("{", "is not JSON")):
        path.write_text(content)
        assert daemon.main(["--check", str(path)]) == daemon.UNUSABLE
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"monitord: {path}")
        assert expected in line
    with pytest.raises(SystemExit, match="2"):
        daemon.main(["--chekc"])
    assert capsys.readouterr().err == "monitord: unrecognized arguments: --chekc; see monitord --help\n"
    path.write_text(json.dumps(samples.raw_settings(database="/nowhere/m.sqlite")))
    assert daemon.main([str(path)]) == daemon.UNUSABLE
    assert "/nowhere/m.sqlite can't be opened" in capsys.readouterr().err


def test_an_error_of_the_system_ends_the_program_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(*_: object) -> int:
        raise OSError(28, "No space left on device", "/mf/var/x")

    monkeypatch.setattr(daemon, "work", work)
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(samples.raw_settings(database=str(tmp_path / "m.sqlite"))))
    assert daemon.main([str(path)]) == 1
    assert capsys.readouterr().err == "monitord: /mf/var/x: No space left on device\n"


POOL = "Socket Exception: HTTPConnectionPool(host='192.0.2.1', port=80): "
NEW = "Max retries exceeded with url: / (Caused by NewConnectionError('<HTTPConnection>: Failed to establish a new"
SLOW = (
    "Max retries exceeded (Caused by ConnectTimeoutError(<HTTPConnection at 0x7f>, 'timed out. (connect timeout=4.0)'))"
)


@pytest.mark.parametrize(
    ("warning", "arrived"),
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
def test_what_broke_off_may_have_arrived(warning: str, arrived: bool) -> None:
    assert (
        send.may_have_arrived(["A Connection error occurred sending JSON notification to 192.0.2.1.", warning])
        is arrived
    )


def hollow(path: Path) -> None:
    """Damage that no quick check sees: an index without what the table has."""
    known: tuple[int, str] = (0, "")
    for statement in (
        "DELETE FROM sqlite_schema WHERE name = 'messages_status'",
        "DELETE FROM messages",
        "INSERT INTO sqlite_schema VALUES ('index', 'messages_status', 'messages', {root}, '{sql}')",
    ):
        connection = sqlite3.connect(path)
        row = connection.execute("SELECT rootpage, sql FROM sqlite_schema WHERE name = 'messages_status'").fetchone()
        known = row or known
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
        monitor = engine.Engine(samples.settings(database=str(path)))
        monitor.incidents.silences = [Silence(1, "mx1*", time.time() + 99, "", "anna", 1.0)]

        def write(store: Store) -> None:
            store.messages.set(5, SENT, attempts=1, next_try=9.0, finished=1.0, error="")

        await monitor.recorder.stored(write)
        await monitor.recorder.stored(write)
        assert (
            len([damaged for damaged in tmp_path.glob("*.damaged-*") if not damaged.name.endswith(("-wal", "-shm"))])
            == 1
        )
        assert [incident.key for incident in monitor.recorder.store.incidents.load(since=0)] == ["internal:database"]
        assert monitor.recorder.store.incidents.load(since=0)[0].id == 5
        assert [silence.pattern for silence in monitor.recorder.store.incidents.silences(time.time())] == ["mx1*"]
        monitor.recorder.close()

    run(go)


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


@pytest.mark.parametrize("where", ["http://127.0.0.1:25/", "http://169.254.169.254/", "//other.example/"])
def test_a_redirect_to_another_host_is_not_followed(where: str) -> None:
    page = http.Target(False, "192.0.2.1", 80, "panel.example", "/")
    with pytest.raises(wire.EndedError, match="another host"):
        page.redirected(where)
    assert page.redirected("https://panel.example/login").address == "192.0.2.1"


def test_a_certificate_must_be_for_the_name_in_the_mx_record() -> None:
    host = {"name": "mx1", "role": "mx", "address": "192.0.2.1", "mx_name": "mx1.filter.example"}
    (chosen,) = settings.parse({"hosts": [host]}).hosts
    assert {service.tls_name for service in chosen.services} == {"mx1.filter.example"}


def test_what_a_host_said_long_ago_is_not_known(tmp_path: Path) -> None:
    now = time.time()
    store, chosen = samples.sample(tmp_path / "m.sqlite", now, days=2)

    def backups(age: float) -> tuple[model.Backups | None, str]:
        with store.writing():
            store.current.set_health("control1", now - age, True, "read", record)
        shot = snapshot.take(store, chosen, now)
        return next(host for host in shot.hosts if host.name == "control1").backups, metrics.text(shot)

    record = samples.health_record("control1", "control", now)
    fresh, text = backups(10)
    assert fresh is not None
    assert (fresh.status, fresh.age_seconds) == ("OK", 4320.0 + 34.2 + 10)
    assert 'mf_host_backup_age_seconds{host="control1"' in text
    stale, text = backups(86400)
    assert stale is not None
    assert (stale.status, stale.age_seconds) == ("UNKNOWN", 4320.0 + 34.2 + 86400)
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


def test_a_hold_is_notified_though_the_throttle_shows() -> None:
    now = time.time()
    record = samples.health_record("mx1", "mx", now, throttled=True, refusing=True, held=True)
    parsed = hosthealth.parse(json.dumps(record).encode())
    chosen = samples.settings()
    subjects: dict[str, states.SubjectState] = {}
    for result in health.results(Reading("mx1", now, now, parsed, "read"), (), ()) * 3:
        subjects[result.subject] = states.advance(subjects.get(result.subject, states.SubjectState()), result, chosen)
    subjects["mx1/smtp"] = states.SubjectState(state="throttled", since=now, message="throttled by anna", checked=now)
    open_problems = problems.judge(chosen, subjects, {}, (), now + 1).problems
    assert open_problems["health:mx1"].severity == "notice"
    assert "on hold" in open_problems["health:mx1"].title


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


def test_the_command_gives_the_reason_why_it_cannot_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "settings.json"
    for content, reason in (("{", f"{path} is not JSON; "), ('{"database": "/nowhere/m"}', "/nowhere/m is missing; ")):
        path.write_text(content)
        assert command.main(["status"], str(path)) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"monitor: {reason}")
